"""Run the autoencoder's convolutions on frames in tiles, with the result of whole frames.

The middle of encoder and decoder has attention, which needs the whole frame. It works at the size of latents and needs
little memory. The layers that work at the size of pixels need most of the memory, and each of their results depends on
a bounded neighborhood. These layers run tile by tile. A tile is computed with a margin as wide as that neighborhood;
the margin is dropped, so that tiles need no blending.

`AutoencoderKLWan.enable_tiling` switches tiles on. Its own method decodes each tile separately, attention included, and
blends the differences at the seams; it is not used.

Shape suffixes: B batch, C latent channels, K channels of features, F frames (latent or video), H, W size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from humo.errors import RequestError
from humo.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE

CACHED_FRAMES = 2
"""Frames before a chunk that a causal convolution continues from."""

Features = list[Tensor | str | None]
"""Frames that each causal convolution continues from, as the layers of `AutoencoderKLWan` keep them."""


TILES_TO_RUN: ContextVar[int | None] = ContextVar("tiles to run", default=None)
"""Number of tiles of a frame that are run, to measure memory, which is the same for each; None for all."""


class Span(NamedTuple):
    """Part of an axis of a frame, in latents.

    Args:
        begin, end: what a tile computes.
        core_begin, core_end: what it contributes to the result.
    """

    begin: int
    end: int
    core_begin: int
    core_end: int

    def computed(self, scale: int = 1) -> slice:
        """Return the tile's part of a frame with ``scale`` elements per latent."""
        return slice(self.begin * scale, self.end * scale)

    def core(self, scale: int) -> slice:
        """Return the tile's contribution to a frame."""
        return slice(self.core_begin * scale, self.core_end * scale)

    def inner(self, scale: int) -> slice:
        """Return the tile's contribution as a part of the tile."""
        return slice((self.core_begin - self.begin) * scale, (self.core_end - self.begin) * scale)


def split_axis(size: int, tile: int, margin: int) -> list[Span]:
    """Divide an axis into the fewest tiles; all have the same extent.

    Args:
        size: latents of the axis.
        tile: largest extent of a tile in latents, more than twice the margin.
        margin: latents of a tile's neighborhood, on each side.
    """
    if size <= tile:
        return [Span(0, size, 0, size)]
    count = -(-(size - 2 * margin) // (tile - 2 * margin))
    extent = -(-(size + 2 * margin * (count - 1)) // count)
    begins = [number * (size - extent) // (count - 1) for number in range(count)]
    seams = [(following + begin + extent) // 2 for begin, following in pairwise(begins)]
    edges = zip([0, *seams], [*seams, size], strict=True)
    return [Span(begin, begin + extent, *cores) for begin, cores in zip(begins, edges, strict=True)]


def tile_margin(vae: AutoencoderKLWan) -> int:
    """Return the latents by which a tile is larger than its contribution, on each side."""
    return max(_encoder_margin(vae.encoder), _decoder_margin(vae.decoder))


def smallest_tile(vae: AutoencoderKLWan) -> int:
    """Return the side in pixels of the smallest useful tile: the field of a latent's convolutions, and two latents."""
    return (2 * tile_margin(vae) + 2) * SPATIAL_STRIDE


def check_tile(tile: int, vae: AutoencoderKLWan) -> None:
    """Raise RequestError if tiles are smaller than the field of the autoencoder's convolutions.

    Args:
        tile: side in pixels; 0 for whole frames.
        vae: the autoencoder.
    """
    least = smallest_tile(vae)
    if 0 < tile < least:
        field = 2 * tile_margin(vae) * SPATIAL_STRIDE
        problem = f"{tile} pixels leave nothing of a tile beside the autoencoder's field of {field} pixels"
        raise RequestError("tile", problem, f"use at least {least}, or 0 for whole frames")


def set_tile(vae: AutoencoderKLWan, tile: int) -> None:
    """Encode and decode frames that are larger than a tile in tiles.

    Args:
        vae: the autoencoder.
        tile: side in pixels; 0 for whole frames.

    Raises:
        RequestError: tiles are smaller than the field of the autoencoder's convolutions.
    """
    check_tile(tile, vae)
    if tile:
        vae.enable_tiling(tile_sample_min_height=tile, tile_sample_min_width=tile)
    else:
        vae.disable_tiling()


def tiles_of(vae: AutoencoderKLWan, height: int, width: int) -> list[tuple[Span, Span]]:
    """Return the rows and columns of each tile that a frame is computed in; a single one for a whole frame.

    Args:
        vae: the autoencoder; its tiling settings decide.
        height, width: of the frame, in latents.

    Raises:
        RequestError: tiles are smaller than the field of the autoencoder's convolutions.
    """
    if not vae.use_tiling:
        return [(Span(0, height, 0, height), Span(0, width, 0, width))]
    sides = (vae.tile_sample_min_height, vae.tile_sample_min_width)
    check_tile(min(sides), vae)
    margin = tile_margin(vae)
    rows, columns = (
        split_axis(size, side // SPATIAL_STRIDE, margin) for size, side in zip((height, width), sides, strict=True)
    )
    return list(product(rows, columns))


class DecoderConvolutions:
    """Runs the convolutional decoder piece by piece, on whole frames or in tiles.

    Args:
        vae: `AutoencoderKLWan`.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._state = _State(vae._cached_conv_counts["decoder"])
        self._is_start = True

    def __call__(self, z_BCFHW: Tensor, *, is_last: bool = False) -> Tensor:
        """Return the output of the decoder's last layer for latents (B, C, k, H, W).

        Args:
            z_BCFHW: latents that follow those of the call before.
            is_last: no call follows, so that nothing is kept for it.

        Returns:
            (B, K, 4k, s H, s W) with s elements per latent; in the first call 3 frames fewer.
        """
        vae, is_start = self._vae, self._is_start
        self._is_start = False
        latent_frames = vae.post_quant_conv(z_BCFHW).split(1, dim=2)
        tiles = tiles_of(vae, *z_BCFHW.shape[3:])
        if len(tiles) == 1:
            whole = self._state.whole
            first = [True] * is_start + [False] * (len(latent_frames) - is_start)
            frames = [
                vae.decoder(one, feat_cache=whole, feat_idx=[0], first_chunk=is_first)
                for one, is_first in zip(latent_frames, first, strict=True)
            ]
            self._state.close(is_last=is_last)
            return torch.cat(frames, dim=2)
        hidden = [_decode_at_latent_size(vae.decoder, one, self._state.whole) for one in latent_frames]
        skipped = TEMPORAL_STRIDE - 1 if is_start else 0
        ends = [TEMPORAL_STRIDE * (number + 1) - skipped for number in range(len(hidden))]
        return self._state.assemble(tiles, hidden, ends, _decode_at_pixel_size, vae.decoder, is_last=is_last)

    def to_host(self) -> None:
        """Move what the next call continues from to the host's memory."""
        self._state.to_host()


class EncoderConvolutions:
    """Runs the convolutional encoder piece by piece, on whole frames or in tiles.

    Args:
        vae: `AutoencoderKLWan`.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._state = _State(vae._cached_conv_counts["encoder"])

    def __call__(self, chunks: Sequence[Tensor], *, is_last: bool = False) -> Tensor:
        """Return means and log variances (B, 2 C, k, H, W) of k chunks, each the input of one latent frame.

        Args:
            chunks: (B, K, 4, s H, s W) with s elements per latent, of the start of a video (B, K, 1, s H, s W).
            is_last: no call follows, so that nothing is kept for it.
        """
        vae = self._vae
        scale = SPATIAL_STRIDE // (vae.config.patch_size or 1)
        tiles = tiles_of(vae, *(size // scale for size in chunks[0].shape[3:]))
        whole = self._state.whole
        if len(tiles) == 1:
            hidden = [vae.encoder(chunk, feat_cache=whole, feat_idx=[0]) for chunk in chunks]
        else:
            ends = list(range(1, len(chunks) + 1))
            local = self._state.assemble(tiles, chunks, ends, _encode_at_pixel_size, vae.encoder, is_last=is_last)
            hidden = [_encode_at_latent_size(vae.encoder, one, whole) for one in local.split(1, dim=2)]
        self._state.close(is_last=is_last)
        moments: Tensor = vae.quant_conv(torch.cat(hidden, dim=2))
        return moments


class _State:
    """Frames that causal convolutions continue from: of whole frames, and of each tile.

    Args:
        count: number of causal convolutions.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.whole: Features = [None] * count
        self._tiles: dict[int, Features] = {}

    def assemble(
        self,
        tiles: Sequence[tuple[Span, Span]],
        inputs: Sequence[Tensor],
        ends: Sequence[int],
        run: Callable[[Any, Tensor, Features], Tensor],
        network: nn.Module,
        *,
        is_last: bool,
    ) -> Tensor:
        """Run layers on the tiles of consecutive inputs, and join the results.

        Args:
            tiles: rows and columns.
            inputs: (B, K, F, s H, s W) each.
            ends: number of result frames up to and with each input.
            run: the layers, a function of network, tile and features.
            network: encoder or decoder.
            is_last: keep nothing for further inputs.
        """
        height, width = tiles[-1][0].end, tiles[-1][1].end
        scale = inputs[0].shape[3] // height
        result: Tensor | None = None
        for number, (rows, columns) in enumerate(tiles[: TILES_TO_RUN.get()]):
            device = inputs[0].device
            features = _moved(self._tiles.pop(number, [None] * self._count), device)
            for one, begin, end in zip(inputs, [0, *ends], ends, strict=False):
                tile = run(network, one[..., rows.computed(scale), columns.computed(scale)], features)
                out_scale = tile.shape[3] // (rows.end - rows.begin)
                if result is None:
                    size = (height * out_scale, width * out_scale)
                    result = tile.new_empty(*tile.shape[:2], ends[-1], *size)
                core = tile[..., rows.inner(out_scale), columns.inner(out_scale)]
                result[:, :, begin:end, rows.core(out_scale), columns.core(out_scale)] = core
                del tile, core
            if not is_last:
                self._tiles[number] = _moved(features, _host_of(device))
        self.close(is_last=is_last)
        assert result is not None
        return result

    def close(self, *, is_last: bool) -> None:
        """Forget everything if no call follows."""
        if is_last:
            self.whole = [None] * self._count
            self._tiles.clear()

    def to_host(self) -> None:
        """Move the features of whole frames to the host's memory, where those of tiles are."""
        devices = [one.device for one in self.whole if isinstance(one, Tensor)]
        if devices:
            self.whole = _moved(self.whole, _host_of(devices[0]))


def _moved(features: Features, device: torch.device) -> Features:
    return [one.to(device) if isinstance(one, Tensor) else one for one in features]


def _host_of(device: torch.device) -> torch.device:
    """Return the host's memory; a device without own memory, and the meta device, keep their tensors."""
    return torch.device("cpu") if device.type == "cuda" else device


# -- the layers of encoder and decoder, in the order of `WanEncoder3d.forward` and `WanDecoder3d.forward` -------------


def _decode_at_latent_size(decoder: Any, z_BCFHW: Tensor, features: Features) -> Tensor:
    """Return the features (B, K, 1, H, W) of one latent frame before they are enlarged."""
    position = [0]
    first = _convolve(decoder.conv_in, z_BCFHW, features, position)
    hidden: Tensor = decoder.mid_block(first, feat_cache=features, feat_idx=position)
    for resnet in decoder.up_blocks[0].resnets:
        hidden = resnet(hidden, feat_cache=features, feat_idx=position)
    return hidden


def _decode_at_pixel_size(decoder: Any, hidden_BKFHW: Tensor, features: Features) -> Tensor:
    """Return the output of the last layer for the features of one latent frame, or of a tile of it."""
    position = [0]
    hidden = decoder.up_blocks[0].upsamplers[0](hidden_BKFHW, feat_cache=features, feat_idx=position)
    for block in decoder.up_blocks[1:]:
        hidden = block(hidden, feat_cache=features, feat_idx=position)
    hidden = decoder.nonlinearity(decoder.norm_out(hidden))
    return _convolve(decoder.conv_out, hidden, features, position)


def _encode_at_pixel_size(encoder: Any, chunk_BKFHW: Tensor, features: Features) -> Tensor:
    """Return the features (B, K, 1, H, W) of the input of one latent frame, or of a tile of it, at latent size."""
    position = [0]
    hidden = _convolve(encoder.conv_in, chunk_BKFHW, features, position)
    for layer in encoder.down_blocks[: _layers_at_pixel_size(encoder)]:
        hidden = layer(hidden, feat_cache=features, feat_idx=position)
    return hidden


def _encode_at_latent_size(encoder: Any, hidden_BKFHW: Tensor, features: Features) -> Tensor:
    """Return the output of the last layer for the features of one latent frame."""
    position = [0]
    hidden = hidden_BKFHW
    for layer in encoder.down_blocks[_layers_at_pixel_size(encoder) :]:
        hidden = layer(hidden, feat_cache=features, feat_idx=position)
    hidden = encoder.mid_block(hidden, feat_cache=features, feat_idx=position)
    hidden = encoder.nonlinearity(encoder.norm_out(hidden))
    return _convolve(encoder.conv_out, hidden, features, position)


def _layers_at_pixel_size(encoder: Any) -> int:
    """Return the number of layers up to and with the last one that reduces the size."""
    return 1 + max(number for number, layer in enumerate(encoder.down_blocks) if hasattr(layer, "resample"))


def _convolve(convolution: nn.Module, x_BKFHW: Tensor, features: Features, position: list[int]) -> Tensor:
    """Run a causal convolution that continues after earlier frames, as encoder and decoder do."""
    number = position[0]
    earlier: Any = features[number]
    kept = x_BKFHW[:, :, -CACHED_FRAMES:].clone()
    if kept.shape[2] < CACHED_FRAMES and earlier is not None:
        kept = torch.cat([earlier[:, :, -1:], kept], dim=2)
    result: Tensor = convolution(x_BKFHW, earlier)
    features[number] = kept
    position[0] += 1
    return result


# -- neighborhoods ----------------------------------------------------------------------------------------------------


def _radius(layers: nn.Module) -> int:
    """Return the neighborhood of consecutive convolutions that keep the size: the sum of half their kernels."""
    kernels = (one.kernel_size for one in layers.modules() if isinstance(one, nn.Conv2d | nn.Conv3d))
    return sum(kernel[-1] // 2 for kernel in kernels)


def _decoder_margin(decoder: Any) -> int:
    """Return the latents around a latent that its pixels depend on, beside attention."""
    margin = _radius(decoder.conv_out)
    for block, before in zip(decoder.up_blocks[:0:-1], decoder.up_blocks[-2::-1], strict=True):
        margin += _radius(block.resnets) + _radius(before.upsamplers)
        margin = -(-margin // 2)  # seen from before the enlargement
    return margin


def _encoder_margin(encoder: Any) -> int:
    """Return the latents around a latent whose pixels it depends on, beside attention."""
    margin, scale = 0, 1
    for layer in reversed(encoder.down_blocks[: _layers_at_pixel_size(encoder)]):
        if hasattr(layer, "resample"):
            margin, scale = 2 * margin + 1, 2 * scale  # three elements become one, at every second one
        else:
            margin += _radius(layer)
    return -(-(margin + _radius(encoder.conv_in)) // scale)
