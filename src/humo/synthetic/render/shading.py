"""Shade the visible triangles: the color of each pixel from its material, a soft key light, a fill, sky and ground.

Skin scatters light, so its terminator is wide and reddish and its shadows are warm (wrap lighting per channel).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from humo.synthetic.render.jit import Array, jit
from humo.synthetic.render.kernels import Fragments, smoothstep
from humo.synthetic.render.materials import (
    A_AMBIENT,
    A_COVER,
    A_KEY_LIGHT,
    A_X,
    A_Y,
    A_Z,
    BEARD,
    C_BROW,
    C_FILL,
    C_FRAME,
    C_GROUND,
    C_HAIR,
    C_KEY,
    C_SKY,
    CLOTH,
    EYE,
    FRAME,
    HAIR,
    NUM_ATTRIBUTES,
    P_FILL,
    P_HEAD_ROTATION,
    P_LIGHT,
    SKIN,
    TEETH,
    TONGUE,
    cloth_color,
    eye_color,
    hair_color,
    skin_color,
    teeth_color,
    tongue_color,
)


class Surface(NamedTuple):
    """Mesh as the shader reads it.

    Args:
        triangles: (T, 3) int32.
        materials: (T,) int32.
        normals: (V, 3) float32 unit vectors in camera space.
        attributes: (V, NUM_ATTRIBUTES) float32.
    """

    triangles: Array
    materials: Array
    normals: Array
    attributes: Array


@jit
def _is_face(material: int, a: Array) -> bool:
    """Return whether a pixel belongs to the face: skin from hairline to chin, eyes, mouth, glasses, beard."""
    if material in (EYE, TEETH, TONGUE, FRAME):
        return True
    if material == BEARD:
        return bool(a[A_Y] > 6.05)
    return bool(material == SKIN and a[A_Z] > 0.72 and a[A_Y] > 6.13 + 0.25 * (1.4 - a[A_Z]) and a[A_COVER] < 0.05)


@jit
def _tangent_highlight(a: Array, n: Array, half: Array, shift: float, parameters: Array) -> float:
    """Return the sine of the angle between a strand of hair and the half vector.

    Strands run from the crown downward and outward, along the surface.
    """
    p = P_HEAD_ROTATION
    fx, fy, fz = a[A_X], a[A_Y] - 8.9, a[A_Z] - 0.2
    gx = parameters[p] * fx + parameters[p + 1] * fy + parameters[p + 2] * fz
    gy = parameters[p + 3] * fx + parameters[p + 4] * fy + parameters[p + 5] * fz
    gz = parameters[p + 6] * fx + parameters[p + 7] * fy + parameters[p + 8] * fz
    into = gx * n[0] + gy * n[1] + gz * n[2]
    gx, gy, gz = gx - into * n[0], gy - into * n[1], gz - into * n[2]
    flow = math.sqrt(gx * gx + gy * gy + gz * gz) + 1e-6
    along = (gx * half[0] + gy * half[1] + gz * half[2]) / flow + 0.12 * shift
    return math.sqrt(max(0.0, 1 - along * along))


@jit
def _shade_material(
    material: int, c: Array, a: Array, n: Array, half: Array, colors: Array, parameters: Array
) -> tuple[float, float, float, float, float]:
    """Write a pixel's color into ``c`` and adjust its normal ``n``.

    Returns:
        Strength and sharpness of the highlight, the tangent highlight of hair (0 elsewhere), visibility of the key
        light and of the ambient light.
    """
    key, ambient = min(max(a[A_KEY_LIGHT], 0.0), 1.0), min(max(a[A_AMBIENT], 0.0), 1.0)
    shine, gloss, tangent = 0.0, 10.0, 0.0
    if material == SKIN:
        shine, gloss = skin_color(c, a, colors, parameters)
    elif material in (HAIR, BEARD):
        shift = hair_color(c, a, colors[C_HAIR] if material == HAIR else colors[C_BROW])
        tangent = _tangent_highlight(a, n, half, shift, parameters)
    elif material == CLOTH:
        shine, gloss = cloth_color(c, a, n, colors, parameters)
    elif material == EYE:
        shine, gloss = eye_color(c, a, colors, parameters)
        key, ambient = max(key, 0.6), max(ambient, 0.7)
    elif material == TEETH:
        shine, gloss = teeth_color(c, a, parameters)
        key, ambient = 0.70, 0.80
        n[0], n[1], n[2] = 1.6 * a[A_X], 0.15, 1.0  # an even arch: the mesh has too few vertices
        length = math.sqrt(n[0] * n[0] + n[1] * n[1] + 1.0)
        for m in range(3):
            n[m] /= length
    elif material == TONGUE:
        shine, gloss = tongue_color(c, a)
        key, ambient = 0.4, 0.45
    else:
        for m in range(3):
            c[m] = colors[C_FRAME, m]
        shine, gloss, key, ambient = 0.8, 40.0, 0.85, 0.85
    return shine, gloss, tangent, key, ambient


@jit
def _channel_diffusion(m: int, is_skin: bool, tangent: float, ambient: float) -> tuple[float, float, float]:
    """Return wrap and leak of the key light and the dimmed ambient light of a color channel."""
    wrap = 0.12
    leak = 0.0
    dim = ambient
    if is_skin:
        wrap = 0.50 if m == 0 else (0.27 if m == 1 else 0.20)
        leak = 0.16 if m == 0 else (0.05 if m == 1 else 0.03)
        dim = ambient ** (0.72 if m == 0 else (0.95 if m == 1 else 1.0))
    elif tangent > 0:
        wrap = 0.45
        leak = 0.05
    return wrap, leak, dim


@jit
def _light_pixel(
    pixel: Array, material: int, c: Array, a: Array, n: Array, half: Array, colors: Array, parameters: Array
) -> None:
    """Write the reflected light of one pixel."""
    shine, gloss, tangent, key_visible, ambient_visible = _shade_material(material, c, a, n, half, colors, parameters)
    gleam = 0.25 if material == BEARD else 1.0
    sheen = 0.08 if material in (HAIR, BEARD) else 0.4
    facing = n[0] * parameters[P_LIGHT] + n[1] * parameters[P_LIGHT + 1] + n[2] * parameters[P_LIGHT + 2]
    side = n[0] * parameters[P_FILL] + n[1] * parameters[P_FILL + 1] + n[2] * parameters[P_FILL + 2]
    up = 0.5 + 0.5 * n[1]
    grazing = 1 - max(n[2], 0.0)
    fresnel = grazing * grazing * grazing
    aligned = max(0.0, n[0] * half[0] + n[1] * half[1] + n[2] * half[2])
    specular = shine * aligned**gloss * (0.6 + 1.4 * fresnel) * key_visible
    for m in range(3):
        wrap, leak, dim = _channel_diffusion(m, material == SKIN, tangent, ambient_visible)
        diffuse = max(0.0, (facing + wrap) / (1 + wrap))
        diffuse *= diffuse * 0.35 + 0.65
        key = colors[C_KEY, m] * diffuse * (leak + (1 - leak) * key_visible)
        fill = colors[C_FILL, m] * max(0.0, (side + 0.3) / 1.3) * dim
        ambient = (colors[C_GROUND, m] + (colors[C_SKY, m] - colors[C_GROUND, m]) * up) * dim
        value = c[m] * (key + fill + ambient) + specular * colors[C_KEY, m]
        value += 0.22 * fresnel * colors[C_SKY, m] * ambient_visible * (sheen + c[m])
        if tangent > 0:
            sharp = tangent**60 * 0.10 * gleam + tangent**14 * 0.45 * c[m]
            value += sharp * colors[C_KEY, m] * key_visible * smoothstep(-0.2, 0.4, facing)
        pixel[m] = value


@jit
def shade(
    image: Array, face_mask: Array, fragments: Fragments, surface: Surface, colors: Array, parameters: Array
) -> None:
    """Shade every covered pixel.

    Args:
        image: (H, W, 3) float32 linear color, updated in place.
        face_mask: (H, W) uint8, set to 1 where the face is visible.
        fragments: output of `kernels.rasterize`.
        surface: the mesh.
        colors: (12, 3) float64 linear, rows as `materials` names them.
        parameters: (NUM_PARAMETERS,) float64, offsets as `materials` names them.
    """
    height, width = fragments.index.shape
    a, n, c, half = np.zeros(NUM_ATTRIBUTES), np.zeros(3), np.zeros(3), np.zeros(3)
    half[0], half[1], half[2] = parameters[P_LIGHT], parameters[P_LIGHT + 1], parameters[P_LIGHT + 2] + 1.0
    norm = math.sqrt(half[0] * half[0] + half[1] * half[1] + half[2] * half[2])
    for m in range(3):
        half[m] /= norm
    for y in range(height):
        for x in range(width):
            t = fragments.index[y, x]
            if t < 0:
                continue
            i, j, k = surface.triangles[t, 0], surface.triangles[t, 1], surface.triangles[t, 2]
            u, v, w = fragments.weights[y, x, 0], fragments.weights[y, x, 1], fragments.weights[y, x, 2]
            for m in range(NUM_ATTRIBUTES):
                a[m] = u * surface.attributes[i, m] + v * surface.attributes[j, m] + w * surface.attributes[k, m]
            for m in range(3):
                n[m] = u * surface.normals[i, m] + v * surface.normals[j, m] + w * surface.normals[k, m]
            material = surface.materials[t]
            length = math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
            flip = -1.0 if n[2] < 0 and material in (HAIR, FRAME, TEETH, TONGUE) else 1.0
            for m in range(3):
                n[m] *= flip / length
            face_mask[y, x] = 1 if _is_face(material, a) else 0
            _light_pixel(image[y, x], material, c, a, n, half, colors, parameters)
