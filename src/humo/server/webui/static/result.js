// The stage: running and finished videos, large and side by side.

import * as api from "./api.js";
import { $, announce, button, duration, h, icon, save } from "./dom.js";
import { SETTING_NAMES } from "./settings.js";
import { local } from "./state.js";

const MAX_SIDE_BY_SIDE = 4;

const PHASES = { load: "Waking the model", encode: "Reading your words, pictures and sound", denoise: "Drawing",
  decode: "Developing the frames", write: "Writing the video" };

export class Stage extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.cards = new Map();  // id -> Card
    this.labels = {};
  }

  async restore() {
    const { ids, labels } = local.get("stage", { ids: [], labels: {} });
    await this.show(ids, labels);
  }

  get ids() {
    return [...this.cards.keys()];
  }

  /** Show videos side by side. */
  async show(ids, labels = {}, known = {}) {
    this.labels = labels;
    const shown = [...new Set(ids)].slice(-MAX_SIDE_BY_SIDE);
    for (const [id, card] of this.cards) if (!shown.includes(id)) { card.close(); this.cards.delete(id); }
    const cards = new Map();
    for (const id of shown) {
      const card = this.cards.get(id) ?? await this.open(id, known[id]);
      if (card) cards.set(id, card);
    }
    this.cards = cards;
    local.set("stage", { ids: this.ids, labels });
    this.arrange();
  }

  async open(id, known) {
    try {
      return new Card(known ?? await api.video(id), this);
    } catch {
      return null;  // it was deleted
    }
  }

  add(id) {
    return this.show([...this.ids, id], this.labels);
  }

  close(id) {
    return this.show(this.ids.filter((other) => other !== id), this.labels);
  }

  arrange() {
    const { size } = this.cards;
    $("#stage-empty").hidden = size > 0;
    this.root.hidden = size === 0;
    this.root.dataset.count = String(size);
    this.root.replaceChildren(...[...this.cards.values()].map((card) => card.element));
    for (const [id, card] of this.cards) card.title(this.labels[id] ?? "", size > 1);
    $("#play-together").hidden = [...this.cards.values()].filter((card) => card.player).length < 2;
  }

  playTogether() {
    const players = [...this.cards.values()].map((card) => card.player).filter(Boolean);
    players.forEach((player, number) => {
      player.currentTime = 0;
      player.muted = number > 0;  // one voice is enough
      player.play().catch(() => undefined);
    });
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

class Card {
  constructor(video, stage) {
    this.stage = stage;
    this.id = video.id;
    this.abort = new AbortController();
    this.player = null;
    this.highest = 0;
    this.heading = h("span", { class: "label" });
    this.closer = button("close", "Take off the stage", () => stage.close(this.id), { quiet: true });
    this.screen = h("div", { class: "screen" });
    this.below = h("div", { class: "below" });
    this.element = h("article", { class: "take", "aria-label": video.prompt, "data-id": video.id },
      h("header", { class: "row" }, this.heading, h("span", { class: "spring" }), this.closer), this.screen, this.below);
    this.update(video);
    if (!hasEnded(video)) {
      api.follow(this.id, this.abort.signal, (changed) => this.update(changed), (image) => this.preview(image));
    }
  }

  title(label, canClose) {
    this.heading.textContent = label;
    this.closer.hidden = !canClose;
    this.element.querySelector("header").hidden = !label && !canClose;
  }

  close() {
    this.abort.abort();
  }

  update(video) {
    if (video === null) return this.stage.close(this.id);  // it was deleted
    const previous = this.video;
    this.video = video;
    if (!hasEnded(video)) return this.showProgress();
    if (video.humo.state === "completed") this.showFinished();
    else this.showFailed();
    if (previous && !hasEnded(previous)) {
      announce(video.humo.state === "completed" ? "The video is finished." : "The video was not finished.");
      this.stage.arrange();
      this.stage.tell("ended", { id: this.id, element: this.element });
    }
    return undefined;
  }

  // -- while it works --------------------------------------------------------------------------------------------------

  showProgress() {
    const { humo, progress } = this.video;
    if (!this.bar) this.buildProgress();
    this.highest = Math.max(this.highest, progress);
    this.bar.value = this.highest;
    const isBetweenPhases = humo.state === "in_progress" && !humo.phase && this.highest > 0;  // as just before its end
    if (!isBetweenPhases || !this.status.textContent) this.status.textContent = statusOf(humo);
    this.left.textContent = humo.seconds_left ? `about ${duration(humo.seconds_left)} left` : "";
    this.keep.hidden = humo.phase !== "denoise";
  }

  buildProgress() {
    this.bar = h("progress", { max: 100, value: 0, "aria-label": "Progress of the video" });
    this.status = h("span", { class: "status" });
    this.left = h("span", { class: "left" });
    this.keep = button("keep", "Stop and keep", () => this.finish());
    this.image = h("div", { class: "waiting" }, h("span", { class: "pulse" }));
    this.screen.replaceChildren(this.image);
    this.below.replaceChildren(this.bar, h("div", { class: "row" }, this.status, h("span", { class: "spring" }), this.left),
      h("div", { class: "row" }, button("stop", "Stop", () => api.cancel(this.id)), this.keep));
  }

  preview(source) {
    if (this.image.tagName !== "IMG") {
      const image = h("img", { class: "preview", alt: "Preview of the unfinished video" });
      this.image.replaceWith(image);
      this.image = image;
    }
    this.image.src = source;
  }

  async finish() {
    this.keep.disabled = true;
    await api.finish(this.id);
    announce("The video is finished with what there is.");
  }

  // -- afterwards ------------------------------------------------------------------------------------------------------

  showFailed() {
    const isStopped = this.video.humo.state === "cancelled";
    this.screen.replaceChildren(h("div", { class: "waiting" }, h("p", {}, isStopped ? "Stopped." : "This did not work.")));
    this.below.replaceChildren(
      ...(isStopped ? []
        : [h("p", { class: "error", role: "alert" }, this.video.error?.message ?? "For an unknown reason.")]),
      h("div", { class: "row" }, button("again", "Try again", () => this.stage.tell("again", { video: this.video, change: "seed" })),
        button("bin", "Delete", () => this.stage.tell("delete", this.video), { quiet: true })));
  }

  async showFinished() {
    const { id, prompt, humo } = this.video;
    const [width, height] = [humo.request.width, humo.request.height];
    this.player = h("video", { controls: true, loop: true, playsInline: true, preload: "auto", "aria-label": prompt });
    this.player.style.aspectRatio = `${width} / ${height}`;
    const player = this.player;
    this.screen.replaceChildren(player);
    this.below.replaceChildren(this.actions(), this.details());
    player.src = await api.mediaUrl(api.contentPath(id));
    if (this.bar) player.play().catch(() => undefined);  // it was watched while it was made
  }

  actions() {
    const { id } = this.video;
    const again = (change, text) => h("button", { type: "button", class: "item", onclick: () => {
      menu.open = false;
      this.stage.tell("again", { video: this.video, change });
    } }, text);
    const menu = h("details", { class: "menu" }, h("summary", { class: "button primary" }, icon("again"), h("span", {}, "Make again with…")),
      h("div", { class: "items" },
        again("seed", "another seed"), again("better", "better quality"), again("draft", "a quick draft"),
        again("wide", "a wide picture"), again("square", "a square picture"), again("upright", "an upright picture"),
        again("edit", "changes of mine")));
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
    menu.addEventListener("focusout", (event) => { if (!menu.contains(event.relatedTarget)) menu.open = false; });
    const download = button("download", "Download", async () => save(await api.blob(api.contentPath(id)), `${id}.mp4`));
    return h("div", { class: "row actions" }, menu, download, favoriteButton(id, this.stage), h("span", { class: "spring" }),
      button("bin", "Delete this video", () => this.stage.tell("delete", this.video), { quiet: true }));
  }

  details() {
    const { humo } = this.video;
    const seconds = Object.values(humo.timings ?? {}).reduce((sum, part) => sum + part, 0);
    const origin = h("p", { class: "hint" }, "Reading the marks…");
    const rows = describe(this.video).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
    const notes = humo.notes.length && h("ul", { class: "notes" }, humo.notes.map((note) => h("li", {}, note)));
    let asked = false;
    return h("details", { class: "details", ontoggle: (event) => {
      if (!event.target.open || asked) return;
      asked = true;
      showOrigin(this.id, origin);
    } },
    h("summary", {}, `Settings and marks of origin · made in ${duration(seconds)}`),
    h("dl", {}, rows), notes, h("h3", {}, "Marks of origin"), origin,
    h("div", { class: "row" },
      button("download", "Settings as JSON", () => save(asJson(this.video), `${this.id}.settings.json`)),
      button("download", "Record of the video", async () =>
        save(await api.blob(api.contentPath(this.id, "sidecar")), `${this.id}.json`))));
  }
}

async function showOrigin(id, element) {
  try {
    const marks = await api.provenance(id);
    const items = [
      marks.credentials && marks.credentials !== "Invalid"
        ? `Signed content credentials by ${marks.signer}: ${marks.is_ai_generated ? "declared AI-generated" : "no declaration"}, unchanged since`
        : "No valid content credentials",
      marks.watermark ? "Invisible watermark found in the frames" : "No watermark found in the frames",
      marks.record ? "Record of all settings inside the file" : "No record of the settings inside the file",
    ];
    element.replaceWith(h("ul", { class: "marks" }, items.map((text, number) => {
      const isThere = [marks.credentials && marks.credentials !== "Invalid", marks.watermark, marks.record][number];
      return h("li", { class: isThere ? "there" : "missing" }, icon(isThere ? "keep" : "close"), h("span", {}, text));
    })));
  } catch (error) {
    element.textContent = `The marks cannot be read now. ${error.message}`;
  }
}

/** Return the settings of a video in people's words. */
function describe({ model, seed, humo: { request } }) {
  const values = [["Description", request.prompt], ["Model", model],
    ["Picture", `${request.width} × ${request.height}`], ["Length", `${request.frames / 25} s`], ["Seed", String(seed)]];
  for (const [field, name] of Object.entries(SETTING_NAMES)) {
    if (request[field] !== undefined && request[field] !== null && !["window", "overlap"].includes(field)) {
      values.push([name, String(request[field])]);
    }
  }
  if (request.loras?.length) values.push(["Styles", request.loras.join(", ")]);
  return values;
}

function asJson(video) {
  return new Blob([JSON.stringify({ model: video.model, ...video.humo.request }, null, 2)], { type: "application/json" });
}

export const favorites = {
  all: () => local.get("favorites", []),
  has: (id) => favorites.all().includes(id),
  toggle(id) {
    const others = favorites.all().filter((other) => other !== id);
    local.set("favorites", favorites.has(id) ? others : [...others, id]);
  },
};

export function favoriteButton(id, target) {
  const star = button("star", "Favorite", () => {
    favorites.toggle(id);
    star.setAttribute("aria-pressed", String(favorites.has(id)));
    target.dispatchEvent(new Event("favorites"));
  }, { quiet: true, kind: "star", "aria-pressed": String(favorites.has(id)) });
  return star;
}

export const hasEnded = (video) => ["completed", "failed", "cancelled"].includes(video.humo.state);

/** Return what a video does now, in a line. */
export function statusOf({ state, phase, step, steps, queue_position: position }) {
  if (state === "queued") {
    if (!position) return "Waiting for its turn";
    return position === 1 ? "Next in line" : `Number ${position} in line`;
  }
  if (!phase) return "Starting";
  return steps > 1 ? `${PHASES[phase]}: ${step} of ${steps}` : PHASES[phase];
}

