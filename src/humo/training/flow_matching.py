"""Flow matching: what is drawn, what the network sees, what it should say, and how wrong it was.

    x_s = (1 - s) * data + s * noise,   s = t / 1000,   target = noise - data

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence, F those of the video, R reference
slots, H, W latent size. Neighbour of `humo.inference.pipeline.denoise`, which walks the other way.

**Source:** training.md, Objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo.schedule import TRAIN_TIMESTEPS
from humo.training.config import Loss


def draw_level(loss: Loss, generator: torch.Generator) -> float:
    """A noise level s, 0..1: logit-normal (or even, in a share of draws), then shifted as the sampler's are."""
    even, level = map(float, torch.rand(2, generator=generator))
    normal = float(torch.randn((), generator=generator))
    if even >= loss.uniform:
        level = float(torch.sigmoid(torch.tensor(loss.time_mean + loss.time_deviation * normal)))
    return loss.shift * level / (1 + (loss.shift - 1) * level)


def add_noise(data_BCFHW: Tensor, noise_BCLHW: Tensor, level_BF: Tensor) -> Tensor:
    """The noisy sequence (B, C, L, H, W): video latents on their way to noise; the reference slots are all noise.

    Args:
        data_BCFHW: clean video latents.
        noise_BCLHW: for the whole sequence.
        level_BF: noise level of each video latent frame, or (B, 1) of all.

    The slots' contents never count: one family replaces them, the other reads its pictures beside them and, as in
    sampling, finds noise there.
    """
    s = level_BF[:, None, :, None, None]
    frames = data_BCFHW.shape[2]
    video = (1 - s) * data_BCFHW + s * noise_BCLHW[:, :, :frames]
    return torch.cat([video, noise_BCLHW[:, :, frames:]], dim=2)


def timestep_of(level_B: Tensor) -> Tensor:
    """What the network is told of a noise level: t in 0..1000."""
    return level_B * TRAIN_TIMESTEPS


def velocity_loss(
    velocity_BCLHW: Tensor, data_BCFHW: Tensor, noise_BCLHW: Tensor, weight_BFHW: Tensor | None = None
) -> Tensor:
    """Mean squared error (B,) of the velocity on the video's latent frames alone.

    Args:
        velocity_BCLHW: predicted, for the whole sequence.
        data_BCFHW: clean video latents.
        noise_BCLHW: that was added.
        weight_BFHW: of each place; a sample's error is the weighted mean.
    """
    frames = data_BCFHW.shape[2]
    error = (velocity_BCLHW[:, :, :frames].float() - (noise_BCLHW[:, :, :frames] - data_BCFHW)).square().mean(dim=1)
    if weight_BFHW is None:
        return error.flatten(1).mean(dim=1)
    return (error * weight_BFHW).flatten(1).sum(dim=1) / weight_BFHW.flatten(1).sum(dim=1)
