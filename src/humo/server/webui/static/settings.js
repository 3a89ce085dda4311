// Folded settings: groups of sliders in the model's ranges, presets and LoRAs. Only what was changed is sent.

import { button, h } from "./dom.js";

export const FRAMES_PER_SECOND = 25;

const asSeconds = (frames) => `${(frames / FRAMES_PER_SECOND).toFixed(1)} s`;
const asNumber = (value) => String(Math.round(value * 100) / 100);

const GROUPS = [
  ["Likeness and lips", {
    scale_text: ["Follow the description", "Higher keeps closer to your words.", asNumber],
    scale_audio: ["Follow the sound", "Higher moves the lips more clearly.", asNumber],
    scale_image: ["Follow the pictures", "Higher looks more like the pictures.", asNumber],
  }],
  ["How it is drawn", {
    steps: ["Refinement steps", "More take longer. The quality above sets them, too.", asNumber],
    shift: ["Layout before detail", "Higher spends more steps on the layout.", asNumber],
  }],
  ["Long videos", {
    window: ["Drawn at once", "Longer videos are drawn in parts of this length.", asSeconds],
    overlap: ["Shared by neighboring parts", "More makes smoother joints and takes longer.", asSeconds],
  }],
];

/** Name of a setting in people's words. */
export const SETTING_NAMES = Object.fromEntries(GROUPS.flatMap(([, rows]) =>
  Object.entries(rows).map(([field, [name]]) => [field, name])));

const STRENGTHS = { low: 0, high: 1.5, step: 0.05, default: 1 };

export class Settings extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.values = {};  // field -> changed value
    this.loras = {};  // name -> strength
    this.preset = "";
    this.opened = new Set();
  }

  /** Show the settings of a model. */
  show(model, quality) {
    this.model = model;
    this.quality = quality;
    const details = model.humo;
    if (!details.presets.some(({ name }) => name === this.preset)) this.preset = "";
    this.loras = Object.fromEntries(Object.entries(this.loras).filter(([name]) => model.loras.includes(name)));
    const groups = GROUPS.map(([title, rows]) => {
      const shown = Object.entries(rows).filter(([field]) => details.settings[field]);
      return shown.length && this.group(title, shown.map(([field, words]) => this.row(field, words)));
    });
    if (details.negative_prompt !== null) groups.push(this.group("What to keep out", [this.negative(details)]));
    if (model.loras.length) groups.unshift(this.group("Styles (LoRA)", model.loras.map((name) => this.lora(name))));
    if (details.presets.length) groups.unshift(this.group("Ready-made settings", [this.presets(details.presets)]));
    groups.push(this.group("Marks of origin", [this.provenance()]));
    this.root.replaceChildren(...groups.filter(Boolean));
  }

  group(title, rows) {
    return h("details", { class: "group", open: this.opened.has(title), ontoggle: (event) => {
      this.opened[event.target.open ? "add" : "delete"](title);
    } }, h("summary", {}, title), ...rows);
  }

  /** The value that a setting has if it is not changed, and where it comes from. */
  base(field) {
    const preset = this.model.humo.presets.find(({ name }) => name === this.preset);
    if (preset && preset.fields[field] !== undefined) return [preset.fields[field], `“${preset.name}”`];
    const fromQuality = this.quality?.fields[field];
    if (fromQuality !== undefined) return [fromQuality, "the chosen quality"];
    return [this.model.humo.settings[field].default, "the model"];
  }

  row(field, [name, hint, asText]) {
    const range = this.model.humo.settings[field];
    const [base, origin] = this.base(field);
    const output = h("output", { for: `setting-${field}` });
    const input = h("input", { type: "range", id: `setting-${field}`, min: Math.min(range.low, base),
      max: Math.max(range.high, base), step: range.step, "aria-describedby": `hint-${field} error-${field}` });
    const reset = button("again", `Back to ${asText(base)}`, () => {
      delete this.values[field];
      show();
      this.changed();
      input.focus();
    }, { quiet: true, kind: "tiny" });
    const show = () => {
      input.value = this.values[field] ?? base;
      output.value = asText(Number(input.value));
      input.setAttribute("aria-valuetext", output.value);
      reset.classList.toggle("invisible", this.values[field] === undefined);
    };
    input.addEventListener("input", () => {
      this.values[field] = Number(input.value);
      if (this.values[field] === base) delete this.values[field];
      show();
      this.changed();
    });
    show();
    return h("div", { class: "setting", id: `field-${field}` },
      h("div", { class: "row" }, h("label", { for: input.id }, name), h("span", { class: "spring" }), output, reset),
      input, h("p", { class: "hint", id: `hint-${field}` }, `${hint} From ${origin}: ${asText(base)}.`),
      h("p", { class: "error", id: `error-${field}`, role: "alert" }));
  }

  negative(details) {
    const input = h("textarea", { id: "setting-negative_prompt", rows: 3, value: this.values.negative_prompt ?? "",
      maxLength: 10_000, placeholder: details.negative_prompt || "blurry, distorted hands, subtitles",
      oninput: () => {
        if (input.value.trim()) this.values.negative_prompt = input.value;
        else delete this.values.negative_prompt;
        this.changed();
      } });
    return h("div", { class: "setting", id: "field-negative_prompt" },
      h("label", { for: input.id }, "Things that should not appear"), input,
      h("p", { class: "hint" }, "Left empty, the model's own list is used, shown in gray."),
      h("p", { class: "error", id: "error-negative_prompt", role: "alert" }));
  }

  presets(presets) {
    const select = h("select", { id: "setting-preset", onchange: () => {
      this.preset = select.value;
      this.show(this.model, this.quality);
      this.changed();
      document.getElementById(select.id).focus();
    } },
    h("option", { value: "" }, "None"),
    presets.map(({ name, description }) =>
      h("option", { value: name, selected: name === this.preset }, description ? `${name}: ${description}` : name)));
    return h("div", { class: "setting", id: "field-preset" }, h("label", { for: select.id }, "Start from"), select,
      h("p", { class: "hint" }, "Its values appear in the sliders; whatever you change yourself counts."),
      h("p", { class: "error", id: "error-preset", role: "alert" }));
  }

  lora(name) {
    const id = `lora-${name}`;
    const output = h("output", { for: `${id}-strength` });
    const strength = h("input", { type: "range", id: `${id}-strength`, min: STRENGTHS.low, max: STRENGTHS.high,
      step: STRENGTHS.step, "aria-label": `Strength of ${name}` });
    const used = h("input", { type: "checkbox", id, checked: name in this.loras });
    const show = () => {
      strength.value = this.loras[name] ?? STRENGTHS.default;
      strength.disabled = !used.checked;
      output.value = used.checked ? asNumber(strength.value) : "off";
    };
    used.addEventListener("change", () => {
      if (used.checked) this.loras[name] = STRENGTHS.default;
      else delete this.loras[name];
      show();
      this.changed();
    });
    strength.addEventListener("input", () => { this.loras[name] = Number(strength.value); show(); this.changed(); });
    show();
    return h("div", { class: "setting", id: "field-loras" },
      h("div", { class: "row" }, used, h("label", { for: id }, name), h("span", { class: "spring" }), output), strength);
  }

  provenance() {
    const input = h("input", { type: "checkbox", id: "setting-provenance", checked: this.values.provenance !== false,
      onchange: () => {
        if (input.checked) delete this.values.provenance;
        else this.values.provenance = false;
        this.changed();
      } });
    return h("div", { class: "setting" }, h("div", { class: "row" }, input,
      h("label", { for: input.id }, "Sign the video and mark its frames as AI-generated")),
    h("p", { class: "hint" }, "The marks cannot be seen; programs read them. The record of the settings stays in any case."));
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Return the changed fields of a request. */
  fields() {
    return { ...this.values, ...(this.preset ? { preset: this.preset } : {}) };
  }

  state() {
    return { values: this.values, loras: this.loras, preset: this.preset };
  }

  restore({ values = {}, loras = {}, preset = "" } = {}) {
    Object.assign(this, { values: { ...values }, loras: { ...loras }, preset });
  }
}
