// The HTTP API, as any client uses it.

import { button, h } from "./dom.js";
import { local } from "./state.js";

const KEY = "key";

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.field = error.param;
    this.code = error.code;
  }

  /** The message without the name of its field, as a sentence. */
  get words() {
    const prefix = `${this.field}: `;
    if (!this.field || !this.message.startsWith(prefix)) return this.message;
    const words = this.message.slice(prefix.length);
    return /^(is|has|must|cannot|needs) /.test(words) ? `It ${words}` : words[0].toUpperCase() + words.slice(1);
  }
}

function headers() {
  const key = local.get(KEY, "");
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** Send a request; asks for a key where the service demands one. */
async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...headers() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The service does not answer. Is it still running?", param: null, code: "offline" });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = body.error ?? { message: `The service answered ${response.status}.`, param: null, code: "unknown" };
  if (response.status === 401) {
    await obtainKey(error.code);
    return send(path, options);
  }
  throw new ApiError(response.status, error);
}

let asking = null;

function obtainKey(code) {
  if (code === "visitor_key_required") {  // a service for visitors takes any random key
    if (!local.get(KEY, "")) local.set(KEY, randomKey());
    return Promise.resolve();
  }
  asking ??= askForKey(local.get(KEY, "") !== "").finally(() => { asking = null; });
  return asking;
}

function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(32)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function askForKey(wasWrong) {
  return new Promise((resolve) => {
    const input = h("input", { type: "password", id: "api-key", autocomplete: "current-password", required: true });
    const form = h("form", { method: "dialog", class: "stack", onsubmit: (event) => {
      event.preventDefault();
      local.set(KEY, input.value.trim());
      dialog.remove();
      resolve();
    } },
    h("h2", {}, "Your key, please"),
    h("p", { class: "hint" }, "Whoever runs this service has given you one. This browser keeps it."),
    h("label", { for: "api-key" }, "Key"), input,
    wasWrong ? h("p", { class: "error", role: "alert" }, "The service does not know this key.") : null,
    h("div", { class: "row end" }, button(null, "Open the studio", null, { kind: "primary", type: "submit" })));
    const dialog = h("dialog", { class: "dialog small", "aria-label": "Your key",
      oncancel: (event) => event.preventDefault() }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

const json = async (path, options) => (await send(path, options)).json();

export const models = () => json("/v1/models");
export const examples = async () => (await json("/v1/examples")).data;
export const video = (id) => json(`/v1/videos/${id}`);
export const videos = (after) => json(`/v1/videos?limit=100${after ? `&after=${after}` : ""}`);
export const submit = (form) => json("/v1/videos", { method: "POST", body: form });
export const cancel = (id) => json(`/v1/videos/${id}/cancel`, { method: "POST" });
export const finish = (id) => json(`/v1/videos/${id}/finish`, { method: "POST" });
export const remove = (id) => json(`/v1/videos/${id}`, { method: "DELETE" });
export const provenance = (id) => json(`/v1/videos/${id}/provenance`);
export const blob = async (path) => (await send(path)).blob();

export const contentPath = (id, variant = "video") => `/v1/videos/${id}/content?variant=${variant}`;
export const inputPath = (id, name) => `/v1/videos/${id}/inputs/${name}`;

const urls = new Map();

/** Return an address that an element can load; with a key the content is fetched first. */
export async function mediaUrl(path) {
  if (!local.get(KEY, "")) return path;
  if (!urls.has(path)) urls.set(path, blob(path).then(URL.createObjectURL));
  return urls.get(path).catch((error) => { urls.delete(path); throw error; });
}

/** Follow a video: calls `onvideo` and `onpreview` until it has ended; reconnects when the connection breaks. */
export async function follow(id, signal, onvideo, onpreview) {
  while (!signal.aborted) {
    try {
      const response = await send(`/v1/videos/${id}/events`, { signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let [text, hasEnded] = ["", false];
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (text + value).split("\n\n");
        text = parts.pop();
        for (const part of parts) {
          const name = /^event: (\w+)$/m.exec(part)?.[1];
          const data = /^data: (.*)$/m.exec(part)?.[1];
          if (!name) continue;
          const content = JSON.parse(data);
          if (name === "preview") onpreview(content.image);
          else onvideo(content.id ? content : null);
          hasEnded ||= name === "done";
        }
      }
      if (hasEnded) return;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404) return onvideo(null);
    }
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
  }
}
