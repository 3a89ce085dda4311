"""Videos of any rate and size made to those of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from humo.geometry import FRAMES_PER_SECOND


def at_rate(frames: NDArray[np.uint8], rate: float) -> NDArray[np.uint8]:
    """The frames nearest to those of 25 a second."""
    if rate == FRAMES_PER_SECOND:
        return frames
    count = max(1, round(len(frames) / rate * FRAMES_PER_SECOND))
    nearest = np.round(np.arange(count) * rate / FRAMES_PER_SECOND).astype(int)
    found: NDArray[np.uint8] = frames[np.minimum(nearest, len(frames) - 1)]
    return found


def nearest_size(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size whose aspect is nearest; of equal ones the first."""
    return min(sizes, key=lambda size: abs(np.log(size[0] / size[1] * height / width)))


def crop_box(width: int, height: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest part of a picture with an aspect, at its centre: left, top, right, bottom in its pixels."""
    scale = min(width / size[0], height / size[1])
    across, down = scale * size[0], scale * size[1]
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def cover(frame: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """A frame that fills a size, what is too much cut off evenly."""
    picture = Image.fromarray(frame)
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS, box=crop_box(*picture.size, size))
