"""What passes between the nodes, made from ComfyUI's values and made into them.

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
    from humo.request import GenerationPlan

    Frame = npt.NDArray[np.uint8]


class AudioDict(TypedDict):
    """ComfyUI's AUDIO: ``waveform`` (B, C, T) float, ``sample_rate`` in Hz."""

    waveform: Tensor
    sample_rate: int


@dataclass(frozen=True, slots=True)
class Words:
    """HUMO_TEXT: the scene, and what it should not look like; empty is the model's own."""

    prompt: str
    negative_prompt: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Sound:
    """HUMO_SOUND: a sound as it was, and as the model hears it.

    Args:
        samples: (C, T) float32.
        sample_rate: Hz.
        heard: (T,) float32, mono, 16 kHz.
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int
    heard: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Latents:
    """HUMO_LATENTS: a clip that is not decoded yet.

    Args:
        samples: (1, C, k + 1, H, W), normalised.
        plan: what they were made from.
        track: the sound of the clip, as long as the clip; None if it follows none.
    """

    samples: Tensor
    plan: GenerationPlan
    track: AudioTrack | None


def pictures_of(images_BHWC: Tensor, field: str) -> list[Image]:
    """The pictures of an IMAGE batch; fitting them to the video is the core's.

    Args:
        images_BHWC: in [0, 1]; C is 1, 3 or 4, and what is transparent is laid over white.
        field: the socket, for the message.

    Raises:
        MediaError: values outside [0, 1], another shape, or a picture larger than allowed.
    """
    from humo.media.image import load_image

    if images_BHWC.ndim != 4 or not len(images_BHWC):
        raise MediaError(field, f"has the shape {tuple(images_BHWC.shape)}", "give one or more, (B, H, W, C)")
    return [load_image(image, field=f"{field}[{place}]") for place, image in enumerate(images_BHWC.cpu().numpy())]


def sound_of(audio: AudioDict) -> Sound:
    """The one sound of an AUDIO.

    Raises:
        MediaError: several sounds or none, samples that are not numbers, or a sound that is too long.
    """
    from humo.media.audio import load_audio

    waveform, rate = audio["waveform"], audio["sample_rate"]
    if waveform.ndim != 3 or len(waveform) != 1:
        raise MediaError("audio", f"has the shape {tuple(waveform.shape)}", "give an AUDIO of one sound, (1, C, T)")
    samples = waveform[0].float().cpu().numpy()
    return Sound(samples, rate, load_audio((samples, rate), field="audio"))


def track_of(sound: Sound, seconds: float) -> AudioTrack:
    """A sound cut, or filled up with silence, to the length of a clip."""
    from humo.media.audio import load_audio_track

    return load_audio_track((sound.samples, sound.sample_rate), seconds=seconds)


def to_audio(track: AudioTrack) -> AudioDict:
    """A sound track as AUDIO (1, C, T)."""
    import torch

    return {"waveform": torch.from_numpy(track.samples)[None], "sample_rate": track.sample_rate}


def to_images(frames: Iterable[Frame]) -> Tensor:
    """Frames (H, W, 3) as IMAGE (B, H, W, 3): bytes over 255, which ComfyUI's writers turn back into the same bytes."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(list(frames))).float() / 255
