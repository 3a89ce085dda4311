"""Presets of the model families: guidance, reference injection, input channels, and published defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, get_args

from humo.errors import CheckpointError, RequestError, did_you_mean
from humo.guidance import (
    CONSTANT,
    DISTILLED,
    TIME_ADAPTIVE,
    TWO_PASSES,
    GuidanceName,
    GuidanceScales,
    GuidanceTable,
)
from humo.schedule import SamplerName

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""Wan2.1's; the published configuration's ``sample_neg_prompt``."""


ScaleName = Literal["text", "audio", "image"]
SCALE_NAMES: tuple[ScaleName, ...] = get_args(ScaleName)
"""Order of the guidance scales that a distilled network takes as an input."""


class ReferenceInjection(StrEnum):
    """Ways in which reference images enter the network's input."""

    CHANNEL_CONCAT = "channels"
    """As extra channels (mask and image latents) beside the noisy latents: HuMo-17B."""
    FRAME_REPLACE = "overwrite"
    """In place of the last noisy latent frames: HuMo-1.7B."""
    CLEAN_CHANNEL_CONCAT = "clean-channels"
    """As ``CHANNEL_CONCAT``, with zeros in place of noise on the reference slots: HuMo-17B in ComfyUI."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """Settings that a network was distilled for (`humo train distill`): few steps, one pass a step, no guidance.

    Args:
        steps: denoising steps.
        shift: of the noise schedule.
        scales: ``text``, ``audio``, ``image`` -> lowest and highest scale of the training.
    """

    steps: int
    shift: float
    scales: Mapping[ScaleName, tuple[float, float]]


def read_distillation(config: Mapping[str, Any]) -> Distillation | None:
    """Return the distillation settings in a transformer's configuration; None for a network that was not distilled.

    Args:
        config: of the transformer.

    Raises:
        CheckpointError: the settings are incomplete.
    """
    stored = config.get("distillation")
    if not stored:
        return None
    try:
        scales = {name: (float(stored["scales"][name][0]), float(stored["scales"][name][1])) for name in SCALE_NAMES}
        return Distillation(int(stored["steps"]), float(stored["shift"]), scales)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError("config.json", f"distillation = {stored!r} is incomplete", "distill it again") from error


@dataclass(frozen=True, slots=True)
class Preset:
    """Facts about one model family, and its published defaults.

    Args:
        name: as stored in a model folder's ``model_index.json``.
        title: display name.
        guidance: mode -> ladder.
        scales: default guidance scales and switch.
        reference_injection: how reference images enter the network's input.
        in_channels: input channels of the transformer.
        width, height: default size in pixels.
        trained_frames: longest clip of the training; longer clips are generated in windows of this length.
        overlap: frames that neighboring windows share; not published.
        steps: denoising steps.
        shift: of the noise schedule; larger spends more steps at high noise.
        sampler: solver of the denoising steps.
        seed: of the initial noise.
        negative_prompt: prompt of passes without text.
        distillation: settings of a distilled network, else None.
        guidance_name: whose guidance, references and null conditions.
        trained_pixels: fewest and most pixels of a frame in the training; others are noted.
        sizes_text: the sizes that work, in words.
        is_synthetic: trained on rendered people and a small vocabulary (`humo.known_words`); what it does not know is
            noted.
    """

    name: str
    title: str
    guidance: GuidanceTable
    scales: GuidanceScales
    reference_injection: ReferenceInjection
    in_channels: int
    width: int = 832
    height: int = 480
    trained_frames: int = 97
    overlap: int = 16
    steps: int = 50
    shift: float = 5.0
    sampler: SamplerName = "unipc"
    seed: int = 666666
    negative_prompt: str = NEGATIVE_PROMPT
    distillation: Distillation | None = None
    guidance_name: GuidanceName = "published"
    trained_pixels: tuple[int, int] = (0, 1280 * 736)
    sizes_text: str = "480p and 720p work best"
    is_synthetic: bool = False

    def distilled(self, distillation: Distillation | None) -> Preset:
        """Return the preset for this family's networks with that distillation; self for None."""
        if distillation is None:
            return self
        clamped = {
            name: min(max(getattr(self.scales, name), low), high) for name, (low, high) in distillation.scales.items()
        }
        return replace(
            self,
            guidance=DISTILLED,
            scales=replace(self.scales, **clamped),
            steps=distillation.steps,
            shift=distillation.shift,
            sampler="euler",
            distillation=distillation,
        )

    def guided(self, name: GuidanceName) -> Preset:
        """Return the preset with the guidance of that name; self for the published one.

        Raises:
            RequestError: the network was distilled, and takes its guidance scales as inputs.
        """
        if name == self.guidance_name:
            return self
        if self.distillation is not None:
            raise RequestError("guidance", f"{name!r} needs a network that was not distilled", "drop it")
        channels = self.reference_injection is ReferenceInjection.CHANNEL_CONCAT
        injection = ReferenceInjection.CLEAN_CHANNEL_CONCAT if channels else self.reference_injection
        return replace(self, guidance=TWO_PASSES, reference_injection=injection, guidance_name=name)


HUMO_17B = Preset(
    name="humo-17b",
    title="HuMo-17B",
    guidance=TIME_ADAPTIVE,
    scales=GuidanceScales(text=5.0, audio=5.5, switch_timestep=980.0),  # generate.yaml: scale_t, scale_a, step_change
    reference_injection=ReferenceInjection.CHANNEL_CONCAT,
    in_channels=36,  # 16 noisy latents, 4 mask, 16 image latents
)
HUMO_1_7B = Preset(
    name="humo-1.7b",
    title="HuMo-1.7B",
    guidance=CONSTANT,
    scales=GuidanceScales(text=7.5, audio=7.5, image=4.0),  # generate_1_7B.yaml: scale_t, scale_a, scale_i
    reference_injection=ReferenceInjection.FRAME_REPLACE,
    in_channels=16,
)
HUMO_NANO = Preset(
    name="humo-nano",
    title="HuMo nano",
    guidance=CONSTANT,
    scales=GuidanceScales(text=2.0, audio=3.0, image=2.0),
    reference_injection=ReferenceInjection.FRAME_REPLACE,
    in_channels=48,
    width=96,
    height=96,
    trained_frames=25,
    overlap=8,
    steps=16,
    shift=16.0,
    seed=0,
    negative_prompt="",
    trained_pixels=(96 * 96, 128 * 96),
    sizes_text="96 x 96, 96 x 128 and 128 x 96 work best",
    is_synthetic=True,
)
"""This project's own, trained by `humo train` on people it renders; no published values bind it."""

PRESETS = {preset.name: preset for preset in (HUMO_17B, HUMO_1_7B, HUMO_NANO)}


def find_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        CheckpointError: no preset has that name.
    """
    if name not in PRESETS:
        raise CheckpointError("preset", f"{name!r} is not a known family", did_you_mean(name, PRESETS))
    return PRESETS[name]
