"""Noise levels and timesteps of a denoising run, as plain numbers.

Sigmas are evenly spaced from `FIRST_SIGMA` to 0 without 0 itself, and then shifted. The network receives the integer
part of 1000 sigma. `UniPCMultistepScheduler` computes the same integers from `unshifted_sigmas`.

**Source:** published code, ``humo/models/utils/fm_solvers_unipc.py``, ``FlowUniPCMultistepScheduler.set_timesteps``.
"""

from __future__ import annotations

TRAIN_TIMESTEPS = 1000  # timesteps of the network are 0 to 1000
FIRST_SIGMA = 0.9990000128746033  # 1 - 1/1000 as the published code stores it (float32)


def unshifted_sigmas(steps: int) -> list[float]:
    """Return ``steps`` noise levels, evenly spaced from `FIRST_SIGMA` toward 0, without 0."""
    return [FIRST_SIGMA * (1 - k / steps) for k in range(steps)]


def shifted(sigma: float, shift: float) -> float:
    """Shift a noise level toward 1: shift * s / (1 + (shift - 1) * s)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def timesteps(steps: int, shift: float) -> list[int]:
    """Return the integer timesteps (0 to 1000, falling) that the network receives."""
    return [int(shifted(sigma, shift) * TRAIN_TIMESTEPS) for sigma in unshifted_sigmas(steps)]
