"""The sampler equals the published one: integer timesteps, noise levels and final latents."""

from typing import Any

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from humo.inference.samplers import make_scheduler
from humo.schedule import published_schedule, unshifted_sigmas
from tests.parity.published import Golden, within


def scheduler_for(steps: int, shift: float) -> Any:
    return make_scheduler(None, published_schedule(steps, shift), "cpu")


def test_timesteps_noise_levels_and_ends_equal_the_published_ones(published: Golden) -> None:
    vectors = published.tensors("scheduler")
    runs = [name.removeprefix("final_") for name in vectors if name.startswith("final_")]
    assert runs
    for run in runs:
        steps, shift = int(run.split("_")[0]), float(run.split("_")[1])
        scheduler = scheduler_for(steps, shift)
        assert (
            scheduler.timesteps.tolist()
            == vectors[f"timesteps_{run}"].long().tolist()
            == list(published_schedule(steps, shift).timesteps)
        )
        assert within(1e-6, "sampler: noise levels", scheduler.sigmas, vectors[f"sigmas_{run}"])
        shape = vectors[f"final_{run}"].shape
        latents, target = published.noise("sched", *shape), published.noise("target", *shape)
        for timestep in scheduler.timesteps:
            pull = 0.5 + 0.5 * torch.cos(timestep / 300)
            velocity = (latents - target) * pull + 0.1 * torch.sin(3 * latents)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        assert within(1e-6, "sampler: end", latents, vectors[f"final_{run}"])


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 300), shift=st.floats(0.5, 20))
def test_noise_levels_are_those_that_diffusers_makes_of_the_unshifted_ones(steps: int, shift: float) -> None:
    taken = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)
    taken.set_timesteps(sigmas=np.array(unshifted_sigmas(steps)))
    scheduler = scheduler_for(steps, shift)
    assert scheduler.timesteps.tolist() == taken.timesteps.tolist()
    assert torch.equal(scheduler.sigmas, taken.sigmas)
