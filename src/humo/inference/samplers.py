"""Samplers: schedulers of diffusers that solve the denoising equation, each a value of a table.

Latents move along dx/dσ = v, from noise (σ = 1) to data (σ = 0). Every sampler takes the network's velocity v and the
noise levels of `humo.schedule`.

**Source:** ``unipc``: published code, ``humo/models/utils/fm_solvers_unipc.py``. ``comfy-unipc``: ComfyUI
(github.com/comfyanonymous/ComfyUI, 0.8.0), ``comfy/extra_samplers/uni_pc.py``, ``sample_unipc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchLCMScheduler, UniPCMultistepScheduler
from torch import Tensor

from humo.checkpoints.layout import scheduler_config
from humo.schedule import NoiseSchedule, SamplerName

LARGEST_SIGMA = 1 - 1e-6
"""Noise level in place of 1, whose logarithm of signal to noise is not finite; diffusers has the same."""

COMFY_LAST_SIGMA = 2.0**-10
"""Noise level in place of 0 at the end of ``comfy-unipc``. ComfyUI has 0.001, of which its float32 makes this."""

COMFY_LAST_SCALE = 1 - 0.001
"""ComfyUI divides the result by this, as if noise of level 0.001 were in it."""


class ComfyUniPCScheduler(UniPCMultistepScheduler):
    """ComfyUI's ``uni_pc``: UniPC on latents as data plus σ noise, whose logarithm of signal to noise is -log σ.

    diffusers' UniPC steps evenly in log((1 - σ) / σ) instead. Both solve the same equation, and differ by the error of
    a step.
    """

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Return the latents of the next level, as a tuple. Args as in diffusers."""
        if self.step_index is None:
            self._init_step_index(timestep)
        index = self.step_index
        denoised = sample - self.sigmas[index] * model_output
        scale, next_scale = (self._sigma_to_alpha_sigma_t(self.sigmas[number])[0] for number in (index, index + 1))
        scaled = super().step(denoised, timestep, sample * scale, return_dict=False)[0]
        following = scaled / next_scale
        is_last = index == len(self.timesteps) - 1
        return (following / COMFY_LAST_SCALE if is_last else following,)

    def _sigma_to_alpha_sigma_t(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = 1 / (sigma**2 + 1) ** 0.5
        return alpha, sigma * alpha


class LCMScheduler(FlowMatchLCMScheduler):
    """diffusers' LCM sampler: each step predicts clean latents, and adds new noise of the next level to them.

    New noise corrects what earlier steps got wrong, where a solver of the equation carries it along: small and
    step-distilled networks gain. The noise of a clip is drawn from its initial noise, so a clip is the same alone, in a
    batch, and on several GPUs.
    """

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Return the latents of the next level, as a tuple. Args as in diffusers."""
        if self.step_index is None:
            self.generators = [torch.Generator().manual_seed(_seed_of(noise)) for noise in sample]
        return super().step(model_output, float(timestep), sample, self.generators, return_dict=False)


def _seed_of(noise: Tensor) -> int:
    """Return a seed made of the bits of the first two values of noise."""
    return int.from_bytes(noise.flatten()[:2].float().cpu().numpy().tobytes(), "little") >> 1


def _unipc(config: Mapping[str, Any], steps: int) -> Any:
    return UniPCMultistepScheduler.from_config(config, flow_shift=1.0)


def _euler(config: Mapping[str, Any], steps: int) -> Any:
    """Return UniPC of order 1 without corrector, whose steps are those of Euler."""
    settings = {"solver_order": 1, "disable_corrector": list(range(steps))}
    return UniPCMultistepScheduler.from_config(config, flow_shift=1.0, **settings)


def _dpm(config: Mapping[str, Any], steps: int) -> Any:
    return DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True
    )


def _comfy_unipc(config: Mapping[str, Any], steps: int) -> Any:
    return ComfyUniPCScheduler(
        solver_order=max(1, min(3, steps - 1)), solver_type="bh1", prediction_type="sample", use_flow_sigmas=True
    )


def _lcm(config: Mapping[str, Any], steps: int) -> Any:
    return LCMScheduler()


SAMPLERS: Mapping[SamplerName, Callable[[Mapping[str, Any], int], Any]] = {
    "unipc": _unipc,
    "euler": _euler,
    "dpm++": _dpm,
    "comfy-unipc": _comfy_unipc,
    "lcm": _lcm,
}
"""Sampler -> function of the model's scheduler settings and the number of steps."""


def make_scheduler(
    config: Mapping[str, Any] | None,
    schedule: NoiseSchedule,
    device: torch.device | str,
    sampler: SamplerName = "unipc",
) -> Any:
    """Return a scheduler that is ready for its first step.

    Args:
        config: settings of the model's scheduler; None for the published ones.
        schedule: noise levels and timesteps.
        device: of the latents.
        sampler: key of `SAMPLERS`.
    """
    steps = len(schedule.sigmas)
    scheduler = SAMPLERS[sampler](config or scheduler_config(), steps)
    scheduler.num_inference_steps = steps  # the rest of `set_timesteps` computes levels that are not used
    is_comfy = isinstance(scheduler, ComfyUniPCScheduler)
    largest, last = (1.0, COMFY_LAST_SIGMA) if is_comfy else (LARGEST_SIGMA, 0.0)
    scheduler.sigmas = torch.tensor([*(min(sigma, largest) for sigma in schedule.sigmas), last])
    integers = all(isinstance(timestep, int) for timestep in schedule.timesteps)
    dtype = torch.int64 if integers else torch.float32
    scheduler.timesteps = torch.tensor(schedule.timesteps, dtype=dtype, device=device)
    scheduler.set_begin_index(0)
    return scheduler
