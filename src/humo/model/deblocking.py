"""Temporal deblocking: smooths small steps between consecutive latent frames, as video codecs smooth block borders.

Decoded latent frames differ slightly even where nothing moves, which is visible as a jump at every fourth frame. Steps
caused by motion, of lips for example, are larger and are kept.

Shape suffixes: B batch, F frames, H, W size. Pixels are in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from humo.geometry import TEMPORAL_STRIDE

WINDOW = 5
"""Side in pixels of the window over which the size of a step is averaged."""


def deblock_latent_frames(video_BCFHW: Tensor, last_BCHW: Tensor | None, small: float, large: float) -> Tensor:
    """Smooth the step between the frames of each latent frame and those of the next one.

    The correction falls linearly over the four frames after the step and is 0 at the last one.

    Args:
        video_BCFHW: decoded frames: 4k, or 4k + 1 at the start of a video.
        last_BCHW: the frame before them; None at the start of a video.
        small: root mean square of a step, around a pixel, up to which it is smoothed completely.
        large: root mean square from which on a step is kept.

    Returns:
        frames in the shape of ``video_BCFHW``.
    """
    start, frames = (video_BCFHW[:, :, :1], video_BCFHW[:, :, 1:]) if last_BCHW is None else (None, video_BCFHW)
    if not frames.shape[2]:
        return video_BCFHW
    before = video_BCFHW[:, :, 0] if last_BCHW is None else last_BCHW
    groups = frames.unflatten(2, (-1, TEMPORAL_STRIDE))
    ends = groups[:, :, :, -1]
    step = groups[:, :, :, 0] - torch.cat([before[:, :, None], ends[:, :, :-1]], dim=2)
    square = step.square().mean(dim=1)
    size = F.avg_pool2d(square, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False).sqrt()
    share = ((large - size) / (large - small)).clamp(0.0, 1.0)[:, None]
    falloff = torch.arange(TEMPORAL_STRIDE - 1, -1, -1, device=step.device, dtype=step.dtype) / TEMPORAL_STRIDE
    smoothed = groups - falloff.view(-1, 1, 1) * (share * step)[:, :, :, None]
    video = smoothed.flatten(2, 3)
    return video if start is None else torch.cat([start, video], dim=2)
