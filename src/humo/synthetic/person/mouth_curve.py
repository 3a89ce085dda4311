"""Measure the mouth of a clip on the posed mesh: jaw opening, lip closure, pucker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from humo.synthetic.person.base_mesh import Floats, base_mesh
from humo.synthetic.person.body import lip_gap, neutral_mesh
from humo.synthetic.person.identity import Person
from humo.synthetic.person.pose import apply_face_units
from humo.synthetic.speech.face_track import FaceTrack

_MAX_CLOSED_GAP = 0.04  # fraction of the face's height; lips nearer than this start to count as closed


@dataclass(frozen=True, slots=True)
class _Landmarks:
    """Vertices of the base mesh: corners of the mouth, chin, and the middle between the brows."""

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
    """Return jaw opening, lip closure and pucker (F, 3) float32 of a clip, independent of head pose and camera.

    Args:
        person: the identity.
        track: motion of the face.

    Returns:
        Jaw opening: distance between the inner lips. Closure: 1 where the lips touch, 0 where they are clearly apart.
        Pucker: narrowing of the mouth. Opening and pucker are relative to the face at rest, in units of the height from
        chin to brows.

    Raises:
        DependencyError: the package with the body data is not installed.
    """
    landmarks, rest = _landmarks(), neutral_mesh(person)
    height = float(rest[landmarks.brow, 1] - rest[landmarks.chin, 1])
    gap_at_rest, width_at_rest = _lip_gap_and_mouth_width(rest, landmarks)
    curve = np.empty((len(track), 3), np.float32)
    for i, units in enumerate(track.units):
        gap, width = _lip_gap_and_mouth_width(apply_face_units(rest, units), landmarks)
        opening = max(0.0, gap - gap_at_rest) / height
        curve[i] = opening, max(0.0, 1 - opening / _MAX_CLOSED_GAP), (width_at_rest - width) / height
    return curve


def _lip_gap_and_mouth_width(points: Floats, landmarks: _Landmarks) -> tuple[float, float]:
    """Return the distances between the inner lips and between the corners of the mouth, in decimeters."""
    return lip_gap(points), float(np.sqrt(((points[landmarks.left] - points[landmarks.right]) ** 2).sum()))
