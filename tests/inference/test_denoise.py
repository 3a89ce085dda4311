"""The denoising loop alone, with networks whose results can be computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from humo.guidance import SPEEDS, GuidanceReuse, Rung, SpeedName, constant
from humo.inference.denoise import denoise
from humo.inference.samplers import make_scheduler
from humo.schedule import published_schedule

STEPS = 8
LADDER = (Rung(""), Rung("T", 2.0), Rung("TA", 3.0))


def denoised(reuse: GuidanceReuse = SPEEDS["exact"], slope: float = 0.0) -> tuple[Tensor, int]:
    """Return latents and the number of passes of a network whose passes differ by ``slope`` times the noise level."""
    passes: list[int] = []

    def predictor(latents: Tensor, timestep: Tensor, rungs: tuple[Rung, ...]) -> list[Tensor]:
        passes.extend([1] * len(rungs))
        offsets = [float(rung.text) + float(rung.audio) * (1 + slope * timestep / 1000) for rung in rungs]
        return [0.1 * latents + offset for offset in offsets]

    scheduler = make_scheduler(None, published_schedule(STEPS, 3.0), "cpu")
    noise = torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return denoise(predictor, constant(*LADDER), scheduler, noise, reuse=reuse).latents, len(passes)


def test_skipping_passes_with_a_constant_difference_changes_nothing() -> None:
    exact, all_passes = denoised(SPEEDS["exact"], slope=0.0)
    skipped, fewer = denoised(GuidanceReuse(steps=3), slope=0.0)
    assert (all_passes, fewer) == (3 * STEPS, 2 * 3 + 6)
    assert torch.allclose(skipped, exact, atol=1e-5)
    changed, _ = denoised(GuidanceReuse(steps=3), slope=1.0)
    assert not torch.allclose(changed, denoised(SPEEDS["exact"], slope=1.0)[0], atol=1e-2)


@pytest.mark.parametrize("name", SPEEDS)
def test_each_speed_skips_more_passes_than_the_one_before(name: SpeedName) -> None:
    order = list(SPEEDS)
    passes = denoised(SPEEDS[name], slope=1.0)[1]
    assert passes <= 3 * STEPS
    if name != order[0]:
        assert passes < denoised(SPEEDS[order[order.index(name) - 1]], slope=1.0)[1]
