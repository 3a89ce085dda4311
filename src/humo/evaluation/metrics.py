"""The figures of a talking clip, each a plain function of frames and truth.

Shape suffixes: F frames, H, W size. Curves are one value a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from humo.evaluation.face_mesh import EYES, MOUTH_OUTLINE, Face, FaceMesh

LAGS = 4
"""Frames by which a mouth may be early or late when the best lag is looked for."""

LEAST_MOTION = 0.02
"""Deviation of a jaw curve (0..1) from which on it says anything about a clip."""

ROOM = 0.6
"""By which share of their size mouth and eyes are enlarged before they are left out of a frame's steadiness."""

Frames = NDArray[np.uint8]
Curve = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Watched:
    """A clip as the face mesh sees it.

    Args:
        frames: (F, H, W, 3).
        faces: of each frame, None where none was found.
    """

    frames: Frames
    faces: Sequence[Face | None]

    @property
    def found(self) -> float:
        """Share of frames with a face."""
        return sum(face is not None for face in self.faces) / len(self.faces)

    @property
    def mouth(self) -> Curve | None:
        """The mouth's aspect in every frame, between found ones evenly; None if hardly any face was found."""
        known = [number for number, face in enumerate(self.faces) if face is not None]
        if len(known) < 0.5 * len(self.faces):
            return None
        values = [face.mouth_aspect for face in self.faces if face is not None]
        return np.interp(np.arange(len(self.faces)), known, values)


def watch(frames: Frames, mesh: FaceMesh) -> Watched:
    """Look for the face in every frame (F, H, W, 3)."""
    return Watched(frames, [mesh.find(frame) for frame in frames])


def correlation(a: Curve, b: Curve) -> float:
    """Pearson's, 0 where one of them does not move."""
    length = min(len(a), len(b))
    a, b = a[:length], b[:length]
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def lagged(mouth: Curve, jaw: Curve) -> dict[int, float]:
    """Correlation of a mouth with a jaw curve at each lag in frames; positive: the picture is late."""
    found = {}
    for lag in range(-LAGS, LAGS + 1):
        late, early = mouth[max(0, lag) :], jaw[max(0, -lag) :]
        found[lag] = correlation(late, early)
    return found


def psnr(a: Frames, b: Frames) -> float:
    """Peak signal to noise ratio of two clips, in dB."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def unrest(watched: Watched) -> float:
    """Mean difference (0..255) between neighbouring frames outside mouth and eyes."""
    frames = watched.frames.astype(np.float32)
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=-1)
    kept = np.ones(changes.shape, bool)
    for number in range(len(changes)):
        for face in (watched.faces[number], watched.faces[number + 1]):
            if face is not None:
                for group in (MOUTH_OUTLINE, *EYES):
                    kept[number][_area(face, group, changes.shape[1:])] = False
    return float(changes[kept].mean())


def _area(face: Face, group: Sequence[int], size: Sequence[int]) -> tuple[slice, slice]:
    """The box around some points of a face, with room."""
    points = face.points[list(group)]
    low, high = points.min(axis=0), points.max(axis=0)
    room = ROOM * (high - low).max() / 2
    left, top = np.clip(np.floor(low - room).astype(int), 0, None)
    right, bottom = np.ceil(high + room).astype(int) + 1
    return slice(top, min(bottom, size[0])), slice(left, min(right, size[1]))
