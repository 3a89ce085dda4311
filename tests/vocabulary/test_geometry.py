"""Counts follow from the published compression factors, for all sizes and lengths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humo.geometry import (
    Geometry,
    audio_rows,
    audio_rows_needed,
    audio_window,
    encoder_rows,
    frames_of_samples,
    frames_of_seconds,
    snap_frames,
)

sides = st.integers(1, 128).map(lambda cells: 16 * cells)
lengths = st.integers(0, 25_000).map(lambda k: 4 * k + 1)


@given(frames=st.integers(1, 200_000))
def test_frames_snap_down_to_the_nearest_4k_plus_1(frames: int) -> None:
    snapped = snap_frames(frames)
    assert snapped % 4 == 1
    assert frames - 4 < snapped <= frames
    assert snap_frames(snapped) == snapped


@pytest.mark.parametrize("frames", [-3, 0, 1, 2, 4])
def test_fewer_than_five_frames_snap_to_one(frames: int) -> None:
    assert snap_frames(frames) == 1


@given(width=sides, height=sides, frames=lengths, references=st.integers(0, 9))
def test_frames_latent_frames_and_tokens_agree(width: int, height: int, frames: int, references: int) -> None:
    geometry = Geometry(width, height, frames, references)
    channels, latents, rows, columns = geometry.latent_shape(16)
    assert channels == 16
    assert (rows * 8, columns * 8) == (height, width)
    assert latents == geometry.video_latent_frames + max(1, references)
    assert 4 * geometry.video_latent_frames - 3 == frames
    assert geometry.tokens_per_frame == (height // 16) * (width // 16)
    assert geometry.tokens == latents * geometry.tokens_per_frame
    assert geometry.seconds == pytest.approx(frames / 25)


def test_the_published_clip_has_the_published_counts() -> None:
    geometry = Geometry(832, 480, 97, references=2)
    assert geometry.latent_shape(16) == (16, 27, 60, 104)
    assert geometry.video_latent_frames == 25
    assert geometry.tokens_per_frame == 1560
    assert geometry.tokens == 27 * 1560


def test_no_reference_still_takes_one_slot() -> None:
    assert Geometry(64, 64, 5, 0).latent_shape(16) == Geometry(64, 64, 5, 1).latent_shape(16) == (16, 3, 8, 8)


@given(side=st.integers(-64, 4096).filter(lambda side: side < 16 or side % 16))
def test_an_unsupported_size_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match="pixels"):
        Geometry(side, 64, 5)
    with pytest.raises(ValueError, match="pixels"):
        Geometry(64, side, 5)


@given(frames=st.integers(-9, 1000).filter(lambda frames: frames < 1 or frames % 4 != 1))
def test_an_unsupported_length_is_refused(frames: int) -> None:
    with pytest.raises(ValueError, match="frames"):
        Geometry(64, 64, frames)


def test_a_negative_number_of_references_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 references"):
        Geometry(64, 64, 5, -1)


@given(frames=st.integers(0, 90_000))
def test_seconds_written_as_decimals_give_the_frames_they_came_from(frames: int) -> None:
    assert frames_of_seconds(frames / 25) == frames
    assert frames_of_seconds(float(f"{frames / 25:.2f}")) == frames
    assert frames_of_seconds(frames / 25 + 0.039) == frames


@given(frames=st.integers(0, 90_000), rest=st.integers(0, 639))
def test_audio_of_a_partial_frame_is_not_counted(frames: int, rest: int) -> None:
    assert frames_of_samples(640 * frames + rest) == frames


@given(samples=st.integers(0, 60_000_000))
def test_the_encoder_has_two_rows_per_frame_and_resampling_keeps_one(samples: int) -> None:
    fast = encoder_rows(samples)
    assert fast == 2 * (samples // 640)
    assert audio_rows(fast) == int(fast / 50.0 * 25)
    assert frames_of_samples(samples) - 1 <= audio_rows(fast) <= frames_of_samples(samples)


@pytest.mark.parametrize(("fast", "slow"), [(0, 0), (2, 1), (56, 28), (58, 28), (60, 30), (114, 56), (3150, 1575)])
def test_rows_are_halved_in_floating_point_as_published(fast: int, slow: int) -> None:
    assert audio_rows(fast) == slow


@given(latent=st.integers(1, 20_000))
def test_a_latent_frame_gets_the_published_audio_rows(latent: int) -> None:
    assert audio_window(latent) == range(1 + 4 * (latent - 1) - 2, 1 + 4 * latent + 2)
    own = range(4 * latent - 3, 4 * latent + 1)
    assert set(own) < set(audio_window(latent))
    assert audio_window(latent).start - audio_window(latent - 1).start == 4


def test_the_first_latent_frame_gets_three_silent_rows_and_then_minus_2_to_2() -> None:
    window = audio_window(0)
    assert len(window) == 8
    assert list(window)[3:] == [-2, -1, 0, 1, 2]


@given(frames=lengths)
def test_a_clip_uses_audio_rows_up_to_the_end_of_its_last_window(frames: int) -> None:
    latents = Geometry(16, 16, frames).video_latent_frames
    assert audio_rows_needed(frames) == max(audio_window(latent).stop for latent in (0, latents - 1))
    assert audio_rows_needed(frames) == frames + 2
