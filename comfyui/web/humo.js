// Fills in the values of the chosen preset on HuMo Sampler, and chooses the preset of the model on HuMo Load Model.
import { app } from "../../scripts/app.js";

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** Call `changed` after the user has changed a widget. */
function onChange(widget, changed) {
  const original = widget.callback;
  widget.callback = function (value, ...rest) {
    const result = original?.call(this, value, ...rest);
    changed(value);
    return result;
  };
}

/** Write a preset's values into the widgets of a sampler. */
function fillIn(node, values) {
  for (const [name, value] of Object.entries(values ?? {})) {
    const widget = widgetOf(node, name);
    if (widget) widget.value = value;
  }
  node.setDirtyCanvas?.(true, true);
}

/** Return the samplers that a loader's model is linked to. */
function samplersOf(node) {
  const graph = node.graph ?? app.graph;
  return (node.outputs?.[0]?.links ?? [])
    .map((id) => graph.getLink?.(id) ?? graph.links[id])
    .map((link) => link && graph.getNodeById(link.target_id))
    .filter((target) => target?.type === "HuMo_Sampler");
}

app.registerExtension({
  name: "humo.presets",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const input = { HuMo_Sampler: "preset", HuMo_LoadModel: "model" }[nodeData.name];
    if (!input) return;
    const table = nodeData.input.optional[input][1].humo;
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = created?.apply(this, args);
      const widget = widgetOf(this, input);
      if (widget && input === "preset") onChange(widget, (name) => fillIn(this, table[name]));
      if (widget && input === "model") {
        onChange(widget, (name) => {
          for (const sampler of samplersOf(this)) {
            const preset = widgetOf(sampler, "preset");
            if (!preset || !table[name] || preset.value === table[name]) continue;
            preset.value = table[name];
            preset.callback?.(table[name]);
          }
        });
      }
      return result;
    };
  },
});
