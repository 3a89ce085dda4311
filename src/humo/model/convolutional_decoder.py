"""A small convolutional decoder that draws over the pixels of a linear one: it takes away block edges and adds detail.

It is trained on imprecise latents, the predictions of a network, so that it draws a likely image where latents are off.
It knows a latent frame and those before it, as the linear decoder does, so that a video can be decoded piece by piece.

Shape suffixes: B batch, C latent channels, D width, K latent frames, T video frames, H, W size of the latents.
Pixels are in [-1, 1].
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE

SCALES = 3
"""Number of resolutions: that of the latents, twice that, and four times that. Pixels are twice the last one."""

SLOPE = 0.1
"""Slope of the activation for negative values."""


class ResidualBlock(nn.Module):
    """Two convolutions whose output is added to the input; without effect before they are trained.

    Args:
        width: number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (N, D, H, W) for an input of the same shape."""
        out: Tensor = hidden + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(hidden, SLOPE)), SLOPE))
        return out


class ConvolutionalDecoder(nn.Module):
    """Computes pixels that are added to those of a linear decoder; zeros before it is trained.

    A convolution over time and space reads the latents. Its output is split into the four video frames of a latent
    frame, which are then upsampled one by one.

    Args:
        z_dim: latent channels.
        widths: channels at each of the `SCALES` resolutions.
        blocks: residual blocks at each resolution.
        context: latent frames that a latent frame is decoded from, itself among them.
    """

    def __init__(self, z_dim: int, widths: Sequence[int], blocks: int = 2, context: int = 3) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(z_dim, widths[0] * TEMPORAL_STRIDE, (context, 3, 3), padding=(0, 1, 1))
        self.blocks = nn.ModuleList(nn.Sequential(*(ResidualBlock(width) for _ in range(blocks))) for width in widths)
        self.upsamplers = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for coarse, fine in itertools.pairwise(widths))
        self.conv_out = nn.Conv2d(widths[-1], 3 * (SPATIAL_STRIDE >> (SCALES - 1)) ** 2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, z_BCKHW: Tensor, *, is_start: bool) -> Tensor:
        """Return pixels (B, 3, T, 8 H, 8 W).

        Args:
            z_BCKHW: latents, with the ``context`` - 1 latent frames before them.
            is_start: the first latent frame is the first one of a video and stands for one frame. T is then 4k - 3 for
                k decoded latent frames, otherwise 4k.
        """
        batch = len(z_BCKHW)
        hidden = self.conv_in(z_BCKHW).unflatten(1, (-1, TEMPORAL_STRIDE)).permute(0, 3, 2, 1, 4, 5).flatten(1, 2)
        if is_start:  # the first latent frame repeats one frame; it is drawn once, as the last of the four
            hidden = hidden[:, TEMPORAL_STRIDE - 1 :]
        hidden = hidden.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number < len(self.upsamplers):
                hidden = F.pixel_shuffle(self.upsamplers[number](hidden), 2)
        pixels: Tensor = F.pixel_shuffle(self.conv_out(F.leaky_relu(hidden, SLOPE)), SPATIAL_STRIDE >> (SCALES - 1))
        video: Tensor = pixels.unflatten(0, (batch, -1)).movedim(2, 1)
        return video
