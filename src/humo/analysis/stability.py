"""Steadiness of a clip from frame to frame.

Shape suffixes: F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from humo.analysis.face_mesh import EYE_OUTLINES, MOUTH_OUTLINE, Face
from humo.analysis.mesh_track import MeshTrack

MASK_MARGIN = 0.6
"""Margin around mouth and eyes, as a fraction of their size, that `temporal_flicker` leaves out."""


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
