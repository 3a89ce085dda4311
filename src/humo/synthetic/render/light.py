"""Compute how much ambient and key light reaches each vertex: soft shadows from depth maps of the figure itself."""

from __future__ import annotations

import math

import numpy as np

from humo.synthetic.person.base_mesh import Floats, as_float32
from humo.synthetic.render.jit import Array, jit
from humo.synthetic.render.kernels import FAR, SOLID, TWO_SIDED, Fragments, RasterMesh, rasterize

_DEPTH_MAP_SIDE = 96  # pixels
_DEPTH_MAP_RADIUS = 2.3  # decimeters around the center of the head that a depth map shows
_BIAS = 0.07  # decimeters that a surface may lie behind another without being in its shadow
_SKY_DIRECTIONS = 40
_KEY_LIGHT_RAYS = 10
_KEY_LIGHT_RADIUS = 0.22  # angular radius of the key light as seen from the face, radians


def sky_directions() -> Floats:
    """Return evenly spread directions (N, 3), without those from far below."""
    k = np.arange(_SKY_DIRECTIONS) + 0.5
    y = 1 - 1.6 * k / _SKY_DIRECTIONS
    turn = math.pi * (1 + math.sqrt(5)) * k
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(turn), y, radius * np.sin(turn)], 1).astype(np.float32)


def key_light_directions(light: tuple[float, float, float]) -> Floats:
    """Return directions (N, 3) to points of a round lamp in direction ``light``."""
    k = np.arange(_KEY_LIGHT_RAYS) + 0.5
    radius, turn = _KEY_LIGHT_RADIUS * np.sqrt(k / _KEY_LIGHT_RAYS), math.pi * (1 + math.sqrt(5)) * k
    right, up = _perpendicular_axes(as_float32(light))
    rays = as_float32(light) + np.outer(radius * np.cos(turn), right) + np.outer(radius * np.sin(turn), up)
    return as_float32(rays / np.sqrt((rays * rays).sum(1, keepdims=True)))


def light_visibility(
    points: Floats,
    normals: Floats,
    mesh: RasterMesh,
    center: Floats,
    directions: Floats,
    cosine: bool,
) -> Floats:
    """Return the fraction (N,) of the light from some directions that reaches each point and is not blocked.

    Args:
        points, normals: (N, 3) in camera space, decimeters.
        mesh: the triangles that cast shadows.
        center: (3,) center of the depth maps.
        directions: (D, 3) unit vectors toward the light.
        cosine: True to weight directions by their angle to the surface (ambient light), False for equal weights (a
            lamp).
    """
    received, total = np.zeros(len(points), np.float64), np.zeros(len(points), np.float64)
    scale = _DEPTH_MAP_SIDE / (2 * _DEPTH_MAP_RADIUS)
    # a depth map needs both sides of closed surfaces: what faces away still casts a shadow
    two_sided = np.where(mesh.draw_modes == SOLID, TWO_SIDED, mesh.draw_modes).astype(np.int32)
    caster = mesh._replace(draw_modes=two_sided)
    shape = (_DEPTH_MAP_SIDE, _DEPTH_MAP_SIDE)
    for direction in directions:
        right, up = _perpendicular_axes(direction)
        offset = points - center
        screen = np.empty_like(points)
        screen[:, 0] = _dot(offset, right) * scale + _DEPTH_MAP_SIDE / 2
        screen[:, 1] = _DEPTH_MAP_SIDE / 2 - _dot(offset, up) * scale
        screen[:, 2] = -_dot(offset, direction)
        fragments = Fragments(
            depth=np.full(shape, FAR, np.float32),
            index=np.empty(shape, np.int32),
            weights=np.empty((*shape, 3), np.float32),
        )
        rasterize(screen, caster, fragments)
        weight = np.clip(_dot(normals, direction), 0, 1) if cosine else np.ones(len(points))
        received += weight * _unoccluded_fraction(screen, fragments.depth)
        total += weight
    return (received / np.maximum(total, 1e-6)).astype(np.float32)


def _dot(points: Floats, vector: Floats) -> Floats:
    total: Floats = points[:, 0] * vector[0] + points[:, 1] * vector[1] + points[:, 2] * vector[2]
    return total


def _perpendicular_axes(direction: Floats) -> tuple[Floats, Floats]:
    """Return two unit vectors perpendicular to a direction."""
    right = np.cross(as_float32((0, 1, 0.01)), direction)
    right = (right / math.sqrt(float((right * right).sum()))).astype(np.float32)
    return right, np.cross(direction, right).astype(np.float32)


@jit
def _unoccluded_fraction(screen: Array, depth: Array) -> Array:
    """Return the fraction (N,) float32 of the nine pixels around each point (N, 3) that nothing blocks."""
    side = depth.shape[0]
    fraction = np.ones(screen.shape[0], np.float32)
    for i in range(screen.shape[0]):
        x, y = math.floor(screen[i, 0]), math.floor(screen[i, 1])
        if x < 1 or y < 1 or x >= side - 1 or y >= side - 1:
            continue
        free = 0
        for row in range(y - 1, y + 2):
            for column in range(x - 1, x + 2):
                if screen[i, 2] < depth[row, column] + _BIAS:
                    free += 1
        fraction[i] = free / 9.0
    return fraction
