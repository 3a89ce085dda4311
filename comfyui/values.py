"""Values that pass between the nodes, and conversions from and to ComfyUI's types.

Shape suffixes: B batch, C channels, H, W size, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from humo.errors import MediaError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image
    from torch import Tensor

    from humo.media.audio import AudioTrack
    from humo.plan import GenerationPlan

    Frame = npt.NDArray[np.uint8]


class AudioDict(TypedDict):
    """ComfyUI's AUDIO: ``waveform`` (B, C, T) float, ``sample_rate`` in Hz."""

    waveform: Tensor
    sample_rate: int


@dataclass(frozen=True, slots=True)
class Prompts:
    """HUMO_TEXT: prompt and negative prompt; an empty negative prompt is the model's default."""

    prompt: str
    negative_prompt: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Audio:
    """HUMO_AUDIO: audio at its own sample rate, and as the model takes it.

    Args:
        samples: (C, T) float32.
        sample_rate: Hz.
        mono_16k: (T,) float32, mono, 16 kHz.
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int
    mono_16k: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Latents:
    """HUMO_LATENTS: a clip that is not decoded yet.

    Args:
        samples: (1, C, k + 1, H, W), normalized.
        plan: plan that they were generated from.
        track: audio of the clip, cut to its length; None if the mode uses none.
    """

    samples: Tensor
    plan: GenerationPlan
    track: AudioTrack | None


def from_images(images_BHWC: Tensor, field: str) -> list[Image]:
    """Return the images of an IMAGE batch in their own size; the encoder fits them to the video.

    Args:
        images_BHWC: in [0, 1]; C is 1, 3 or 4. Transparency is laid over white.
        field: name of the socket, for messages.

    Raises:
        MediaError: values outside [0, 1], another shape, or an image above the size limit.
    """
    from humo.media.image import load_image

    if images_BHWC.ndim != 4 or not len(images_BHWC):
        problem = f"has the shape {tuple(images_BHWC.shape)}"
        raise MediaError(field, problem, "connect a batch of one image or more, (B, H, W, C)")
    return [load_image(image, field=f"{field}[{index}]") for index, image in enumerate(images_BHWC.cpu().numpy())]


def from_audio(audio: AudioDict) -> Audio:
    """Return the one clip of an AUDIO batch.

    Raises:
        MediaError: several clips or none, samples that are not numbers, or a clip that is too long.
    """
    from humo.media.audio import load_audio

    waveform, rate = audio["waveform"], audio["sample_rate"]
    if waveform.ndim != 3 or len(waveform) != 1:
        problem = f"has the shape {tuple(waveform.shape)}"
        raise MediaError("audio", problem, "connect a batch of one clip, (1, C, T)")
    samples = waveform[0].float().cpu().numpy()
    return Audio(samples, rate, load_audio((samples, rate), field="audio"))


def audio_track(audio: Audio, seconds: float) -> AudioTrack:
    """Return audio cut to the length of a clip, or padded with silence."""
    from humo.media.audio import load_audio_track

    return load_audio_track((audio.samples, audio.sample_rate), seconds=seconds)


def to_audio(track: AudioTrack) -> AudioDict:
    """Return an audio track as AUDIO (1, C, T)."""
    import torch

    return {"waveform": torch.from_numpy(track.samples)[None], "sample_rate": track.sample_rate}


def to_images(frames: Iterable[Frame]) -> Tensor:
    """Return uint8 frames (H, W, 3) as IMAGE (B, H, W, 3); ComfyUI's writers recover the same bytes."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(list(frames))).float() / 255
