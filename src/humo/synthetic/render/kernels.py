"""Compiled kernels of the renderer: value noise, vertex normals, and a triangle rasterizer with a depth buffer.

They use plain IEEE arithmetic and integer hashes only, so that a seed always gives the same bytes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from humo.synthetic.render.jit import Array, jit

SOLID, TWO_SIDED, CUT, STRANDS = range(4)
"""Draw modes of a triangle: front side only; both sides; where cover >= 0; where cover exceeds strand noise."""

FAR = 1e9
"""Initial value of the depth buffer."""


@jit
def smoothstep(low: float, high: float, value: float) -> float:
    """Interpolate smoothly from 0 at ``low`` to 1 at ``high``; ``low`` may be larger than ``high``."""
    t = (value - low) / (high - low)
    t = min(max(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@jit
def _hash(x: int, y: int, z: int) -> float:
    """Return a pseudorandom number in [0, 1) for a point of the integer lattice."""
    h = (x * 374761393 + y * 668265263 + z * 1442695041) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@jit
def noise(x: float, y: float, z: float) -> float:
    """Return smooth value noise in [0, 1) with one lattice cell per unit."""
    ix, iy, iz = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - ix, y - iy, z - iz
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    i, j, k = int(ix), int(iy), int(iz)
    a = _hash(i, j, k) * (1 - fx) + _hash(i + 1, j, k) * fx
    b = _hash(i, j + 1, k) * (1 - fx) + _hash(i + 1, j + 1, k) * fx
    c = _hash(i, j, k + 1) * (1 - fx) + _hash(i + 1, j, k + 1) * fx
    d = _hash(i, j + 1, k + 1) * (1 - fx) + _hash(i + 1, j + 1, k + 1) * fx
    return (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz


@jit
def noise2(x: float, y: float) -> float:
    """Return smooth value noise in [0, 1) on a plane."""
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    i, j = int(ix), int(iy)
    a = _hash(i, j, 7) * (1 - fx) + _hash(i + 1, j, 7) * fx
    b = _hash(i, j + 1, 7) * (1 - fx) + _hash(i + 1, j + 1, 7) * fx
    return a * (1 - fy) + b * fy


@jit
def vertex_normals(points: Array, triangles: Array) -> Array:
    """Return area-weighted normals (V, 3) float32 of points (V, 3) float32 and triangles (T, 3) int32."""
    normals = np.zeros((points.shape[0], 3), np.float32)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        wx, wy, wz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for i in range(points.shape[0]):
        length = math.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + 1e-12
        for k in range(3):
            normals[i, k] /= length
    return normals


class RasterMesh(NamedTuple):
    """Triangles as the rasterizer draws them.

    Args:
        triangles: (T, 3) int32.
        draw_modes: (T,) int32, `SOLID` to `STRANDS`.
        strand_shape: (T, 3) float32 for `STRANDS`: width of the ragged edge in units of cover, fraction that is thinned
            out, strands per unit across.
        cut_fields: (V, 3) float32: cover, and two coordinates across and along the strands.
    """

    triangles: Array
    draw_modes: Array
    strand_shape: Array
    cut_fields: Array


class Fragments(NamedTuple):
    """The nearest triangle of each pixel.

    Args:
        depth: (H, W) float32; start with `FAR`.
        index: (H, W) int32: the visible triangle, -1 where there is none.
        weights: (H, W, 3) float32: barycentric weights of its corners.
    """

    depth: Array
    index: Array
    weights: Array


@jit
def rasterize(screen: Array, mesh: RasterMesh, fragments: Fragments) -> None:
    """Draw the nearest triangle into every pixel.

    Args:
        screen: (V, 3) float32: x right and y down in pixels, depth (smaller is nearer).
        mesh: the triangles.
        fragments: updated in place.
    """
    height, width = fragments.depth.shape
    for t in range(mesh.triangles.shape[0]):
        a, b, c = mesh.triangles[t, 0], mesh.triangles[t, 1], mesh.triangles[t, 2]
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9 or (mesh.draw_modes[t] == SOLID and area > 0):  # y points down: front faces are negative
            continue
        x0, x1 = max(math.floor(min(ax, bx, cx) - 0.5), 0), min(math.ceil(max(ax, bx, cx)), width - 1)
        y0, y1 = max(math.floor(min(ay, by, cy) - 0.5), 0), min(math.ceil(max(ay, by, cy)), height - 1)
        if x1 < x0 or y1 < y0:
            continue
        is_cut = mesh.draw_modes[t] >= CUT
        edge = -mesh.strand_shape[t, 0]
        if is_cut and mesh.cut_fields[a, 0] < edge and mesh.cut_fields[b, 0] < edge and mesh.cut_fields[c, 0] < edge:
            continue
        inverse = 1.0 / area
        for y in range(y0, y1 + 1):
            fy = y + 0.5
            for x in range(x0, x1 + 1):
                fx = x + 0.5
                w0 = ((bx - fx) * (cy - fy) - (by - fy) * (cx - fx)) * inverse
                w1 = ((cx - fx) * (ay - fy) - (cy - fy) * (ax - fx)) * inverse
                w2 = 1.0 - w0 - w1
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                z = w0 * screen[a, 2] + w1 * screen[b, 2] + w2 * screen[c, 2]
                if z >= fragments.depth[y, x]:
                    continue
                if is_cut and not _is_covered(mesh, t, w0, w1, w2):
                    continue
                fragments.depth[y, x] = z
                fragments.index[y, x] = t
                fragments.weights[y, x, 0] = w0
                fragments.weights[y, x, 1] = w1
                fragments.weights[y, x, 2] = w2


@jit
def _is_covered(mesh: RasterMesh, t: int, w0: float, w1: float, w2: float) -> bool:
    """Return whether a `CUT` or `STRANDS` triangle covers the point with these barycentric weights."""
    fields = mesh.cut_fields
    a, b, c = mesh.triangles[t, 0], mesh.triangles[t, 1], mesh.triangles[t, 2]
    cover = w0 * fields[a, 0] + w1 * fields[b, 0] + w2 * fields[c, 0]
    if mesh.draw_modes[t] != STRANDS:
        return bool(cover >= 0)
    edge, thinning, strands_per_unit = mesh.strand_shape[t, 0], mesh.strand_shape[t, 1], mesh.strand_shape[t, 2]
    across = w0 * fields[a, 1] + w1 * fields[b, 1] + w2 * fields[c, 1]
    along = w0 * fields[a, 2] + w1 * fields[b, 2] + w2 * fields[c, 2]
    strand = noise2(across * strands_per_unit, along * 2.5)
    if cover + edge * (strand - 0.6) < 0:
        return False
    return not (thinning > 0 and noise2(across * 60.0 + 50.0, along * 14.0) < thinning)
