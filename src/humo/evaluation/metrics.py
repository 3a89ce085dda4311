"""Metrics of a talking-head clip as plain functions of its frames and of ground-truth curves.

Shape suffixes: F frames, H height, W width. A curve has one value a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from humo.evaluation.face_mesh import EYE_OUTLINES, MOUTH_OUTLINE, Face, FaceMesh

MAX_LAG = 4
"""Largest offset in frames between mouth and jaw, in both directions, that `correlation_by_lag` measures."""

MIN_JAW_STD = 0.02
"""Standard deviation of a jaw curve (0..1) below which a clip is left out of lip metrics: nobody speaks in it."""

MASK_MARGIN = 0.6
"""Margin around mouth and eyes, as a fraction of their size, that `temporal_flicker` leaves out."""

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
        detected = [number for number, face in enumerate(self.faces) if face is not None]
        if len(detected) < MIN_DETECTION_RATE * len(self.faces):
            return None
        values = [face.mouth_aspect for face in self.faces if face is not None]
        return np.interp(np.arange(len(self.faces)), detected, values)


def track_faces(frames: Frames, mesh: FaceMesh) -> MeshTrack:
    """Detect the face mesh in every frame (F, H, W, 3)."""
    return MeshTrack(frames, [mesh.detect(frame) for frame in frames])


def correlation(a: Curve, b: Curve) -> float:
    """Return Pearson's correlation over the shorter length; 0 if one of the curves is constant."""
    length = min(len(a), len(b))
    a, b = a[:length], b[:length]
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def correlation_by_lag(mouth: Curve, jaw: Curve) -> dict[int, float]:
    """Return the correlation of mouth and jaw at each lag from -`MAX_LAG` to `MAX_LAG` frames.

    At a positive lag the mouth is late.
    """
    correlations = {}
    for lag in range(-MAX_LAG, MAX_LAG + 1):
        correlations[lag] = correlation(mouth[max(0, lag) :], jaw[max(0, -lag) :])
    return correlations


def psnr(a: Frames, b: Frames) -> float:
    """Return the peak signal-to-noise ratio of two clips in dB."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def temporal_flicker(track: MeshTrack) -> float:
    """Return the mean absolute difference (0..255) of neighboring frames outside mouth and eyes.

    **Source:** VBench (arXiv 2311.17982), "temporal flickering", which uses the mean absolute error of neighboring
    frames, too. Mouth and eyes are left out here, because they are meant to move.
    """
    frames = track.frames.astype(np.float32)
    differences = np.abs(np.diff(frames, axis=0)).mean(axis=-1)
    included = np.ones(differences.shape, bool)
    for number in range(len(differences)):
        for face in (track.faces[number], track.faces[number + 1]):
            if face is not None:
                for outline in (MOUTH_OUTLINE, *EYE_OUTLINES):
                    included[number][_region(face, outline, differences.shape[1:])] = False
    return float(differences[included].mean())


def _region(face: Face, outline: Sequence[int], size: Sequence[int]) -> tuple[slice, slice]:
    """Return rows and columns of the box around mesh points, enlarged by `MASK_MARGIN`."""
    points = face.points[list(outline)]
    low, high = points.min(axis=0), points.max(axis=0)
    margin = MASK_MARGIN * (high - low).max() / 2
    left, top = np.clip(np.floor(low - margin).astype(int), 0, None)
    right, bottom = np.ceil(high + margin).astype(int) + 1
    return slice(top, min(bottom, size[0])), slice(left, min(right, size[1]))
