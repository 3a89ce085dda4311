"""Noise levels and timesteps of a denoising run, in plain numbers.

**Source:** method.md, 6: sigmas evenly spaced from `FIRST_SIGMA` to 0 without the last, shifted; the network is given
the integer part of 1000 sigma. `UniPCMultistepScheduler`, given `unshifted_sigmas`, arrives at the same integers.
"""

from __future__ import annotations

TRAIN_TIMESTEPS = 1000  # the network's time runs 0..1000
FIRST_SIGMA = 0.9990000128746033  # 1 - 1/1000 as the published code stores it (float32)


def unshifted_sigmas(steps: int) -> list[float]:
    """``steps`` noise levels from `FIRST_SIGMA` towards 0, evenly spaced, 0 itself left out."""
    return [FIRST_SIGMA * (1 - k / steps) for k in range(steps)]


def shifted(sigma: float, shift: float) -> float:
    """A noise level moved towards 1: shift * s / (1 + (shift - 1) * s)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def timesteps(steps: int, shift: float) -> list[int]:
    """The integer timesteps (0..1000, falling) that the network is given."""
    return [int(shifted(sigma, shift) * TRAIN_TIMESTEPS) for sigma in unshifted_sigmas(steps)]
