"""Compiled ground of the renderer: value noise, vertex normals, and a depth-buffered triangle rasteriser.

Plain IEEE arithmetic and integer hashes only, so that a seed gives the same bytes every time.
"""

from __future__ import annotations

import math

import numpy as np

from humo.synthetic.render.jit import Array, compiled

SOLID, TWO_SIDED, CUT, STRANDS = range(4)
"""How a triangle is drawn: front only; both sides; where cover > 0; where cover exceeds strand noise."""

FAR = 1e9


@compiled
def smooth(low: float, high: float, value: float) -> float:
    """0 at ``low``, 1 at ``high``, smooth between; ``low`` may be the larger."""
    t = (value - low) / (high - low)
    t = min(max(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@compiled
def _hash(x: int, y: int, z: int) -> float:
    """A number in [0, 1) for a point of the integer lattice."""
    h = (x * 374761393 + y * 668265263 + z * 1442695041) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@compiled
def noise(x: float, y: float, z: float) -> float:
    """Smooth value noise in [0, 1), one lattice cell a unit."""
    ix, iy, iz = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - ix, y - iy, z - iz
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    i, j, k = int(ix), int(iy), int(iz)
    a = _hash(i, j, k) * (1 - fx) + _hash(i + 1, j, k) * fx
    b = _hash(i, j + 1, k) * (1 - fx) + _hash(i + 1, j + 1, k) * fx
    c = _hash(i, j, k + 1) * (1 - fx) + _hash(i + 1, j, k + 1) * fx
    d = _hash(i, j + 1, k + 1) * (1 - fx) + _hash(i + 1, j + 1, k + 1) * fx
    return (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz


@compiled
def noise2(x: float, y: float) -> float:
    """Smooth value noise in [0, 1) on a plane."""
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    i, j = int(ix), int(iy)
    a = _hash(i, j, 7) * (1 - fx) + _hash(i + 1, j, 7) * fx
    b = _hash(i, j + 1, 7) * (1 - fx) + _hash(i + 1, j + 1, 7) * fx
    return a * (1 - fy) + b * fy


@compiled
def vertex_normals(points: Array, triangles: Array) -> Array:
    """Area-weighted normals (V, 3) float32 of points (V, 3) float32 and triangles (T, 3) int32."""
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


@compiled
def rasterise(
    screen: Array,
    triangles: Array,
    kinds: Array,
    fuzz: Array,
    fields: Array,
    depth: Array,
    index: Array,
    weights: Array,
) -> None:
    """Draw the nearest triangle into every pixel.

    Args:
        screen: (V, 3) float32: x right and y down in pixels, depth (smaller is nearer).
        triangles: (T, 3) int32.
        kinds: (T,) int32, `SOLID` to `STRANDS`.
        fuzz: (T, 3) float32 for `STRANDS`: width of the ragged edge in units of cover, share that is thinned out,
            strands a unit across.
        fields: (V, 3) float32: cover, and two coordinates across and along the strands.
        depth: (H, W) float32, in and out; start with `FAR`.
        index: (H, W) int32, out: the triangle seen, -1 where there is none.
        weights: (H, W, 3) float32, out: its corners' shares.
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9 or (kinds[t] == SOLID and area > 0):  # y runs down: the front is turned negative
            continue
        x0, x1 = max(math.floor(min(ax, bx, cx) - 0.5), 0), min(math.ceil(max(ax, bx, cx)), width - 1)
        y0, y1 = max(math.floor(min(ay, by, cy) - 0.5), 0), min(math.ceil(max(ay, by, cy)), height - 1)
        if x1 < x0 or y1 < y0:
            continue
        cut = kinds[t] >= CUT
        if cut and fields[a, 0] < -fuzz[t, 0] and fields[b, 0] < -fuzz[t, 0] and fields[c, 0] < -fuzz[t, 0]:
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
                if z >= depth[y, x]:
                    continue
                if cut:
                    cover = w0 * fields[a, 0] + w1 * fields[b, 0] + w2 * fields[c, 0]
                    if kinds[t] == STRANDS:
                        across = w0 * fields[a, 1] + w1 * fields[b, 1] + w2 * fields[c, 1]
                        along = w0 * fields[a, 2] + w1 * fields[b, 2] + w2 * fields[c, 2]
                        strand = noise2(across * fuzz[t, 2], along * 2.5)
                        if cover + fuzz[t, 0] * (strand - 0.6) < 0:
                            continue
                        if fuzz[t, 1] > 0 and noise2(across * 60.0 + 50.0, along * 14.0) < fuzz[t, 1]:
                            continue
                    elif cover < 0:
                        continue
                depth[y, x] = z
                index[y, x] = t
                weights[y, x, 0] = w0
                weights[y, x, 1] = w1
                weights[y, x, 2] = w2
