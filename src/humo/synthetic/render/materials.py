"""What surfaces are made of: compiled colour functions of skin, hair, cloth, eyes and mouth.

Each takes the interpolated attributes ``a`` of a pixel, writes its linear colour into ``c`` and returns
strength and sharpness of its highlight. Everything is painted in the base mesh's canonical coordinates.
"""

from __future__ import annotations

import math

from humo.synthetic.render.jit import Array, compiled
from humo.synthetic.render.kernels import noise, noise2, smooth

SKIN, HAIR, CLOTH, EYE, TEETH, TONGUE, FRAME, BEARD = range(8)
"""Materials of triangles."""

X, Y, Z, LIPS, LASH, INNER, COVER, BEARDED, OPEN, LIT, ACROSS, ALONG = range(12)
"""Attributes of vertices: canonical position, region shares, growth, ambient and key visibility, strand coordinates.

On eyeballs LIPS, LASH and INNER hold the direction from the eye's centre instead.
"""
ATTRIBUTES = 12

C_SKIN, C_LIPS, C_HAIR, C_BROW, C_IRIS, C_CLOTH, C_SECOND, C_FRAME, C_KEY, C_FILL, C_SKY, C_GROUND = range(12)
"""Rows of the table of linear colours."""

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
    P_TURN,
    P_PARTING,
    P_SCALP,
    P_PARTED,
) = (0, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 25, 26, 27)
"""Places in the row of numbers; light and fill take three, gaze two, the head's rotation (row by row) nine."""
NUMBERS = 28

TSHIRT, VNECK, TURTLENECK, COLLAR, SUIT, HOODIE = range(6)
"""Clothes, in the order of `appearance.CLOTHES`."""


@compiled
def blend(c: Array, r: float, g: float, b: float, share: float) -> None:
    """Move the colour toward another by a share in [0, 1]."""
    c[0] += (r - c[0]) * share
    c[1] += (g - c[1]) * share
    c[2] += (b - c[2]) * share


@compiled
def _bell(x: float, y: float, wide: float, high: float) -> float:
    return math.exp(-(x / wide) * (x / wide) - (y / high) * (y / high))


@compiled
def skin(c: Array, a: Array, colours: Array, numbers: Array) -> tuple[float, float]:
    """Skin with cheeks, lips, brows, lashes, freckles, wrinkles, stubble, scalp; the mouth's inside."""
    x, y, z = a[X], a[Y], a[Z]
    side = abs(x)
    for k in range(3):
        c[k] = colours[C_SKIN, k]
    front = smooth(0.75, 1.15, z)
    mottle = noise(x * 7, y * 7, z * 7) - 0.5
    pore = noise(x * 31, y * 31, z * 31) - 0.5
    grain = 1 + 0.10 * mottle + 0.06 * pore
    flush = _bell(side - 0.44, y - 6.92, 0.20, 0.17) * front
    flush = max(flush, 0.8 * _bell(x, y - 6.93, 0.13, 0.12) * smooth(1.45, 1.6, z))
    flush = max(flush, 0.5 * _bell(x, y - 6.28, 0.16, 0.12) * front)
    flush *= numbers[P_WARMTH]
    c[0] *= grain * (1 - 0.02 * flush)
    c[1] *= grain * (1 - 0.22 * flush - 0.04 * mottle)
    c[2] *= grain * (1 - 0.20 * flush - 0.06 * mottle)
    age = numbers[P_AGE]
    if z > 0.7 and y > 6.0:
        socket = _bell(side - 0.30, y - 7.28, 0.19, 0.13)
        bag = _bell(side - 0.29, y - 7.14, 0.14, 0.045)
        dim = 1 - 0.07 * socket - (0.05 + 0.22 * age) * bag
        if age > 0:
            lines = math.sin((y + 0.03 * math.sin(6 * x)) * 52) * smooth(7.62, 7.72, y) * smooth(8.0, 7.88, y)
            fold = _bell(side - 0.205 - (6.92 - y) * 0.48, 0.0, 0.035, 1.0)
            fold *= smooth(6.52, 6.64, y) * smooth(7.0, 6.88, y)
            crow = math.sin((y - 7.28) * 85 / (0.6 + side)) * _bell(side - 0.52, y - 7.27, 0.07, 0.10)
            dim *= 1 - age * (0.06 * lines * front + 0.20 * fold + 0.06 * crow)
        for k in range(3):
            c[k] *= dim * (1.0 if k == 0 else 0.5 + 0.5 * dim)
        if numbers[P_FRECKLES] > 0:
            spot = smooth(0.66, 0.82, noise(x * 33, y * 33, z * 33)) * _bell(side - 0.2, y - 7.0, 0.42, 0.22)
            spot *= numbers[P_FRECKLES] * front
            blend(c, c[0] * 0.62, c[1] * 0.45, c[2] * 0.35, 0.75 * spot)
    shine, gloss = 0.16 + 0.12 * _bell(x, y - 7.1, 0.22, 0.5) * front + 0.05 * pore, 13.0
    lips = min(1.0, a[LIPS] * 1.25)
    if lips > 0:
        crease = 0.92 + 0.16 * noise(x * 60, y * 8, 0.0)
        blend(c, colours[C_LIPS, 0] * crease, colours[C_LIPS, 1] * crease, colours[C_LIPS, 2] * crease, lips)
        shine += 0.22 * lips
        gloss += 14 * lips
    # under beard and hair the skin takes their colour, denser the nearer the roots
    hairs = 0.75 + 0.5 * noise2(a[ACROSS] * 60, a[ALONG] * 25)
    if a[BEARDED] > 0:
        share = a[BEARDED] * numbers[P_STUBBLE]
        soft = smooth(0.06, 0.85, share + 0.25 * (noise(x * 24, y * 24, z * 24) - 0.5) * smooth(0, 0.2, share))
        soft *= 0.62 if numbers[P_STUBBLE] < 1 else 0.94
        dark = 0.9 * hairs
        blend(c, colours[C_BROW, 0] * dark, colours[C_BROW, 1] * dark, colours[C_BROW, 2] * dark, soft)
        shine *= 1 - 0.7 * soft
    scalp = smooth(-0.05, 0.09, a[COVER] + 0.07 * (noise2(a[ACROSS] * 30, a[ALONG] * 3) - 0.5)) * numbers[P_SCALP]
    if scalp > 0:
        dark = 0.75 * hairs
        blend(c, colours[C_HAIR, 0] * dark, colours[C_HAIR, 1] * dark, colours[C_HAIR, 2] * dark, scalp)
        shine *= 1 - 0.6 * scalp
    if z > 0.7 and 7.35 < y < 7.75:
        along = (side - 0.115) / 0.37
        arch = 7.500 + 0.038 * math.sin(min(max(along, 0.0), 1.0) * 2.35)
        thick = numbers[P_BROWS] * (1.05 - 0.55 * max(along, 0.0)) * smooth(-0.12, 0.08, along)
        thick *= smooth(1.12, 0.85, along)
        if thick > 1e-3:
            hair = noise2(side * 55 + 9 * y, y * 28 - side * 20)
            share = smooth(1.35, 0.45, abs(y - arch) / thick + 0.5 * (hair - 0.5)) * (0.72 + 0.3 * hair)
            blend(c, colours[C_BROW, 0], colours[C_BROW, 1], colours[C_BROW, 2], min(share, 0.92))
    lash = smooth(0.15, 0.9, a[LASH]) * numbers[P_LASHES]
    blend(c, 0.012, 0.008, 0.006, lash)
    if a[INNER] > 0.05:
        inner = min(1.0, 1.3 * a[INNER])
        deep = smooth(1.52, 1.0, z)
        blend(c, 0.30 - 0.22 * deep, 0.065 - 0.05 * deep, 0.06 - 0.045 * deep, inner * (1 - 0.6 * lips))
        shine += 0.2 * inner * (1 - deep)
    return shine, gloss


@compiled
def hair(c: Array, a: Array, tint: Array) -> float:
    """Strands of a hair colour; returns how far the highlight is shifted along them, -1 to 1."""
    broad = noise2(a[ACROSS] * 11, a[ALONG] * 0.8)
    fine = 0.5 * noise2(a[ACROSS] * 34, a[ALONG] * 2.5) + 0.5 * noise2(a[ACROSS] * 85, a[ALONG] * 3.0)
    roots = 0.62 + 0.38 * smooth(-0.02, 0.16, a[COVER])
    tone = (0.40 + 0.45 * broad + 0.75 * fine) * roots
    tip = 0.12 * (broad - 0.5)
    c[0], c[1], c[2] = tint[0] * tone * (1 + tip), tint[1] * tone, tint[2] * tone * (1 - tip)
    return 1.6 * (fine - 0.5) + 0.8 * (broad - 0.5)


@compiled
def eye(c: Array, a: Array, colours: Array, numbers: Array) -> tuple[float, float]:
    """Sclera, iris with a dark rim and rays, pupil."""
    x, y = a[LIPS] - numbers[P_GAZE], a[LASH] - numbers[P_GAZE + 1]
    r = math.sqrt(x * x + y * y) if a[INNER] > 0 else 2.0
    c[0], c[1], c[2] = 0.74, 0.70, 0.67
    blend(c, 0.62, 0.42, 0.38, smooth(0.55, 0.95, r) * 0.5)
    ray = 0.75 + 0.5 * noise2(math.atan2(y, x) * 7, r * 4)
    iris = smooth(0.50, 0.44, r)
    glow = ray * (1.15 + 0.8 * smooth(0.1, -0.45, y))
    blend(c, colours[C_IRIS, 0] * glow, colours[C_IRIS, 1] * glow, colours[C_IRIS, 2] * glow, iris)
    rim = iris * smooth(0.34, 0.46, r)
    blend(c, 0.02, 0.02, 0.02, 0.75 * rim)
    blend(c, 0.004, 0.004, 0.004, smooth(0.22, 0.17, r))
    shadow = 1 - 0.55 * smooth(0.05, 0.65, a[LASH])  # the upper lid's
    for k in range(3):
        c[k] *= shadow
    return 1.0, 70.0


@compiled
def teeth(c: Array, a: Array, numbers: Array) -> tuple[float, float]:
    """Enamel with faint gaps, gums at the roots; in the dark while the lips are all but closed."""
    x, y, z = abs(a[X]), a[Y], a[Z]
    c[0], c[1], c[2] = 0.80, 0.75, 0.66
    gap = smooth(0.75, 1.0, abs(math.sin(x * 30)))
    root = smooth(0.15, 0.19, abs(y - 6.615))
    dim = (1 - 0.15 * gap) * (0.22 + 0.78 * smooth(1.15, 1.42, z))
    for k in range(3):
        c[k] *= dim
    blend(c, 0.40 * dim, 0.12 * dim, 0.12 * dim, root)
    closed = smooth(0.06, 0.015, numbers[P_PARTED])
    blend(c, 0.10, 0.03, 0.03, closed)
    return 0.35 * (1 - closed), 30.0


@compiled
def tongue(c: Array, a: Array) -> tuple[float, float]:
    """A wet tongue, darker toward the throat."""
    dim = 0.75 * (0.2 + 0.8 * smooth(0.95, 1.4, a[Z])) * (0.85 + 0.3 * noise(a[X] * 20, a[Y] * 20, a[Z] * 20))
    groove = 1 - 0.3 * _bell(a[X], 0.0, 0.02, 1.0)
    c[0], c[1], c[2] = 0.46 * dim * groove, 0.14 * dim * groove, 0.14 * dim * groove
    return 0.3, 20.0


@compiled
def cloth(c: Array, a: Array, n: Array, colours: Array, numbers: Array) -> tuple[float, float]:
    """Cloth with its pattern, seams and collar; bends the normal ``n`` into folds."""
    x, y, z = a[X], a[Y], a[Z]
    side, edge = abs(x), a[COVER]
    kind, pattern = int(numbers[P_CLOTHES]), int(numbers[P_PATTERN])
    main, second = colours[C_CLOTH], colours[C_SECOND]
    for k in range(3):
        c[k] = main[k]
    if pattern == 1:
        blend(c, second[0], second[1], second[2], smooth(-0.15, 0.15, math.sin(y * 15)))
    elif pattern == 2:
        blend(c, second[0], second[1], second[2], 0.42 * smooth(-0.15, 0.15, math.sin(x * 13 + 0.8)))
        blend(c, second[0], second[1], second[2], 0.42 * smooth(-0.15, 0.15, math.sin(y * 13)))
    elif pattern == 3:
        u, v = x * 3.4, y * 3.4
        u += 0.5 * (math.floor(v) % 2)
        u, v = u - math.floor(u) - 0.5, v - math.floor(v) - 0.5
        blend(c, second[0], second[1], second[2], smooth(0.26, 0.20, math.sqrt(u * u + v * v)))
    bend = 0.0
    if kind in (TSHIRT, VNECK, HOODIE):
        width = 0.10 if kind != HOODIE else 0.24
        band = smooth(width + 0.012, width - 0.012, edge)
        for k in range(3):
            c[k] *= 1 - 0.14 * band
        bend = 0.9 * _bell(edge - width, 0.0, 0.025, 1.0) - 0.5 * band * (1 - edge / width)
        if kind == HOODIE:
            string = _bell(side - 0.17 - 0.03 * (5.4 - y), 0.0, 0.018, 1.0) * smooth(4.45, 4.5, y) * smooth(0.3, 0.5, z)
            blend(c, 0.75, 0.74, 0.72, string * smooth(0.2, 0.25, edge))
    elif kind == TURTLENECK:
        rib = math.sin(math.atan2(x, z - 0.1) * 60) * smooth(5.55, 5.65, y)
        for k in range(3):
            c[k] *= 1 + 0.10 * rib
        bend = 0.8 * _bell(y - 5.62, 0.0, 0.05, 1.0)
    elif kind == COLLAR:
        flap = smooth(0.27, 0.255, edge) * smooth(5.05, 5.1, y)
        rim = _bell(edge - 0.265, 0.0, 0.02, 1.0) * smooth(5.05, 5.1, y)
        for k in range(3):
            c[k] *= (1 + 0.10 * flap) * (1 - 0.45 * rim)
        if flap < 0.5 and z > 0.2:
            placket = _bell(side - 0.075, 0.0, 0.013, 1.0)
            v = y * 2.0
            button = smooth(0.045, 0.03, math.sqrt(x * x + ((v - math.floor(v) - 0.5) / 2.0) ** 2))
            for k in range(3):
                c[k] *= 1 - 0.3 * placket
            blend(c, 0.8, 0.8, 0.78, 0.8 * button)
    elif kind == SUIT and z > 0.1:
        opening = 0.06 + (5.95 - y) * -0.10 + 0.34 * smooth(3.6, 5.7, y)
        lapel = opening + 0.42 * smooth(3.7, 4.6, y) * smooth(5.9, 5.3, y)
        if side < opening:
            knot = smooth(5.32, 5.40, y)
            tie = 0.085 + 0.035 * knot + 0.05 * smooth(5.3, 4.0, y)
            if side < tie and y < 5.52:
                stripe = 0.85 + 0.3 * smooth(-0.1, 0.1, math.sin((x + y) * 26))
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
    weave = 0.94 + 0.12 * noise(x * 34, y * 34, z * 34)
    for k in range(3):
        c[k] *= weave
    e = 0.08
    here = noise(x * 2.6, y * 1.7, z * 2.6)
    n[0] += 0.9 * (here - noise(x * 2.6 + e, y * 1.7, z * 2.6)) / e * 0.35
    n[1] += 0.9 * (here - noise(x * 2.6, y * 1.7 + e, z * 2.6)) / e * 0.35 - bend
    length = math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
    for k in range(3):
        n[k] /= length
    return 0.05, 6.0
