"""Latent frames joined in time, as video codecs join their blocks: small steps between them go, large ones stay.

What a network makes of one latent frame differs a little from what it makes of the next, where nothing moves: a
picture that jumps with every fourth frame. Where a lip moves the step is larger, and is left alone.

Shape suffixes: B batch, F frames, H, W size. Pixels are in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from humo.geometry import TEMPORAL_STRIDE

WINDOW = 5
"""Pixels a side over which a step is judged."""


def deblock_latent_frames(video_BCFHW: Tensor, last_BCHW: Tensor | None, small: float, large: float) -> Tensor:
    """Spread the step from each latent's frames to the next one's over the frames of the latter, but for its last.

    Args:
        video_BCFHW: decoded frames: 4k, or 4k + 1 where a video begins.
        last_BCHW: the frame before them; None where a video begins.
        small: root mean square of a step, around a pixel, up to which all of it is spread.
        large: from which on nothing of it is.
    """
    start, frames = (video_BCFHW[:, :, :1], video_BCFHW[:, :, 1:]) if last_BCHW is None else (None, video_BCFHW)
    if not frames.shape[2]:
        return video_BCFHW
    before = video_BCFHW[:, :, 0] if last_BCHW is None else last_BCHW
    latents = frames.unflatten(2, (-1, TEMPORAL_STRIDE))
    ends = latents[:, :, :, -1]
    step = latents[:, :, :, 0] - torch.cat([before[:, :, None], ends[:, :, :-1]], dim=2)
    square = step.square().mean(dim=1)
    size = F.avg_pool2d(square, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False).sqrt()
    share = ((large - size) / (large - small)).clamp(0.0, 1.0)[:, None]
    left = torch.arange(TEMPORAL_STRIDE - 1, -1, -1, device=step.device, dtype=step.dtype) / TEMPORAL_STRIDE
    joined = latents - left.view(-1, 1, 1) * (share * step)[:, :, :, None]
    whole = joined.flatten(2, 3)
    return whole if start is None else torch.cat([start, whole], dim=2)
