"""Widgets derived from the fields of `GenerateRequest`, which has their limits and descriptions, and from presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from humo.checkpoints.model_folder import BUILTIN_MODELS, open_model_folder
from humo.errors import HuMoError
from humo.plan import resolve
from humo.presets import HUMO_1_7B, HUMO_17B, Preset, find_preset
from humo.request import GenerateRequest, describe_limits, field_schema, parse_request
from humo.request_presets import BUILTIN_PRESETS, RequestPreset, request_presets

AUTO = "auto"
"""Choice that leaves a field open."""

STEP, ROUND = 0.1, 0.01
"""Increment of a number widget's arrows, and its smallest difference between two values."""

DEFAULT_PRESET = "humo-nano"
"""Preset whose values a new node shows: that of the built-in model."""

PRESET_FIELDS = (
    "width",
    "height",
    "steps",
    "shift",
    "sampler",
    "spacing",
    "guidance",
    "scale_text",
    "scale_audio",
    "scale_image",
    "switch_timestep",
    "window",
    "overlap",
    "negative_prompt",
)
"""Fields whose values a preset decides."""


class PresetCombo(io.Combo.Input):
    """A menu that gives ComfyUI's page a table of values for its choices.

    Args:
        id, options, settings: as of `io.Combo.Input`.
        table: choice -> what the page fills in.
    """

    def __init__(self, id: str, options: list[str], table: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(id, options=options, **settings)
        self._table = dict(table)

    def as_dict(self) -> dict[str, Any]:
        """Return the description of the widget for the page."""
        return {**super().as_dict(), "humo": self._table}


def model_presets() -> dict[str, Preset]:
    """Return the presets of models: of the published families and of the built-in models."""
    builtin = {name: open_model_folder(folder).preset for name, folder in BUILTIN_MODELS.items() if folder.is_dir()}
    return {HUMO_17B.name: HUMO_17B, HUMO_1_7B.name: HUMO_1_7B, **builtin}


def named_presets() -> Mapping[str, RequestPreset]:
    """Return the presets of requests; the built-in ones alone if the user's file is not valid."""
    try:
        return request_presets()
    except HuMoError:  # a request that names a preset of the file shows the error
        return BUILTIN_PRESETS


def preset_values(name: str) -> dict[str, Any]:
    """Return the values of the fields that a preset decides.

    Args:
        name: of a preset of models or of requests.
    """
    model = model_presets().get(name)
    if model is not None:
        request = resolve(parse_request({"prompt": "any"}), model).request
    else:
        family = find_preset(named_presets()[name].family or HUMO_17B.name)
        request = resolve(parse_request({"prompt": "any", "preset": name}), family).request
    return {field: getattr(request, field) for field in PRESET_FIELDS}


def all_preset_values() -> dict[str, dict[str, Any]]:
    """Return the values of every preset by name; a preset of the user with a wrong value is left out."""
    values = {}
    for name in (*model_presets(), *named_presets()):
        try:
            values[name] = preset_values(name)
        except HuMoError:
            continue
    return values


def check_fields(values: Mapping[str, Any]) -> GenerateRequest:
    """Return a request with the fields of a node that has no prompt.

    Args:
        values: values of widgets by name, as for `filled_in`.

    Raises:
        RequestError: the first invalid field.
    """
    return parse_request({**filled_in(values), "prompt": "not used"})


SIGMAS_REPLACE = ("steps", "shift", "spacing")
"""Fields that explicit noise levels decide."""


def filled_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request among values of widgets, without those that are left open.

    Args:
        values: values of widgets by name; None if a widget is linked or has no value, ``auto``, empty text and 0
            frames are open. ``preset`` is not among the fields.
    """
    fields = {
        field: value
        for field, value in values.items()
        if field in GenerateRequest.model_fields
        and field != "preset"
        and value not in (None, AUTO)
        and (value != "" or field == "prompt")
        and (field, value) != ("frames", 0)
    }
    return {field: value for field, value in fields.items() if "sigmas" not in fields or field not in SIGMAS_REPLACE}


def widget(field: str, default: Any, *, note: str = "", **settings: Any) -> io.Input:
    """Return the widget of a field.

    Args:
        field: a field of `GenerateRequest`: a number, a choice, yes or no, or text.
        default: the value that a new node shows.
        note: what else the tooltip says.
        settings: further arguments of the input.
    """
    schema = field_schema(field)
    limits = f" ({describe_limits(field)})" if "minimum" in schema else ""
    tooltip = f"{description(field)}{limits}{'; ' if note else ''}{note}"
    settings = {"optional": True, "default": default, "tooltip": tooltip, **settings}
    if "enum" in schema:
        options = [*schema["enum"]] if default in schema["enum"] else [default, *schema["enum"]]
        return io.Combo.Input(field, options=options, **settings)
    if schema["type"] == "boolean":
        return io.Boolean.Input(field, **settings)
    if schema["type"] == "integer":
        settings = {"min": schema["minimum"], "max": schema["maximum"], "step": schema.get("multipleOf", 1), **settings}
        return io.Int.Input(field, **settings)
    if schema["type"] == "number":
        settings |= {"default": float(default), "min": float(schema["minimum"]), "max": schema["maximum"]}
        return io.Float.Input(field, step=STEP, round=ROUND, **settings)
    return io.String.Input(field, **settings)


def description(field: str) -> str:
    """Return the request's description of a field."""
    return str(field_schema(field)["description"])
