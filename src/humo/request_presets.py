"""Presets of requests: named settings that ``--preset`` starts from, built in or from the user's own TOML file.

[portrait]                       # ~/.config/humo/presets.toml, or HUMO_PRESETS
description = "upright, quick"
family = "humo-17b"
loras = ["lightx2v:0.9"]
steps = 8
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humo.config_files import read_config_file
from humo.environment import presets_file
from humo.errors import RequestError, did_you_mean
from humo.presets import HUMO_17B, PRESETS, Preset

PRESET_FIELDS = (
    "loras",
    "width",
    "height",
    "window",
    "overlap",
    "steps",
    "shift",
    "sampler",
    "spacing",
    "sigmas",
    "seed",
    "negative_prompt",
    "guidance",
    "scale_text",
    "scale_audio",
    "scale_image",
    "switch_timestep",
    "speed",
    "cache",
    "offload",
    "quantize",
)
"""Fields of a request that a preset may set: neither inputs and outputs, nor what follows from them."""


@dataclass(frozen=True, slots=True)
class RequestPreset:
    """Named settings of a request.

    Args:
        name: value of the field ``preset``.
        description: for people, in a line.
        family: the only family that it is for; None for every one.
        fields: field of `GenerateRequest` -> value.
    """

    name: str
    description: str = ""
    family: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def suits(self, preset: Preset) -> bool:
        """Return whether it is for that model family."""
        return self.family in (None, preset.name)


BUILTIN_PRESETS: Mapping[str, RequestPreset] = {
    "lightx2v": RequestPreset(
        "lightx2v",
        "6 steps of one pass, as in ComfyUI's HuMo template",
        HUMO_17B.name,
        {
            "loras": ("lightx2v:1",),
            "steps": 6,
            "shift": 8.0,
            "sampler": "comfy-unipc",
            "spacing": "simple",
            "scale_text": 1.0,
            "scale_audio": 1.0,
            "scale_image": 1.0,
        },
    ),
}
"""**Source:** ComfyUI's workflow template ``video_humo.json``: the LoRA lightx2v, distilled in steps and guidance, at
strength 1; shift 8; 6 steps of ``uni_pc`` with ``simple``; cfg 1."""


def request_presets() -> dict[str, RequestPreset]:
    """Return all presets by name: the built-in ones, and those of the user's file, which may replace them.

    Raises:
        RequestError: the user's file is not valid.
    """
    path = presets_file()
    return dict(BUILTIN_PRESETS) | (read_presets(path) if path.is_file() else {})


def find_request_preset(name: str) -> RequestPreset:
    """Return the preset of that name.

    Raises:
        RequestError: there is none, or the user's file is not valid.
    """
    presets = request_presets()
    if name not in presets:
        raise RequestError("preset", f"{name!r} is not known", did_you_mean(name, presets))
    return presets[name]


def read_presets(path: Path) -> dict[str, RequestPreset]:
    """Read the presets of a TOML file, a table each.

    Raises:
        RequestError: it cannot be read, or a table has an unknown field.
    """
    tables = read_config_file(path)
    presets = {}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise RequestError(f"{path.name}: {name}", "is not a table", f"write [NAME], then {name} = ... below it")
        values = dict(table)
        description, family = values.pop("description", ""), values.pop("family", None)
        if family not in (None, *PRESETS):
            problem = f"{family!r} is not a model family"
            raise RequestError(f"{path.name}: {name}.family", problem, did_you_mean(str(family), PRESETS))
        for unknown in values.keys() - set(PRESET_FIELDS):
            remedy = did_you_mean(unknown, [*PRESET_FIELDS, "description", "family"])
            raise RequestError(f"{path.name}: {name}.{unknown}", "is not a field that a preset may set", remedy)
        presets[name] = RequestPreset(name, str(description), family, values)
    return presets
