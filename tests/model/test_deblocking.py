"""Temporal deblocking of decoded latent frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from humo.model.deblocking import deblock_latent_frames

SMALL, LARGE = 0.1, 0.2


def still(*values: float) -> Tensor:
    """Return a video of one frame of the first value, then four frames of each other value."""
    frames = [values[0], *(value for value in values[1:] for _ in range(4))]
    return torch.tensor(frames)[None, None, :, None, None].expand(1, 3, -1, 16, 16).clone()


def test_a_small_step_becomes_a_slope_over_four_frames() -> None:
    joined = deblock_latent_frames(still(0.0, 0.08, 0.0), None, SMALL, LARGE)
    assert joined[0, 0, :, 3, 3].tolist() == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.06, 0.04, 0.02, 0.0])


def test_a_large_step_is_kept() -> None:
    video = still(0.0, 0.2, -0.5)
    assert deblock_latent_frames(video, None, SMALL, LARGE).equal(video)


def test_half_of_a_step_between_small_and_large_is_smoothed() -> None:
    joined = deblock_latent_frames(still(0.0, 0.15), None, SMALL, LARGE)
    assert joined[0, 0, 1, 3, 3].item() == pytest.approx(0.15 - 0.75 * 0.5 * 0.15)


def test_a_moving_region_is_kept_while_a_still_one_is_smoothed() -> None:
    video = still(0.0, 0.04)
    video[:, :, 1:, 10:, 10:] = 0.6
    joined = deblock_latent_frames(video, None, SMALL, LARGE)
    assert joined[..., 10:, 10:].equal(video[..., 10:, 10:])
    assert joined[0, 0, 1, 2, 2].item() == pytest.approx(0.01)


def test_motion_within_a_latent_frame_is_kept() -> None:
    video = still(0.0, 0.0)
    video[:, :, 3] = 0.5
    assert deblock_latent_frames(video, None, SMALL, LARGE).equal(video)


def test_a_single_first_frame_is_unchanged() -> None:
    video = still(0.3)
    assert deblock_latent_frames(video, None, SMALL, LARGE).equal(video)


def test_a_latent_frame_is_smoothed_against_the_frame_before_it() -> None:
    video = still(0.0, 0.08)
    continued = deblock_latent_frames(video[:, :, 1:], video[:, :, 0], SMALL, LARGE)
    assert continued.equal(deblock_latent_frames(video, None, SMALL, LARGE)[:, :, 1:])
