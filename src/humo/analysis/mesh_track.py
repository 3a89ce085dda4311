"""The face mesh of every frame of a clip.

Shape suffixes: F frames, H height, W width. A curve has one value a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from humo.analysis.face_mesh import Face, FaceMesh

MIN_DETECTION_RATE = 0.5
"""Fraction of frames with a face below which a clip has no mouth curve."""

Frames = NDArray[np.uint8]
Curve = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MeshTrack:
    """The face mesh of every frame of a clip.

    Args:
        frames: (F, H, W, 3).
        faces: one a frame; None where no face was detected.
    """

    frames: Frames
    faces: Sequence[Face | None]

    @property
    def detection_rate(self) -> float:
        """Fraction of frames with a face."""
        return sum(face is not None for face in self.faces) / len(self.faces)

    @property
    def mouth_aspect(self) -> Curve | None:
        """Mouth aspect ratio of every frame, (F,), interpolated linearly over frames without a face.

        None if fewer than `MIN_DETECTION_RATE` of the frames have a face.
        """
        if self.detection_rate < MIN_DETECTION_RATE:
            return None
        return mouth_curve(self.faces)


def mouth_curve(faces: Sequence[Face | None]) -> Curve | None:
    """Return the mouth aspect ratio of every frame, interpolated over frames without a face; None without any face."""
    detected = [number for number, face in enumerate(faces) if face is not None]
    if not detected:
        return None
    values = [face.mouth_aspect for face in faces if face is not None]
    return np.interp(np.arange(len(faces)), detected, values)


def track_faces(frames: Frames, mesh: FaceMesh) -> MeshTrack:
    """Detect the face mesh in every frame (F, H, W, 3)."""
    return MeshTrack(frames, [mesh.detect(frame) for frame in frames])
