"""What the page's form is made of: an input for each field of a request, and the examples to begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from humo.presets import Preset
from humo.request import SCALES, GenerateRequest


def widget(name: str, preset: Preset) -> Any:
    """The input of a field: its kind, limits and help are the request's."""
    field = GenerateRequest.model_fields[name]
    schema = GenerateRequest.model_json_schema()["properties"][name]
    kinds = [schema, *schema.get("anyOf", [])]
    if choices := next((kind["enum"] for kind in kinds if "enum" in kind), None):
        return gr.Dropdown(label=name, info=field.description, choices=["", *choices], value="", elem_id=name)
    if any(kind.get("type") == "boolean" for kind in kinds):
        return gr.Checkbox(label=name, info=field.description, value=field.default, elem_id=name)
    hint = default_text(name, preset)
    return gr.Textbox(label=name, info=field.description, value="", placeholder=hint, max_lines=1, elem_id=name)


def default_text(name: str, preset: Preset) -> str:
    """What a field that is left open will be, where the model's family settles it."""
    place = preset.scales if name in SCALES else preset
    found = getattr(place, SCALES.get(name, name), None)
    return "" if found is None else str(found)


def examples_folder() -> Path | None:
    """Where the examples lie: in the package, or beside it in a clone."""
    here = Path(__file__).resolve().parents[2]
    for folder in (here / "assets" / "examples", here.parents[2] / "examples"):
        if (folder / "test_case.json").is_file():
            return folder
    return None


def read_examples(folder: Path) -> dict[str, Any]:
    """The examples by name, in the published form."""
    found: dict[str, Any] = json.loads((folder / "test_case.json").read_bytes())
    return found
