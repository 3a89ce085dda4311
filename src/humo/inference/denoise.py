"""The denoising loop: from noise to clean latents, with classifier-free guidance.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), K latent
frames that are known, H, W size. Noise levels are 0 (data) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from humo.guidance import SPEEDS, Guidance, GuidanceReuse, Rung

Predictor = Callable[[Tensor, Tensor, tuple[Rung, ...]], list[Tensor]]
"""Network: (latents (B, C, L, H, W), timestep, rungs) -> velocity of each rung's pass."""


@dataclass(frozen=True)
class Stop:
    """Return value of a step callback that ends the denoising.

    Args:
        latents: (B, C, L, H, W), the result.
    """

    latents: Tensor


OnStep = Callable[[int, Tensor, Tensor, Tensor], Tensor | Stop]
"""Step callback: (step, timestep, latents, denoised) -> the latents to continue with, or `Stop`."""


@dataclass(frozen=True)
class PrefixLatents:
    """Known latent frames at the start of a window.

    Args:
        latents: clean latents (B, C, K, H, W).
        weight: (K,) weights of the known latents in the blend with the predicted ones: 1 replaces the prediction.
        clean_input: pass them to the network without noise, as it was trained to continue from them.
    """

    latents: Tensor
    weight: Tensor
    clean_input: bool = False

    def replace_prefix(self, noisy_BCLHW: Tensor) -> Tensor:
        """Return the network's input (B, C, L, H, W): noisy latents, with the known ones if ``clean_input``."""
        if not self.clean_input:
            return noisy_BCLHW
        return torch.cat([self.latents, noisy_BCLHW[:, :, self.latents.shape[2] :]], dim=2)

    def blend(self, velocity_BCLHW: Tensor, noisy_BCLHW: Tensor, level: Tensor) -> Tensor:
        """Return the velocity (B, C, L, H, W) whose clean latents are blended with the known ones.

        Args:
            velocity_BCLHW: predicted noise - data.
            noisy_BCLHW: noisy latents that the velocity was predicted from.
            level: noise level, above 0.
        """
        count = self.latents.shape[2]
        noisy, velocity = noisy_BCLHW[:, :, :count], velocity_BCLHW[:, :, :count]
        denoised = torch.lerp(
            noisy - level * velocity, self.latents, self.weight.view(1, 1, -1, 1, 1).expand_as(self.latents)
        )
        return torch.cat([(noisy - denoised) / level, velocity_BCLHW[:, :, count:]], dim=2)


class Denoised(NamedTuple):
    """The end of a denoising loop.

    Args:
        latents: (B, C, L, H, W), clean, or those of `Stop`.
        stopped: the step callback stopped the loop.
    """

    latents: Tensor
    stopped: bool


def denoise(
    predictor: Predictor,
    guidance: Guidance,
    scheduler: Any,
    latents_BCLHW: Tensor,
    *,
    reuse: GuidanceReuse = SPEEDS["exact"],
    prefix: PrefixLatents | None = None,
    on_step: OnStep | None = None,
) -> Denoised:
    """Denoise latents from noise to data, with classifier-free guidance.

    Args:
        predictor: the network: (latents, timestep, rungs) -> velocity (noise - data) of each rung's pass.
        guidance: the ladder of each timestep.
        scheduler: with its timesteps set.
        latents_BCLHW: initial noise.
        reuse: which steps reuse the guidance difference of an earlier step.
        prefix: known first latent frames, or None.
        on_step: is called after each step with (step, timestep, latents, denoised). ``denoised`` are the predicted
            clean latents. It returns the latents to continue with, or `Stop`.

    **Source:** ``humo/generate.py``, ``Generator.inference`` (the loop over ``timesteps``).
    """
    with torch.no_grad():
        difference = torch.zeros_like(latents_BCLHW)
        steps = guidance.plan_steps([float(timestep) for timestep in scheduler.timesteps], reuse)
        for number, (timestep, step) in enumerate(zip(scheduler.timesteps, steps, strict=True)):
            sigma = scheduler.sigmas[number]
            model_input = latents_BCLHW if prefix is None else prefix.replace_prefix(latents_BCLHW)
            passes = predictor(model_input, timestep, tuple(rung for rung, _ in step.rungs))
            velocity = torch.zeros_like(latents_BCLHW)
            for (_, weight), one_pass in zip(step.rungs, passes, strict=True):
                velocity += weight * one_pass
            if step.reuse_difference:
                velocity += difference
            else:
                difference = velocity - passes[-1]
            if prefix is not None:
                velocity = prefix.blend(velocity, latents_BCLHW, sigma)
            denoised_BCLHW: Tensor = latents_BCLHW - sigma * velocity
            latents_BCLHW = scheduler.step(velocity, timestep, latents_BCLHW, return_dict=False)[0]
            if on_step is not None:
                following = on_step(number, timestep, latents_BCLHW, denoised_BCLHW)
                if isinstance(following, Stop):
                    return Denoised(following.latents, stopped=True)
                latents_BCLHW = following
    return Denoised(latents_BCLHW, stopped=False)
