// The gallery of examples: each fills the form at one click, and shows its finished clip while it is pointed at.

import * as api from "./api.js";
import { announce, h } from "./dom.js";

/** Time after which files that the first view can do without are loaded. */
const FIRST_VIEW_MS = 2000;

/** Show the examples; `fill` gets the chosen one. */
export async function showExamples(list, fill) {
  const examples = await api.examples();
  list.replaceChildren(...examples.map((example) => card(example, fill)));
  list.closest("section").hidden = examples.length === 0;
}

function card(example, fill) {
  const name = example.id[0].toUpperCase() + example.id.slice(1);
  const clip = h("video", { muted: true, loop: true, playsInline: true, preload: "none", tabIndex: -1,
    "aria-hidden": "true", width: 96, height: 96 });
  clip.muted = true;
  const loaded = example.image && api.mediaUrl(example.image).then((url) => { clip.poster = url; });
  const play = async () => {
    if (!clip.src && example.video) clip.src = await api.mediaUrl(example.video);
    clip.play().catch(() => undefined);  // it was left before it began
  };
  if (!loaded && example.video) {  // without an image the first frame of the clip stands for it, after the first view
    clip.preload = "auto";
    setTimeout(async () => { clip.src ||= await api.mediaUrl(example.video); }, FIRST_VIEW_MS);
  }
  const choose = h("button", { type: "button", class: "example", title: example.prompt,
    "aria-label": `Example “${name}”: ${example.prompt}`,
    onpointerenter: play, onfocus: play, onpointerleave: () => clip.pause(), onblur: () => clip.pause(),
    onclick: async () => {
      choose.disabled = true;
      try {
        await fill(example);
        announce(`Filled in from the example ${name}.`);
      } finally {
        choose.disabled = false;
      }
    } }, clip, h("span", {}, name));
  return h("li", {}, choose);
}
