"""Flow matching objective: noise levels, noisy latents, timesteps and the velocity loss.

    x_s = (1 - s) * data + s * noise,   s = t / 1000,   target = noise - data

`humo.inference.denoise` integrates the same velocity from noise to data.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence, F latent frames of the video, H, W
latent size.

**Source:** paper (arXiv 2509.08519), flow matching in "Preliminaries"; published code, generate.yaml,
``diffusion.timesteps.training``: logit-normal noise levels. The loss leaves the reference frames out, as Phantom (arXiv
2502.11079) does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo.schedule import TRAIN_TIMESTEPS
from humo.training.config import LossConfig


def draw_noise_level(loss: LossConfig, generator: torch.Generator) -> float:
    """Draw a noise level s in 0..1: logit-normal or, with ``loss.uniform``, uniform; then shifted as in sampling."""
    chance, level = map(float, torch.rand(2, generator=generator))
    normal = float(torch.randn((), generator=generator))
    if chance >= loss.uniform_prob:
        level = float(torch.sigmoid(torch.tensor(loss.logit_mean + loss.logit_std * normal)))
    return loss.shift * level / (1 + (loss.shift - 1) * level)


def add_noise(data_BCFHW: Tensor, noise_BCLHW: Tensor, level_BF: Tensor) -> Tensor:
    """Return the noisy sequence (B, C, L, H, W).

    The reference slots are filled with noise. Their contents do not matter: the 1.7B family replaces them with
    reference latents, the 17B family reads references from other channels.

    Args:
        data_BCFHW: clean video latents.
        noise_BCLHW: noise of the whole sequence.
        level_BF: noise level of each video latent frame; or (B, 1), one level for all frames.
    """
    s = level_BF[:, None, :, None, None]
    frames = data_BCFHW.shape[2]
    video = (1 - s) * data_BCFHW + s * noise_BCLHW[:, :, :frames]
    return torch.cat([video, noise_BCLHW[:, :, frames:]], dim=2)


def timestep_of_level(level_B: Tensor) -> Tensor:
    """Return the timestep t in 0..1000 of a noise level."""
    return level_B * TRAIN_TIMESTEPS


def velocity_loss(
    velocity_BCLHW: Tensor, data_BCFHW: Tensor, noise_BCLHW: Tensor, weight_BFHW: Tensor | None = None
) -> Tensor:
    """Return the mean squared error (B,) of the velocity on the video's latent frames.

    Args:
        velocity_BCLHW: predicted velocity of the whole sequence.
        data_BCFHW: clean video latents.
        noise_BCLHW: noise that was added.
        weight_BFHW: weight of each position; the error of a sample is then the weighted mean.
    """
    frames = data_BCFHW.shape[2]
    error = (velocity_BCLHW[:, :, :frames].float() - (noise_BCLHW[:, :, :frames] - data_BCFHW)).square().mean(dim=1)
    if weight_BFHW is None:
        return error.flatten(1).mean(dim=1)
    return (error * weight_BFHW).flatten(1).sum(dim=1) / weight_BFHW.flatten(1).sum(dim=1)
