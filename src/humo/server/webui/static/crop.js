// A dialog that crops a picture by dragging its frame, or with the arrow keys.

import { button, h } from "./dom.js";

const SMALLEST = 0.08;  // of the picture's sides
const STEP = 0.02;

/** Show a picture in a dialog; resolves to the cropped picture, or null. */
export async function crop(url, number) {
  const image = h("img", { src: url, alt: "" });
  try {
    await image.decode();
  } catch {
    return null;
  }
  const frame = { x: 0.1, y: 0.1, width: 0.8, height: 0.8 };
  const box = h("div", { class: "crop-frame", tabIndex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": 100,
    "aria-label": "Part to keep: arrow keys move it, with Shift they change its size" }, h("span", { class: "corner" }));
  const stage = h("div", { class: "crop-stage" }, image, box);

  const show = () => {
    frame.width = clamp(frame.width, SMALLEST, 1);
    frame.height = clamp(frame.height, SMALLEST, 1);
    frame.x = clamp(frame.x, 0, 1 - frame.width);
    frame.y = clamp(frame.y, 0, 1 - frame.height);
    for (const [name, value] of Object.entries({ left: frame.x, top: frame.y, width: frame.width, height: frame.height })) {
      box.style[name] = `${value * 100}%`;
    }
    box.setAttribute("aria-valuenow", String(Math.round(frame.width * frame.height * 100)));
    const [w, y] = [frame.width, frame.height].map((side) => Math.round(side * 100));
    box.setAttribute("aria-valuetext", `${w} by ${y} percent of the picture`);
  };
  const drag = (event, change) => {
    event.preventDefault();
    event.stopPropagation();
    const { width, height } = stage.getBoundingClientRect();
    const start = { ...frame, left: event.clientX, top: event.clientY };
    const move = (moved) => {
      change(start, (moved.clientX - start.left) / width, (moved.clientY - start.top) / height);
      show();
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", () => removeEventListener("pointermove", move), { once: true });
  };
  box.addEventListener("pointerdown", (event) => drag(event, (start, x, y) => {
    const isCorner = event.target.className === "corner";
    if (isCorner) Object.assign(frame, { width: start.width + x, height: start.height + y });
    else Object.assign(frame, { x: start.x + x, y: start.y + y });
  }));
  box.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!direction) return;
    event.preventDefault();
    const [across, down] = event.shiftKey ? ["width", "height"] : ["x", "y"];
    frame[across] += direction[0] * STEP;
    frame[down] += direction[1] * STEP;
    show();
  });
  const square = () => {
    const side = Math.min(frame.width * image.naturalWidth, frame.height * image.naturalHeight);
    Object.assign(frame, { width: side / image.naturalWidth, height: side / image.naturalHeight });
    show();
  };
  show();

  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "dialog", "aria-label": `Crop picture ${number}`, onclose: async () => {
      const result = dialog.returnValue === "crop" ? await cut(image, frame) : null;
      dialog.remove();
      resolve(result);
    } },
    h("h2", {}, "Crop the picture"), stage,
    h("div", { class: "row end" },
      button(null, "Make it square", square),
      button(null, "Leave as it is", () => dialog.close("")),
      button("crop", "Crop", () => dialog.close("crop"), { kind: "primary" })));
    document.body.append(dialog);
    dialog.showModal();
    box.focus();
  });
}

function cut(image, frame) {
  const [x, y, width, height] = [frame.x * image.naturalWidth, frame.y * image.naturalHeight,
    frame.width * image.naturalWidth, frame.height * image.naturalHeight].map(Math.round);
  const canvas = h("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
