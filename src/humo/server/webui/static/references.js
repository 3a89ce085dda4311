// Reference pictures: added by click, drop or paste; ordered, cropped and removed as tiles.

import { announce, button, h, icon } from "./dom.js";
import { crop } from "./crop.js";
import { files } from "./state.js";

export const MAX_PICTURES = 4;

export class References extends EventTarget {
  constructor(list, input) {
    super();
    this.pictures = [];  // {blob, name, url}
    this.list = list;
    this.input = input;
    input.addEventListener("change", () => { this.add([...input.files]); input.value = ""; });
  }

  async restore() {
    this.pictures = ((await files.get("pictures")) ?? []).map(withUrl);
    this.show();
  }

  /** Add pictures; those above the limit are refused with a message. */
  add(added) {
    const pictures = added.filter((file) => file.type.startsWith("image/") || /\.(heic|heif|avif)$/i.test(file.name));
    const refused = added.length - pictures.length;
    const room = MAX_PICTURES - this.pictures.length;
    this.set([...this.pictures, ...pictures.slice(0, room).map((file) => withUrl({ blob: file, name: file.name }))]);
    let problem = "";
    if (pictures.length > room) problem = `Up to ${MAX_PICTURES} pictures are used; remove one to add another.`;
    else if (refused) problem = "That is not a picture.";
    this.dispatchEvent(new CustomEvent("problem", { detail: problem }));
  }

  set(pictures) {
    this.pictures = pictures;
    files.set("pictures", pictures.map(({ blob, name }) => ({ blob, name })));
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  move(index, offset) {
    const pictures = [...this.pictures];
    const [picture] = pictures.splice(index, 1);
    const target = Math.max(0, Math.min(pictures.length, index + offset));
    pictures.splice(target, 0, picture);
    this.set(pictures);
    announce(`Picture ${index + 1} is now number ${target + 1}.`);
    this.list.querySelectorAll(".tile")[target]?.querySelector("button:not([disabled])")?.focus();
  }

  show() {
    const tiles = this.pictures.map((picture, index) => this.tile(picture, index));
    const more = h("li", {}, h("label", { class: "tile add", for: this.input.id },
      icon("picture"), h("span", {}, this.pictures.length ? "Add another" : "Add a picture")));
    this.list.replaceChildren(...tiles, ...(tiles.length < MAX_PICTURES ? [more] : []));
  }

  tile(picture, index) {
    const name = `picture ${index + 1}`;
    const image = h("img", { src: picture.url, alt: `Reference ${name}`, draggable: false });
    const cropper = button("crop", `Crop ${name}`, () => this.cropAt(index), { quiet: true });
    image.addEventListener("error", () => {  // the browser cannot show it; the service may read it, as with HEIC
      image.replaceWith(h("span", { class: "filename" }, picture.name));
      cropper.disabled = true;
    });
    const tile = h("li", { class: "tile", draggable: true,
      ondragstart: (event) => event.dataTransfer.setData("text/x-humo-picture", String(index)),
      ondragover: (event) => event.preventDefault(),
      ondrop: (event) => {
        const from = event.dataTransfer.getData("text/x-humo-picture");
        if (from === "") return;
        event.preventDefault();
        event.stopPropagation();
        this.move(Number(from), index - Number(from));
      } },
    image,
    h("div", { class: "tools" },
      button("left", `Move ${name} to the left`, () => this.move(index, -1), { quiet: true, disabled: index === 0 }),
      button("right", `Move ${name} to the right`, () => this.move(index, 1),
        { quiet: true, disabled: index === this.pictures.length - 1 }),
      cropper,
      button("close", `Remove ${name}`, () => this.removeAt(index), { quiet: true })));
    return tile;
  }

  async cropAt(index) {
    const { url, name } = this.pictures[index];
    const cropped = await crop(url, index + 1);
    if (!cropped) return;
    const pictures = [...this.pictures];
    pictures[index] = withUrl({ blob: cropped, name });
    this.set(pictures);
    announce(`Picture ${index + 1} is cropped.`);
  }

  removeAt(index) {
    this.set(this.pictures.filter((_, other) => other !== index));
    announce(`Picture ${index + 1} is removed.`);
    this.input.focus();
  }
}

function withUrl(picture) {
  return { ...picture, url: URL.createObjectURL(picture.blob) };
}
