"""Inputs of the page's form, derived from `GenerateRequest`, and the example requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from humo.plan import SCALES
from humo.presets import Preset
from humo.request import GenerateRequest, field_schema

NAMED_FIELDS = {
    "preset": "settings to start from; fields that you fill in replace them",
    "loras": "LoRAs of this service; add :STRENGTH behind a name, such as :0.8",
}
"""Field whose values are names that the service knows -> its text on the page."""


def widget(name: str, preset: Preset, names: Sequence[str] = ()) -> Any:
    """Return the Gradio component of a field; its type, choices and description come from the request.

    Args:
        name: a field of `GenerateRequest`; also the component's label and element ID.
        preset: model family whose defaults are shown as placeholders.
        names: values of a field that the service knows by name; without any, its component is hidden.
    """
    field, schema = GenerateRequest.model_fields[name], field_schema(name)
    if name in NAMED_FIELDS:
        several = schema.get("type") == "array"
        return gr.Dropdown(
            label=name,
            info=NAMED_FIELDS[name],
            choices=[*names] if several else ["", *names],
            value=[] if several else "",
            multiselect=several,
            allow_custom_value=several,  # NAME:STRENGTH
            visible=bool(names),
            elem_id=name,
        )
    if choices := schema.get("enum"):
        return gr.Dropdown(label=name, info=field.description, choices=["", *choices], value="", elem_id=name)
    if schema.get("type") == "boolean":
        return gr.Checkbox(label=name, info=field.description, value=field.default, elem_id=name)
    hint = default_text(name, preset)
    return gr.Textbox(label=name, info=field.description, value="", placeholder=hint, max_lines=1, elem_id=name)


def default_text(name: str, preset: Preset) -> str:
    """Return the preset's default of a field as text; empty if the preset has none."""
    values = preset.scales if name in SCALES else preset
    default = getattr(values, SCALES.get(name, name), None)
    return "" if default is None else str(default)


def examples_folder() -> Path | None:
    """Return the folder of the examples: inside an installed package, or in the repository; None if neither exists."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "assets" / "examples", package.parents[1] / "examples"):
        if (folder / "test_case.json").is_file():
            return folder
    return None


def read_examples(folder: Path) -> dict[str, Any]:
    """Return the examples by name, in the form of the published ``test_case.json``."""
    examples: dict[str, Any] = json.loads((folder / "test_case.json").read_bytes())
    return examples
