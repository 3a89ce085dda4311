"""Part of a frame that a manifest names, such as the image without a burnt-in logo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]


def crop_box(crop: Sequence[float] | None, shape: Sequence[int]) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom in pixels of a crop; None for the whole frame.

    Args:
        crop: left, top, right, bottom as fractions of the upright frame.
        shape: height and width of the frame.
    """
    if crop is None:
        return None
    height, width = shape[:2]
    left, top, right, bottom = crop
    return round(left * width), round(top * height), round(right * width), round(bottom * height)


def cropped(frame: Frame, box: tuple[int, int, int, int] | None) -> Frame:
    """Return a part of frames (..., H, W, 3); the same frames without a box."""
    if box is None:
        return frame
    left, top, right, bottom = box
    return np.ascontiguousarray(frame[..., top:bottom, left:right, :])
