// Elements without markup: every text from outside becomes a text node.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; `on...` properties are listeners, `class`, `aria-...` and `data-...` are attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !/^(aria-|data-|class$|role$|for$|list$|width$|height$)/.test(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (selector, root = document) => root.querySelector(selector);

const ICONS = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z",
  close: "M6 6l12 12M18 6L6 18",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  crop: "M7 2v15h15M2 7h15v15",
  die: "M4 4h16v16H4zM8.5 8.5v.01M15.5 8.5v.01M12 12v.01M8.5 15.5v.01M15.5 15.5v.01",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  again: "M19 12a7 7 0 1 1-2-5M19 3v5h-5",
  star: "M12 3.5l2.6 5.4 5.9.8-4.3 4.1 1 5.9-5.2-2.8-5.2 2.8 1-5.9-4.3-4.1 5.9-.8z",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z",
  stop: "M6 6h12v12H6z",
  keep: "M5 12.5l5 5 9-11",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M9 9v.01",
  sound: "M5 10v4M9 7v10M13 4v16M17 8v8M21 11v2",
  record: "M12 15a3 3 0 0 0 3-3V7a3 3 0 0 0-6 0v5a3 3 0 0 0 3 3zM6 11.5a6 6 0 0 0 12 0M12 17.5V21",
  film: "M4 5h16v14H4zM8 5v14M16 5v14M4 9h4M4 15h4M16 9h4M16 15h4",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M19 5l-2 2M7 17l-2 2",
  key: "M14 10a4 4 0 1 0-4 4l1-.1L13 16v2h2v2h4v-4l-5.3-5.3z",
};
const FILLED = new Set(["play", "pause", "stop"]);

/** Return a decorative icon; the button around it has the label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", FILLED.has(name) ? "icon filled" : "icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Return a button with an icon, and its text or only a label for screen readers. */
export function button(name, text, onclick, { quiet = false, kind = "", ...more } = {}) {
  const label = quiet ? { "aria-label": text, title: text } : {};
  return h("button", { type: "button", class: `button ${kind} ${quiet ? "square" : ""}`, onclick, ...label, ...more },
    name ? icon(name) : null, quiet ? null : h("span", {}, text));
}

/** Read a text out to screen readers. */
export function announce(text) {
  $("#announcer").textContent = text;
}

/** Ask for a confirmation in a dialog; resolves to true or false. */
export function confirmed(question, action) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "dialog small", "aria-label": question, onclose: () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    } },
    h("p", {}, question),
    h("div", { class: "row end" },
      button(null, "No, go back", () => dialog.close("no")),
      button(null, action, () => dialog.close("yes"), { kind: "primary" })));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Return a duration in words: "8 s", "2 min". */
export function duration(seconds) {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

/** Offer content as a download. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
