"""A small video autoencoder: Wan2.1's convolutions beside a linear code of whole blocks of pixels.

The linear code (4 x 8 x 8 pixels to a latent; back from a latent and its neighbours) carries most of the picture from
the first step of training on; the convolutions learn what it misses. Geometry, causality and settings are those of
`AutoencoderKLWan`.

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
from humo.model.deblocking import deblock_latent_frames
from humo.model.upstream import DecoderOutput

# diffusers looks for the base class beside the class when it loads a component of a pipeline from outside itself
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
"""Latents a side that a block of pixels is decoded from, itself in the middle; in time it is the last of them."""

PATCH = 2
"""Pixels a side that the first convolution sees as one."""


class ShortcutAutoencoder(AutoencoderKLWan):
    """`AutoencoderKLWan` on patches of 2 x 2 pixels, with a linear encoder and decoder added to its own.

    Its settings are those of `AutoencoderKLWan`, under the same names, with the defaults of a small one.

    Args:
        base_dim, decoder_base_dim: widths at the largest scale.
        z_dim: latent channels.
        dim_mult: widths of the three scales, as multiples.
        num_res_blocks: residual blocks a scale (one more in the decoder).
        latents_mean, latents_std: of the channels, for those who want them of unit size.
        channel_std: standard deviation of each channel of the normalized latents, if measured; source of sigma_data.
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

    def _encode(self, x: Tensor) -> Tensor:
        """(B, 3, 4k + 1, 8 H, 8 W) -> means and log variances (B, 2 C, k + 1, H, W)."""
        return StreamingEncoder(self).moments(x)

    def _decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """(B, C, k + 1, H, W) -> (B, 3, 4k + 1, 8 H, 8 W), clipped to [-1, 1]."""
        video = StreamingDecoder(self)(z)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def reconstruct(self, z: Tensor) -> Tensor:
        """As `decode`, but neither clipped nor joined: training sees by how much a value is out of range."""
        return StreamingDecoder(self).unclipped(z)

    def linear(self, z: Tensor, before: Tensor | None = None) -> Tensor:
        """What the linear decoder makes of latents; ``before`` are those (at least `CONTEXT` - 1) before them."""
        blocks = self.linear_decoder(with_context(z, before)).movedim(1, -1)
        return from_blocks(blocks, begins=before is None)


class StreamingEncoder:
    """Encodes frames as they come: the first alone, then four at a time, whatever the calls they come in.

    Memory does not depend on how many have come. The latents are those of encoding all frames at once.

    Args:
        vae: `AutoencoderKLWan`, or a `ShortcutAutoencoder`.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._features: list[Tensor | str | None] = [None] * vae._cached_conv_counts["encoder"]
        self._begins = True

    def __call__(self, video: Tensor) -> Tensor:
        """(B, 3, 4k, 8 H, 8 W), the first time 4k - 3 frames -> latents (B, C, k, H, W): the means."""
        return self.moments(video).chunk(2, dim=1)[0]

    def moments(self, video: Tensor) -> Tensor:
        """As a call, with the log variances: (B, 2 C, k, H, W)."""
        vae, begins, self._begins = self._vae, self._begins, False
        onload(vae)
        if not isinstance(vae, ShortcutAutoencoder):
            return self._convolved(video, begins)
        blocks = to_blocks(video) if begins else to_blocks(torch.cat([video[:, :, :1], video], dim=2))[:, 1:]
        linear = vae.linear_encoder(blocks).movedim(-1, 1)
        last: Any = vae.encoder.conv_out
        if is_zero(last):
            nothing: Tensor = last.bias.view(1, -1, 1, 1, 1).expand(len(video), -1, *linear.shape[2:])
            moments = vae.quant_conv(nothing)
        else:
            moments = self._convolved(video, begins)
        mean, log_variance = moments.chunk(2, dim=1)
        return torch.cat([mean + linear, log_variance], dim=1)

    def _convolved(self, video: Tensor, begins: bool) -> Tensor:
        """What the convolutions make of frames."""
        vae = self._vae
        pixels = video if vae.config.patch_size is None else _patch(video)
        alone = [1] if begins else []
        lengths = alone + [TEMPORAL_STRIDE] * ((pixels.shape[2] - sum(alone)) // TEMPORAL_STRIDE)
        parts = [vae.encoder(part, feat_cache=self._features, feat_idx=[0]) for part in pixels.split(lengths, dim=2)]
        moments: Tensor = vae.quant_conv(torch.cat(parts, dim=2))
        return moments


class StreamingDecoder:
    """Decodes latent frames as they come, each seeing those before it, whatever the calls they come in.

    Memory does not depend on how many have come. The frames are those of decoding all latents at once.

    Args:
        vae: `AutoencoderKLWan`, or a `ShortcutAutoencoder`.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._features: list[Tensor | str | None] = [None] * vae._cached_conv_counts["decoder"]
        self._before: Tensor | None = None
        self._last: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """(B, C, k, H, W) -> (B, 3, 4k, 8 H, 8 W), the first time 3 frames fewer; clipped to [-1, 1]."""
        video = self.unclipped(z).clamp(-1.0, 1.0)
        deblocking = self._vae.config.get("deblocking")
        if deblocking is not None:
            small, large = deblocking
            video = deblock_latent_frames(video, self._last, small, large).clamp(-1.0, 1.0)
            self._last = video[:, :, -1]
        return video

    def unclipped(self, z: Tensor) -> Tensor:
        """As a call, but neither clipped nor joined."""
        vae, begins = self._vae, self._before is None
        onload(vae)
        video: Tensor
        if isinstance(vae, ShortcutAutoencoder):
            video = vae.linear(z, self._before)
            last: Any = vae.decoder.conv_out
            if is_zero(last):
                patch = last.bias.view(1, 3, 1, PATCH, PATCH).mT.repeat(1, 1, 1, *(n // PATCH for n in video.shape[3:]))
                video = video + patch
            else:
                video = video + self._convolved(z, begins)
        else:
            video = self._convolved(z, begins)
        # fewer than the linear decoder looks back at, and it sees what stands for none before them
        known = z if self._before is None else torch.cat([self._before, z], dim=2)
        self._before = F.pad(known, (0, 0, 0, 0, max(0, CONTEXT - 1 - known.shape[2]), 0))[:, :, -(CONTEXT - 1) :]
        return video

    def _convolved(self, z: Tensor, begins: bool) -> Tensor:
        """What the convolutions make of latents."""
        vae = self._vae
        hidden = vae.post_quant_conv(z)
        parts = []
        for frame in range(z.shape[2]):
            part = hidden[:, :, frame : frame + 1]
            first = begins and frame == 0
            parts.append(vae.decoder(part, feat_cache=self._features, feat_idx=[0], first_chunk=first))
        video = torch.cat(parts, dim=2)
        return video if vae.config.patch_size is None else _unpatch(video)


def onload(vae: AutoencoderKLWan) -> None:
    """Bring weights that are offloaded to their device, as `AutoencoderKLWan` does when it is called as a whole."""
    hook = getattr(vae, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(vae)


def is_zero(last: nn.Module) -> bool:
    """Whether what leads up to a last convolution counts for nothing, and nobody asks for its gradient."""
    weight: Any = last.weight
    return not weight.is_meta and not (torch.is_grad_enabled() and weight.requires_grad) and not bool(weight.any())


def with_context(z_BCFHW: Tensor, before_BCFHW: Tensor | None = None) -> Tensor:
    """Latents with what the linear decoder sees around them: zero (the mean) beyond borders and before the first."""
    side, back = CONTEXT // 2, CONTEXT - 1
    if before_BCFHW is None:
        return F.pad(z_BCFHW, (side, side, side, side, back, 0))
    return F.pad(torch.cat([before_BCFHW[:, :, -back:], z_BCFHW], dim=2), (side, side, side, side))


def to_blocks(video_BCFHW: Tensor) -> Tensor:
    """(B, 3, 4k + 1, 8 H, 8 W) -> (B, k + 1, H, W, P): each latent's pixels; the first frame fills a block alone."""
    first = video_BCFHW[:, :, :1].expand(-1, -1, TEMPORAL_STRIDE, -1, -1)
    video = torch.cat([first, video_BCFHW[:, :, 1:]], dim=2)
    blocks = video.unflatten(4, (-1, SPATIAL_STRIDE)).unflatten(3, (-1, SPATIAL_STRIDE))
    ordered: Tensor = blocks.unflatten(2, (-1, TEMPORAL_STRIDE)).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return ordered.flatten(4)


def from_blocks(blocks_BFHWP: Tensor, *, begins: bool = True) -> Tensor:
    """The inverse of `to_blocks`: where a video begins, the first frame is the mean of its block's four."""
    shape = (3, TEMPORAL_STRIDE, SPATIAL_STRIDE, SPATIAL_STRIDE)
    blocks = blocks_BFHWP.unflatten(4, shape).permute(0, 4, 1, 5, 2, 6, 3, 7)
    video = blocks.flatten(6, 7).flatten(4, 5)
    if begins:
        first = video[:, :, :1].mean(dim=3)
        return torch.cat([first, video[:, :, 1:].flatten(2, 3)], dim=2)
    whole: Tensor = video.flatten(2, 3)
    return whole


def _patch(video_BCFHW: Tensor) -> Tensor:
    """(B, 3, F, 2 H, 2 W) -> (B, 12, F, H, W), in the order in which diffusers cuts patches."""
    patches: Tensor = video_BCFHW.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH))
    return patches.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)  # channel, column, row


def _unpatch(patches_BCFHW: Tensor) -> Tensor:
    """(B, 12, F, H, W) -> (B, 3, F, 2 H, 2 W), in the order in which diffusers cuts patches."""
    patches: Tensor = patches_BCFHW.unflatten(1, (3, PATCH, PATCH))  # channel, column, row
    return patches.permute(0, 1, 4, 5, 3, 6, 2).flatten(5).flatten(3, 4)


def open_autoencoder(folder: str) -> AutoencoderKLWan:
    """The autoencoder of a model folder: Wan2.1's, or a small one.

    Args:
        folder: holds its ``config.json`` and weights.
    """
    is_small = AutoencoderKLWan.load_config(folder).get("_class_name") == ShortcutAutoencoder.__name__
    opened: AutoencoderKLWan = (ShortcutAutoencoder if is_small else AutoencoderKLWan).from_pretrained(folder)
    return opened
