"""Plans: a request whose open fields are filled in, and the sizes, guidance and noise levels that follow from it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from humo.errors import RequestError
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
from humo.guidance import MODES, SPEEDS, Guidance, GuidanceScales, Mode
from humo.known_words import read_prompt
from humo.loras import parse_lora
from humo.presets import Distillation, Preset
from humo.request import GenerateRequest, parse_request
from humo.request_presets import find_request_preset
from humo.schedule import SPACINGS, NoiseSchedule, explicit_schedule

NEAR_ASPECT = 0.03
"""Relative difference of shapes that are taken for equal: 832 x 480 is 16:9."""

NAMED_WORDS = 5
"""Most unknown words that a note names."""

SENTENCE_WORDS = 4
ENGLISH_WORDS = frozenset(
    ("the", "of", "with", "and", "who", "her", "his", "woman", "girl", "boy", "person", "talks", "speaks", "sings")
)
"""Words of which nearly every English sentence about a person who talks has one, and other languages do not."""


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
    def schedule(self) -> NoiseSchedule:
        """Noise levels and timesteps of the run."""
        request = self.request
        if request.sigmas is not None:
            return explicit_schedule(request.sigmas)
        assert request.steps is not None
        assert request.shift is not None
        assert request.sampler is not None
        assert request.spacing is not None
        return SPACINGS[request.spacing](request.steps, request.shift, request.sampler)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Timesteps (0 to 1000) of the run."""
        return self.schedule.timesteps

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
        RequestError: the mode needs an input that is missing, the audio is shorter than one frame, or options exclude
            each other.

    **Source:** defaults as published (`presets`); the length follows the audio, as with the published ``frames: -1``.
    """
    explicit = request.model_fields_set
    request, notes = apply_preset(request, preset)
    check_resident_blocks(request)
    preset = preset.guided(request.guidance or "published")
    mode = _resolve_mode(request, notes)
    images = _resolve_images(request, preset, mode, notes)
    audio = request.audio if "A" in mode else None

    scales = resolve_scales(request, preset)
    guidance = preset.guidance[mode](scales)
    notes += _note_ineffective(request, explicit, preset, mode, scales)

    frames = _resolve_frames(request, preset, audio_samples if audio else None, notes)
    window, overlap = _resolve_window(request, preset)
    width, height = request.width or preset.width, request.height or preset.height
    if request.aspect is not None:
        width, height = size_of_aspect(request.aspect, preset.width, preset.height)
    if not preset.trained_pixels[0] <= width * height <= preset.trained_pixels[1]:
        notes.append(f"{width} x {height}: {preset.title} was not trained at this size; {preset.sizes_text}")
    if preset.is_synthetic:
        notes += _note_unknown(request.prompt, images, preset)
    resolved = request.model_copy(
        update={
            "mode": mode,
            "images": images,
            "audio": audio,
            "vocal_separator": request.vocal_separator if audio else None,
            "aspect": None,
            "width": width,
            "height": height,
            "frames": frames,
            "seconds": None,
            "window": window,
            "overlap": overlap,
            "sampler": request.sampler or preset.sampler,
            "spacing": request.spacing or "published",
            "steps": _resolve_steps(request, preset, notes),
            "shift": _default(request.shift, preset.shift),
            "seed": request.seed if request.seed is not None else preset.seed,
            # the published code reads its default for an empty negative prompt
            "negative_prompt": request.negative_prompt or preset.negative_prompt,
            "guidance": preset.guidance_name,
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


RIVALS = {
    **dict.fromkeys(("steps", "shift", "spacing"), frozenset({"sigmas"})),
    "sigmas": frozenset({"steps", "shift", "spacing"}),
}
"""Field of a request preset -> fields of the request that take its place."""


def check_resident_blocks(request: GenerateRequest, unstreamed: Sequence[str] = ("none", "model")) -> None:
    """Refuse resident blocks with an offload that streams no blocks.

    Args:
        request: the request.
        unstreamed: values of ``offload`` that stream none; ``auto`` is one of them where it chooses no other.

    Raises:
        RequestError: they would have no effect.
    """
    if request.resident_blocks and request.offload in unstreamed:
        problem = f"{request.resident_blocks} has no effect with offload {request.offload!r}, which streams no blocks"
        raise RequestError("resident_blocks", problem, "choose offload group or disk, or leave it out")


def resolve_scales(request: GenerateRequest, preset: Preset) -> GuidanceScales:
    """Return the scales of a request; those that it leaves open are the preset's."""
    return GuidanceScales(
        text=_default(request.scale_text, preset.scales.text),
        audio=_default(request.scale_audio, preset.scales.audio),
        image=_default(request.scale_image, preset.scales.image),
        switch_timestep=_default(request.switch_timestep, preset.scales.switch_timestep),
    )


def size_of_aspect(aspect: str, width: int, height: int) -> tuple[int, int]:
    """Return the size of a shape that has about as many pixels as another size.

    Args:
        aspect: ``width:height``; if the given size, or that size lying on its side, nearly has it, it is taken.
        width, height: the other size in pixels.
    """
    across, down = map(int, aspect.split(":"))
    ratio = across / down
    for near in ((width, height), (height, width)):
        if abs(near[0] / near[1] / ratio - 1) < NEAR_ASPECT:
            return near
    exact = math.sqrt(width * height * ratio), math.sqrt(width * height / ratio)
    wide, high = ({math.ceil(side / SIZE_MULTIPLE), max(1, int(side / SIZE_MULTIPLE))} for side in exact)

    def error(size: tuple[int, int]) -> float:
        """Return how far a size is from the shape and, with half the weight, from the number of pixels."""
        shape, pixels = size[0] / size[1] / ratio, size[0] * size[1] / (width * height)
        return round(abs(math.log(shape)) + abs(math.log(pixels)) / 2, 9)

    sizes = [(SIZE_MULTIPLE * across, SIZE_MULTIPLE * down) for across in wide for down in high]
    return min(sorted(sizes, reverse=True), key=error)


def _note_unknown(prompt: str, images: Sequence[object], preset: Preset) -> Iterator[str]:
    """Yield a note about each input that a network of rendered people does not know."""
    unknown = read_prompt(prompt).unknown
    if not _is_english(prompt):
        yield f"prompt: {preset.title} reads English only"
    elif unknown:
        more = f" and {len(unknown) - NAMED_WORDS} more" if len(unknown) > NAMED_WORDS else ""
        yield f"prompt: {preset.title} does not know {', '.join(unknown[:NAMED_WORDS])}{more}"
    if images:
        yield f"image: {preset.title} knows rendered people; the person of a photograph will not be recognizable"


def _is_english(prompt: str) -> bool:
    """Return whether a prompt may be English: Latin letters, and in a sentence one of `ENGLISH_WORDS`."""
    if any(character.isalpha() and not character.isascii() for character in prompt):
        return False
    tokens = re.findall("[a-z]+", prompt.lower())
    return len(tokens) < SENTENCE_WORDS or not ENGLISH_WORDS.isdisjoint(tokens)


def apply_preset(request: GenerateRequest, preset: Preset) -> tuple[GenerateRequest, list[str]]:
    """Return the request with the fields of its request preset filled in, and a note for each that it replaces.

    LoRAs of the preset and of the request are both used; the request decides the strength of one that both name.

    Args:
        request: the request.
        preset: preset of the model's family.

    Raises:
        RequestError: the request preset is unknown, is for another family, or has a value that is not allowed.
    """
    if request.preset is None:
        return request, []
    chosen = find_request_preset(request.preset)
    if not chosen.suits(preset):
        problem = f"{chosen.name!r} is for {chosen.family}, and the model is {preset.name}"
        raise RequestError("preset", problem, "drop it, or choose another --model")
    values = parse_request({"prompt": request.prompt, **chosen.fields})
    notes: list[str] = []
    update: dict[str, Any] = {"preset": None}
    explicit = {name for name in request.model_fields_set if getattr(request, name) is not None}
    for name in chosen.fields:
        value, own = getattr(values, name), getattr(request, name)
        if rivals := explicit & RIVALS.get(name, frozenset()):
            notes.append(f"{name} {_value_text(value)} of the preset {chosen.name} is dropped for {sorted(rivals)[0]}")
        elif name == "loras":
            named = {parse_lora(lora).name for lora in own}
            update[name] = (*(lora for lora in value if parse_lora(lora).name not in named), *own)
            own = tuple(lora for lora in own if parse_lora(lora).name in {parse_lora(one).name for one in value})
            notes += [f"loras {lora} replaces that of the preset {chosen.name}" for lora in own if lora not in value]
        elif name not in explicit:
            update[name] = value
        elif own != value:
            notes.append(f"{name} {_value_text(own)} replaces {_value_text(value)} of the preset {chosen.name}")
    return request.model_copy(update=update), notes


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _resolve_images(request: GenerateRequest, preset: Preset, mode: Mode, notes: list[str]) -> tuple[str, ...]:
    """Return the reference images that are used; add a note about those that are not."""
    images = request.images if "I" in mode else ()
    if preset.guidance_name == "comfy" and len(images) > 1:
        notes.append(f"images: guidance comfy uses one reference, {images[0]}; the others are not used")
        return images[:1]
    return images


def _resolve_steps(request: GenerateRequest, preset: Preset, notes: list[str]) -> int:
    """Return the number of steps; explicit noise levels decide it."""
    if request.sigmas is None:
        return request.steps or preset.steps
    steps = len(request.sigmas)
    if request.steps not in (None, steps):
        problem = f"{request.steps} contradicts sigmas, of which there are {steps} above 0"
        raise RequestError("steps", problem, "drop one of them")
    for name, default in (("shift", preset.shift), ("spacing", "published")):
        if getattr(request, name) not in (None, default):
            notes.append(f"{name} has no effect: sigmas are given")
    return steps


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


def _note_ineffective(
    request: GenerateRequest, explicit: Set[str], preset: Preset, mode: Mode, scales: GuidanceScales
) -> Iterator[str]:
    """Check the request against the distillation of the preset; yield a note for each explicit field without effect."""
    distillation = preset.distillation
    if distillation is not None:
        _check_distillation(request, distillation)
        if request.steps not in (None, distillation.steps):
            best = f"this model was distilled for {distillation.steps}, which work best"
            yield f"steps {request.steps}: {best}"
    for field, name in SCALES.items():
        if field in explicit and getattr(request, field) is not None and _is_idle(preset, mode, scales, name):
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
