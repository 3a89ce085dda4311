"""Details that a client shows about a model: its defaults, sensible ranges, shapes, qualities and presets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field

from humo.checkpoints.hubs.catalog import CATALOG
from humo.checkpoints.model_folder import ModelFolder
from humo.geometry import FRAMES_PER_SECOND, SAMPLES_PER_FRAME, SIZE_MULTIPLE, TEMPORAL_STRIDE
from humo.plan import resolve
from humo.presets import HUMO_NANO, SCALE_NAMES, Preset
from humo.request import parse_request
from humo.request_presets import RequestPreset

SHAPES: Mapping[str, float] = {"16:9": 16 / 9, "1:1": 1.0, "9:16": 9 / 16}
"""Name of each shape -> width divided by height."""

SAME_SHAPE = 0.05
"""Largest logarithm of the ratio of two shapes that count as the same: 832 x 480 is 16:9."""

MAX_GUIDANCE = 10.0
"""Largest guidance scale that is worth trying."""

QUALITY_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "draft": {"speed": "fast"},
    "good": {"speed": "balanced"},
    "best": {"speed": "exact"},
}
"""Name of each quality -> fields of a request to a model with guidance. A draft also has half of the steps."""


class FieldRange(BaseModel):
    """A setting of a model.

    Args:
        default: value if a request leaves it out.
        low, high, step: range that makes sense, narrower than what is allowed.
    """

    default: float
    low: float
    high: float
    step: float


class Quality(BaseModel):
    """A compromise between quality and time."""

    name: str = Field(description="draft, good, best")
    model: str = Field(description="the model that it uses")
    fields: dict[str, Any] = Field(description="fields of a request")
    steps: int = Field(description="denoising steps")
    passes: int = Field(description="network passes for each window, with a prompt, an image and audio")


class PresetDetails(BaseModel):
    """Named settings that a request may start from."""

    name: str
    description: str
    fields: dict[str, Any] = Field(description="fields of a request")


class ModelDetails(BaseModel):
    """Details of a served model for a client."""

    title: str
    family: str
    gigabytes: float = Field(description="size of its weights")
    needs: str = Field(description="what it needs to run, in a line")
    width: int
    height: int
    knows_photographs: bool = Field(description="false: it knows rendered people alone, and few words")
    window_seconds: float = Field(description="longest clip that is generated at once")
    shapes: dict[str, tuple[int, int]] = Field(description="16:9, 1:1, 9:16 -> width and height")
    settings: dict[str, FieldRange] = Field(description="field of a request -> its range; fields without effect lack")
    negative_prompt: str | None = Field(None, description="default; null if it has no effect")
    qualities: list[Quality]
    presets: list[PresetDetails]


class PublishedModel(BaseModel):
    """A model that is not on the server, and can be downloaded there."""

    id: str
    title: str
    gigabytes: float = Field(description="size of the download")
    needs: str = Field(description="what it needs to run, in a line")


GuidedModel = tuple[str, Preset]
"""Name and preset of a served model with guidance."""


def guided_model(folder: ModelFolder, served: Mapping[str, ModelFolder]) -> GuidedModel | None:
    """Return a served model of the same family that was not distilled; None if there is none."""
    for name, other in served.items():
        if other.preset.name == folder.preset.name and other.preset.distillation is None:
            return name, other.preset
    return None


def describe_model(
    name: str, folder: ModelFolder, guided: GuidedModel | None, presets: Iterable[RequestPreset]
) -> ModelDetails:
    """Return what a client shows about a model.

    Args:
        name: its served name.
        folder: the opened model.
        guided: from `guided_model`; the best quality of a distilled model.
        presets: presets that fit it.
    """
    preset = folder.preset
    is_small = preset.name == HUMO_NANO.name
    known = CATALOG.get(name)
    return ModelDetails(
        title=known.title if known is not None else preset.title,
        family=preset.name,
        gigabytes=round(folder.bytes / 1e9, 3),
        needs="runs on any computer" if is_small else known.requirements if known is not None else "a large GPU",
        width=preset.width,
        height=preset.height,
        knows_photographs=not preset.is_synthetic,
        window_seconds=preset.trained_frames / FRAMES_PER_SECOND,
        shapes={shape: size_of_shape(ratio, preset) for shape, ratio in SHAPES.items()},
        settings=setting_ranges(preset),
        negative_prompt=None if preset.distillation is not None else preset.negative_prompt,
        qualities=qualities(name, preset, guided),
        presets=[PresetDetails(name=one.name, description=one.description, fields=dict(one.fields)) for one in presets],
    )


def published_models(served: Iterable[str]) -> list[PublishedModel]:
    """Return the published models that are not served."""
    return [
        PublishedModel(id=name, title=entry.title, gigabytes=entry.gigabytes, needs=entry.requirements)
        for name, entry in CATALOG.items()
        if name not in set(served)
    ]


def size_of_shape(ratio: float, preset: Preset) -> tuple[int, int]:
    """Return the model's own size, upright or not, for a shape near to it; else one with about as many pixels."""
    for own in ((preset.width, preset.height), (preset.height, preset.width)):
        if abs(math.log(own[0] / own[1] / ratio)) < SAME_SHAPE:
            return own
    area = preset.width * preset.height

    def error(size: tuple[int, int]) -> float:
        width, height = size
        return abs(math.log(width / height / ratio)) + 0.2 * abs(math.log(width * height / area))

    side = math.isqrt(area) // SIZE_MULTIPLE
    sides = [SIZE_MULTIPLE * count for count in range(max(1, side // 2), 2 * side + 1)]
    return min(((width, height) for width in sides for height in sides), key=error)


def setting_ranges(preset: Preset) -> dict[str, FieldRange]:
    """Return the settings that have an effect, each with its default and a range that makes sense."""
    frames, distillation = preset.trained_frames, preset.distillation
    ranges = {
        "steps": FieldRange(default=preset.steps, low=1, high=2 * preset.steps, step=1),
        "window": FieldRange(default=frames, low=1 + TEMPORAL_STRIDE, high=frames, step=TEMPORAL_STRIDE),
        "overlap": FieldRange(default=preset.overlap, low=0, high=frames // 2, step=TEMPORAL_STRIDE),
    }
    if distillation is None:
        ranges["shift"] = FieldRange(default=preset.shift, low=1, high=2 * preset.shift, step=0.5)
    for name in SCALE_NAMES:
        low, high = (1.0, MAX_GUIDANCE) if distillation is None else distillation.scales[name]
        if low < high:
            default = getattr(preset.scales, name)
            ranges[f"scale_{name}"] = FieldRange(default=default, low=low, high=high, step=0.1)
    return ranges


def qualities(name: str, preset: Preset, guided: GuidedModel | None) -> list[Quality]:
    """Return the qualities of a model. More steps do not improve a distilled one; its teacher does."""
    half = max(1, preset.steps // 2)
    if preset.distillation is None:
        fields = {quality: dict(values) for quality, values in QUALITY_FIELDS.items()}
        fields["draft"]["steps"] = half
        return [_quality(quality, name, preset, values) for quality, values in fields.items()]
    draft, good = {"steps": half}, {"steps": preset.steps}
    offered = [_quality("draft", name, preset, draft), _quality("good", name, preset, good)]
    if guided is not None:
        offered.append(_quality("best", *guided, {"speed": "exact"}))
    return offered


def _quality(quality: str, model: str, preset: Preset, fields: dict[str, Any]) -> Quality:
    inputs = {"prompt": "-", "images": ["-"], "audio": "-", "frames": preset.trained_frames}
    plan = resolve(parse_request(inputs | fields), preset, preset.trained_frames * SAMPLES_PER_FRAME)
    assert plan.request.steps is not None
    return Quality(name=quality, model=model, fields=fields, steps=plan.request.steps, passes=plan.passes)
