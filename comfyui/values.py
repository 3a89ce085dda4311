"""Conversions from and to ComfyUI's types IMAGE, AUDIO, LATENT and VIDEO.

Shape suffixes: B batch, C channels, F latent frames, H, W size, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from comfy_api.latest import InputImpl, Types

from humo.errors import MediaError, RequestError
from humo.geometry import FRAMES_PER_SECOND

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image
    from torch import Tensor

    from humo import HuMoPipeline

    Frame = npt.NDArray[np.uint8]


class AudioDict(TypedDict):
    """ComfyUI's AUDIO: ``waveform`` (B, C, T) float, ``sample_rate`` in Hz."""

    waveform: Tensor
    sample_rate: int


class LatentDict(TypedDict):
    """ComfyUI's LATENT: ``samples`` (1, C, F, H, W) as the autoencoder decodes them, which other nodes can use.

    ``humo_preset`` names the preset of the model that generated them; nodes of others need not keep it.
    """

    samples: Tensor
    humo_preset: NotRequired[str]


def from_images(images_BHWC: Tensor, field: str) -> list[Image]:
    """Return the images of an IMAGE batch in their own size; the encoder fits them to the video.

    Values outside [0, 1], as resizing gives them, are clipped, as ComfyUI does when it saves an image.

    Args:
        images_BHWC: C is 1, 3 or 4. Transparency is laid over white.
        field: name of the socket, for messages.

    Raises:
        MediaError: values that are not numbers, another shape, or an image above the size limit.
    """
    from humo.media.image import load_image

    if images_BHWC.ndim != 4 or not len(images_BHWC):
        problem = f"has the shape {tuple(images_BHWC.shape)}"
        raise MediaError(field, problem, "connect a batch of one image or more, (B, H, W, C)")
    arrays = images_BHWC.clamp(0, 1).cpu().numpy()  # NaN stays, and is refused
    return [load_image(image, field=f"{field}[{index}]") for index, image in enumerate(arrays)]


def samples_of(audio: AudioDict) -> tuple[npt.NDArray[np.float32], int]:
    """Return the samples (C, T) and the sample rate of the one clip of an AUDIO batch.

    Raises:
        MediaError: several clips or none.
    """
    waveform = audio["waveform"]
    if waveform.ndim != 3 or len(waveform) != 1:
        problem = f"has the shape {tuple(waveform.shape)}"
        raise MediaError("audio", problem, "connect a batch of one clip, (1, C, T)")
    return waveform[0].float().cpu().numpy(), audio["sample_rate"]


def mono_16k(audio: AudioDict) -> npt.NDArray[np.float32]:
    """Return the samples (T,) that the model takes.

    Raises:
        MediaError: several clips or none, samples that are not numbers, or a clip that is too long.
    """
    from humo.media.audio import load_audio

    return load_audio(samples_of(audio), field="audio")


def cut(audio: AudioDict, seconds: float) -> AudioDict:
    """Return an AUDIO at its own sample rate, cut to the length of a clip, or padded with silence."""
    import torch

    from humo.media.audio import load_audio_track

    track = load_audio_track(samples_of(audio), seconds=seconds)
    return {"waveform": torch.from_numpy(track.samples)[None], "sample_rate": track.sample_rate}


def to_latent(latents_BCFHW: Tensor, model: HuMoPipeline) -> LatentDict:
    """Return the network's latents as LATENT.

    Args:
        latents_BCFHW: of a video, normalized.
        model: that generated them.
    """
    from humo.conditioning.image import denormalize_latents

    return {
        "samples": denormalize_latents(latents_BCFHW.float().cpu(), model.vae),
        "humo_preset": model.preset.name,
    }


def from_latent(latent: LatentDict, model: HuMoPipeline) -> Tensor:
    """Return the normalized latents (1, C, F, H, W) of a LATENT.

    Args:
        latent: from HuMo Sampler, or another node's for the same autoencoder.
        model: that decodes them.

    Raises:
        RequestError: they are another model's, or not of one video.
    """
    from humo.conditioning.image import normalize_latents

    source, samples, channels = latent.get("humo_preset"), latent["samples"], len(model.vae.config.latents_mean)
    if source not in (None, model.preset.name):
        problem = f"is {model.preset.title}, and the latents come from {source}"
        raise RequestError("model", problem, "connect the same model as at the sampler")
    if samples.ndim != 5 or samples.shape[:2] != (1, channels):
        problem = f"has the shape {tuple(samples.shape)}, and the model decodes (1, {channels}, F, H, W)"
        raise RequestError("latent", problem, "connect the latents of one video of this model")
    return normalize_latents(samples.float(), model.vae)


def to_images(frames: Iterable[Frame]) -> Tensor:
    """Return uint8 frames (H, W, 3) as IMAGE (B, H, W, 3); ComfyUI's writers recover the same bytes."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(list(frames))).float() / 255


def to_video(images_BHWC: Tensor, audio: AudioDict | None) -> Any:
    """Return IMAGE and AUDIO as VIDEO at the model's frame rate."""
    parts = Types.VideoComponents(images=images_BHWC, audio=audio, frame_rate=Fraction(FRAMES_PER_SECOND))
    return InputImpl.VideoFromComponents(parts)
