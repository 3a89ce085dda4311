"""A person's head and shoulders at rest: the base mesh shaped by age, build, ancestry and face."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from humo.synthetic.person.base_mesh import Floats, Indices, base_mesh, target
from humo.synthetic.person.identity import Person

_ARM_DROP = 0.62  # radians: the base mesh stands with its arms half raised
_PRESSED = 0.010  # decimetres that the lips overlap at rest
_ANCESTRIES = ("african", "asian", "caucasian")


def _between(value: float, *names: str) -> list[tuple[str, float]]:
    """The two neighbours of a value in [0, 1] among evenly spaced names, with their shares."""
    place = min(max(value, 0.0), 1.0) * (len(names) - 1)
    low = min(int(place), len(names) - 2)
    return [(names[low], 1 - (place - low)), (names[low + 1], place - low)]


@lru_cache(maxsize=256)
def neutral(person: Person) -> Floats:
    """The person's mesh (V, 3) in decimetres, face at rest, arms down.

    Args:
        person: who.

    Raises:
        DependencyError: the package with the bodies is not installed.
    """
    mesh = base_mesh()
    sex = "male" if person.sex == "man" else "female"
    points = mesh.rest.astype(np.float64)
    for age, share in _between(2 * person.age - 1, "young", "old"):
        for ancestry, part in zip(_ANCESTRIES, person.ancestry, strict=True):
            points += share * part * target(f"macrodetails/{ancestry}-{sex}-{age}")
        for muscle, a in _between(person.muscle, "minmuscle", "averagemuscle", "maxmuscle"):
            for weight, b in _between(person.weight, "minweight", "averageweight", "maxweight"):
                if share * a * b > 0:
                    points += share * a * b * target(f"macrodetails/universal-{sex}-{age}-{muscle}-{weight}")
    for name, amount in person.shape:
        points += amount * target(name)
    for corners, arm, side in zip(mesh.shoulders, mesh.arms, (1.0, -1.0), strict=True):
        joint, turn = points[corners].mean(0), -_ARM_DROP * side
        offset = points[:, :2] - joint[:2]
        turned = np.stack(
            [
                offset[:, 0] * math.cos(turn) - offset[:, 1] * math.sin(turn),
                offset[:, 0] * math.sin(turn) + offset[:, 1] * math.cos(turn),
            ],
            1,
        )
        points[:, :2] += arm[:, None] * (turned - offset)
    parted = lip_gap(points.astype(np.float32)) + _PRESSED
    upper, lower = lip_middles()
    falls = target("jawOpen")
    points -= parted / float(falls[upper, 1].mean() - falls[lower, 1].mean()) * falls  # faces differ; all close
    shaped = np.ascontiguousarray(points, np.float32)
    shaped.setflags(write=False)
    return shaped


@lru_cache(maxsize=1)
def lip_middles() -> tuple[Indices, Indices]:
    """Vertices in the middle of the upper and of the lower lip."""
    mesh = base_mesh()
    falls = target("jawOpen")[:, 1]
    lips = (mesh.masks["lips"] > 0.8) & (np.abs(mesh.rest[:, 0]) < 0.05)
    upper, lower = np.flatnonzero(lips & (falls > -0.1)), np.flatnonzero(lips & (falls < -0.2))
    return upper.astype(np.int32), lower.astype(np.int32)


def lip_gap(points: Floats) -> float:
    """Height of the opening between the inner lips of a mesh (V, 3), decimetres; negative where they overlap."""
    upper, lower = lip_middles()
    return float(points[upper, 1].min() - points[lower, 1].max())


def eye_centres(points: Floats) -> Floats:
    """Centres (2, 3) of the left and the right eyeball of a mesh (V, 3)."""
    return np.stack([(points[ball].max(0) + points[ball].min(0)) / 2 for ball in base_mesh().eyeballs])
