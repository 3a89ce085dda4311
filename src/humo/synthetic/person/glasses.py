"""Build frames of glasses: two rims, a bridge and two temples that follow the head."""

from __future__ import annotations

import numpy as np

from humo.synthetic.person.base_mesh import Floats, Indices, as_float32, base_mesh
from humo.synthetic.person.body import eye_centers

_ROUNDNESS = {"round": 2.0, "square": 5.0}  # exponent of the rim's superellipse
_HALF_SIZE = {"round": (0.235, 0.215), "square": (0.265, 0.185)}  # decimeters across and up
_THICKNESS = 0.017  # decimeters, half of the rim's
_CLEARANCE = 0.15  # decimeters from the front of the eyeballs to the rims
_CORNERS = 28


def glasses_mesh(kind: str, points: Floats) -> tuple[Floats, Indices]:
    """Return vertices (N, 3) in decimeters and triangles (T, 3) of a frame.

    Args:
        kind: ``round`` or ``square``.
        points: (V, 3) vertices of the person at rest.
    """
    mesh = base_mesh()
    centers = eye_centers(points)
    front = max(float(points[ball, 2].max()) for ball in mesh.eyeballs) + _CLEARANCE
    level = float(centers[:, 1].mean()) - 0.02
    half_width, half_height = _HALF_SIZE[kind]
    apart = max(float(np.abs(centers[:, 0]).mean()), half_width + 0.075)
    ear_vertices = points[mesh.masks["ears"] > 0.6]
    ear_x, ear_z = float(np.abs(ear_vertices[:, 0]).min()) + 0.04, float(ear_vertices[:, 2].mean())
    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    power = 2 / _ROUNDNESS[kind]
    outline = np.stack(
        [np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power, np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power],
        1,
    )
    tubes: list[tuple[Floats, bool]] = []
    for side in (1.0, -1.0):
        rim = np.empty((_CORNERS, 3), np.float32)
        rim[:, 0] = side * apart + half_width * outline[:, 0]
        rim[:, 1] = level + half_height * outline[:, 1]
        rim[:, 2] = front - 0.10 * np.abs(rim[:, 0]) ** 2
        tubes.append((rim, True))
        hinge = as_float32(
            (side * (apart + half_width), level + 0.5 * half_height, front - 0.10 * (apart + half_width) ** 2)
        )
        behind = as_float32((side * ear_x, level + 0.4 * half_height, ear_z))
        tubes.append((np.stack([hinge, (hinge + behind) / 2 + as_float32((0.03 * side, 0, 0)), behind]), False))
    inner = apart - half_width
    bridge = np.linspace(-inner, inner, 5, dtype=np.float32)
    arch = level + 0.35 * half_height + 0.03 * (1 - (bridge / inner) ** 2)
    tubes.append((np.stack([bridge, arch, np.full(5, front + 0.02)], 1).astype(np.float32), False))
    vertices, triangles, start = [], [], 0
    for line, closed in tubes:
        ring, strip = _tube(line, closed)
        vertices.append(ring)
        triangles.append(strip + start)
        start += len(ring)
    return np.concatenate(vertices).astype(np.float32), np.concatenate(triangles).astype(np.int32)


def _tube(line: Floats, closed: bool) -> tuple[Floats, Indices]:
    """Return a tube of square cross-section along a line of points (N, 3)."""
    ahead = (np.roll(line, -1, 0) - np.roll(line, 1, 0)) if closed else np.gradient(line, axis=0)
    ahead = ahead / (np.sqrt((ahead * ahead).sum(1, keepdims=True)) + 1e-9)
    out = np.cross(ahead, as_float32((0.02, 0.03, 1.0)))
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
