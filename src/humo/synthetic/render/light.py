"""How much sky and how much of the key light reach each vertex: soft shadows from depth maps of the figure itself."""

from __future__ import annotations

import math

import numpy as np

from humo.synthetic.person.base_mesh import Floats, Indices, floats
from humo.synthetic.render.jit import Array, compiled
from humo.synthetic.render.kernels import FAR, rasterise

_MAP_SIDE = 96  # pixels of a depth map
_REACH = 2.3  # decimetres around the head's middle that a depth map shows
_BIAS = 0.07  # decimetres that a surface may lie behind another before it is in its shadow
_SKY_DIRECTIONS = 40
_LAMP_RAYS = 10
_LAMP_RADIUS = 0.22  # of the key light, as seen from the face, radians


def sky_directions() -> Floats:
    """Evenly spread directions (N, 3), those from far below left out."""
    k = np.arange(_SKY_DIRECTIONS) + 0.5
    y = 1 - 1.6 * k / _SKY_DIRECTIONS
    turn = math.pi * (1 + math.sqrt(5)) * k
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(turn), y, radius * np.sin(turn)], 1).astype(np.float32)


def lamp_directions(light: tuple[float, float, float]) -> Floats:
    """Directions (N, 3) to points of a round lamp in direction ``light``."""
    k = np.arange(_LAMP_RAYS) + 0.5
    radius, turn = _LAMP_RADIUS * np.sqrt(k / _LAMP_RAYS), math.pi * (1 + math.sqrt(5)) * k
    right, up = _basis(floats(light))
    rays = floats(light) + np.outer(radius * np.cos(turn), right) + np.outer(radius * np.sin(turn), up)
    return floats(rays / np.sqrt((rays * rays).sum(1, keepdims=True)))


def reached(
    points: Floats,
    normals: Floats,
    triangles: Indices,
    kinds: Indices,
    fuzz: Floats,
    fields: Floats,
    middle: Floats,
    directions: Floats,
    cosine: bool,
) -> Floats:
    """The share (N,) of light from some directions that reaches each point past the figure.

    Args:
        points, normals: (N, 3) in camera space, decimetres.
        triangles, kinds, fuzz, fields: as `kernels.rasterise` takes them.
        middle: (3,) what the depth maps are centred on.
        directions: (D, 3) toward the light, length 1.
        cosine: weigh directions by their slant on the surface (ambient light) or alike (a lamp).
    """
    total, whole = np.zeros(len(points), np.float64), np.zeros(len(points), np.float64)
    scale = _MAP_SIDE / (2 * _REACH)
    # a map must see both sides of closed surfaces: what faces away still casts a shadow
    both = np.where(kinds == 0, 1, kinds).astype(np.int32)
    for direction in directions:
        right, up = _basis(direction)
        seen = points - middle
        screen = np.empty_like(points)
        screen[:, 0] = _dot(seen, right) * scale + _MAP_SIDE / 2
        screen[:, 1] = _MAP_SIDE / 2 - _dot(seen, up) * scale
        screen[:, 2] = -_dot(seen, direction)
        depth = np.full((_MAP_SIDE, _MAP_SIDE), FAR, np.float32)
        index = np.empty((_MAP_SIDE, _MAP_SIDE), np.int32)
        weights = np.empty((_MAP_SIDE, _MAP_SIDE, 3), np.float32)
        rasterise(screen, triangles, both, fuzz, fields, depth, index, weights)
        slant = np.clip(_dot(normals, direction), 0, 1) if cosine else np.ones(len(points))
        total += slant * _passes(screen, depth)
        whole += slant
    return (total / np.maximum(whole, 1e-6)).astype(np.float32)


def _dot(points: Floats, vector: Floats) -> Floats:
    total: Floats = points[:, 0] * vector[0] + points[:, 1] * vector[1] + points[:, 2] * vector[2]
    return total


def _basis(direction: Floats) -> tuple[Floats, Floats]:
    """Two directions across one."""
    right = np.cross(floats((0, 1, 0.01)), direction)
    right = (right / math.sqrt(float((right * right).sum()))).astype(np.float32)
    return right, np.cross(direction, right).astype(np.float32)


@compiled
def _passes(screen: Array, depth: Array) -> Array:
    """Share (N,) float32 of the nine pixels around each point (N, 3) in which nothing lies before it."""
    side = depth.shape[0]
    share = np.ones(screen.shape[0], np.float32)
    for i in range(screen.shape[0]):
        x, y = math.floor(screen[i, 0]), math.floor(screen[i, 1])
        if x < 1 or y < 1 or x >= side - 1 or y >= side - 1:
            continue
        free = 0
        for row in range(y - 1, y + 2):
            for column in range(x - 1, x + 2):
                if screen[i, 2] < depth[row, column] + _BIAS:
                    free += 1
        share[i] = free / 9.0
    return share
