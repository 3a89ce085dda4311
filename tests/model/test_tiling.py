"""Frames in tiles are those of whole frames, in less memory; tiles that are too small are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from humo.checkpoints.model_folder import BUILTIN_MODEL
from humo.errors import RequestError
from humo.geometry import SPATIAL_STRIDE
from humo.model.autoencoder import ShortcutAutoencoder, StreamingDecoder, StreamingEncoder, open_autoencoder
from humo.model.tiling import check_tile, set_tile, smallest_tile, split_axis, tile_margin, tiles_of
from humo.runtime.allocation_tracker import track_allocations
from tests.calls import call
from tests.tiny import tiny_pipeline, tiny_vae

TOLERANCE = 1e-5
"""Rounding of float32 in convolutions of different sizes; pixels are -1 to 1."""


@given(size=st.integers(1, 400), margin=st.integers(1, 9), spare=st.integers(1, 60))
def test_tiles_cover_an_axis_once_and_have_their_margins(size: int, margin: int, spare: int) -> None:
    tile = 2 * margin + spare
    spans = split_axis(size, tile, margin)
    assert spans[0].begin == spans[0].core_begin == 0
    assert spans[-1].end == spans[-1].core_end == size
    assert len({span.end - span.begin for span in spans}) == 1
    assert all(span.end - span.begin <= max(tile, size if len(spans) == 1 else 0) for span in spans)
    for before, after in pairwise(spans):
        assert before.core_end == after.core_begin
        assert before.end - before.core_end >= margin
        assert after.core_begin - after.begin >= margin
    assert all(span.core_begin < span.core_end for span in spans)


def nano_with_convolutions() -> AutoencoderKLWan:
    """The built-in autoencoder; its last convolutions are made random, in case they are zero and would be skipped."""
    vae = open_autoencoder(str(BUILTIN_MODEL / "vae")).eval().requires_grad_(False)
    torch.manual_seed(4)
    for last in (vae.encoder.conv_out, vae.decoder.conv_out):
        torch.nn.init.normal_(last.weight, std=0.02)
    return vae


VAES: dict[str, Callable[[], AutoencoderKLWan]] = {"wan": tiny_vae, "built-in": nano_with_convolutions}
SIZES = {"wan": (21, 30, 144), "built-in": (17, 30, 96)}
"""Latent rows and columns, and tiles that give several of both."""


@pytest.fixture(params=VAES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vae(name: str) -> AutoencoderKLWan:
    return VAES[name]().requires_grad_(False)


def in_pieces(run: Callable[..., Tensor], values: Tensor, *sizes: int) -> Tensor:
    """The result of several calls, of which the last one is said to be it."""
    pieces = values.split(list(sizes), dim=2)
    return torch.cat([run(one, is_last=number == len(pieces) - 1) for number, one in enumerate(pieces)], dim=2)


def test_decoded_tiles_are_the_whole_frame(name: str, vae: AutoencoderKLWan) -> None:
    rows, columns, tile = SIZES[name]
    latents = torch.randn(1, vae.config.z_dim, 4, rows, columns, generator=torch.Generator().manual_seed(0))
    set_tile(vae, 0)
    whole = StreamingDecoder(vae).unclipped(latents)
    set_tile(vae, tile)
    assert len(tiles_of(vae, rows, columns)) > 4
    assert torch.allclose(StreamingDecoder(vae).unclipped(latents), whole, atol=TOLERANCE)
    assert torch.allclose(in_pieces(StreamingDecoder(vae).unclipped, latents, 1, 2, 1), whole, atol=TOLERANCE)


def test_encoded_tiles_are_the_whole_frame(name: str, vae: AutoencoderKLWan) -> None:
    rows, columns, tile = SIZES[name]
    size = (rows * SPATIAL_STRIDE, columns * SPATIAL_STRIDE)
    video = torch.rand(1, 3, 9, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    set_tile(vae, 0)
    whole = StreamingEncoder(vae).moments(video)
    set_tile(vae, tile)
    assert torch.allclose(StreamingEncoder(vae).moments(video), whole, atol=TOLERANCE)
    assert torch.allclose(in_pieces(StreamingEncoder(vae).moments, video, 1, 4, 4), whole, atol=TOLERANCE)


def test_the_margin_is_no_wider_than_the_field(name: str, vae: AutoencoderKLWan) -> None:
    """Attention aside: without it a change of one latent reaches the pixels of exactly so many latents around it."""
    set_tile(vae, 0)
    margin, middle = tile_margin(vae), 24
    latents = torch.zeros(1, vae.config.z_dim, 1, 2 * middle + 1, 2 * middle + 1)
    changed = latents.clone()
    changed[..., middle, middle] = 50.0
    difference = _enlarged(vae.decoder, changed) - _enlarged(vae.decoder, latents)
    reached = difference.abs().amax(dim=(0, 1, 2)) > 0
    rows = reached.any(dim=1).nonzero().flatten() // (reached.shape[0] // latents.shape[3])
    assert middle - margin <= int(rows.min()) < middle - margin + 3
    assert middle + margin - 3 < int(rows.max()) <= middle + margin


def _enlarged(decoder: Any, latents: Tensor) -> Tensor:
    """Return the output of the layers at the size of pixels for features that differ where the latents do."""
    from humo.model import tiling

    width = decoder.up_blocks[0].resnets[-1].out_dim
    torch.manual_seed(3)
    features = torch.randn(1, width, 1, *latents.shape[3:]) + latents[:, :1]
    return tiling._decode_at_pixel_size(decoder, features, [None] * 64)


def test_tiles_need_less_memory(vae: AutoencoderKLWan, name: str) -> None:
    rows, columns, tile = SIZES[name]
    latents = torch.randn(1, vae.config.z_dim, 3, rows, columns)
    peaks = []
    for side in (0, tile):
        set_tile(vae, side)
        with track_allocations(vae.parameters(), (latents,)) as stats:
            StreamingDecoder(vae)(latents, is_last=True)
        peaks.append(stats.peak)
    assert peaks[1] < 0.6 * peaks[0]


@pytest.mark.parametrize("tile", [0, 144])
def test_what_is_last_leaves_nothing_behind(tile: int) -> None:
    vae = tiny_vae().requires_grad_(False)
    set_tile(vae, tile)
    latents = torch.randn(1, vae.config.z_dim, 2, 20, 20)
    live = {}
    for is_last in (True, False):
        with track_allocations(vae.parameters(), (latents,)) as stats:
            decoder = StreamingDecoder(vae)
            decoder(latents, is_last=is_last)
            live[is_last] = stats.live
    assert live[True] < 100_000 < live[False]


@pytest.mark.parametrize(("name", "least"), [("wan", 96), ("built-in", 80)])
def test_tiles_smaller_than_the_field_are_one_line(name: str, least: int) -> None:
    vae = VAES[name]()
    assert smallest_tile(vae) == least
    for tile in (0, least, 10 * least):
        check_tile(tile, vae)
    with pytest.raises(RequestError) as caught:
        set_tile(vae, least - 16)
    assert str(caught.value) == (
        f"tile: {least - 16} pixels leave nothing of a tile beside the autoencoder's field of {least - 16} pixels; "
        f"use at least {least}, or 0 for whole frames"
    )
    assert not vae.use_tiling
    vae.enable_tiling(tile_sample_min_height=64, tile_sample_min_width=64)
    with pytest.raises(RequestError, match="tile: 64 pixels leave nothing"):
        StreamingDecoder(vae)(torch.zeros(1, vae.config.z_dim, 1, 20, 20))


def test_the_smallest_tiles_of_the_published_autoencoder() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert (tile_margin(vae), smallest_tile(vae)) == (7, 128)


def test_the_switch_of_diffusers_switches_exact_tiles_on() -> None:
    pipeline = tiny_pipeline("humo-17b")
    size = {"width": 192, "height": 160, "num_frames": 9, "output_type": "pt", "num_inference_steps": 1}
    whole = call(pipeline, **size)
    pipeline._blank = None
    pipeline.vae.enable_tiling(tile_sample_min_height=144, tile_sample_min_width=144)
    assert torch.allclose(call(pipeline, **size), whole, atol=TOLERANCE)


def test_a_long_video_in_tiles_is_the_one_of_whole_frames() -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    size = {"width": 160, "height": 160, "num_frames": 17, "window": 9, "overlap": 4, "num_inference_steps": 1}
    make = partial(call, pipeline, **size, output_type="pt")
    whole = make()
    set_tile(pipeline.vae, 144)
    assert torch.allclose(make(), whole, atol=1e-4)  # rounding goes through the anchor frames of two windows


def test_frames_of_latents_are_the_same_in_tiles() -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    latents = torch.randn(1, 16, 3, 20, 22)
    whole = list(pipeline.decode_frames(latents))
    set_tile(pipeline.vae, 144)
    tiled = list(pipeline.decode_frames(latents))
    assert len(tiled) == len(whole) == 9
    assert max(int(abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(tiled, whole, strict=True)) <= 1


def test_the_built_in_autoencoder_is_a_shortcut_autoencoder() -> None:
    """So that both kinds are tested here."""
    assert isinstance(nano_with_convolutions(), ShortcutAutoencoder)
