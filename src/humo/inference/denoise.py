"""The whole method: a guided walk from noise to clean latents.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), K latent
frames that are known, H, W size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from humo.checkpoints.layout import scheduler_config
from humo.conditioning.conditions import Conditions, stack
from humo.guidance import SPEEDS, Guidance, GuidanceReuse, Rung
from humo.model.context_parallel import Group
from humo.schedule import unshifted_sigmas

OnStep = Callable[[int, Tensor, Tensor, Tensor], Tensor | None]
Velocity = Callable[[Tensor, Tensor, Any], Tensor]
PrepareConditions = Callable[[Conditions, tuple[str, ...]], Any]


@dataclass(frozen=True)
class PrefixLatents:
    """Latent frames at the beginning that are known already.

    Args:
        data: clean latents (B, C, K, H, W).
        weight: (K,) how much of each is kept: 1 all of it, 0 nothing.
        shown: the network was trained to go on from clean latent frames, and sees them so.
    """

    latents: Tensor
    weight: Tensor
    clean_input: bool = False

    def replace_prefix(self, noisy_BCLHW: Tensor) -> Tensor:
        """What the network sees in place of these noisy latents."""
        if not self.clean_input:
            return noisy_BCLHW
        return torch.cat([self.latents, noisy_BCLHW[:, :, self.latents.shape[2] :]], dim=2)

    def blend(self, velocity_BCLHW: Tensor, noisy_BCLHW: Tensor, level: Tensor) -> Tensor:
        """The velocity whose clean latents are the known ones, as far as these are held.

        Args:
            velocity_BCLHW: predicted noise - data.
            noisy_BCLHW: what it was predicted from.
            level: noise level, above 0.
        """
        count = self.latents.shape[2]
        noisy, velocity = noisy_BCLHW[:, :, :count], velocity_BCLHW[:, :, :count]
        denoised = torch.lerp(
            noisy - level * velocity, self.latents, self.weight.view(1, 1, -1, 1, 1).expand_as(self.latents)
        )
        return torch.cat([(noisy - denoised) / level, velocity_BCLHW[:, :, count:]], dim=2)


class GuidanceParallel(Group):
    """A step's passes, divided among ranks."""

    def passes(self, count: int, make: Callable[[int], Tensor]) -> list[Tensor]:
        """All passes of a step, each made by one rank.

        The ranks keep in step: one with no pass left makes the last one again, as weights in shards need every rank.

        Args:
            count: passes.
            make: makes one of them.
        """
        if self.size == 1:
            return [make(number) for number in range(count)]
        results: list[Tensor] = []
        while len(results) < count:
            results += self.gather(make(min(len(results) + self.rank, count - 1)).contiguous())
        return results[:count]


SINGLE_PROCESS = GuidanceParallel()
"""One process makes them all."""


def make_scheduler(config: Any, steps: int, shift: float, device: torch.device | str, *, euler: bool = False) -> Any:
    """UniPC with its timesteps set.

    Args:
        config: settings of such a scheduler; None for the published ones.
        steps: of the run.
        shift: of the noise schedule.
        device: of the latents.
        straight: take straight steps (Euler's), as a student learns them, rather than lines through several.
    """
    settings: dict[str, Any] = {"solver_order": 1, "disable_corrector": list(range(steps))} if euler else {}
    scheduler = UniPCMultistepScheduler.from_config(config or scheduler_config(), flow_shift=shift, **settings)
    scheduler.set_timesteps(sigmas=np.array(unshifted_sigmas(steps)), device=device)
    scheduler.set_begin_index(0)
    return scheduler


@torch.no_grad()
def denoise(
    velocity: Velocity,
    conditions: Conditions,
    guidance: Guidance,
    scheduler: Any,
    latents_BCLHW: Tensor,
    *,
    prepare_conditions: PrepareConditions = lambda conditions, _: conditions,
    reuse: GuidanceReuse = SPEEDS["exact"],
    prefix: PrefixLatents | None = None,
    guidance_parallel: GuidanceParallel = SINGLE_PROCESS,
    batch_passes: bool = False,
    on_step: OnStep | None = None,
) -> Tensor:
    """From noise to latents: the whole method.

    Args:
        velocity: the network: (latents, timesteps (B,), seen) -> predicted noise - data, like the latents.
        conditions: all of them; each rung of the ladder keeps some.
        guidance: the ladders.
        scheduler: with its timesteps set.
        latents_BCLHW: initial noise.
        see: what the network takes for the conditions of a pass, and the letters that each of its batch keeps; once for
            each such pass, since neither changes with the timestep.
        speed: which steps are spared passes.
        held: the first latent frames, where they are known already.
        branches: who makes which passes.
        batch_passes: run a step's passes as one batch; faster where the device is not yet busy, more memory.
        on_step: called after each step with (step, timestep, latents, data), the last what the network takes for the
            finished latents by now; gives the latents to go on with, or None to stop there.

    **Source:** method.md, 5 and 6.
    """

    @cache
    def view(*branches: str) -> Any:
        rungs = map(Rung, branches)
        kept = [conditions.keep(text=rung.text, image=rung.image, audio=rung.audio) for rung in rungs]
        return prepare_conditions(stack(kept), branches)

    def one_of(inputs: Tensor, times: Tensor, rungs: Sequence[tuple[Rung, float]]) -> Callable[[int], Tensor]:
        return lambda number: velocity(inputs, times, view(rungs[number][0].keep))

    difference = torch.zeros_like(latents_BCLHW)
    turns = guidance.plan_steps([float(timestep) for timestep in scheduler.timesteps], reuse)
    for step, (timestep, turn) in enumerate(zip(scheduler.timesteps, turns, strict=True)):
        rungs = turn.rungs
        shown = latents_BCLHW if prefix is None else prefix.replace_prefix(latents_BCLHW)
        if batch_passes:
            inputs = shown.repeat(len(rungs), 1, 1, 1, 1)
            seen = view(*(rung.keep for rung, _ in rungs))
            passes = list(velocity(inputs, timestep.expand(len(inputs)), seen).chunk(len(rungs)))
        else:
            times = timestep.expand(len(latents_BCLHW))
            passes = guidance_parallel.passes(len(rungs), one_of(shown, times, rungs))
        total = torch.zeros_like(latents_BCLHW)
        for (_, weight), one in zip(rungs, passes, strict=True):
            total += weight * one
        if turn.reuse_difference:
            total += difference
        else:
            difference = total - passes[-1]
        if prefix is not None:
            total = prefix.blend(total, latents_BCLHW, scheduler.sigmas[step])
        data_BCLHW: Tensor = latents_BCLHW - scheduler.sigmas[step] * total
        latents_BCLHW = scheduler.step(total, timestep, latents_BCLHW, return_dict=False)[0]
        if on_step is not None:
            changed = on_step(step, timestep, latents_BCLHW, data_BCLHW)
            if changed is None:
                break
            latents_BCLHW = changed
    return latents_BCLHW
