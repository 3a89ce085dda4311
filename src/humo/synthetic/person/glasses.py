"""Spectacle frames: two rims, a bridge and two arms that follow the head."""

from __future__ import annotations

import numpy as np

from humo.synthetic.person.base_mesh import Floats, Indices, base_mesh, floats
from humo.synthetic.person.body import eye_centres

_ROUNDNESS = {"round": 2.0, "square": 5.0}  # exponent of the rim's superellipse
_HALF_SIZE = {"round": (0.235, 0.215), "square": (0.265, 0.185)}  # decimetres across and up
_THICKNESS = 0.017  # decimetres, half the rim's
_CLEARANCE = 0.15  # decimetres from the eyeball's front to the rims
_CORNERS = 28


def frame(kind: str, points: Floats) -> tuple[Floats, Indices]:
    """Vertices (N, 3) in decimetres and triangles (T, 3) of a frame.

    Args:
        kind: ``round`` or ``square``.
        points: (V, 3) the wearer at rest.
    """
    mesh = base_mesh()
    centres = eye_centres(points)
    front = max(float(points[ball, 2].max()) for ball in mesh.eyeballs) + _CLEARANCE
    level = float(centres[:, 1].mean()) - 0.02
    wide, high = _HALF_SIZE[kind]
    apart = max(float(np.abs(centres[:, 0]).mean()), wide + 0.075)
    ear = points[mesh.masks["ears"] > 0.6]
    ear_x, ear_z = float(np.abs(ear[:, 0]).min()) + 0.04, float(ear[:, 2].mean())
    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    power = 2 / _ROUNDNESS[kind]
    outline = np.stack(
        [np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power, np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power],
        1,
    )
    tubes: list[tuple[Floats, bool]] = []
    for side in (1.0, -1.0):
        rim = np.empty((_CORNERS, 3), np.float32)
        rim[:, 0] = side * apart + wide * outline[:, 0]
        rim[:, 1] = level + high * outline[:, 1]
        rim[:, 2] = front - 0.10 * np.abs(rim[:, 0]) ** 2
        tubes.append((rim, True))
        hinge = floats((side * (apart + wide), level + 0.5 * high, front - 0.10 * (apart + wide) ** 2))
        behind = floats((side * ear_x, level + 0.4 * high, ear_z))
        tubes.append((np.stack([hinge, (hinge + behind) / 2 + floats((0.03 * side, 0, 0)), behind]), False))
    inner = apart - wide
    bridge = np.linspace(-inner, inner, 5, dtype=np.float32)
    arch = level + 0.35 * high + 0.03 * (1 - (bridge / inner) ** 2)
    tubes.append((np.stack([bridge, arch, np.full(5, front + 0.02)], 1).astype(np.float32), False))
    vertices, triangles, start = [], [], 0
    for line, closed in tubes:
        ring, strip = _tube(line, closed)
        vertices.append(ring)
        triangles.append(strip + start)
        start += len(ring)
    return np.concatenate(vertices).astype(np.float32), np.concatenate(triangles).astype(np.int32)


def _tube(line: Floats, closed: bool) -> tuple[Floats, Indices]:
    """A tube of square section along a line of points (N, 3)."""
    ahead = (np.roll(line, -1, 0) - np.roll(line, 1, 0)) if closed else np.gradient(line, axis=0)
    ahead = ahead / (np.sqrt((ahead * ahead).sum(1, keepdims=True)) + 1e-9)
    out = np.cross(ahead, floats((0.02, 0.03, 1.0)))
    out = out / (np.sqrt((out * out).sum(1, keepdims=True)) + 1e-9)
    deep = np.cross(ahead, out)
    section = [out, deep, -out, -deep]
    ring = np.stack([line + _THICKNESS * corner for corner in section], 1).reshape(-1, 3)
    rows = len(line)
    triangles = []
    for i in range(rows if closed else rows - 1):
        for k in range(4):
            a, b = 4 * i + k, 4 * i + (k + 1) % 4
            c, d = (a + 4) % (4 * rows), (b + 4) % (4 * rows)
            triangles += [(a, b, c), (b, d, c)]
    return ring.astype(np.float32), np.array(triangles, np.int32)
