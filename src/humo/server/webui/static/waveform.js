// The sound: from a file, a video or the microphone; shown as a waveform that plays and is trimmed by dragging.

import { announce, button, h, icon } from "./dom.js";
import { debounced, files } from "./state.js";

const SHORTEST = 0.2;  // seconds that stay between the two ends
const KEY_STEP = 0.1;
export const MAX_SECONDS = 60;
const ADD = "Add speech or a song";

export class Sound extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.source = null;  // {blob, name}
    this.buffer = null;  // decoded
    this.start = 0;
    this.end = 0;
    this.player = null;
    this.recorder = null;
    this.save = debounced(() => files.set("sound",
      this.source && { ...this.source, start: this.start, end: this.end }), 150);
    this.build();
  }

  build() {
    this.input = h("input", { type: "file", id: "sound-file", class: "visually-hidden", accept: "audio/*,video/*",
      onchange: () => { if (this.input.files[0]) this.load(this.input.files[0], this.input.files[0].name); this.input.value = ""; } });
    this.recordButton = button("record", "Record", () => this.record());
    this.chooserText = h("span", {}, ADD);
    this.chooser = h("div", { class: "sound-chooser" }, this.input,
      h("label", { class: "tile add wide", for: "sound-file" }, icon("sound"),
        this.chooserText, h("small", {}, "a sound file, or a video whose sound is taken")),
      this.recordButton);
    this.canvas = h("canvas", { class: "wave", "aria-hidden": "true" });
    this.handles = ["start", "end"].map((side) => h("div", { class: `handle ${side}`, tabIndex: 0, role: "slider",
      "aria-label": side === "start" ? "Start of the sound" : "End of the sound",
      onpointerdown: (event) => this.drag(event, side), onkeydown: (event) => this.nudge(event, side) }));
    this.shades = [h("div", { class: "shade" }), h("div", { class: "shade" })];
    this.cursor = h("div", { class: "cursor" });
    this.track = h("div", { class: "track" }, this.canvas, ...this.shades, this.cursor, ...this.handles);
    this.playButton = button("play", "Play the sound", () => this.toggle(), { quiet: true });
    this.label = h("output", { class: "sound-label" });
    this.editor = h("div", { class: "sound-editor", hidden: true }, this.track, h("div", { class: "row" },
      this.playButton, this.label,
      button("close", "Remove the sound", () => { this.clear(); this.recordButton.focus(); }, { quiet: true })));
    this.root.replaceChildren(this.chooser, this.editor);
    new ResizeObserver(() => this.draw()).observe(this.track);
  }

  async restore() {
    const kept = await files.get("sound");
    if (kept) await this.load(kept.blob, kept.name, kept);
  }

  get seconds() {
    return this.source ? this.end - this.start : 0;
  }

  /** Load a sound or the sound of a video. */
  async load(blob, name, trim = {}) {
    this.stop();
    this.problem("");
    this.loading = blob;
    this.chooserText.textContent = "Reading the sound…";
    let buffer = null;
    try {
      const context = new OfflineAudioContext(1, 1, 48_000);
      buffer = await context.decodeAudioData(await blob.arrayBuffer());
    } catch {
      buffer = null;
    }
    if (this.loading !== blob) return undefined;  // another one was chosen meanwhile
    this.chooserText.textContent = ADD;
    if (!buffer) {
      if (blob.type.startsWith("video/")) return this.problem("This video has no sound that can be read here.");
      if (!blob.type.startsWith("audio/")) return this.problem("This is neither a sound nor a video.");
    }
    this.source = { blob, name };
    this.buffer = buffer;
    this.start = trim.start ?? 0;
    this.end = Math.min(trim.end ?? buffer?.duration ?? 0, buffer?.duration ?? 0);
    const isTooLong = this.end - this.start > MAX_SECONDS;
    if (isTooLong) this.end = this.start + MAX_SECONDS;
    this.changed();
    if (isTooLong) this.problem(`The first ${MAX_SECONDS} seconds are used; drag the ends to choose others.`);
    announce(`Sound added: ${name}`);
    return undefined;
  }

  clear() {
    this.stop();
    this.loading = null;
    this.chooserText.textContent = ADD;
    this.source = this.buffer = null;
    this.start = this.end = 0;
    this.problem("");
    this.changed();
  }

  problem(text) {
    this.dispatchEvent(new CustomEvent("problem", { detail: text }));
  }

  changed() {
    this.chooser.hidden = this.source !== null;
    this.editor.hidden = this.source === null;
    this.track.hidden = this.playButton.hidden = this.buffer === null;
    this.draw();
    this.save();
    this.dispatchEvent(new Event("change"));
  }

  // -- drawing and trimming --------------------------------------------------------------------------------------------

  draw() {
    if (!this.source) return;
    if (!this.buffer) {
      this.label.textContent = `${this.source.name} (cannot be shown here, and is used as it is)`;
      return;
    }
    const { duration } = this.buffer;
    this.label.textContent = this.isTrimmed
      ? `${this.seconds.toFixed(1)} of ${duration.toFixed(1)} s · ${this.source.name}`
      : `${duration.toFixed(1)} s · ${this.source.name}`;
    const [left, right] = [this.start / duration, this.end / duration];
    this.handles[0].style.left = `${left * 100}%`;
    this.handles[1].style.left = `${right * 100}%`;
    this.shades[0].style.width = `${left * 100}%`;
    this.shades[1].style.width = `${(1 - right) * 100}%`;
    for (const [handle, value] of [[this.handles[0], this.start], [this.handles[1], this.end]]) {
      handle.setAttribute("aria-valuemin", "0");
      handle.setAttribute("aria-valuemax", duration.toFixed(1));
      handle.setAttribute("aria-valuenow", value.toFixed(1));
      handle.setAttribute("aria-valuetext", `${value.toFixed(1)} seconds`);
    }
    this.drawWave();
  }

  drawWave() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.track;
    if (!width) return;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.fillStyle = getComputedStyle(this.track).color;
    const samples = this.buffer.getChannelData(0);
    const bars = Math.floor(width / 4);
    const levels = Array.from({ length: bars }, (_, bar) => peak(samples, bar / bars, (bar + 1) / bars));
    const loudest = Math.max(0.02, ...levels);
    levels.forEach((level, bar) => {
      const size = Math.max(2, (level / loudest) * (height - 12));
      context.beginPath();
      context.roundRect(bar * 4 + 1, (height - size) / 2, 2.4, size, 1.2);
      context.fill();
    });
  }

  drag(event, side) {
    event.preventDefault();
    event.target.focus();
    const { left, width } = this.track.getBoundingClientRect();
    const move = (moved) => this.trim(side, ((moved.clientX - left) / width) * this.buffer.duration);
    addEventListener("pointermove", move);
    addEventListener("pointerup", () => { removeEventListener("pointermove", move); this.changed(); }, { once: true });
  }

  nudge(event, side) {
    const step = { ArrowLeft: -KEY_STEP, ArrowRight: KEY_STEP, PageDown: -1, PageUp: 1 }[event.key];
    const end = { Home: 0, End: this.buffer.duration }[event.key];
    if (step === undefined && end === undefined) return;
    event.preventDefault();
    this.trim(side, end ?? this[side] + step);
    this.changed();
  }

  trim(side, seconds) {
    const bounded = Math.min(this.buffer.duration, Math.max(0, seconds));
    if (side === "start") {
      this.start = Math.max(Math.min(bounded, this.end - SHORTEST), this.end - MAX_SECONDS, 0);
    } else {
      this.end = Math.min(Math.max(bounded, this.start + SHORTEST), this.start + MAX_SECONDS);
    }
    this.draw();
  }

  get isTrimmed() {
    return this.buffer !== null && (this.start > 0.01 || this.end < this.buffer.duration - 0.01);
  }

  /** Return the sound to send: the file as it is, or a WAV of the chosen part. */
  upload() {
    if (!this.source) return null;
    const isVideo = this.source.blob.type.startsWith("video/");
    if (this.buffer && (this.isTrimmed || isVideo)) return wavOf(this.buffer, this.start, this.end);
    return this.source.blob;
  }

  // -- playing and recording -------------------------------------------------------------------------------------------

  async toggle() {
    if (this.player) return this.stop();
    const context = new AudioContext();
    const node = new AudioBufferSourceNode(context, { buffer: this.buffer });
    node.connect(context.destination);
    await context.resume();
    const began = context.currentTime;
    node.start(0, this.start, this.seconds);
    node.onended = () => this.stop();
    this.player = { context, node };
    this.playButton.replaceChildren(icon("pause"));
    this.playButton.setAttribute("aria-label", "Pause the sound");
    this.track.classList.add("playing");
    const show = () => {
      if (this.player?.context !== context) return;
      const position = this.start + context.currentTime - began;
      this.cursor.style.left = `${(position / this.buffer.duration) * 100}%`;
      requestAnimationFrame(show);
    };
    show();
    return undefined;
  }

  stop() {
    if (!this.player) return;
    const { context, node } = this.player;
    this.player = null;
    node.onended = null;
    context.close();
    this.playButton.replaceChildren(icon("play"));
    this.playButton.setAttribute("aria-label", "Play the sound");
    this.track.classList.remove("playing");
  }

  async record() {
    if (this.recorder) return this.recorder.stop();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      return this.problem("The microphone cannot be used. Allow it in the browser, then try again.");
    }
    const parts = [];
    const recorder = new MediaRecorder(stream);
    this.recorder = recorder;
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      this.recorder = null;
      clearInterval(timer);
      this.showRecording("Record", "record");
      const blob = new Blob(parts, { type: recorder.mimeType });
      await this.load(blob, "your recording");
      if (this.buffer) this.source.blob = wavOf(this.buffer, 0, this.buffer.duration);  // every reader knows WAV
      this.save();
      this.playButton.focus();
    };
    recorder.start();
    const began = Date.now();
    const timer = setInterval(() => {
      const seconds = Math.floor((Date.now() - began) / 1000);
      this.showRecording(`Stop recording (${seconds} s)`, "stop");
      if (seconds >= MAX_SECONDS) recorder.stop();
    }, 250);
    announce("Recording");
    return undefined;
  }

  showRecording(text, name) {
    this.recordButton.classList.toggle("live", name === "stop");
    this.recordButton.replaceChildren(icon(name), h("span", {}, text));
  }
}

function peak(samples, from, to) {
  const [first, last] = [Math.floor(from * samples.length), Math.floor(to * samples.length)];
  const stride = Math.max(1, Math.floor((last - first) / 200));
  let highest = 0;
  for (let index = first; index < last; index += stride) highest = Math.max(highest, Math.abs(samples[index]));
  return highest;
}

/** Return a part of a sound as 16-bit WAV. */
export function wavOf(buffer, start, end) {
  const channels = Math.min(2, buffer.numberOfChannels);
  const [first, last] = [start, end].map((seconds) => Math.round(seconds * buffer.sampleRate));
  const count = Math.max(0, Math.min(last, buffer.length) - first);
  const view = new DataView(new ArrayBuffer(44 + count * channels * 2));
  const text = (offset, value) => [...value].forEach((letter, index) => view.setUint8(offset + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + count * channels * 2, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, buffer.sampleRate, true);
  view.setUint32(28, buffer.sampleRate * channels * 2, true);
  view.setUint16(32, channels * 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, count * channels * 2, true);
  for (let channel = 0; channel < channels; channel += 1) {
    const samples = buffer.getChannelData(channel);
    for (let index = 0; index < count; index += 1) {
      const value = Math.max(-1, Math.min(1, samples[first + index]));
      view.setInt16(44 + (index * channels + channel) * 2, Math.round(value * 32_767), true);
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
