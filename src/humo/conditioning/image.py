"""Conversion between pixels and latents: reference images, the blank video, the finished video.

Shape suffixes: B batch, C latent channels, F frames (latent or video), H, W size. Pixels are in [-1, 1].

**Source:** ``humo/generate.py``, ``Generator.load_image_latent_ref_id``; ``humo/models/wan_modules/vae.py``,
``WanVAE``. Latents are the means of the autoencoder's distribution (nothing is sampled), normalized by its published
means and standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from humo.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE
from humo.media.image import letterbox, to_pixels
from humo.model.autoencoder import StreamingDecoder, StreamingEncoder
from humo.model.tiling import tiles_of


def encode_video(video_BCFHW: Tensor, vae: Any, encoder: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Encode pixels (B, 3, 4k + 1, H, W) to normalized latents (B, C, k + 1, H / 8, W / 8).

    Args:
        video_BCFHW: a whole video, or its next frames if there is an encoder.
        vae: the autoencoder.
        encoder: `StreamingEncoder` of a video that is encoded in pieces.
    """
    encode = encoder or partial(StreamingEncoder(vae), is_last=True)
    return normalize_latents(encode(video_BCFHW), vae)


def decode_video(latents_BCFHW: Tensor, vae: Any, decoder: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Decode normalized latents (B, C, k + 1, H, W) to pixels (B, 3, 4k + 1, 8 H, 8 W).

    Args:
        latents_BCFHW: latents of a whole video, or its next latent frames if there is a decoder.
        vae: the autoencoder.
        decoder: `humo.model.autoencoder.StreamingDecoder` of a video that is decoded in pieces.
    """
    decode = decoder or partial(StreamingDecoder(vae), is_last=True)
    return decode(denormalize_latents(latents_BCFHW, vae))


def normalize_latents(latents_BCFHW: Tensor, vae: Any) -> Tensor:
    """Return the autoencoder's own latents in the form that the network computes with: mean 0, deviation 1."""
    mean, scale = _statistics(vae, latents_BCFHW)
    return (latents_BCFHW - mean) * scale


def denormalize_latents(latents_BCFHW: Tensor, vae: Any) -> Tensor:
    """Return latents of the network in the form that the autoencoder decodes; the inverse of `normalize_latents`."""
    mean, scale = _statistics(vae, latents_BCFHW)
    return latents_BCFHW / scale + mean


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and inverse standard deviations of the latent channels, which the published code uses."""
    mean, deviation = like.new_tensor([vae.config.latents_mean, vae.config.latents_std]).view(2, 1, -1, 1, 1, 1)
    return mean, 1.0 / deviation


@torch.no_grad()
def encode_references(images: Sequence[Image.Image], vae: Any, width: int, height: int, device: torch.device) -> Tensor:
    """Encode reference images, letterboxed on white, each as a one-frame video, to (1, C, R, H, W).

    Args:
        images: R images, in order.
        vae: the autoencoder.
        width, height: pixels of the video.
        device: of the autoencoder and the result.
    """
    pixels = (torch.from_numpy(to_pixels(letterbox(image, width, height))) for image in images)
    frames = (frame[None, :, None].to(device, vae.dtype) for frame in pixels)
    return torch.cat([encode_video(frame, vae) for frame in frames], dim=2)


@torch.no_grad()
def encode_cropped(image: Image.Image, vae: Any, width: int, height: int, device: torch.device) -> Tensor:
    """Encode a reference image, cropped at its center and scaled, as a one-frame video, to (1, C, 1, H, W).

    **Source:** ComfyUI, ``comfy/utils.py``, ``common_upscale`` with ``bilinear`` and ``center``.
    """
    shape, wanted = image.width / image.height, width / height
    x = round((image.width - image.width * (wanted / shape)) / 2) if shape > wanted else 0
    y = round((image.height - image.height * (shape / wanted)) / 2) if shape < wanted else 0
    cropped = torch.from_numpy(to_pixels(image.crop((x, y, image.width - x, image.height - y))))
    scaled = F.interpolate(cropped[None], size=(height, width), mode="bilinear")
    return encode_video(scaled[:, :, None].to(device, vae.dtype), vae)


def normalized_zeros(like: Tensor, vae: Any) -> Tensor:
    """Return zeros in the autoencoder's own scale, normalized: ComfyUI's null reference, shaped like ``like``."""
    mean, scale = _statistics(vae, like)
    return (torch.zeros_like(like) - mean) * scale


@torch.no_grad()
def encode_blank(latents: int, latent_height: int, latent_width: int, vae: Any, device: torch.device) -> Tensor:
    """Encode an all-zero (mid-gray) video to latents (1, C, L, H, W), of any length and size.

    Whole frames are encoded piece by piece; tiles one after another, each for the whole length.
    """
    size = (latent_height * SPATIAL_STRIDE, latent_width * SPATIAL_STRIDE)
    encoder = StreamingEncoder(vae)
    lengths = [1, *[TEMPORAL_STRIDE] * (latents - 1)]
    if len(tiles_of(vae, latent_height, latent_width)) > 1:
        lengths = [sum(lengths)]
    zero = torch.zeros(1, 3, 1, 1, 1, device=device, dtype=vae.dtype)
    last = len(lengths) - 1
    return torch.cat(
        [
            encode_video(zero.expand(1, 3, frames, *size), vae, partial(encoder, is_last=number == last))
            for number, frames in enumerate(lengths)
        ],
        dim=2,
    )


COMFY_BLANK = (
    (0.8660, -0.4326, -0.0017, -0.4884, -0.5283, 0.9207, -0.9896, 0.4433,
     -0.5543, -0.0113, 0.5753, -0.6000, -0.8346, -0.3497, -0.1926, -0.6938),
    (1.0869, -1.2370, 0.0206, -0.4357, -0.6411, 2.0307, -1.5972, 1.2659,
     -0.8595, -0.4654, 0.9638, -1.6330, -1.4310, -0.1098, -0.3856, -1.4583),
    (0.8642, -1.8583, 0.1577, 0.1350, -0.3641, 2.5863, -1.9670, 1.6065,
     -1.0475, -0.8678, 1.1734, -1.8138, -1.5933, -0.7721, -0.3289, -1.3745),
)  # fmt: skip
"""Latents of a mid-gray video that ComfyUI uses everywhere: of the first latent frame, the second, and all others.

**Source:** ComfyUI, ``comfy/model_base.py``, ``WAN21_HuMo.extra_conds``.
"""


def comfy_blank(latents: int, latent_height: int, latent_width: int, device: torch.device) -> Tensor:
    """Return ComfyUI's latents (1, C, L, H, W) of a mid-gray video."""
    frames = torch.tensor([COMFY_BLANK[min(frame, len(COMFY_BLANK) - 1)] for frame in range(latents)], device=device)
    return frames.T[None, :, :, None, None].expand(-1, -1, -1, latent_height, latent_width).contiguous()
