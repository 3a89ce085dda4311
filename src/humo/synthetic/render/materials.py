"""Compiled color functions of the materials: skin, hair, cloth, eyes, mouth.

Each takes the interpolated attributes ``a`` of a pixel, writes its linear color into ``c`` and returns strength and
sharpness of its highlight. Patterns are functions of the base mesh's canonical coordinates.
"""

from __future__ import annotations

import math

from humo.synthetic.render.jit import Array, jit
from humo.synthetic.render.kernels import noise, noise2, smoothstep

SKIN, HAIR, CLOTH, EYE, TEETH, TONGUE, FRAME, BEARD = range(8)
"""Materials of triangles; `FRAME` is that of glasses."""

(
    A_X,
    A_Y,
    A_Z,
    A_LIPS,
    A_LASH,
    A_INNER_MOUTH,
    A_COVER,
    A_BEARD,
    A_AMBIENT,
    A_KEY_LIGHT,
    A_ACROSS,
    A_ALONG,
) = range(12)
"""Attributes of vertices: canonical position, region weights, hair growth, visibility of ambient and key light, strand
coordinates.

On eyeballs `A_LIPS`, `A_LASH` and `A_INNER_MOUTH` hold the direction from the center of the eye instead.
"""
NUM_ATTRIBUTES = 12

C_SKIN, C_LIPS, C_HAIR, C_BROW, C_IRIS, C_CLOTH, C_SECOND, C_FRAME, C_KEY, C_FILL, C_SKY, C_GROUND = range(12)
"""Rows of the table of linear colors."""

(
    P_LIGHT,
    P_FILL,
    P_GAZE,
    P_BROWS,
    P_FRECKLES,
    P_AGE,
    P_WARMTH,
    P_CLOTHES,
    P_PATTERN,
    P_STUBBLE,
    P_LASHES,
    P_HEAD_ROTATION,
    P_PARTING,
    P_SCALP,
    P_LIP_GAP,
) = (0, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 25, 26, 27)
"""Offsets in the row of parameters; light and fill take three numbers, gaze two, head rotation nine (row by row)."""
NUM_PARAMETERS = 28

TSHIRT, VNECK, TURTLENECK, COLLAR, SUIT, HOODIE = range(6)
"""Clothes, in the order of `appearance.CLOTHES`."""

PLAIN, STRIPED, CHECKED, DOTTED = range(4)
"""Patterns, in the order of `appearance.PATTERNS`."""


@jit
def blend(c: Array, r: float, g: float, b: float, weight: float) -> None:
    """Mix another color into ``c`` with a weight in [0, 1]."""
    c[0] += (r - c[0]) * weight
    c[1] += (g - c[1]) * weight
    c[2] += (b - c[2]) * weight


@jit
def _bell(x: float, y: float, width: float, height: float) -> float:
    return math.exp(-(x / width) * (x / width) - (y / height) * (y / height))


@jit
def skin_color(c: Array, a: Array, colors: Array, parameters: Array) -> tuple[float, float]:
    """Color skin with cheeks, lips, brows, lashes, freckles, wrinkles, stubble and scalp, and the inner mouth."""
    x, y, z = a[A_X], a[A_Y], a[A_Z]
    side = abs(x)
    for k in range(3):
        c[k] = colors[C_SKIN, k]
    front = smoothstep(0.75, 1.15, z)
    pore = _flush_and_grain(c, a, front, parameters)
    if z > 0.7 and y > 6.0:
        _wrinkles_and_freckles(c, a, front, parameters)
    shine, gloss = 0.16 + 0.12 * _bell(x, y - 7.1, 0.22, 0.5) * front + 0.05 * pore, 13.0
    lips = min(1.0, a[A_LIPS] * 1.25)
    if lips > 0:
        crease = 0.92 + 0.16 * noise(x * 60, y * 8, 0.0)
        blend(c, colors[C_LIPS, 0] * crease, colors[C_LIPS, 1] * crease, colors[C_LIPS, 2] * crease, lips)
        shine += 0.22 * lips
        gloss += 14 * lips
    shine = _hair_roots(c, a, shine, colors, parameters)
    if z > 0.7 and 7.35 < y < 7.75:
        along = (side - 0.115) / 0.37
        arch = 7.500 + 0.038 * math.sin(min(max(along, 0.0), 1.0) * 2.35)
        thick = parameters[P_BROWS] * (1.05 - 0.55 * max(along, 0.0)) * smoothstep(-0.12, 0.08, along)
        thick *= smoothstep(1.12, 0.85, along)
        if thick > 1e-3:
            hair = noise2(side * 55 + 9 * y, y * 28 - side * 20)
            weight = smoothstep(1.35, 0.45, abs(y - arch) / thick + 0.5 * (hair - 0.5)) * (0.72 + 0.3 * hair)
            blend(c, colors[C_BROW, 0], colors[C_BROW, 1], colors[C_BROW, 2], min(weight, 0.92))
    lash = smoothstep(0.15, 0.9, a[A_LASH]) * parameters[P_LASHES]
    blend(c, 0.012, 0.008, 0.006, lash)
    if a[A_INNER_MOUTH] > 0.05:
        inner = min(1.0, 1.3 * a[A_INNER_MOUTH])
        deep = smoothstep(1.52, 1.0, z)
        blend(c, 0.30 - 0.22 * deep, 0.065 - 0.05 * deep, 0.06 - 0.045 * deep, inner * (1 - 0.6 * lips))
        shine += 0.2 * inner * (1 - deep)
    return shine, gloss


@jit
def _flush_and_grain(c: Array, a: Array, front: float, parameters: Array) -> float:
    """Redden cheeks, nose and chin and add grain; return the noise of the pores."""
    x, y, z = a[A_X], a[A_Y], a[A_Z]
    side = abs(x)
    mottle = noise(x * 7, y * 7, z * 7) - 0.5
    pore = noise(x * 31, y * 31, z * 31) - 0.5
    grain = 1 + 0.10 * mottle + 0.06 * pore
    flush = _bell(side - 0.44, y - 6.92, 0.20, 0.17) * front
    flush = max(flush, 0.8 * _bell(x, y - 6.93, 0.13, 0.12) * smoothstep(1.45, 1.6, z))
    flush = max(flush, 0.5 * _bell(x, y - 6.28, 0.16, 0.12) * front)
    flush *= parameters[P_WARMTH]
    c[0] *= grain * (1 - 0.02 * flush)
    c[1] *= grain * (1 - 0.22 * flush - 0.04 * mottle)
    c[2] *= grain * (1 - 0.20 * flush - 0.06 * mottle)
    return pore


@jit
def _wrinkles_and_freckles(c: Array, a: Array, front: float, parameters: Array) -> None:
    """Darken eye sockets and wrinkles of the face, and add freckles."""
    x, y, z = a[A_X], a[A_Y], a[A_Z]
    side, age = abs(x), parameters[P_AGE]
    socket = _bell(side - 0.30, y - 7.28, 0.19, 0.13)
    bag = _bell(side - 0.29, y - 7.14, 0.14, 0.045)
    dim = 1 - 0.07 * socket - (0.05 + 0.22 * age) * bag
    if age > 0:
        lines = math.sin((y + 0.03 * math.sin(6 * x)) * 52) * smoothstep(7.62, 7.72, y) * smoothstep(8.0, 7.88, y)
        fold = _bell(side - 0.205 - (6.92 - y) * 0.48, 0.0, 0.035, 1.0)
        fold *= smoothstep(6.52, 6.64, y) * smoothstep(7.0, 6.88, y)
        crow = math.sin((y - 7.28) * 85 / (0.6 + side)) * _bell(side - 0.52, y - 7.27, 0.07, 0.10)
        dim *= 1 - age * (0.06 * lines * front + 0.20 * fold + 0.06 * crow)
    for k in range(3):
        c[k] *= dim * (1.0 if k == 0 else 0.5 + 0.5 * dim)
    if parameters[P_FRECKLES] > 0:
        spot = smoothstep(0.66, 0.82, noise(x * 33, y * 33, z * 33)) * _bell(side - 0.2, y - 7.0, 0.42, 0.22)
        spot *= parameters[P_FRECKLES] * front
        blend(c, c[0] * 0.62, c[1] * 0.45, c[2] * 0.35, 0.75 * spot)


@jit
def _hair_roots(c: Array, a: Array, shine: float, colors: Array, parameters: Array) -> float:
    """Tint the skin under beard and hair, more strongly near the roots; return the reduced highlight."""
    x, y, z = a[A_X], a[A_Y], a[A_Z]
    hairs = 0.75 + 0.5 * noise2(a[A_ACROSS] * 60, a[A_ALONG] * 25)
    if a[A_BEARD] > 0:
        density = a[A_BEARD] * parameters[P_STUBBLE]
        uneven = 0.25 * (noise(x * 24, y * 24, z * 24) - 0.5) * smoothstep(0, 0.2, density)
        soft = smoothstep(0.06, 0.85, density + uneven)
        soft *= 0.62 if parameters[P_STUBBLE] < 1 else 0.94
        dark = 0.9 * hairs
        blend(c, colors[C_BROW, 0] * dark, colors[C_BROW, 1] * dark, colors[C_BROW, 2] * dark, soft)
        shine *= 1 - 0.7 * soft
    edge = a[A_COVER] + 0.07 * (noise2(a[A_ACROSS] * 30, a[A_ALONG] * 3) - 0.5)
    scalp = smoothstep(-0.05, 0.09, edge) * parameters[P_SCALP]
    if scalp > 0:
        dark = 0.75 * hairs
        blend(c, colors[C_HAIR, 0] * dark, colors[C_HAIR, 1] * dark, colors[C_HAIR, 2] * dark, scalp)
        shine *= 1 - 0.6 * scalp
    return shine


@jit
def hair_color(c: Array, a: Array, tint: Array) -> float:
    """Color strands of hair; return the shift of the highlight along the strands, -1 to 1."""
    broad = noise2(a[A_ACROSS] * 11, a[A_ALONG] * 0.8)
    fine = 0.5 * noise2(a[A_ACROSS] * 34, a[A_ALONG] * 2.5) + 0.5 * noise2(a[A_ACROSS] * 85, a[A_ALONG] * 3.0)
    roots = 0.62 + 0.38 * smoothstep(-0.02, 0.16, a[A_COVER])
    tone = (0.40 + 0.45 * broad + 0.75 * fine) * roots
    tip = 0.12 * (broad - 0.5)
    c[0], c[1], c[2] = tint[0] * tone * (1 + tip), tint[1] * tone, tint[2] * tone * (1 - tip)
    return 1.6 * (fine - 0.5) + 0.8 * (broad - 0.5)


@jit
def eye_color(c: Array, a: Array, colors: Array, parameters: Array) -> tuple[float, float]:
    """Color sclera, iris with a dark rim and rays, and pupil."""
    x, y = a[A_LIPS] - parameters[P_GAZE], a[A_LASH] - parameters[P_GAZE + 1]
    r = math.sqrt(x * x + y * y) if a[A_INNER_MOUTH] > 0 else 2.0
    c[0], c[1], c[2] = 0.74, 0.70, 0.67
    blend(c, 0.62, 0.42, 0.38, smoothstep(0.55, 0.95, r) * 0.5)
    ray = 0.75 + 0.5 * noise2(math.atan2(y, x) * 7, r * 4)
    iris = smoothstep(0.50, 0.44, r)
    glow = ray * (1.15 + 0.8 * smoothstep(0.1, -0.45, y))
    blend(c, colors[C_IRIS, 0] * glow, colors[C_IRIS, 1] * glow, colors[C_IRIS, 2] * glow, iris)
    rim = iris * smoothstep(0.34, 0.46, r)
    blend(c, 0.02, 0.02, 0.02, 0.75 * rim)
    blend(c, 0.004, 0.004, 0.004, smoothstep(0.22, 0.17, r))
    shadow = 1 - 0.55 * smoothstep(0.05, 0.65, a[A_LASH])  # of the upper lid
    for k in range(3):
        c[k] *= shadow
    return 1.0, 70.0


@jit
def teeth_color(c: Array, a: Array, parameters: Array) -> tuple[float, float]:
    """Color enamel with faint gaps and gums at the roots; dark while the lips are almost closed."""
    x, y, z = abs(a[A_X]), a[A_Y], a[A_Z]
    c[0], c[1], c[2] = 0.80, 0.75, 0.66
    gap = smoothstep(0.75, 1.0, abs(math.sin(x * 30)))
    root = smoothstep(0.15, 0.19, abs(y - 6.615))
    dim = (1 - 0.15 * gap) * (0.22 + 0.78 * smoothstep(1.15, 1.42, z))
    for k in range(3):
        c[k] *= dim
    blend(c, 0.40 * dim, 0.12 * dim, 0.12 * dim, root)
    closed = smoothstep(0.06, 0.015, parameters[P_LIP_GAP])
    blend(c, 0.10, 0.03, 0.03, closed)
    return 0.35 * (1 - closed), 30.0


@jit
def tongue_color(c: Array, a: Array) -> tuple[float, float]:
    """Color a wet tongue, darker toward the throat."""
    x, y, z = a[A_X], a[A_Y], a[A_Z]
    dim = 0.75 * (0.2 + 0.8 * smoothstep(0.95, 1.4, z)) * (0.85 + 0.3 * noise(x * 20, y * 20, z * 20))
    groove = 1 - 0.3 * _bell(x, 0.0, 0.02, 1.0)
    c[0], c[1], c[2] = 0.46 * dim * groove, 0.14 * dim * groove, 0.14 * dim * groove
    return 0.3, 20.0


@jit
def cloth_color(c: Array, a: Array, n: Array, colors: Array, parameters: Array) -> tuple[float, float]:
    """Color cloth with its pattern, seams and collar, and bend the normal ``n`` into folds."""
    x, y, z = a[A_X], a[A_Y], a[A_Z]
    clothes = int(parameters[P_CLOTHES])
    for k in range(3):
        c[k] = colors[C_CLOTH, k]
    _pattern(c, x, y, int(parameters[P_PATTERN]), colors[C_SECOND])
    bend = 0.0
    if clothes in (TSHIRT, VNECK, HOODIE):
        bend = _neckband(c, a, clothes == HOODIE)
    elif clothes == TURTLENECK:
        rib = math.sin(math.atan2(x, z - 0.1) * 60) * smoothstep(5.55, 5.65, y)
        for k in range(3):
            c[k] *= 1 + 0.10 * rib
        bend = 0.8 * _bell(y - 5.62, 0.0, 0.05, 1.0)
    elif clothes == COLLAR:
        _collar_and_buttons(c, a)
    elif clothes == SUIT and z > 0.1:
        bend = _suit_front(c, a, colors[C_SECOND])
    weave = 0.94 + 0.12 * noise(x * 34, y * 34, z * 34)
    for k in range(3):
        c[k] *= weave
    e = 0.08
    center = noise(x * 2.6, y * 1.7, z * 2.6)
    n[0] += 0.9 * (center - noise(x * 2.6 + e, y * 1.7, z * 2.6)) / e * 0.35
    n[1] += 0.9 * (center - noise(x * 2.6, y * 1.7 + e, z * 2.6)) / e * 0.35 - bend
    length = math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
    for k in range(3):
        n[k] /= length
    return 0.05, 6.0


@jit
def _pattern(c: Array, x: float, y: float, pattern: int, second: Array) -> None:
    """Add stripes, checks or dots in the second color."""
    if pattern == STRIPED:
        blend(c, second[0], second[1], second[2], smoothstep(-0.15, 0.15, math.sin(y * 15)))
    elif pattern == CHECKED:
        blend(c, second[0], second[1], second[2], 0.42 * smoothstep(-0.15, 0.15, math.sin(x * 13 + 0.8)))
        blend(c, second[0], second[1], second[2], 0.42 * smoothstep(-0.15, 0.15, math.sin(y * 13)))
    elif pattern == DOTTED:
        u, v = x * 3.4, y * 3.4
        u += 0.5 * (math.floor(v) % 2)
        u, v = u - math.floor(u) - 0.5, v - math.floor(v) - 0.5
        blend(c, second[0], second[1], second[2], smoothstep(0.26, 0.20, math.sqrt(u * u + v * v)))


@jit
def _neckband(c: Array, a: Array, is_hoodie: bool) -> float:
    """Darken the neckband of T-shirt, sweater or hoodie, add a hoodie's strings; return the bend of the normal."""
    y, z = a[A_Y], a[A_Z]
    side, edge = abs(a[A_X]), a[A_COVER]
    width = 0.10 if not is_hoodie else 0.24
    band = smoothstep(width + 0.012, width - 0.012, edge)
    for k in range(3):
        c[k] *= 1 - 0.14 * band
    bend: float = 0.9 * _bell(edge - width, 0.0, 0.025, 1.0) - 0.5 * band * (1 - edge / width)
    if is_hoodie:
        string = _bell(side - 0.17 - 0.03 * (5.4 - y), 0.0, 0.018, 1.0)
        string = string * smoothstep(4.45, 4.5, y) * smoothstep(0.3, 0.5, z)
        blend(c, 0.75, 0.74, 0.72, string * smoothstep(0.2, 0.25, edge))
    return bend


@jit
def _collar_and_buttons(c: Array, a: Array) -> None:
    """Draw a shirt's collar, placket and buttons."""
    x, y, z = a[A_X], a[A_Y], a[A_Z]
    side, edge = abs(x), a[A_COVER]
    flap = smoothstep(0.27, 0.255, edge) * smoothstep(5.05, 5.1, y)
    rim = _bell(edge - 0.265, 0.0, 0.02, 1.0) * smoothstep(5.05, 5.1, y)
    for k in range(3):
        c[k] *= (1 + 0.10 * flap) * (1 - 0.45 * rim)
    if flap < 0.5 and z > 0.2:
        placket = _bell(side - 0.075, 0.0, 0.013, 1.0)
        v = y * 2.0
        button = smoothstep(0.045, 0.03, math.sqrt(x * x + ((v - math.floor(v) - 0.5) / 2.0) ** 2))
        for k in range(3):
            c[k] *= 1 - 0.3 * placket
        blend(c, 0.8, 0.8, 0.78, 0.8 * button)


@jit
def _suit_front(c: Array, a: Array, second: Array) -> float:
    """Draw a suit's lapels, and the shirt and tie between them; return the bend of the normal."""
    x, y = a[A_X], a[A_Y]
    side, edge = abs(x), a[A_COVER]
    bend: float = 0.0
    opening = 0.06 + (5.95 - y) * -0.10 + 0.34 * smoothstep(3.6, 5.7, y)
    lapel = opening + 0.42 * smoothstep(3.7, 4.6, y) * smoothstep(5.9, 5.3, y)
    if side < opening:
        knot = smoothstep(5.32, 5.40, y)
        tie = 0.085 + 0.035 * knot + 0.05 * smoothstep(5.3, 4.0, y)
        if side < tie and y < 5.52:
            stripe = 0.85 + 0.3 * smoothstep(-0.1, 0.1, math.sin((x + y) * 26))
            c[0], c[1], c[2] = second[0] * stripe, second[1] * stripe, second[2] * stripe
            bend = 0.5 * _bell(y - 5.31, 0.0, 0.03, 1.0)
        else:
            c[0], c[1], c[2] = 0.80, 0.82, 0.85
            flap = _bell(edge - 0.25, 0.0, 0.02, 1.0)
            for k in range(3):
                c[k] *= 1 - 0.35 * flap - 0.4 * _bell(side - tie, 0.0, 0.03, 1.0)
    elif side < lapel:
        for k in range(3):
            c[k] *= 1.18
        bend = 0.6 * _bell(side - opening, 0.0, 0.03, 1.0)
    else:
        for k in range(3):
            c[k] *= 1 - 0.5 * _bell(side - lapel, 0.0, 0.03, 1.0)
    return bend
