"""Shape a person's head and shoulders at rest: the base mesh morphed by age, build, ancestry and face."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from humo.synthetic.person.base_mesh import Floats, Indices, base_mesh, morph_target
from humo.synthetic.person.identity import Person

_ARM_DROP = 0.62  # radians; the base mesh has its arms half raised
_REST_LIP_OVERLAP = 0.010  # decimeters that the lips overlap at rest
_ANCESTRIES = ("african", "asian", "caucasian")


def _blend_between(value: float, *names: str) -> list[tuple[str, float]]:
    """Return the two neighbors of a value in [0, 1] among evenly spaced names, with their weights."""
    position = min(max(value, 0.0), 1.0) * (len(names) - 1)
    low = min(int(position), len(names) - 2)
    return [(names[low], 1 - (position - low)), (names[low + 1], position - low)]


@lru_cache(maxsize=256)
def neutral_mesh(person: Person) -> Floats:
    """Return the person's mesh (V, 3) in decimeters, with the face at rest and the arms down.

    Args:
        person: the identity.

    Raises:
        DependencyError: the package with the body data is not installed.
    """
    mesh = base_mesh()
    sex = "male" if person.sex == "man" else "female"
    points = mesh.rest.astype(np.float64)
    for age, share in _blend_between(2 * person.age - 1, "young", "old"):
        for ancestry, part in zip(_ANCESTRIES, person.ancestry, strict=True):
            points += share * part * morph_target(f"macrodetails/{ancestry}-{sex}-{age}")
        for muscle, a in _blend_between(person.muscle, "minmuscle", "averagemuscle", "maxmuscle"):
            for weight, b in _blend_between(person.weight, "minweight", "averageweight", "maxweight"):
                if share * a * b > 0:
                    points += share * a * b * morph_target(f"macrodetails/universal-{sex}-{age}-{muscle}-{weight}")
    for name, amount in person.shape:
        points += amount * morph_target(name)
    for corners, arm, side in zip(mesh.shoulders, mesh.arm_weights, (1.0, -1.0), strict=True):
        joint, angle = points[corners].mean(0), -_ARM_DROP * side
        offset = points[:, :2] - joint[:2]
        rotated = np.stack(
            [
                offset[:, 0] * math.cos(angle) - offset[:, 1] * math.sin(angle),
                offset[:, 0] * math.sin(angle) + offset[:, 1] * math.cos(angle),
            ],
            1,
        )
        points[:, :2] += arm[:, None] * (rotated - offset)
    gap = lip_gap(points.astype(np.float32)) + _REST_LIP_OVERLAP
    upper, lower = lip_center_vertices()
    jaw_open = morph_target("jawOpen")
    # close the mouth, whatever the shape of the face
    points -= gap / float(jaw_open[upper, 1].mean() - jaw_open[lower, 1].mean()) * jaw_open
    shaped = np.ascontiguousarray(points, np.float32)
    shaped.setflags(write=False)
    return shaped


@lru_cache(maxsize=1)
def lip_center_vertices() -> tuple[Indices, Indices]:
    """Return the vertices in the middle of the upper and of the lower lip."""
    mesh = base_mesh()
    drop = morph_target("jawOpen")[:, 1]
    lips = (mesh.masks["lips"] > 0.8) & (np.abs(mesh.rest[:, 0]) < 0.05)
    upper, lower = np.flatnonzero(lips & (drop > -0.1)), np.flatnonzero(lips & (drop < -0.2))
    return upper.astype(np.int32), lower.astype(np.int32)


def lip_gap(points: Floats) -> float:
    """Return the height of the opening between the inner lips of a mesh (V, 3) in decimeters, negative for overlap."""
    upper, lower = lip_center_vertices()
    return float(points[upper, 1].min() - points[lower, 1].max())


def eye_centers(points: Floats) -> Floats:
    """Return the centers (2, 3) of the left and the right eyeball of a mesh (V, 3)."""
    return np.stack([(points[ball].max(0) + points[ball].min(0)) / 2 for ball in base_mesh().eyeballs])
