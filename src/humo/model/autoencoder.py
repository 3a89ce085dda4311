"""A small video autoencoder: a linear map between pixel blocks and latents, and convolutions added to it.

The linear encoder maps a block of 4 x 8 x 8 pixels to a latent. The linear decoder maps a latent and its neighbors to a
block. Both represent most of the image from the first training step on; the convolutions learn the rest. Geometry,
causality and settings are those of `AutoencoderKLWan`.

Shape suffixes: B batch, C latent channels, F frames (latent or video), H, W size, P values of a block (3 * 4 * 8 * 8).
Pixels are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from humo.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE, VALUES_PER_LATENT
from humo.model.convolutional_decoder import ConvolutionalDecoder
from humo.model.deblocking import deblock_latent_frames
from humo.model.tiling import DecoderConvolutions, EncoderConvolutions
from humo.model.upstream import DecoderOutput

# diffusers requires the base class in the module of a pipeline component that is not its own
__all__ = [
    "ModelMixin",
    "ShortcutAutoencoder",
    "StreamingDecoder",
    "StreamingEncoder",
    "from_blocks",
    "open_autoencoder",
    "to_blocks",
    "with_context",
]

CONTEXT = 3
"""Side in latents of the neighborhood that a pixel block is decoded from: centered in space, causal in time."""

PATCH = 2
"""Side in pixels of the patches that are the input of the first convolution."""


class ShortcutAutoencoder(AutoencoderKLWan):
    """`AutoencoderKLWan` on patches of 2 x 2 pixels, with a linear encoder and decoder added to its own.

    The arguments are those of `AutoencoderKLWan`, with smaller defaults, and two more.

    Args:
        base_dim, decoder_base_dim: widths at full resolution.
        z_dim: latent channels.
        dim_mult: widths of the three scales, as multiples.
        num_res_blocks: residual blocks per scale (one more in the decoder).
        latents_mean, latents_std: mean and standard deviation of each channel, for normalization.
        channel_std: standard deviation of each channel of the normalized latents, if measured; source of sigma_data.
        decoder_widths: channels of a `ConvolutionalDecoder` at its three resolutions; by default there is none.
        deblocking: (small, large) steps between latent frames for `deblock_latent_frames`: smoothed up to small, kept
            from large on; None switches deblocking off.
    """

    @register_to_config
    def __init__(
        self,
        base_dim: int = 32,
        decoder_base_dim: int | None = None,
        z_dim: int = 16,
        dim_mult: Sequence[int] = (1, 2, 3),
        num_res_blocks: int = 1,
        attn_scales: Sequence[float] = (),
        temperal_downsample: Sequence[bool] = (True, True),
        dropout: float = 0.0,
        latents_mean: Sequence[float] = (0.0,),
        latents_std: Sequence[float] = (1.0,),
        is_residual: bool = False,
        in_channels: int = 3 * PATCH**2,
        out_channels: int = 3 * PATCH**2,
        patch_size: int = PATCH,
        scale_factor_temporal: int = TEMPORAL_STRIDE,
        scale_factor_spatial: int = SPATIAL_STRIDE,
        deblocking: Sequence[float] | None = None,
        channel_std: Sequence[float] | None = None,
        decoder_widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            base_dim=base_dim,
            decoder_base_dim=decoder_base_dim,
            z_dim=z_dim,
            dim_mult=list(dim_mult),
            num_res_blocks=num_res_blocks,
            attn_scales=list(attn_scales),
            temperal_downsample=list(temperal_downsample),
            dropout=dropout,
            latents_mean=list(latents_mean),
            latents_std=list(latents_std),
            is_residual=is_residual,
            in_channels=in_channels,
            out_channels=out_channels,
            patch_size=patch_size,
            scale_factor_temporal=scale_factor_temporal,
            scale_factor_spatial=scale_factor_spatial,
        )
        self.linear_encoder = nn.Linear(VALUES_PER_LATENT, z_dim)
        self.linear_decoder = nn.Conv3d(z_dim, VALUES_PER_LATENT, CONTEXT)
        self.convolutional_decoder = (
            None if decoder_widths is None else ConvolutionalDecoder(z_dim, decoder_widths, context=CONTEXT)
        )

    def _encode(self, x: Tensor) -> Tensor:
        """Encode pixels (B, 3, 4k + 1, 8 H, 8 W) to means and log variances (B, 2 C, k + 1, H, W)."""
        return StreamingEncoder(self).moments(x, is_last=True)

    def _decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Decode latents (B, C, k + 1, H, W) to pixels (B, 3, 4k + 1, 8 H, 8 W), clipped to [-1, 1]."""
        video = StreamingDecoder(self)(z, is_last=True)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def reconstruct(self, z: Tensor) -> Tensor:
        """Decode latents without clipping and deblocking, so that a training loss depends on values out of range."""
        return StreamingDecoder(self).unclipped(z)

    def linear(self, z: Tensor, before: Tensor | None = None) -> Tensor:
        """Return the linear decoder's pixels (B, 3, 4k, 8 H, 8 W) of latents.

        Args:
            z: latents (B, C, k, H, W).
            before: latents before them, at least `CONTEXT` - 1; None at the start of a video, whose result has 3 frames
                fewer.
        """
        blocks = self.linear_decoder(with_context(z, before)).movedim(1, -1)
        return from_blocks(blocks, is_start=before is None)

    def draw(self, z: Tensor, before: Tensor | None = None) -> Tensor | float:
        """Return the convolutional decoder's pixels for the arguments of `linear`; 0 if there is none."""
        if self.convolutional_decoder is None:
            return 0.0
        side = CONTEXT // 2
        padded = with_context(z, before)[..., side:-side, side:-side]
        pixels: Tensor = self.convolutional_decoder(padded, is_start=before is None)
        return pixels


class StreamingEncoder:
    """Encodes a video piece by piece: each call continues after the frames of the call before.

    The latents equal those of encoding all frames at once. Memory does not depend on the length of the video.

    Args:
        vae: `AutoencoderKLWan` or `ShortcutAutoencoder`.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._convolutions = EncoderConvolutions(vae)
        self._is_start = True

    def __call__(self, video: Tensor, *, is_last: bool = False) -> Tensor:
        """Encode pixels (B, 3, 4k, 8 H, 8 W), in the first call 4k - 3 frames, to mean latents (B, C, k, H, W).

        Args:
            video: the pixels.
            is_last: no call follows, so that nothing is kept for it.
        """
        return self.moments(video, is_last=is_last).chunk(2, dim=1)[0]

    def moments(self, video: Tensor, *, is_last: bool = False) -> Tensor:
        """Encode pixels as a call does; return means and log variances (B, 2 C, k, H, W)."""
        vae, is_start, self._is_start = self._vae, self._is_start, False
        onload(vae)
        if not isinstance(vae, ShortcutAutoencoder):
            return self._convolve(video, is_start, is_last)
        blocks = to_blocks(video) if is_start else to_blocks(torch.cat([video[:, :, :1], video], dim=2))[:, 1:]
        linear = vae.linear_encoder(blocks).movedim(-1, 1)
        last: Any = vae.encoder.conv_out
        if is_zero(last):
            bias: Tensor = last.bias.view(1, -1, 1, 1, 1).expand(len(video), -1, *linear.shape[2:])
            moments = vae.quant_conv(bias)
        else:
            moments = self._convolve(video, is_start, is_last)
        mean, log_variance = moments.chunk(2, dim=1)
        return torch.cat([mean + linear, log_variance], dim=1)

    def _convolve(self, video: Tensor, is_start: bool, is_last: bool) -> Tensor:
        """Return the moments (B, 2 C, k, H, W) that the convolutions compute from pixels."""
        pixels = video if self._vae.config.patch_size is None else _patch(video)
        first = [1] if is_start else []  # the first latent frame stands for one frame
        lengths = first + [TEMPORAL_STRIDE] * ((pixels.shape[2] - sum(first)) // TEMPORAL_STRIDE)
        return self._convolutions(pixels.split(lengths, dim=2), is_last=is_last)


class StreamingDecoder:
    """Decodes a video piece by piece: each call continues after the latent frames of the call before.

    The frames equal those of decoding all latents at once. Memory does not depend on the length of the video.

    Args:
        vae: `AutoencoderKLWan` or `ShortcutAutoencoder`.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._convolutions = DecoderConvolutions(vae)
        self._before: Tensor | None = None
        self._last: Tensor | None = None

    def __call__(self, z: Tensor, *, is_last: bool = False) -> Tensor:
        """Decode latents (B, C, k, H, W) to pixels (B, 3, 4k, 8 H, 8 W), in the first call 3 frames fewer.

        Args:
            z: the latents.
            is_last: no call follows, so that nothing is kept for it.
        """
        video = self.unclipped(z, is_last=is_last).clamp_(-1.0, 1.0)
        deblocking = self._vae.config.get("deblocking")
        if deblocking is not None:
            small, large = deblocking
            video = deblock_latent_frames(video, self._last, small, large).clamp(-1.0, 1.0)
            self._last = video[:, :, -1]
        return video

    def to_host(self) -> None:
        """Move what the next call continues from to the host's memory, to make room on the device."""
        self._convolutions.to_host()

    def unclipped(self, z: Tensor, *, is_last: bool = False) -> Tensor:
        """Decode latents as a call does, without clipping to [-1, 1] and without deblocking."""
        vae = self._vae
        onload(vae)
        video: Tensor
        if isinstance(vae, ShortcutAutoencoder):
            video = vae.linear(z, self._before) + vae.draw(z, self._before)
            last: Any = vae.decoder.conv_out
            if is_zero(last):
                patch = last.bias.view(1, 3, 1, PATCH, PATCH).mT.repeat(1, 1, 1, *(n // PATCH for n in video.shape[3:]))
                video = video + patch
            else:
                video = video + self._convolve(z, is_last)
        else:
            video = self._convolve(z, is_last)
        # zeros stand for latents before the start of the video
        decoded = z if self._before is None else torch.cat([self._before, z], dim=2)
        padded = F.pad(decoded, (0, 0, 0, 0, max(0, CONTEXT - 1 - decoded.shape[2]), 0))
        self._before = padded[:, :, -(CONTEXT - 1) :].clone()
        return video

    def _convolve(self, z: Tensor, is_last: bool) -> Tensor:
        """Return the pixels that the convolutions compute from latents."""
        video = self._convolutions(z, is_last=is_last)
        return video if self._vae.config.patch_size is None else _unpatch(video)


def onload(vae: AutoencoderKLWan) -> None:
    """Move offloaded weights to their device, as calling the `AutoencoderKLWan` does."""
    hook = getattr(vae, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(vae)


def is_zero(last: nn.Module) -> bool:
    """Return whether a last convolution is zero and needs no gradient; all convolutions can then be skipped."""
    weight: Any = last.weight
    return not weight.is_meta and not (torch.is_grad_enabled() and weight.requires_grad) and not bool(weight.any())


def with_context(z_BCFHW: Tensor, before_BCFHW: Tensor | None = None) -> Tensor:
    """Pad latents with their neighborhood for the linear decoder: zeros, the mean, at borders and before the start.

    Args:
        z_BCFHW: latents.
        before_BCFHW: latents before them; None at the start of a video.

    Returns:
        (B, C, F + 2, H + 2, W + 2).
    """
    side, back = CONTEXT // 2, CONTEXT - 1
    if before_BCFHW is None:
        return F.pad(z_BCFHW, (side, side, side, side, back, 0))
    return F.pad(torch.cat([before_BCFHW[:, :, -back:], z_BCFHW], dim=2), (side, side, side, side))


def to_blocks(video_BCFHW: Tensor) -> Tensor:
    """Split pixels (B, 3, 4k + 1, 8 H, 8 W) into blocks (B, k + 1, H, W, P), one per latent.

    The first block in time repeats the first frame four times.
    """
    first = video_BCFHW[:, :, :1].expand(-1, -1, TEMPORAL_STRIDE, -1, -1)
    video = torch.cat([first, video_BCFHW[:, :, 1:]], dim=2)
    blocks = video.unflatten(4, (-1, SPATIAL_STRIDE)).unflatten(3, (-1, SPATIAL_STRIDE))
    ordered: Tensor = blocks.unflatten(2, (-1, TEMPORAL_STRIDE)).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return ordered.flatten(4)


def from_blocks(blocks_BFHWP: Tensor, *, is_start: bool = True) -> Tensor:
    """Join blocks to pixels, the inverse of `to_blocks`.

    Args:
        blocks_BFHWP: blocks.
        is_start: the first block is the first one of a video; its four frames are averaged to one.
    """
    shape = (3, TEMPORAL_STRIDE, SPATIAL_STRIDE, SPATIAL_STRIDE)
    blocks = blocks_BFHWP.unflatten(4, shape).permute(0, 4, 1, 5, 2, 6, 3, 7)
    video = blocks.flatten(6, 7).flatten(4, 5)
    if is_start:
        first = video[:, :, :1].mean(dim=3)
        return torch.cat([first, video[:, :, 1:].flatten(2, 3)], dim=2)
    pixels: Tensor = video.flatten(2, 3)
    return pixels


def _patch(video_BCFHW: Tensor) -> Tensor:
    """Split pixels (B, 3, F, 2 H, 2 W) into patches (B, 12, F, H, W), in the order of diffusers."""
    patches: Tensor = video_BCFHW.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH))
    return patches.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)  # channel, column, row


def _unpatch(patches_BCFHW: Tensor) -> Tensor:
    """Join patches (B, 12, F, H, W) to pixels (B, 3, F, 2 H, 2 W), in the order of diffusers."""
    patches: Tensor = patches_BCFHW.unflatten(1, (3, PATCH, PATCH))  # channel, column, row
    return patches.permute(0, 1, 4, 5, 3, 6, 2).flatten(5).flatten(3, 4)


def open_autoencoder(folder: str) -> AutoencoderKLWan:
    """Load the autoencoder of a model folder: `AutoencoderKLWan` or `ShortcutAutoencoder`.

    Args:
        folder: has the autoencoder's ``config.json`` and weights.
    """
    is_small = AutoencoderKLWan.load_config(folder).get("_class_name") == ShortcutAutoencoder.__name__
    vae: AutoencoderKLWan = (ShortcutAutoencoder if is_small else AutoencoderKLWan).from_pretrained(folder)
    return vae
