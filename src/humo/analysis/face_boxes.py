"""All faces of a frame, as boxes: for counting people, and for faces that are small in a wide frame.

The detector looks at a square of 128 pixels. A wide or tall frame is therefore read several times: as a whole, and as
overlapping squares of its shorter side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from humo.analysis.face_mesh import (
    DETECTOR,
    DETECTOR_INPUT_SIDE,
    MIN_DETECTION_SCORE,
    Box,
    Frame,
    TFLiteModel,
    anchor_centers,
)

MAX_OVERLAP = 0.3
"""Intersection over union from which on two boxes show one face."""

MAX_INSIDE = 0.6
"""Fraction of the smaller box inside the larger one from which on both show one face."""

TILED_FROM = 1.25
"""Longer side, in units of the shorter one, from which on squares of the frame are read, too."""


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A detected face.

    Args:
        box: left, top, right, bottom in pixels.
        score: the detector's, 0..1.
    """

    box: Box
    score: float

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.box[3] - self.box[1]

    @property
    def center(self) -> tuple[float, float]:
        """Center in pixels: x, y."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


class FaceBoxes:
    """Face detector for any number of faces, loaded at first use.

    Raises:
        DependencyError: at first use, if LiteRT is not installed.
    """

    def detect(self, frame: Frame) -> list[FaceBox]:
        """Return the faces of a frame (H, W, 3), the largest first."""
        image = Image.fromarray(frame)
        candidates = [face for square in _squares(*image.size) for face in self._read_square(image, square)]
        candidates.sort(key=lambda face: -face.score)
        kept: list[FaceBox] = []
        for face in candidates:
            if all(not _same_face(face.box, other.box) for other in kept):
                kept.append(face)
        return sorted(kept, key=lambda face: -face.height)

    def _read_square(self, image: Image.Image, square: tuple[int, int, int]) -> list[FaceBox]:
        """Return the faces in a square: left, top, side. What lies outside the frame is black."""
        left, top, side = square
        region = image.crop((left, top, left + side, top + side))
        resized = region.resize((DETECTOR_INPUT_SIDE, DETECTOR_INPUT_SIDE), Image.Resampling.BILINEAR)
        boxes, logits = self._detector(np.asarray(resized, np.float32)[None] / 127.5 - 1)
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0], -80, 80)))
        faces = []
        for best in np.flatnonzero(scores >= MIN_DETECTION_SCORE):
            x, y, wide, high = boxes[0, best, :4] / DETECTOR_INPUT_SIDE
            corner = (np.array([x, y]) + self._anchors[best] - np.array([wide, high]) / 2) * side + (left, top)
            box = (corner[0], corner[1], corner[0] + wide * side, corner[1] + high * side)
            faces.append(FaceBox((float(box[0]), float(box[1]), float(box[2]), float(box[3])), float(scores[best])))
        return faces

    @cached_property
    def _detector(self) -> TFLiteModel:
        return TFLiteModel(DETECTOR)

    @cached_property
    def _anchors(self) -> np.ndarray:
        return anchor_centers()


def _squares(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """Yield left, top and side of the squares that are read."""
    long, short = max(width, height), min(width, height)
    yield (width - long) // 2, (height - long) // 2, long
    if long < TILED_FROM * short:
        return
    count = math.ceil(long / short) + 1
    for number in range(count):
        offset = round(number * (long - short) / (count - 1))
        yield (offset, 0, short) if width > height else (0, offset, short)


def _same_face(a: Box, b: Box) -> bool:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return False
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    shared = wide * high
    return shared > MAX_OVERLAP * (sum(areas) - shared) or shared > MAX_INSIDE * min(areas)
