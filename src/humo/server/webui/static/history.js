// The history: all videos of this owner, with search, favorites and deletion.

import * as api from "./api.js";
import { $, button, confirmed, h } from "./dom.js";
import { favoriteButton, favorites, hasEnded, statusOf } from "./result.js";
import { debounced } from "./state.js";

const REFRESH_MILLISECONDS = 2500;

export class History extends EventTarget {
  constructor(root, stage) {
    super();
    this.root = root;
    this.stage = stage;
    this.videos = [];
    this.hasMore = false;
    this.timer = 0;
    $("#search").addEventListener("input", debounced(() => this.show(), 120));
    $("#only-favorites").addEventListener("click", (event) => {
      const isOn = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(isOn));
      this.show();
    });
    stage.addEventListener("favorites", () => this.show());
    this.addEventListener("favorites", () => this.show());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
  }

  /** Load the newest videos again; goes on regularly while one of them is unfinished. */
  async refresh() {
    clearTimeout(this.timer);
    const page = await api.videos();
    const older = this.videos.slice(this.videos.findIndex(({ id }) => id === page.last_id) + 1);
    this.videos = page.has_more && older.length < this.videos.length ? [...page.data, ...older] : page.data;
    this.hasMore = this.hasMore || page.has_more;
    this.show();
    this.dispatchEvent(new Event("change"));
    if (this.videos.some((video) => !hasEnded(video)) && !document.hidden) {
      this.timer = setTimeout(() => this.refresh().catch(() => undefined), REFRESH_MILLISECONDS);
    }
  }

  async loadMore() {
    const page = await api.videos(this.videos.at(-1)?.id);
    this.videos.push(...page.data);
    this.hasMore = page.has_more;
    this.show();
  }

  show() {
    const words = $("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const onlyFavorites = $("#only-favorites").getAttribute("aria-pressed") === "true";
    const shown = this.videos.filter(({ id, prompt, model }) => (!onlyFavorites || favorites.has(id))
      && words.every((word) => `${prompt} ${model}`.toLowerCase().includes(word)));
    const focused = this.root.contains(document.activeElement) && document.activeElement;
    const place = focused && [focused.closest("li")?.dataset.id, focused.className];
    this.root.replaceChildren(...shown.map((video) => this.card(video)),
      ...(this.hasMore ? [h("li", { class: "more" }, button(null, "Older videos", () => this.loadMore()))] : []));
    if (place) this.root.querySelector(`[data-id="${place[0]}"] [class="${place[1]}"]`)?.focus();
    const isFiltered = words.length > 0 || onlyFavorites;
    $("#history-empty").textContent = isFiltered ? "Nothing matches." : "Your videos will be kept here.";
    $("#history-empty").hidden = shown.length > 0;
    $("#history-tools").hidden = this.videos.length === 0;
  }

  card(video) {
    const { id, prompt, humo } = video;
    const isDone = humo.state === "completed";
    const thumbnail = h("span", { class: `thumbnail ${humo.state}` });
    if (isDone) {
      const image = h("img", { alt: "", loading: "lazy", width: 96, height: 96 });
      api.mediaUrl(api.contentPath(id, "thumbnail")).then((url) => { image.src = url; }).catch(() => undefined);
      thumbnail.append(image);
    } else {
      thumbnail.append({ failed: "failed", cancelled: "stopped" }[humo.state]
        ?? (humo.state === "queued" ? statusOf(humo) : `${video.progress} %`));
    }
    const open = h("button", { type: "button", class: "open", title: prompt, "aria-label": `Show: ${prompt}`,
      onclick: () => { this.stage.show([id], {}, {}); this.dispatchEvent(new Event("opened")); } },
    thumbnail, h("span", { class: "caption" }, prompt));
    return h("li", { "data-id": id, class: this.stage.ids.includes(id) ? "shown" : "" }, open,
      h("div", { class: "tools" }, favoriteButton(id, this),
        button("compare", "Put beside the others", () => this.stage.add(id), { quiet: true }),
        button("bin", "Delete", () => this.delete(video), { quiet: true })));
  }

  async delete({ id, prompt }) {
    const start = prompt.length > 60 ? `${prompt.slice(0, 60)}…` : prompt;
    if (!await confirmed(`Delete “${start}” for good?`, "Delete it")) return;
    await api.remove(id);
    this.videos = this.videos.filter((video) => video.id !== id);
    await this.stage.close(id);
    this.show();
    $("#search").focus();
  }
}
