"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["var(--accent)", "var(--second)", "var(--good)", "var(--bad)"];
const CURVE_COLORS = ["var(--curve)", "var(--second-curve)", "var(--soft)"];
const FRAMES_PER_SECOND = 25;
const STEP = 10;
const ARROWS = { up: "higher is better", down: "lower is better", zero: "nearer to 0 is better", neither: "describes only" };
const byId = (id) => document.getElementById(id);
const metricOf = Object.fromEntries(data.metrics.map((one) => [one.name, one]));

function make(tag, attributes, ...children) {
  const svg = ["svg", "path", "line"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((one) => one !== null && one !== undefined && one !== ""));
  return element;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 100000)) return value.toExponential(2);
  return String(Number(value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3)));
}

function signed(value) {
  return value === null ? "–" : (value > 0 ? "+" : "") + number(value);
}

function table(head, rows) {
  const cell = (tag, one) => (one instanceof Node && /^T[DH]$/.test(one.tagName) ? one : make(tag, {}, one));
  const titles = head.map((one) => cell("th", one));
  const named = (one, column) => {  // on a narrow screen each cell shows the title of its column
    const element = cell("td", one);
    element.dataset.title = titles[column].textContent;
    return element;
  };
  return make("table", {},
    make("thead", {}, make("tr", {}, titles)),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map(named)))));
}

const right = (text) => make("td", { class: "number" }, text);

function measured(name, value, ends, isDifference) {
  const unit = (metricOf[name] || {}).unit || "";
  const isFraction = unit === "fraction";
  const scale = (one) => (isFraction && one !== null ? 100 * one : one);
  const shown = isFraction ? (isDifference ? "points" : "%") : unit;
  const interval = ends && ends.low !== null ? ` [${number(scale(ends.low))}, ${number(scale(ends.high))}]` : "";
  return `${(isDifference ? signed : number)(scale(value))}${interval}${shown && ` ${shown}`}`;
}

// -- summary ----------------------------------------------------------------------------------------------------------

function swatch(index, colors = COLORS) {
  return make("span", { class: "swatch", style: `background:${colors[index % colors.length]}` });
}

function showSummary() {
  byId("title").textContent = data.models.map((one) => one.label).join(" and ");
  document.title = `Evaluation: ${byId("title").textContent}`;
  const counts = data.models.map((one) => `${one.label}: ${one.videos} videos` + (one.missing ? `, ${one.missing} cases without one` : ""));
  byId("intro").textContent = `${counts.join("; ")}. Means over cases with 95 % intervals; cases of one person are drawn together. Values that could not be measured are counted, and never stand as 0.`;
  const head = ["Metric", ...data.models.flatMap((one, index) => [make("th", { class: "number" }, swatch(index), one.label), "Valid"])];
  const rows = data.metrics.map((metric) => [
    make("td", {}, make("strong", {}, metric.name), make("small", {}, `${metric.summary}; ${ARROWS[metric.better]}`)),
    ...data.models.flatMap((model) => {
      const summary = model.summaries[metric.name];
      if (!summary) return [right("not measured"), right("")];
      const value = summary.estimate ? measured(metric.name, summary.estimate.mean, summary.estimate) : "no value";
      const tried = summary.valid + summary.invalid;
      if (!tried && !summary.unavailable) return [right("not applicable"), right("")];
      return [right(value), right(summary.unavailable ? "unavailable" : `${summary.valid} of ${tried}`)];
    }),
  ]);
  byId("summary-table").append(table(head, rows));
  for (const comparison of data.comparisons) showComparison(comparison);
}

function showComparison(comparison) {
  const [first, second] = comparison.labels;
  const rows = comparison.metrics.map((one) => {
    const difference = one.difference;
    const kind = one.verdict === "better" ? "better" : one.verdict === "worse" ? "worse" : "none";
    const needed = difference.pairs_needed === null ? "" : String(difference.pairs_needed);
    const related = difference.correlation === null ? "–" : number(difference.correlation);
    return [
      one.metric, right(measured(one.metric, difference.mean, difference, true)), right(`${Math.round(100 * difference.wins)} %`),
      right(number(one.p)), make("td", {}, make("span", { class: `verdict-${kind}` }, one.verdict)), right(needed),
      right(related), right(`${difference.cases}`), right(`${one.invalid[0]}, ${one.invalid[1]}`),
      right(one.invalid[0] + one.invalid[1] ? measured(one.metric, one.worst_case.mean, one.worst_case, true) : ""),
    ];
  });
  const wide = (text, title) => make("th", { class: "number", title }, text);
  const head = ["Metric", wide("Difference"), wide("Higher in", "share of cases with a higher value of the second model"),
    wide("p", "corrected for the number of metrics (Holm)"), "Verdict", wide("Pairs needed", "to show this difference with a probability of 0.8"),
    wide("Correlation", "of the two models' values over cases"), wide("Cases"), wide("Without a value", "of the first and of the second model"),
    wide("Worst case", "the difference if the worst value stands for each missing one")];
  byId("comparison").append(
    make("h3", { style: "margin-top:20px" }, `${second} minus ${first}`),
    make("p", { class: "soft" }, `${comparison.cases} cases with equal inputs. “Not distinguishable”: the interval holds 0, or the corrected p-value exceeds 0.05.`),
    make("div", { class: "wide" }, table(head, rows)),
    ...Object.entries(comparison.refused).map(([name, why]) => make("p", { class: "soft" }, `${name}: ${why}.`)));
}

// -- cases ------------------------------------------------------------------------------------------------------------

let shown = STEP;

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

function setUp() {
  fill(byId("metric"), data.metrics.map((one) => [one.name, one.name]));
  const orders = data.models.length > 1
    ? [["difference", "largest difference"], ["difference-up", "second model highest over first"], ["difference-down", "second model lowest under first"]] : [];
  fill(byId("order"), [...orders, ["worst", "worst first"], ["best", "best first"], ["name", "by name"]]);
  fill(byId("category"), [["", "all"], ...data.categories.map((one) => [one, one])]);
  byId("category").parentElement.hidden = data.categories.length < 2;
  for (const id of ["metric", "order", "category"]) byId(id).addEventListener("change", restart);
  byId("search").addEventListener("input", restart);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => { shown += STEP; showCases(); });
}

function restart() {
  shown = STEP;
  byId("list").replaceChildren();
  showCases();
}

function meanOf(model, id, metric) {
  const clips = model.cases[id] || [];
  const values = clips.map((one) => one.scores[metric]).filter((one) => one && one.value !== null).map((one) => one.value);
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
}

function rank(metric, order) {
  const better = metricOf[metric].better;
  const badness = (value) => (better === "up" ? -value : better === "zero" ? Math.abs(value) : value);
  const text = byId("search").value.toLowerCase();
  const category = byId("category").value;
  const rows = Object.entries(data.cases)
    .filter(([, one]) => !category || one.category === category)
    .filter(([id, one]) => !text || id.toLowerCase().includes(text) || one.prompt.toLowerCase().includes(text))
    .map(([id]) => {
      const values = data.models.map((model) => meanOf(model, id, metric));
      const present = values.filter((one) => one !== null);
      const both = values.length > 1 && values[0] !== null && values[1] !== null;
      const keys = {
        difference: both ? -Math.abs(values[1] - values[0]) : null,
        "difference-up": both ? values[0] - values[1] : null,
        "difference-down": both ? values[1] - values[0] : null,
        worst: present.length ? -Math.max(...present.map(badness)) : null,
        best: present.length ? Math.min(...present.map(badness)) : null,
        name: 0,
      };
      return { id, key: keys[order], values };
    });
  return rows.sort((a, b) => (a.key === null) - (b.key === null) || (a.key ?? 0) - (b.key ?? 0) || (a.id < b.id ? -1 : 1));
}

function showCases() {
  const metric = byId("metric").value;
  const rows = rank(metric, byId("order").value);
  const visible = rows.slice(0, shown);
  for (const row of visible.slice(byId("list").childElementCount)) byId("list").append(caseCard(row, metric));
  byId("shown").textContent = `${visible.length} of ${rows.length} cases`;
  byId("more").hidden = visible.length >= rows.length;
}

function caseCard(row, metric) {
  const one = data.cases[row.id];
  const both = row.values.length > 1 && row.values[0] !== null && row.values[1] !== null;
  const facts = [one.category, one.person && `person ${one.person}`, one.expected && `expected: ${one.expected}`, one.source, one.license];
  return make("article", { class: "case" },
    make("div", { class: "case-head" }, make("h3", {}, row.id), make("span", { class: "soft" }, facts.filter(Boolean).join(" · ")),
      both ? make("span", {}, `difference ${measured(metric, row.values[1] - row.values[0], null, true)}`) : ""),
    make("div", { class: "case-body" }, inputs(one),
      make("div", { class: data.models.length > 1 ? "models two" : "models" },
        data.models.map((model, index) => modelClips(model, index, row.id, metric)))));
}

function inputs(one) {
  return make("div", { class: "inputs" },
    one.references.length === 0 ? "" : make("div", { class: "references" }, one.references.map((image, index) => make("img", { src: image, alt: `reference ${index + 1}`, loading: "lazy" }))),
    one.prompt ? make("p", {}, one.prompt) : make("p", { class: "soft" }, "no prompt"),
    one.waveform ? wave(one.waveform) : make("p", { class: "soft" }, "no audio"));
}

function wave(levels) {
  const top = levels.map((level, x) => `${x},${20 - 20 * level}`);
  const bottom = levels.map((level, x) => `${x},${20 + 20 * level}`).reverse();
  return make("svg", { class: "wave", viewBox: `0 0 ${Math.max(1, levels.length - 1)} 40`, preserveAspectRatio: "none", role: "img", "aria-label": "waveform of the audio" },
    make("path", { d: `M${[...top, ...bottom].join(" L")} Z` }));
}

function modelClips(model, index, id, metric) {
  const clips = model.cases[id] || [];
  if (!clips.length) return make("div", { class: "model" }, make("h4", {}, swatch(index), model.label), make("p", { class: "soft" }, "no video"));
  return make("div", { class: "model" }, make("h4", {}, swatch(index), model.label), clips.map((clip) => clipView(clip, metric)));
}

function clipView(clip, metric) {
  const score = clip.scores[metric];
  const text = !score ? "not measured" : score.value === null ? `${score.status}: ${score.reason}` : measured(metric, score.value);
  const chart = score && Object.keys(score.curves).length ? curves(score.curves, score.step) : null;
  const view = make("div", { class: "clip" });
  if (clip.strip) view.append(make("img", { src: clip.strip, alt: "frames of the clip", loading: "lazy" }));
  else view.append(make("p", { class: "soft" }, clip.problem || "the video is not on this machine"));
  const button = clip.video ? make("button", { type: "button", onclick: () => play(view, clip, chart, button) }, "▶ Play") : "";
  const rows = Object.entries(clip.scores).map(([name, one]) => [
    name, right(one.value === null ? one.status : measured(name, one.value)),
    [one.reason, ...Object.entries(one.details).map(([key, value]) => `${key} ${number(value)}`)].filter(Boolean).join("; "),
  ]);
  return make("div", {}, view,
    make("p", { class: "value" }, button, make("strong", {}, metric), ` ${text}`, clip.seed === null ? "" : make("span", { class: "soft" }, ` · seed ${clip.seed}`)),
    chart ? chart.element : "",
    make("details", {}, make("summary", {}, "all metrics"), make("div", { class: "wide" }, table(["Metric", make("th", { class: "number" }, "Value"), "Notes"], rows))));
}

function play(view, clip, chart, button) {
  button.remove();
  const video = make("video", { src: clip.video, controls: "", loop: "", playsinline: "" });
  view.replaceChildren(video);
  if (chart) video.addEventListener("timeupdate", () => chart.move((video.currentTime * FRAMES_PER_SECOND) / chart.step));
  video.play().catch(() => {});
}

function curves(series, step) {
  const names = Object.keys(series);
  const length = Math.max(...names.map((name) => series[name].length));
  const cursor = make("line", { x1: -1, x2: -1, y1: 0, y2: 100 });
  const lines = names.map((name, index) => make("path", { d: outline(series[name]), stroke: CURVE_COLORS[index % CURVE_COLORS.length] }));
  const element = make("div", {},
    make("svg", { class: "chart", viewBox: `0 -4 ${Math.max(1, length - 1)} 108`, preserveAspectRatio: "none", role: "img", "aria-label": `${names.join(", ")} over time` }, lines, cursor),
    make("div", { class: "legend" }, names.map((name, index) => {
      const values = series[name].filter((one) => one !== null);
      const range = values.length ? ` ${number(Math.min(...values))} to ${number(Math.max(...values))}` : "";
      return make("span", {}, swatch(index, CURVE_COLORS), name + range);
    }), make("span", {}, `over ${number(Number(((length * step) / FRAMES_PER_SECOND).toFixed(1)))} s`)));
  return { element, step, move: (frame) => { cursor.setAttribute("x1", frame); cursor.setAttribute("x2", frame); } };
}

function outline(values) {
  const present = values.filter((one) => one !== null);
  const low = Math.min(...present), high = Math.max(...present);
  const height = (value) => (high > low ? 100 - (100 * (value - low)) / (high - low) : 50);
  let path = "", open = false;
  values.forEach((value, x) => {
    if (value === null) return;
    path += `${open ? "L" : "M"}${x},${height(value).toFixed(1)}`;
    open = true;
  });
  return path || "M0,50";
}

// -- the rest ---------------------------------------------------------------------------------------------------------

function showInvalid() {
  const rows = [];
  for (const model of data.models) {
    for (const [id, clips] of Object.entries(model.cases)) {
      for (const clip of clips) {
        for (const [name, score] of Object.entries(clip.scores)) {
          if (score.status === "invalid" || score.status === "unavailable") rows.push([model.label, id, name, score.status, score.reason]);
        }
      }
    }
    for (const [name, why] of Object.entries(model.unavailable)) rows.push([model.label, "all", name, "unavailable", why]);
  }
  byId("invalid-table").append(rows.length ? table(["Model", "Case", "Metric", "Status", "Reason"], rows) : make("p", { class: "soft" }, "Every metric that applies has a value."));
}

function showProtocols() {
  const anyWeights = data.metrics.some((metric) => Object.keys(metric.weights).length);
  const weights = (metric) => make("td", {}, Object.entries(metric.weights).map(([name, sum]) => make("div", {}, `${name} `, make("code", {}, sum.slice(0, 16)))));
  const rows = data.metrics.map((metric) => [
    metric.name, right(String(metric.version)), make("td", { class: "hash" }, make("code", {}, metric.hash)),
    Object.entries(metric.protocol).map(([key, value]) => `${key}: ${value}`).join("; "),
    ...(anyWeights ? [weights(metric)] : []),
  ]);
  const head = ["Metric", make("th", { class: "number" }, "Version"), "Hash", "Protocol", ...(anyWeights ? ["Weights (SHA-256)"] : [])];
  byId("protocol-table").append(
    table(head, rows),
    make("p", { class: "soft" }, data.notes));
}

showSummary();
setUp();
showCases();
showInvalid();
showProtocols();
