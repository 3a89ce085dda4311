"""The person of a clip: one face, its size and pose, the shape of the mouth in every frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from humo.analysis.face_boxes import FaceBox, FaceBoxes
from humo.analysis.face_mesh import Face, FaceMesh
from humo.analysis.mesh_track import Curve, Frames, mouth_curve
from humo.data.tasks import Values

DETECTION_STEP = 5
"""Frames from one search for all faces to the next."""

REGION_HEIGHTS = 3.0
"""Side of the square around a face that the mesh is searched in, in units of the face's height."""

FRONTAL_DEGREES = 60.0
"""Largest turn of a head that counts as frontal."""

CHEEKS, NOSE_TIP = (234, 454), 1
"""Mesh points at the outer cheeks, and at the tip of the nose."""


@dataclass(frozen=True, eq=False)
class Person:
    """The largest face of a clip.

    Args:
        faces: the face in each frame, in pixels of the whole frame; None where there is none.
        counts: number of faces in every `DETECTION_STEP`-th frame.
        lines: shorter side of the frames in pixels.
    """

    faces: tuple[Face | None, ...]
    counts: tuple[int, ...]
    lines: int

    @property
    def face_rate(self) -> float:
        """Fraction of frames with a face."""
        return sum(face is not None for face in self.faces) / len(self.faces)

    @cached_property
    def yaw(self) -> Curve:
        """Turn of the head in degrees in each frame with a face, 0 for frontal."""
        return np.array([abs(_yaw(face)) for face in self.faces if face is not None])

    @cached_property
    def mouth(self) -> Curve | None:
        """Mouth aspect ratio of every frame, interpolated over frames without a face; None without a face."""
        return mouth_curve(self.faces)

    def best_frames(self, count: int) -> list[int]:
        """Return the numbers of the frames that show the face best: frontal, large, and apart from each other."""
        present = [number for number, face in enumerate(self.faces) if face is not None]
        if not present:
            return []
        parts = np.array_split(np.array(present), min(count, len(present)))
        return [int(max(part, key=lambda number: self._view(int(number)))) for part in parts]

    def _view(self, number: int) -> float:
        face = self.faces[number]
        assert face is not None
        return float(np.cos(np.radians(_yaw(face))) * (face.box[3] - face.box[1]))

    def scores(self) -> Values:
        """Return the scores of the stage ``people``."""
        heights = [face.box[3] - face.box[1] for face in self.faces if face is not None]
        return {
            "face_rate": round(self.face_rate, 4),
            "several_rate": round(float(np.mean([count > 1 for count in self.counts])), 4),
            "face_height": round(float(np.median(heights)) / self.lines, 4) if heights else 0.0,
            "frontal_rate": round(float(np.mean(self.yaw <= FRONTAL_DEGREES)), 4) if len(self.yaw) else 0.0,
        }


class PersonFinder:
    """Follows the largest face of a clip; the networks are loaded at first use and kept."""

    def __init__(self) -> None:
        self._boxes, self._mesh = FaceBoxes(), FaceMesh()

    def find(self, frames: Frames) -> Person:
        """Return the person in frames (F, H, W, 3)."""
        numbers = range(0, len(frames), DETECTION_STEP)
        detections = [self._boxes.detect(frames[number]) for number in numbers]
        regions = _regions(len(frames), numbers, detections)
        faces = tuple(self._face(frame, region) for frame, region in zip(frames, regions, strict=True))
        return Person(faces, tuple(map(len, detections)), min(frames.shape[1:3]))

    def _face(self, frame: NDArray[np.uint8], region: tuple[float, float, float] | None) -> Face | None:
        """Return the face in a square region: center x, y and side."""
        if region is None:
            return None
        x, y, side = region
        left, top = (max(0, round(value - side / 2)) for value in (x, y))
        part = frame[top : round(y + side / 2), left : round(x + side / 2)]
        if min(part.shape[:2]) < 8:
            return None
        face = self._mesh.detect(np.ascontiguousarray(part))
        if face is None:
            return None
        box = face.box
        moved = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        return Face(moved, face.score, face.points + np.array([left, top], np.float32), face.presence)


def _regions(
    count: int, numbers: range, detections: list[list[FaceBox]]
) -> list[tuple[float, float, float]] | list[None]:
    """Return the square around the largest face for every frame, interpolated between detections."""
    known = [(number, faces[0]) for number, faces in zip(numbers, detections, strict=True) if faces]
    if not known:
        return [None] * count
    at = [number for number, _ in known]
    x, y, side = (
        np.interp(np.arange(count), at, values)
        for values in (
            [face.center[0] for _, face in known],
            [face.center[1] for _, face in known],
            [REGION_HEIGHTS * face.height for _, face in known],
        )
    )
    return [(float(a), float(b), float(c)) for a, b, c in zip(x, y, side, strict=True)]


def _yaw(face: Face) -> float:
    """Return the turn of a head in degrees, from where the nose lies between the cheeks."""
    left, right = (face.points[point].astype(float) for point in CHEEKS)
    across = right - left
    position = float(np.dot(face.points[NOSE_TIP] - left, across) / max(1e-6, float(across @ across)))
    return float(np.degrees(np.arcsin(np.clip(2 * position - 1, -1, 1))))
