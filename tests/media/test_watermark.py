"""The watermark: read back after what our files go through, found nowhere else, not to be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from humo.media.video import Frame, VideoFormat, read_video, write_video
from humo.media.watermark import (
    BITS,
    BLOCK_PIXELS,
    Detection,
    _decode_payload,
    detect_watermark,
    embed_watermark,
    encode_payload,
)

PAYLOAD = 0xBEEF


def scene(size: int, frames: int = 12) -> list[Frame]:
    """Return frames of soft colors that move, with edges and grain."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size] / size
    images = []
    for number in range(frames):
        shift = number / 40
        waves = np.stack([np.sin(5 * (x + shift)) + y, np.cos(4 * y - shift) * x, x * y], axis=-1)
        waves[size // 3 : size // 2, size // 4 : size // 2] += 0.4
        waves = 40 + 170 * (waves - waves.min()) / np.ptp(waves) + random.normal(0, 2, waves.shape)
        images.append(np.clip(waves, 0, 255).astype(np.uint8))
    return images


def encoded(frames: list[Frame], folder: Path, crf: int) -> list[Frame]:
    size = frames[0].shape[0]
    write_video(folder / "a.mp4", frames, VideoFormat(size, size, crf=crf), metadata={})
    return list(read_video(folder / "a.mp4").frames)


def test_it_survives_our_encoding_and_a_coarser_one(tmp_path: Path) -> None:
    for size in (96, 256):
        marked = list(embed_watermark(scene(size), PAYLOAD))
        for crf in (18, 23):
            assert detect_watermark(encoded(marked, tmp_path, crf)).payload == PAYLOAD


def test_it_survives_half_the_size(tmp_path: Path) -> None:
    marked = list(embed_watermark(scene(256), PAYLOAD))
    half = [np.asarray(Image.fromarray(frame).resize((128, 128))) for frame in marked]
    assert detect_watermark(half).payload == PAYLOAD
    assert detect_watermark(encoded(half, tmp_path, 23)).payload == PAYLOAD


@pytest.mark.parametrize(("size", "most", "least_db"), [(96, 7, 38), (256, 5, 42)])
def test_it_is_not_to_be_seen(size: int, most: int, least_db: float) -> None:
    plain = scene(size)
    blocks = size // BLOCK_PIXELS
    for before, after in zip(plain, embed_watermark(plain, PAYLOAD), strict=True):
        change = after.astype(float) - before
        assert np.abs(change).max() <= most
        assert 10 * np.log10(255**2 / (change**2).mean()) > least_db
        luma = change @ [0.2126, 0.7152, 0.0722]
        mean = luma.reshape(blocks, BLOCK_PIXELS, blocks, BLOCK_PIXELS).mean(axis=(1, 3))
        assert np.abs(mean).max() < 0.6, "brightness stays as it is"


def test_colors_near_the_end_of_their_range_carry_it_too() -> None:
    red = [np.full((96, 96, 3), (252, 3, 3), np.uint8)] * 2
    detection = detect_watermark(embed_watermark(red, PAYLOAD))
    assert detection.payload == PAYLOAD


def test_nothing_is_found_where_nothing_was_put() -> None:
    assert detect_watermark(scene(128)) == Detection(None, 0.0)
    random = np.random.default_rng(0)
    for _ in range(20):
        assert detect_watermark([random.integers(0, 256, (96, 96, 3), np.uint8)]).payload is None
    assert detect_watermark([np.zeros((96, 96, 3), np.uint8)]).payload is None
    assert detect_watermark([]).payload is None


@pytest.mark.parametrize("payload", [0, 1, 0x8000, 0xFFFF])
def test_every_payload_comes_back_and_weak_bits_are_put_right(payload: int) -> None:
    votes = 2 * encode_payload(payload) - 1
    assert _decode_payload(votes) == payload
    votes[[0, 5, 17, 40, 47]] *= -0.1  # wrong, and weak
    assert _decode_payload(votes) == payload
    strong = np.flatnonzero(np.abs(votes) == 1)[:3]
    votes[strong] *= -1  # wrong, and sure of it
    assert _decode_payload(votes) is None


def test_a_payload_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit into 16 bits"):
        list(embed_watermark(scene(32), 1 << 16))
    assert BITS == 48


def test_images_too_small_for_all_bits_stay_as_they_are() -> None:
    for side in (8, 64):
        small = [np.full((side, side, 3), 100, np.uint8)]
        assert np.array_equal(next(embed_watermark(small, PAYLOAD)), small[0])
        assert detect_watermark(small).payload is None
