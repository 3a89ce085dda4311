"""Every sampler ends at the data, and the sampler that adds noise adds as much as each level has."""

from __future__ import annotations

import pytest
import torch

from humo.inference.samplers import SAMPLERS, make_scheduler
from humo.schedule import SamplerName, published_schedule


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 6, 30])
def test_a_network_that_knows_the_data_ends_there(sampler: SamplerName, steps: int) -> None:
    scheduler = make_scheduler(None, published_schedule(steps, 5.0), "cpu", sampler)
    data, latents = torch.randn(2, 2, 4, 3, 6, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    for number, timestep in enumerate(scheduler.timesteps):
        velocity = (latents - data) / scheduler.sigmas[number]
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    assert (latents - data).abs().max() < 5e-3


def test_lcm_adds_new_noise_of_each_level() -> None:
    scheduler = make_scheduler(None, published_schedule(4, 3.0), "cpu", "lcm")
    latents = torch.randn(1, 16, 5, 12, 12, generator=torch.Generator().manual_seed(0))
    for number, timestep in enumerate(scheduler.timesteps[:-1]):
        level = scheduler.sigmas[number]
        following = scheduler.step(latents / level, timestep, latents, return_dict=False)[0]
        assert following.std().item() == pytest.approx(float(scheduler.sigmas[number + 1]), rel=0.02)
        assert abs((following * latents).mean() / following.std() / latents.std()) < 0.03
        latents = following
