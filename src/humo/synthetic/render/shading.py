"""Light on surfaces: each pixel's colour from its material, a soft key light, a fill, sky and ground.

Skin scatters: its terminator is wide and reddish, its shadows warm (wrap lighting by channel).
"""

from __future__ import annotations

import math

import numpy as np

from humo.synthetic.render.jit import Array, compiled
from humo.synthetic.render.kernels import smooth
from humo.synthetic.render.materials import (
    ATTRIBUTES,
    BEARD,
    C_BROW,
    C_FILL,
    C_FRAME,
    C_GROUND,
    C_HAIR,
    C_KEY,
    C_SKY,
    CLOTH,
    COVER,
    EYE,
    FRAME,
    HAIR,
    LIT,
    OPEN,
    P_FILL,
    P_LIGHT,
    P_TURN,
    SKIN,
    TEETH,
    TONGUE,
    X,
    Y,
    Z,
    cloth,
    eye,
    hair,
    skin,
    teeth,
    tongue,
)


@compiled
def _is_face(material: int, a: Array) -> bool:
    """Whether a pixel belongs to the face: skin from hairline to chin, eyes, mouth, glasses, beard."""
    if material in (EYE, TEETH, TONGUE, FRAME):
        return True
    if material == BEARD:
        return bool(a[Y] > 6.05)
    return bool(material == SKIN and a[Z] > 0.72 and a[Y] > 6.13 + 0.25 * (1.4 - a[Z]) and a[COVER] < 0.05)


@compiled
def shade(
    picture: Array,
    face: Array,
    index: Array,
    weights: Array,
    triangles: Array,
    materials: Array,
    normals: Array,
    attributes: Array,
    colours: Array,
    numbers: Array,
) -> None:
    """Paint every covered pixel.

    Args:
        picture: (H, W, 3) float32 linear colour, in and out.
        face: (H, W) uint8, out: 1 where the face is seen.
        index, weights: what `kernels.rasterise` saw.
        triangles: (T, 3) int32.
        materials: (T,) int32.
        normals: (V, 3) float32, length 1, in camera space.
        attributes: (V, ATTRIBUTES) float32.
        colours: (12, 3) float64 linear, rows as `materials` names them.
        numbers: (NUMBERS,) float64, places as `materials` names them.
    """
    height, width = index.shape
    a, n, c = np.zeros(ATTRIBUTES), np.zeros(3), np.zeros(3)
    lx, ly, lz = numbers[P_LIGHT], numbers[P_LIGHT + 1], numbers[P_LIGHT + 2]
    hx, hy, hz = lx, ly, lz + 1.0
    half = math.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx / half, hy / half, hz / half
    for y in range(height):
        for x in range(width):
            t = index[y, x]
            if t < 0:
                continue
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            u, v, w = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            for m in range(ATTRIBUTES):
                a[m] = u * attributes[i, m] + v * attributes[j, m] + w * attributes[k, m]
            for m in range(3):
                n[m] = u * normals[i, m] + v * normals[j, m] + w * normals[k, m]
            length = math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
            flip = -1.0 if n[2] < 0 and materials[t] in (HAIR, FRAME, TEETH, TONGUE) else 1.0
            for m in range(3):
                n[m] *= flip / length
            material = materials[t]
            face[y, x] = 1 if _is_face(material, a) else 0
            lit, sky = min(max(a[LIT], 0.0), 1.0), min(max(a[OPEN], 0.0), 1.0)
            shine, gloss, scatter, tangent, gleam = 0.0, 10.0, 0.0, 0.0, 1.0
            sheen = 0.08 if material in (HAIR, BEARD) else 0.4
            if material == SKIN:
                shine, gloss = skin(c, a, colours, numbers)
                scatter = 1.0
            elif material in (HAIR, BEARD):
                shift = hair(c, a, colours[C_HAIR] if material == HAIR else colours[C_BROW])
                # strands run from the crown down and outward, along the surface
                fx, fy, fz = a[X], a[Y] - 8.9, a[Z] - 0.2
                gx = numbers[P_TURN] * fx + numbers[P_TURN + 1] * fy + numbers[P_TURN + 2] * fz
                gy = numbers[P_TURN + 3] * fx + numbers[P_TURN + 4] * fy + numbers[P_TURN + 5] * fz
                gz = numbers[P_TURN + 6] * fx + numbers[P_TURN + 7] * fy + numbers[P_TURN + 8] * fz
                into = gx * n[0] + gy * n[1] + gz * n[2]
                gx, gy, gz = gx - into * n[0], gy - into * n[1], gz - into * n[2]
                flow = math.sqrt(gx * gx + gy * gy + gz * gz) + 1e-6
                along = (gx * hx + gy * hy + gz * hz) / flow + 0.12 * shift
                gleam = 1.0 if material == HAIR else 0.25
                tangent = math.sqrt(max(0.0, 1 - along * along))
            elif material == CLOTH:
                shine, gloss = cloth(c, a, n, colours, numbers)
            elif material == EYE:
                shine, gloss = eye(c, a, colours, numbers)
                lit, sky = max(lit, 0.6), max(sky, 0.7)
            elif material == TEETH:
                shine, gloss = teeth(c, a, numbers)
                lit, sky = 0.70, 0.80
                n[0], n[1], n[2] = 1.6 * a[X], 0.15, 1.0  # an even arch: the mesh has too few corners
                length = math.sqrt(n[0] * n[0] + n[1] * n[1] + 1.0)
                for m in range(3):
                    n[m] /= length
            elif material == TONGUE:
                shine, gloss = tongue(c, a)
                lit, sky = 0.4, 0.45
            else:
                for m in range(3):
                    c[m] = colours[C_FRAME, m]
                shine, gloss, lit, sky = 0.8, 40.0, 0.85, 0.85
            facing = n[0] * lx + n[1] * ly + n[2] * lz
            side = n[0] * numbers[P_FILL] + n[1] * numbers[P_FILL + 1] + n[2] * numbers[P_FILL + 2]
            up = 0.5 + 0.5 * n[1]
            grazing = 1 - max(n[2], 0.0)
            fresnel = grazing * grazing * grazing
            spec = shine * max(0.0, n[0] * hx + n[1] * hy + n[2] * hz) ** gloss * (0.6 + 1.4 * fresnel) * lit
            for m in range(3):
                wrap = 0.12
                leak = 0.0
                dim = sky
                if scatter > 0:
                    wrap = 0.50 if m == 0 else (0.27 if m == 1 else 0.20)
                    leak = 0.16 if m == 0 else (0.05 if m == 1 else 0.03)
                    dim = sky ** (0.72 if m == 0 else (0.95 if m == 1 else 1.0))
                elif tangent > 0:
                    wrap = 0.45
                    leak = 0.05
                diffuse = max(0.0, (facing + wrap) / (1 + wrap))
                diffuse *= diffuse * 0.35 + 0.65
                key = colours[C_KEY, m] * diffuse * (leak + (1 - leak) * lit)
                fill = colours[C_FILL, m] * max(0.0, (side + 0.3) / 1.3) * dim
                ambient = (colours[C_GROUND, m] + (colours[C_SKY, m] - colours[C_GROUND, m]) * up) * dim
                value = c[m] * (key + fill + ambient) + spec * colours[C_KEY, m]
                value += 0.22 * fresnel * colours[C_SKY, m] * sky * (sheen + c[m])
                if tangent > 0:
                    sharp = tangent**60 * 0.10 * gleam + tangent**14 * 0.45 * c[m]
                    value += sharp * colours[C_KEY, m] * lit * smooth(-0.2, 0.4, facing)
                picture[y, x, m] = value
