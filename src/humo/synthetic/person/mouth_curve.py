"""The true mouth of a clip, measured on the posed mesh: jaw opening, lip closure, pucker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from humo.synthetic.person.base_mesh import Floats, base_mesh
from humo.synthetic.person.body import lip_gap, neutral
from humo.synthetic.person.identity import Person
from humo.synthetic.person.pose import expression
from humo.synthetic.speech.face_track import FaceTrack

_CLOSED_GAP = 0.04  # of the face's height: lips nearer than this begin to count as closed


@dataclass(frozen=True, slots=True)
class _Landmarks:
    """Base vertices: the corners of the mouth, the chin, the middle between the brows."""

    left: int
    right: int
    chin: int
    brow: int


@lru_cache(maxsize=1)
def _landmarks() -> _Landmarks:
    mesh = base_mesh()
    x, y, z = mesh.rest.T
    all_lips = np.flatnonzero(mesh.masks["lips"] > 0.5)
    middle = np.flatnonzero((np.abs(x) < 0.01) & (z > 1.2) & (y > 6.0))
    return _Landmarks(
        left=int(all_lips[np.argmax(x[all_lips])]),
        right=int(all_lips[np.argmin(x[all_lips])]),
        chin=int(middle[np.argmin(y[middle])]),
        brow=int(middle[np.argmin(np.abs(y[middle] - 7.5))]),
    )


def mouth_curve(person: Person, track: FaceTrack) -> Floats:
    """Jaw opening, lip closure and pucker (F, 3) float32 of a clip; head and camera play no part.

    Args:
        person: whose mouth.
        track: what the face does.

    Returns:
        Distance between the inner lips and narrowing of the mouth, both against the face at rest and in heights of
        the face from chin to brows; between them closure, 1 where the lips touch, 0 where they are clearly apart.

    Raises:
        DependencyError: the package with the bodies is not installed.
    """
    marks, rest = _landmarks(), neutral(person)
    height = float(rest[marks.brow, 1] - rest[marks.chin, 1])
    gap_at_rest, width_at_rest = _gap_and_width(rest, marks)
    curve = np.empty((len(track), 3), np.float32)
    for i, units in enumerate(track.units):
        gap, width = _gap_and_width(expression(rest, units), marks)
        opening = max(0.0, gap - gap_at_rest) / height
        curve[i] = opening, max(0.0, 1 - opening / _CLOSED_GAP), (width_at_rest - width) / height
    return curve


def _gap_and_width(points: Floats, marks: _Landmarks) -> tuple[float, float]:
    """Between the inner lips and between the corners of the mouth, decimetres."""
    return lip_gap(points), float(np.sqrt(((points[marks.left] - points[marks.right]) ** 2).sum()))
