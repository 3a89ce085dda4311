"""Flicker, drift, cuts, motion and agreement of lips on frames whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from humo.analysis.lip_sync import correlation_by_lag, lip_agreement
from humo.analysis.mesh_track import MeshTrack
from humo.analysis.stability import (
    color_curve,
    find_cuts,
    flicker_curve,
    motion_curve,
    temporal_flicker,
    window_frames,
)
from tests.analysis.formula import image


def moving(count: int, step: int) -> NDArray[np.uint8]:
    """An image that moves to the right by some pixels a frame."""
    wide = image("background", 64, 96 + step * count)
    return np.stack([wide[:, step * n : step * n + 96] for n in range(count)])


def test_flicker_is_the_mean_change() -> None:
    frames = np.full((5, 16, 16, 3), 100, np.uint8)
    frames[1::2] += 6
    track = MeshTrack(frames, [None] * 5)
    assert temporal_flicker(track) == pytest.approx(6)
    assert flicker_curve(track).tolist() == [0, 6, 6, 6, 6]
    assert temporal_flicker(MeshTrack(frames[:1], [None])) == 0


def test_colors_drift_away_from_the_first_window() -> None:
    frames = np.full((60, 8, 8, 3), 120, np.uint8)
    frames[40:] = (180, 90, 60)
    curve = color_curve(frames)
    assert curve[:40].max() < 1e-3
    assert curve[-1] > 20
    assert window_frames(60) == 20
    assert window_frames(500) == 25
    assert window_frames(1) == 1


def test_hard_cuts_are_found_and_motion_is_none() -> None:
    slope = np.linspace(0, 200, 136)[None, :, None].repeat(64, axis=0).repeat(3, axis=2).astype(np.uint8)
    first = np.stack([slope[:, number : number + 96] for number in range(20)])
    assert find_cuts(np.concatenate([first, 255 - first])) == [20]
    assert find_cuts(first) == []


def test_motion_grows_with_speed() -> None:
    still, slow, fast = (motion_curve(moving(6, step))[1:].mean() for step in (0, 1, 3))
    assert still < 1e-3
    assert slow == pytest.approx(25 / 64, rel=0.4)
    assert fast > 2 * slow


@pytest.mark.parametrize("late", [-3, 0, 5])
def test_the_offset_of_lips_is_found(late: int) -> None:
    jaw = np.cumsum(np.random.default_rng(0).normal(size=120))
    jaw = np.convolve(jaw, np.ones(3) / 3, mode="same")
    agreement = lip_agreement(np.roll(jaw, late)[10:-10], jaw[10:-10], 8)
    assert agreement.offset == late
    assert agreement.peak > 0.95
    assert agreement.margin > 0
    assert len(correlation_by_lag(jaw, jaw, 8)) == 17


def test_constant_mouths_have_no_offset() -> None:
    assert lip_agreement(np.ones(50), np.sin(np.arange(50)), 4).offset == 0
