"""The walk from noise to data itself, with networks that can be followed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from humo.conditioning.conditions import Conditions
from humo.guidance import SPEEDS, GuidanceReuse, Rung, SpeedName, constant
from humo.inference.denoise import denoise
from humo.schedule import unshifted_sigmas

STEPS = 8
LADDER = (Rung(""), Rung("T", 2.0), Rung("TA", 3.0))


def walk(speed: GuidanceReuse = SPEEDS["exact"], slope: float = 0.0, **options: Any) -> tuple[Tensor, int]:
    """Latents, and the passes it took, of a network whose passes differ by ``slope`` times the noise level."""
    passes: list[int] = []

    def velocity(latents: Tensor, timestep: Tensor, seen: Conditions) -> Tensor:
        passes.append(1)
        apart = seen.text.mean() + seen.audio.mean() * (1 + slope * timestep[0] / 1000)
        return 0.1 * latents + apart

    scheduler: Any = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(sigmas=np.array(unshifted_sigmas(STEPS)))
    scheduler.set_begin_index(0)
    one, image = torch.ones(1, 4, 2), torch.zeros(1, 2, 1, 2, 2)
    conditions = Conditions(one, 0 * one, image, image, torch.ones(1, 3, 8, 2, 2))
    noise = torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return denoise(velocity, conditions, constant(*LADDER), scheduler, noise, reuse=speed, **options), len(passes)


def test_passes_that_differ_alike_at_every_step_are_spared_without_a_trace() -> None:
    exact, all_passes = walk(SPEEDS["exact"], slope=0.0)
    spared, fewer = walk(GuidanceReuse(steps=3), slope=0.0)
    assert (all_passes, fewer) == (3 * STEPS, 2 * 3 + 6)
    assert torch.allclose(spared, exact, atol=1e-5)
    changed, _ = walk(GuidanceReuse(steps=3), slope=1.0)
    assert not torch.allclose(changed, walk(SPEEDS["exact"], slope=1.0)[0], atol=1e-2)


@pytest.mark.parametrize("name", SPEEDS)
def test_each_speed_spares_more_than_the_one_before(name: SpeedName) -> None:
    order = list(SPEEDS)
    passes = walk(SPEEDS[name], slope=1.0)[1]
    assert passes <= 3 * STEPS
    if name != order[0]:
        assert passes < walk(SPEEDS[order[order.index(name) - 1]], slope=1.0)[1]


def test_what_conditions_are_to_the_network_is_asked_once_a_rung() -> None:
    for batched, times in ((False, len(LADDER)), (True, 1)):
        asked: list[Conditions] = []

        def see(conditions: Conditions, _: tuple[str, ...], asked: list[Conditions] = asked) -> Conditions:
            asked.append(conditions)
            return conditions

        walk(see=see, batch_passes=batched)
        assert len(asked) == times
