"""Requests: the description of a job, its limits, and its resolution into a plan.

The command line, request files, the HTTP schema, the web form and the metadata inside every video are derived from
`GenerateRequest`. `resolve` fills in the fields that a preset and the audio determine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from humo.errors import RequestError, did_you_mean
from humo.geometry import (
    FRAMES_PER_SECOND,
    SAMPLES_PER_FRAME,
    SIZE_MULTIPLE,
    TEMPORAL_STRIDE,
    Geometry,
    Window,
    frames_of_samples,
    frames_of_seconds,
    latent_frames_of,
    round_up_frames,
    snap_frames,
    split_into_windows,
)
from humo.guidance import MAX_SCALE, MODES, SPEEDS, Guidance, GuidanceScales, Mode, SpeedName
from humo.limits import MAX_AUDIO_SECONDS
from humo.presets import Distillation, Preset
from humo.schedule import timesteps

MAX_SIDE = 8192  # pixels
MAX_FRAMES = int(MAX_AUDIO_SECONDS) * FRAMES_PER_SECOND

Side = Annotated[int, Field(ge=SIZE_MULTIPLE, le=MAX_SIDE, multiple_of=SIZE_MULTIPLE)]
FileName = Annotated[str, Field(min_length=1)]
Paths = Annotated[tuple[FileName, ...], BeforeValidator(lambda paths: (paths,) if isinstance(paths, str) else paths)]
Scale = Annotated[float, Field(ge=0.0, le=MAX_SCALE)]


OffloadName = Literal["auto", "none", "model", "group", "disk"]
"""Storage of weights until they are needed: ``none`` on the device, ``model`` and ``group`` in the host's memory (whole
components or blocks), ``disk`` on the disk."""

QuantizeName = Literal["auto", "none", "fp8", "int8", "int4"]
"""Format of the network's blocks in memory; ``none`` as in the model folder."""

CacheName = Literal["none", "first-block", "taylorseer"]


class GenerateRequest(BaseModel):
    """Fields of a request. A field that is left out gets the preset's published value, or follows from the inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: FileName | None = Field(None, description="model folder (default: the built-in model, HuMo nano)")
    prompt: str = Field(
        min_length=1, max_length=10_000, pattern=r"\S", description="text prompt that describes the scene"
    )
    images: Paths = Field((), description="reference image of a person or an object; several are used in order")
    audio: FileName | None = Field(
        None, description="speech or song that the person follows: an audio file, or a video with audio"
    )
    mode: Mode | None = Field(None, description="conditions to use: text, image, audio (default: those given)")
    width: Side | None = Field(None, description="width in pixels")
    height: Side | None = Field(None, description="height in pixels")
    frames: int | None = Field(
        None, ge=1, le=MAX_FRAMES, description="number of frames, 25 per second, 4k + 1; default: as long as the audio"
    )
    seconds: float | None = Field(None, ge=1 / FRAMES_PER_SECOND, le=MAX_AUDIO_SECONDS, description="length in seconds")
    window: int | None = Field(
        None,
        ge=1,
        le=MAX_FRAMES,
        description="frames per window, 4k + 1; a longer clip is generated in several windows",
    )
    overlap: int | None = Field(
        None, ge=0, le=MAX_FRAMES, multiple_of=TEMPORAL_STRIDE, description="frames shared by consecutive windows"
    )
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps")
    shift: float | None = Field(None, ge=0.1, le=100.0, description="timestep shift of the flow-matching schedule")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="seed of the initial noise")
    negative_prompt: str | None = Field(None, max_length=10_000, description="text prompt of what to avoid")
    scale_text: Scale | None = Field(None, description="guidance scale of the text")
    scale_audio: Scale | None = Field(None, description="guidance scale of the audio")
    scale_image: Scale | None = Field(None, description="guidance scale of the images")
    switch_timestep: float | None = Field(
        None, ge=0.0, le=1000.0, description="timestep above which guidance favors the text, which sets the layout"
    )
    speed: SpeedName = Field("exact", description="skip guidance passes, at some cost in quality")
    cache: CacheName = Field("none", description="reuse transformer blocks between steps, at some cost in quality")
    vocal_separator: FileName | None = Field(
        None, description="MDX-Net ONNX file; the network follows the separated vocals"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="device to compute on")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="dtype of the network")
    offload: OffloadName = Field(
        "auto", description="keep weights on the device, load each component or block from the host, or from the disk"
    )
    quantize: QuantizeName = Field(
        "auto", description="store the network's blocks in fewer bits; auto: if nothing fits"
    )
    output: str = Field("out.mp4", min_length=1, description="video to write, .mp4")
    sidecar: bool = Field(False, description="write the generation record beside the video as JSON")
    consent: bool = Field(False, description="declare that the people in the inputs have agreed; stored in the record")
    provenance: bool = Field(
        True, description="declare the video AI-generated: content credentials (C2PA) and a watermark"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans of YAML and JSON where a number is expected; Python would treat them as 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("yes or no is neither a number nor text")
        return value

    @model_validator(mode="after")
    def _only_one_length(self) -> GenerateRequest:
        if self.frames is not None and self.seconds is not None:
            raise ValueError("are both given; give frames or seconds, not both")
        return self


def parse_request(fields: Mapping[str, Any]) -> GenerateRequest:
    """Create a checked request from plain fields.

    Raises:
        RequestError: the first invalid field, with its value, the allowed values and a remedy.
    """
    try:
        return GenerateRequest.model_validate(dict(fields))
    except ValidationError as failure:
        raise _in_one_line(failure) from None


def _in_one_line(failure: ValidationError) -> RequestError:
    """Convert pydantic's first error to a `RequestError`."""
    error = failure.errors(include_url=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    value, kind = error["input"], error["type"]
    if kind == "extra_forbidden":
        return RequestError(field, "is not a field of a request", did_you_mean(field, GenerateRequest.model_fields))
    if kind == "missing":
        return RequestError(field, "is missing", "give it")
    if kind == "value_error" and not field:
        problem, _, remedy = str(error["ctx"]["error"]).partition("; ")
        return RequestError("frames and seconds", problem, remedy)
    if kind == "literal_error":
        return RequestError(field, f"{value!r} is not known", did_you_mean(str(value), _choices(field)))
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "..."
    return RequestError(field, f"{text} is not allowed", f"allowed: {describe_limits(field.split('.')[0])}")


def field_schema(field: str) -> dict[str, Any]:
    """Return the JSON schema of a field, its description included, without the ``null`` alternative.

    Args:
        field: a field of `GenerateRequest`; of another name the schema is empty.
    """
    schema: dict[str, Any] = _request_schema().get(field, {})
    value = next((option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"), schema)
    return {**value, "description": schema["description"]} if "description" in schema else dict(value)


@cache
def _request_schema() -> dict[str, Any]:
    properties: dict[str, Any] = GenerateRequest.model_json_schema()["properties"]
    return properties


def _choices(field: str) -> list[str]:
    return [str(choice) for choice in field_schema(field).get("enum", [])]


def describe_limits(field: str) -> str:
    """Describe the allowed values of a field in words: range, step, choices.

    Args:
        field: a field of `GenerateRequest`.
    """
    schema = field_schema(field)
    if "enum" in schema:
        return "one of " + ", ".join(_choices(field))
    types = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "array": "a list of file names",
        "boolean": "yes or no",
    }
    parts = [types.get(schema.get("type", ""), "")]
    if "minimum" in schema and "maximum" in schema:
        parts.append(
            " to ".join(
                f"{end:g}" if isinstance(end, float) else str(end) for end in (schema["minimum"], schema["maximum"])
            )
        )
    if "multipleOf" in schema:
        parts.append(f"a multiple of {schema['multipleOf']}")
    if "maxLength" in schema:
        parts.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    elif schema.get("minLength") or schema.get("items", {}).get("minLength"):
        parts.append("not empty")
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """A resolved request, and the values that follow from it.

    Args:
        request: the request without open fields.
        preset: preset of the model's family.
        geometry: sizes in every unit.
        guidance: guidance ladders.
        notes: decisions that the user should know, one sentence each.
    """

    request: GenerateRequest
    preset: Preset
    geometry: Geometry
    guidance: Guidance
    notes: tuple[str, ...] = ()

    @property
    def timesteps(self) -> list[int]:
        """Timesteps (0 to 1000) of the run."""
        assert self.request.steps is not None
        assert self.request.shift is not None
        return timesteps(self.request.steps, self.request.shift)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Windows that the clip is generated in."""
        assert self.request.window is not None
        assert self.request.overlap is not None
        window, overlap = latent_frames_of(self.request.window), self.request.overlap // TEMPORAL_STRIDE
        return split_into_windows(self.geometry.video_latent_frames, window, overlap)

    @property
    def window_geometry(self) -> Geometry:
        """Geometry of the first window, which is the longest."""
        assert self.request.window is not None
        return replace(self.geometry, frames=min(self.geometry.frames, self.request.window))

    @property
    def passes(self) -> int:
        """Number of network passes of the run."""
        return self.guidance.passes(self.timesteps, SPEEDS[self.request.speed]) * len(self.windows)


def resolve(request: GenerateRequest, preset: Preset, audio_samples: int | None = None) -> GenerationPlan:
    """Fill in the fields that a request leaves open.

    Args:
        request: the request.
        preset: preset of the model's family.
        audio_samples: length of the audio in samples at 16 kHz; None if there is no audio.

    Raises:
        RequestError: the mode needs an input that is missing, or the audio is shorter than one frame.

    **Source:** defaults as published (`presets`); the length follows the audio, as with the published ``frames: -1``.
    """
    notes: list[str] = []
    mode = _resolve_mode(request, notes)
    images = request.images if "I" in mode else ()
    audio = request.audio if "A" in mode else None

    scales = GuidanceScales(
        text=_default(request.scale_text, preset.scales.text),
        audio=_default(request.scale_audio, preset.scales.audio),
        image=_default(request.scale_image, preset.scales.image),
        switch_timestep=_default(request.switch_timestep, preset.scales.switch_timestep),
    )
    guidance = preset.guidance[mode](scales)
    notes += _note_ineffective(request, preset, mode, scales)

    frames = _resolve_frames(request, preset, audio_samples if audio else None, notes)
    window, overlap = _resolve_window(request, preset)
    width, height = request.width or preset.width, request.height or preset.height
    resolved = request.model_copy(
        update={
            "mode": mode,
            "images": images,
            "audio": audio,
            "vocal_separator": request.vocal_separator if audio else None,
            "width": width,
            "height": height,
            "frames": frames,
            "seconds": None,
            "window": window,
            "overlap": overlap,
            "steps": request.steps or preset.steps,
            "shift": _default(request.shift, preset.shift),
            "seed": request.seed if request.seed is not None else preset.seed,
            # the published code reads its default for an empty negative prompt
            "negative_prompt": request.negative_prompt or preset.negative_prompt,
            "scale_text": scales.text,
            "scale_audio": scales.audio,
            "scale_image": scales.image,
            "switch_timestep": scales.switch_timestep,
        }
    )
    plan = GenerationPlan(resolved, preset, Geometry(width, height, frames, len(images)), guidance)
    if (pieces := len(plan.windows)) > 1:
        notes.append(
            f"{frames} frames are generated in {pieces} windows of {window}, each sharing {overlap} with the next"
        )
    return replace(plan, notes=tuple(notes))


def _resolve_mode(request: GenerateRequest, notes: list[str]) -> Mode:
    """Return the mode of a request, by default that of its inputs; add notes about inputs that it does not use."""
    mode = request.mode or MODES[(1 if request.images else 0) + (2 if request.audio else 0)]
    for letter, field, value in (("I", "images", request.images), ("A", "audio", request.audio)):
        if letter in mode and not value:
            raise RequestError("mode", f"{mode} needs {field}, and there are none", f"give {field}, or another mode")
        if letter not in mode and value:
            notes.append(f"mode {mode}: {field} given but not used")
    if request.vocal_separator is not None and request.audio is None:
        notes.append("vocal_separator given but not used: there is no audio")
    return mode


SCALES = {"scale_text": "text", "scale_audio": "audio", "scale_image": "image", "switch_timestep": "switch_timestep"}


def _note_ineffective(request: GenerateRequest, preset: Preset, mode: Mode, scales: GuidanceScales) -> Iterator[str]:
    """Check the request against the distillation of the preset; yield a note for each field without effect."""
    distillation = preset.distillation
    if distillation is not None:
        _check_distillation(request, distillation)
        if request.steps not in (None, distillation.steps):
            best = f"this model was distilled for {distillation.steps}, which work best"
            yield f"steps {request.steps}: {best}"
    for field, name in SCALES.items():
        if getattr(request, field) is not None and _is_idle(preset, mode, scales, name):
            yield f"{field} has no effect in mode {mode} of {preset.title}"
    if distillation is not None:
        if request.negative_prompt:
            yield "negative_prompt has no effect: a distilled model runs no pass without the prompt"
        if request.speed != "exact":
            yield "speed has no effect: a distilled model runs one pass per step"


def _is_idle(preset: Preset, mode: Mode, scales: GuidanceScales, name: str) -> bool:
    """Return whether a scale has no effect."""
    if preset.distillation is not None:
        variable = [scale for scale, (low, high) in preset.distillation.scales.items() if low < high]
        return name not in variable or name[0].upper() not in mode
    return preset.guidance[mode](replace(scales, **{name: getattr(scales, name) + 1})) == preset.guidance[mode](scales)


def _check_distillation(request: GenerateRequest, distillation: Distillation) -> None:
    """Check that a request fits a distilled model.

    Raises:
        RequestError: the shift differs from the distillation's, or a scale is outside its range.
    """
    if request.shift not in (None, distillation.shift):
        problem = f"{request.shift:g} is not the shift that this model was distilled with"
        raise RequestError("shift", problem, f"drop it, or use {distillation.shift:g}")
    for name, (low, high) in distillation.scales.items():
        value = getattr(request, f"scale_{name}")
        if value is not None and low < high and not low <= value <= high:
            problem = f"{value:g} is outside the range that this model was distilled for"
            raise RequestError(f"scale_{name}", problem, f"allowed: {low:g} to {high:g}")


def _default(value: float | None, default: float) -> float:
    return default if value is None else value


def _resolve_frames(request: GenerateRequest, preset: Preset, audio_samples: int | None, notes: list[str]) -> int:
    """Return the length of the clip in frames, and add notes about it."""
    audio_frames = None if audio_samples is None else frames_of_samples(audio_samples)
    if audio_frames == 0:
        raise RequestError("audio", "is shorter than one frame", f"give at least {1 / FRAMES_PER_SECOND:g} s of audio")
    if request.frames is not None:
        requested, frames = request.frames, snap_frames(request.frames)
    elif request.seconds is not None:
        requested = frames_of_seconds(request.seconds)
        frames = round_up_frames(requested)
    elif audio_samples is not None:
        requested = -(-audio_samples // SAMPLES_PER_FRAME)
        frames = round_up_frames(requested)  # so that the end of the speech is not cut
    else:
        requested = frames = preset.trained_frames
    if frames != requested:
        notes.append(f"{requested} frames became {frames}: the model makes 4k + 1")
    if audio_frames is not None and audio_frames + TEMPORAL_STRIDE < frames and (request.frames or request.seconds):
        notes.append(f"the audio ends after {audio_frames} frames; the rest of the clip is silent")
    return frames


def _resolve_window(request: GenerateRequest, preset: Preset) -> tuple[int, int]:
    """Return the frames of a window and of its overlap."""
    longest = preset.trained_frames
    window = longest if request.window is None else request.window
    if window > longest:
        raise RequestError("window", f"{window} frames are more than {preset.title} supports", f"use at most {longest}")
    if window != snap_frames(window):
        raise RequestError("window", f"{window} frames are not 4k + 1", f"use {snap_frames(window)}")
    largest_overlap = max(0, window - 1 - TEMPORAL_STRIDE)
    overlap = min(preset.overlap, largest_overlap) if request.overlap is None else request.overlap
    if overlap > largest_overlap:
        problem = f"{overlap} frames leave no new frames in windows of {window}"
        raise RequestError("overlap", problem, f"use at most {largest_overlap}")
    return window, overlap
