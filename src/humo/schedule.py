"""Noise levels and timesteps of a denoising run, as plain numbers: spacings and the samplers that take them.

Published spacing: sigmas are evenly spaced from `FIRST_SIGMA` to 0 without 0 itself, and then shifted. The network
receives the integer part of 1000 sigma.

Spacing ``simple``: every n-th of 1000 shifted levels, from 1 down. The network receives 1000 sigma itself.

**Source:** published code, ``humo/models/utils/fm_solvers_unipc.py``, ``FlowUniPCMultistepScheduler.set_timesteps``.
ComfyUI (github.com/comfyanonymous/ComfyUI, 0.8.0), ``comfy/samplers.py``, ``simple_scheduler`` and
``KSampler.calculate_sigmas``; ``comfy/model_sampling.py``, ``ModelSamplingDiscreteFlow``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TRAIN_TIMESTEPS = 1000  # timesteps of the network are 0 to 1000
FIRST_SIGMA = 0.9990000128746033  # 1 - 1/1000 as the published code stores it (float32)

SamplerName = Literal["unipc", "euler", "dpm++", "comfy-unipc", "lcm"]
"""``unipc``: as published; ``comfy-unipc``: ComfyUI's ``uni_pc``; ``lcm``: new noise in each step."""

SpacingName = Literal["published", "simple"]

DROPS_LAST_LEVEL: frozenset[SamplerName] = frozenset({"comfy-unipc"})
"""Samplers for which ComfyUI computes the levels of one step more, and leaves out the last level above 0."""


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """Noise levels of a denoising run.

    Args:
        sigmas: level of each step, falling, in (0, 1]; 0 follows.
        timesteps: what the network receives in each step: 1000 sigma, or its integer part.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]


def unshifted_sigmas(steps: int) -> list[float]:
    """Return ``steps`` noise levels, evenly spaced from `FIRST_SIGMA` toward 0, without 0."""
    return [FIRST_SIGMA * (1 - k / steps) for k in range(steps)]


def shifted(sigma: float, shift: float) -> float:
    """Shift a noise level toward 1: shift * s / (1 + (shift - 1) * s)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def published_schedule(steps: int, shift: float, sampler: SamplerName = "unipc") -> NoiseSchedule:
    """Return the published spacing, which is the same for every sampler."""
    sigmas = tuple(shifted(sigma, shift) for sigma in unshifted_sigmas(steps))
    return NoiseSchedule(sigmas, tuple(int(sigma * TRAIN_TIMESTEPS) for sigma in sigmas))


def simple_schedule(steps: int, shift: float, sampler: SamplerName = "unipc") -> NoiseSchedule:
    """Return ComfyUI's spacing ``simple`` for a sampler."""
    pieces = steps + 1 if sampler in DROPS_LAST_LEVEL else steps
    spacing = TRAIN_TIMESTEPS / pieces
    levels = [(TRAIN_TIMESTEPS - int(step * spacing)) / TRAIN_TIMESTEPS for step in range(steps)]
    return explicit_schedule([shifted(level, shift) for level in levels])


def explicit_schedule(sigmas: Sequence[float]) -> NoiseSchedule:
    """Return the schedule of given noise levels."""
    return NoiseSchedule(tuple(sigmas), tuple(sigma * TRAIN_TIMESTEPS for sigma in sigmas))


SPACINGS: Mapping[SpacingName, Callable[[int, float, SamplerName], NoiseSchedule]] = {
    "published": published_schedule,
    "simple": simple_schedule,
}
"""Spacing -> function of steps, shift and sampler."""
