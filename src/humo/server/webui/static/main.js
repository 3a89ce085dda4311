// The studio: inputs on the left, the stage and the history on the right.

import { ApiError } from "./api.js";
import { $, announce, h } from "./dom.js";
import { showExamples } from "./examples.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { hasEnded, Stage } from "./result.js";
import { local } from "./state.js";

const form = new Form();
const stage = new Stage($("#stage"));
const history = new History($("#history"), stage);
let origin = null;  // the video that the next one is a change of

const THEMES = { auto: "the system's colors", light: "light", dark: "dark" };

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("#theme").setAttribute("aria-label", `Colors: ${THEMES[theme]}. Change`);
  $("#theme").title = `Colors: ${THEMES[theme]}`;
  form.sound.draw();
}

/** On a phone, go to what has changed; on a desktop it is in view. */
function goTo(element) {
  if (matchMedia("(max-width: 899px)").matches) element.scrollIntoView({ block: "start", behavior: "smooth" });
}

function report(error) {
  if (!(error instanceof ApiError)) throw error;
  form.showError(error.field ?? "form", error.words);
}

async function generate(count) {
  if (!form.check()) return;
  const submit = $("#generate");
  submit.disabled = true;
  submit.textContent = "Sending…";
  try {
    const videos = await form.submit(count);
    const ids = videos.map(({ id }) => id);
    const labels = origin ? { [origin]: "Before", [ids[0]]: "After" }
      : Object.fromEntries(ids.length > 1 ? ids.map((id, number) => [id, `Variation ${number + 1}`]) : []);
    const known = Object.fromEntries(videos.map((video) => [video.id, video]));
    await stage.show(origin && ids.length === 1 ? [origin, ...ids] : ids, labels, known);
    origin = null;
    announce("Your video is being made.");
    goTo($("#result"));
    await history.refresh();
  } catch (error) {
    report(error);
  } finally {
    submit.disabled = false;
    submit.textContent = "Make the video";
  }
}

const SHAPES = { wide: "16:9", square: "1:1", upright: "9:16" };

/** Make a video again: at once with one change, or after the user's own changes. */
async function makeAgain({ video, change }) {
  try {
    await form.fillFromVideo(video);
  } catch (error) {
    report(error);
    return;
  }
  origin = hasEnded(video) && video.humo.state === "completed" ? video.id : null;
  if (change === "edit") {
    goTo($("#inputs"));
    $("#prompt").focus();
    return;
  }
  if (change === "seed") form.set({ seed: "" });
  if (change === "draft") form.set({ quality: "draft" });
  if (change === "better") form.set({ quality: form.model.humo.qualities.at(-1).name });
  if (change in SHAPES) form.set({ shape: SHAPES[change], size: null });
  if (change === "draft" || change === "better") {
    form.settings.restore();
    form.show();
  }
  await generate(1);
}

function connect() {
  $("#form").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); generate(); }
  });
  $("#play-together").addEventListener("click", () => stage.playTogether());
  $("#theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const theme = names[(names.indexOf(local.get("theme", "auto")) + 1) % names.length];
    local.set("theme", theme);
    showTheme(theme);
  });
  stage.addEventListener("again", ({ detail }) => makeAgain(detail));
  stage.addEventListener("delete", ({ detail }) => history.delete(detail));
  stage.addEventListener("ended", ({ detail }) => { history.refresh(); goTo(detail.element); });
  history.addEventListener("change", () => { form.history = history.videos; form.showSummary(); });
  history.addEventListener("opened", () => goTo($("#result")));
}

async function start() {
  showTheme(local.get("theme", "auto"));
  connect();
  try {
    await Promise.all([
      form.restore(),
      showExamples($("#examples"), async (example) => {
        origin = null;
        await form.fillFromExample(example);
        goTo($("#prompt"));
      }),
      stage.restore(),
      history.refresh(),
    ]);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    $("#stage-empty").replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
  }
  document.documentElement.dataset.ready = "true";
}

start();
