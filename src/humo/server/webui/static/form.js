// The inputs: what a video is made from. Builds requests, and shows mistakes at their fields.

import * as api from "./api.js";
import { $, announce, duration, h } from "./dom.js";
import { References } from "./references.js";
import { FRAMES_PER_SECOND, Settings } from "./settings.js";
import { debounced, local } from "./state.js";
import { Sound } from "./waveform.js";

const MAX_PROMPT = 10_000;
const MAX_SEED = 2 ** 31;
const SHORTEST_SECONDS = 0.2;

const INITIAL = { prompt: "", model: null, shape: null, size: null, auto: true, seconds: null, quality: "good",
  seed: "", count: 1, consent: false, settings: {} };

const SHAPE_NAMES = { "16:9": "Wide", "1:1": "Square", "9:16": "Upright" };
const QUALITIES = { draft: "Draft", good: "Good", best: "Best" };

/** Field of the service's error -> place where the page shows it. */
const PLACES = { images: "pictures", image: "pictures", input_reference: "pictures", audio: "sound", frames: "length",
  seconds: "length", "frames and seconds": "length", width: "shape", height: "shape", size: "shape", loras: "preset",
  lora: "preset", mode: "sound" };

export class Form extends EventTarget {
  constructor() {
    super();
    this.values = { ...INITIAL, ...local.get("form", {}) };
    this.models = [];
    this.published = [];
    this.history = [];
    this.references = new References($("#pictures-list"), $("#pictures-input"));
    this.sound = new Sound($("#sound"));
    this.settings = new Settings($("#settings"));
    this.settings.restore(this.values.settings);
    this.save = debounced(() => local.set("form", { ...this.values, settings: this.settings.state() }));
    this.connect();
  }

  connect() {
    const prompt = $("#prompt");
    prompt.maxLength = MAX_PROMPT;
    prompt.addEventListener("input", () => this.set({ prompt: prompt.value }));
    this.references.addEventListener("change", () => { this.clearError("pictures"); this.showConsent(); });
    this.references.addEventListener("problem", ({ detail }) => this.showError("pictures", detail, false));
    this.sound.addEventListener("change", () => { this.clearError("sound"); this.showLength(); });
    this.sound.addEventListener("problem", ({ detail }) => this.showError("sound", detail, false));
    this.settings.addEventListener("change", () => { this.save(); this.showSummary(); });
    $("#consent").addEventListener("change", (event) => { this.clearError("consent"); this.set({ consent: event.target.checked }); });
    $("#seed").addEventListener("input", (event) => this.set({ seed: event.target.value.replace(/\D/g, "") }));
    $("#die").addEventListener("click", () => {
      this.set({ seed: String(Math.floor(Math.random() * MAX_SEED)) });
      announce(`Seed ${this.values.seed}`);
    });
    $("#count").addEventListener("change", (event) => this.set({ count: Number(event.target.value) }));
    $("#model").addEventListener("change", (event) => this.set({ model: event.target.value, shape: null, size: null }));
    const length = $("#length");
    length.addEventListener("input", () => this.set({ seconds: Number(length.value) }));
    $("#length-auto").addEventListener("change", (event) => this.set({ auto: event.target.checked }));
    for (const area of [$("#inputs")]) {
      area.addEventListener("dragover", (event) => event.preventDefault());
      area.addEventListener("drop", (event) => { event.preventDefault(); this.take([...event.dataTransfer.files]); });
    }
    addEventListener("paste", (event) => this.take([...event.clipboardData.files]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.sound.draw());
  }

  /** Take dropped or pasted files: pictures as references, anything else as the sound. */
  take(dropped) {
    const pictures = dropped.filter((file) => file.type.startsWith("image/"));
    const sound = dropped.find((file) => !file.type.startsWith("image/"));
    if (pictures.length) this.references.add(pictures);
    if (sound) this.sound.load(sound, sound.name);
  }

  async restore() {
    const [{ data, published }] = await Promise.all([api.models(), this.references.restore(), this.sound.restore()]);
    this.models = data;
    this.published = published ?? [];
    this.show();
  }

  set(changes) {
    Object.assign(this.values, changes);
    for (const name of Object.keys(changes)) this.clearError(PLACES[name] ?? name);
    this.save();
    this.show();
  }

  get model() {
    return this.models.find(({ id }) => id === this.values.model) ?? this.models[0];
  }

  get quality() {
    const { qualities } = this.model.humo;
    return qualities.find(({ name }) => name === this.values.quality) ?? qualities.find(({ name }) => name === "good");
  }

  /** Width and height in pixels. */
  get size() {
    const { shapes } = this.model.humo;
    return this.values.size ?? shapes[this.shape];
  }

  get shape() {
    if (this.values.size) return null;
    const { shapes, width, height } = this.model.humo;
    const own = Object.keys(shapes).find((name) => shapes[name][0] === width && shapes[name][1] === height);
    return shapes[this.values.shape] ? this.values.shape : own ?? "1:1";
  }

  /** Seconds of the video; as long as the sound if so chosen. */
  get seconds() {
    if (this.sound.source && this.values.auto) return this.sound.seconds;
    return this.values.seconds ?? this.model.humo.window_seconds;
  }

  // -- showing ---------------------------------------------------------------------------------------------------------

  show() {
    if (!this.models.length) return;
    const { prompt, seed, count, consent } = this.values;
    if ($("#prompt").value !== prompt) $("#prompt").value = prompt;
    $("#prompt-count").textContent = prompt.length > MAX_PROMPT * 0.8
      ? `${prompt.length} of ${MAX_PROMPT} characters` : `${prompt.length} characters`;
    $("#seed").value = seed;
    $("#count").value = count;
    $("#consent").checked = consent;
    this.showModel();
    this.showChoices("shape", Object.entries(this.model.humo.shapes).map(([name, [width, height]]) => ({
      value: name, text: SHAPE_NAMES[name], note: name, checked: name === this.shape, picture: [width, height],
    })), (shape) => this.set({ shape, size: null }));
    this.showChoices("quality", this.model.humo.qualities.map(({ name, steps, passes }) => ({
      value: name, text: QUALITIES[name], checked: name === this.quality.name,
      note: `${steps} steps\n${passes} passes`,
    })), (quality) => this.set({ quality }));
    this.showLength();
    this.showConsent();
    this.settings.show(this.model, this.quality);
    this.showSummary();
  }

  showModel() {
    const options = this.models.map(({ id }) => h("option", { value: id, selected: id === this.model.id }, id));
    const missing = this.published.map(({ id }) => h("option", { value: id, disabled: true }, `${id} (not here yet)`));
    $("#model").replaceChildren(h("optgroup", { label: "Ready" }, options),
      ...(missing.length ? [h("optgroup", { label: "Not on this computer" }, missing)] : []));
    const { humo } = this.model;
    const size = humo.gigabytes < 1 ? `${Math.round(humo.gigabytes * 1000)} MB` : `${humo.gigabytes.toFixed(1)} GB`;
    $("#model-hint").textContent =
      `Here and ready: ${size}; ${humo.needs}. Made for ${humo.width} × ${humo.height} pixels.`
      + (humo.knows_photographs ? "" : " A small one to try: it does not recognize the person of a photograph.");
    $("#models-missing").replaceChildren(...this.published.map(({ id, gigabytes, needs }) => h("li", {},
      h("strong", {}, id), `: ${gigabytes} GB to download; needs ${needs}. `, h("code", {}, `humo models get ${id}`))));
    $("#models-more").hidden = this.published.length === 0;
  }

  showChoices(name, choices, onchange) {
    const group = $(`#${name}`);
    const focused = group.contains(document.activeElement);
    group.replaceChildren(...choices.map(({ value, text, note, checked, picture }) => {
      const input = h("input", { type: "radio", name, value, checked, onchange: () => onchange(value) });
      const outline = picture && h("span", { class: "outline", "aria-hidden": "true" });
      if (outline) outline.style.aspectRatio = `${picture[0]} / ${picture[1]}`;
      return h("label", { class: "choice" }, input, outline, h("span", {}, text), h("small", {}, note));
    }));
    if (focused) $("input:checked", group)?.focus();
  }

  showLength() {
    if (!this.models.length) return;
    const hasSound = this.sound.source !== null;
    const slider = $("#length");
    slider.min = SHORTEST_SECONDS;
    slider.max = Math.max(10, Math.ceil(this.model.humo.window_seconds * 4), Math.ceil(this.seconds));
    slider.value = this.seconds;
    $("#length-auto-row").hidden = !hasSound;
    $("#length-auto").checked = this.values.auto;
    slider.disabled = hasSound && this.values.auto;
    $("#length-value").value = this.seconds > 0 ? `${this.seconds.toFixed(1)} s` : "";
    slider.setAttribute("aria-valuetext", `${this.seconds.toFixed(1)} seconds`);
    this.showSummary();
  }

  showConsent() {
    $("#consent-row").hidden = this.references.pictures.length === 0;
  }

  showSummary() {
    if (!this.models.length) return;
    const [width, height] = this.size;
    const isKnown = this.seconds > 0;  // not of a sound that the browser cannot read
    const parts = [`${isKnown ? `${this.seconds.toFixed(1)} s of` : "As long as the sound,"} ${width} × ${height}`];
    const estimate = this.estimate();
    if (isKnown) parts.push(estimate === null ? "the first one takes a little longer" : `ready in about ${duration(estimate)}`);
    $("#summary").textContent = parts.join(" · ");
  }

  /** Seconds that the request takes, judging by the most similar finished video of the same model; null without any. */
  estimate() {
    const [width, height] = this.size;
    const work = (steps, frames, pixels) => steps * frames * pixels;
    const steps = this.settings.values.steps ?? this.quality.steps;
    const wanted = work(steps, this.seconds * FRAMES_PER_SECOND, width * height);
    const known = this.history.filter(({ model, humo }) => model === this.quality.model && humo.timings).map(({ humo }) => {
      const { request, timings } = humo;
      const { load = 0, ...others } = timings;
      const seconds = Object.values(others).reduce((sum, part) => sum + part, 0);
      const done = work(request.steps, request.frames, request.width * request.height);
      return { rate: seconds / done, distance: Math.abs(Math.log(done / wanted)) };
    }).sort((a, b) => a.distance - b.distance);
    return known.length ? known[0].rate * wanted * this.values.count : null;
  }

  // -- mistakes --------------------------------------------------------------------------------------------------------

  /** Show a mistake at its field, and go there. */
  showError(field, text, go = true) {
    const place = PLACES[field] ?? field;
    const slot = document.getElementById(`error-${place}`) ?? $("#error-form");
    slot.textContent = text;
    if (!text) return;
    const owner = slot.closest(".field, .setting") ?? slot;
    const folded = slot.closest("details");
    for (let fold = folded; fold; fold = fold.parentElement.closest("details")) fold.open = true;
    const control = $("textarea, input:not([type=file]), select, button", owner);
    control?.setAttribute("aria-invalid", "true");
    if (go) {
      slot.scrollIntoView({ block: "center", behavior: "smooth" });
      control?.focus({ preventScroll: true });
    }
  }

  clearError(place) {
    const slot = document.getElementById(`error-${place}`);
    if (!slot?.textContent) return;
    slot.textContent = "";
    slot.closest(".field, .setting")?.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
  }

  clearErrors() {
    for (const slot of document.querySelectorAll("#inputs .error")) this.clearError(slot.id.replace("error-", ""));
  }

  /** Return whether the request can be sent; otherwise show why not. */
  check() {
    this.clearErrors();
    if (!this.values.prompt.trim()) this.showError("prompt", "Describe the scene first: who, where, how they look.");
    else if (this.references.pictures.length && !this.values.consent) {
      this.showError("consent", "Pictures of people need their agreement. Tick the box, or remove the pictures.");
    } else return true;
    return false;
  }

  // -- requests --------------------------------------------------------------------------------------------------------

  /** Send the request, several times with seeds that follow each other; returns the videos. */
  async submit(count = this.values.count) {
    const first = this.values.seed === "" ? Math.floor(Math.random() * MAX_SEED) : Number(this.values.seed);
    const videos = [];
    for (let number = 0; number < count; number += 1) videos.push(await api.submit(this.request(first + number)));
    return videos;
  }

  request(seed) {
    const form = new FormData();
    const [width, height] = this.size;
    form.append("prompt", this.values.prompt);
    form.append("model", this.quality.model);
    form.append("size", `${width}x${height}`);
    form.append("seed", String(seed));
    if (!(this.sound.source && this.values.auto)) form.append("seconds", String(this.seconds));
    const preset = this.model.humo.presets.find(({ name }) => name === this.settings.preset);
    const ofQuality = Object.entries(this.quality.fields).filter(([field]) => preset?.fields[field] === undefined);
    for (const [field, value] of Object.entries({ ...Object.fromEntries(ofQuality), ...this.settings.fields() })) {
      form.append(field, String(value));
    }
    for (const [name, strength] of Object.entries(this.settings.loras)) form.append("loras", `${name}:${strength}`);
    for (const { blob, name } of this.references.pictures) form.append("input_reference", blob, name);
    const sound = this.sound.upload();
    if (sound) form.append("audio", sound, "sound");
    if (this.references.pictures.length) form.append("consent", String(this.values.consent));
    return form;
  }

  // -- filling ---------------------------------------------------------------------------------------------------------

  /** Fill everything from an example. */
  async fillFromExample({ id, prompt, image, audio }) {
    const [picture, sound] = await Promise.all([image && api.blob(image), audio && api.blob(audio)]);
    this.references.set(picture ? [{ blob: picture, name: id, url: URL.createObjectURL(picture) }] : []);
    this.settings.restore();
    this.values = { ...INITIAL, model: this.values.model, quality: this.values.quality };
    await this.sound.load(sound, `${id}.wav`);
    this.set({ prompt, consent: picture !== undefined });  // the people in the examples are rendered
    this.clearErrors();
  }

  /** Fill everything from a video, so that it can be made again with changes. */
  async fillFromVideo({ id, model, humo: { request } }) {
    const pictures = await Promise.all((request.images ?? []).map((name) => api.blob(api.inputPath(id, name))));
    this.references.set(pictures.map((blob, number) =>
      ({ blob, name: `picture ${number + 1}`, url: URL.createObjectURL(blob) })));
    if (request.audio) await this.sound.load(await api.blob(api.inputPath(id, request.audio)), "the sound of that video");
    else this.sound.clear();
    const served = this.models.find((one) => one.id === model) ?? this.models[0];
    const { shapes, qualities } = served.humo;
    const shape = Object.keys(shapes).find((name) => shapes[name][0] === request.width && shapes[name][1] === request.height);
    const seconds = request.frames / FRAMES_PER_SECOND;
    const isAsLong = this.sound.source !== null && Math.abs(seconds - this.sound.seconds) < 0.2;
    const auto = isAsLong || this.sound.source === null;  // a sound that is added later sets the length
    const quality = qualities.find((one) => one.model === model && one.steps === request.steps
      && (one.fields.speed ?? "exact") === (request.speed ?? "exact"));
    this.settings.restore({ values: changedSettings(served, quality, request), loras: lorasOf(request) });
    this.set({ prompt: request.prompt, model: served.id, shape: shape ?? null, consent: request.consent,
      size: shape ? null : [request.width, request.height], auto, seconds: isAsLong ? null : seconds,
      quality: quality?.name ?? "good", seed: String(request.seed), count: 1 });
    this.clearErrors();
  }
}

function changedSettings(model, quality, request) {
  const values = {};
  for (const [field, { default: own }] of Object.entries(model.humo.settings)) {
    const base = quality?.fields[field] ?? own;
    if (request[field] !== undefined && request[field] !== null && request[field] !== base) values[field] = request[field];
  }
  if (model.humo.negative_prompt !== null && request.negative_prompt !== model.humo.negative_prompt) {
    values.negative_prompt = request.negative_prompt;
  }
  if (request.provenance === false) values.provenance = false;
  return values;
}

function lorasOf(request) {
  return Object.fromEntries((request.loras ?? []).map((lora) => {
    const [name, strength] = lora.split(":");
    return [name, Number(strength ?? 1)];
  }));
}
