"""Paint the background behind a person: rooms, walls and views, out of focus as in a portrait."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from humo.synthetic.person.appearance import WALL_COLORS, Appearance

Image = NDArray[np.float32]

_STREAM = 0x5CE0  # separates this module's random stream from others of the same seed
_DISPLAY_GAMMA = 2.2


def to_linear(color: object) -> NDArray[np.float64]:
    """Convert display color in [0, 1] to linear light."""
    return np.asarray(color, np.float64) ** _DISPLAY_GAMMA


def render_background(appearance: Appearance, side: int) -> Image:
    """Render the background (side, side, 3) of an appearance in linear light.

    Args:
        appearance: the appearance.
        side: side of the image in pixels.
    """
    random = np.random.Generator(np.random.PCG64([_STREAM, appearance.seed, int(appearance.framing * 1e6)]))
    y, x = np.mgrid[0:side, 0:side].astype(np.float64) / side
    image = _PAINT_FUNCTIONS[appearance.background](appearance, random, x, y)
    return np.ascontiguousarray(np.clip(image, 0, 1) ** _DISPLAY_GAMMA, np.float32)


Plane = NDArray[np.float64]
_PaintFunction = Callable[[Appearance, np.random.Generator, Plane, Plane], Plane]


def _blurred(image: Plane, radius: float) -> Plane:
    """Blur an image with a Gaussian whose radius is in sides of the image."""
    sigma = radius * len(image)
    reach = max(1, math.ceil(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(reach, reach) if k == axis else (0, 0) for k in range(3)], mode="edge")
        length = image.shape[axis]
        image = np.add.reduce([tap * np.take(padded, range(k, k + length), axis) for k, tap in enumerate(taps)])
    return image


def _uniform(x: Plane, color: object) -> Plane:
    return np.ones((*x.shape, 3)) * np.asarray(color, np.float64)


def _unevenness(random: np.random.Generator, x: Plane, y: Plane, waves: int, frequency: float) -> Plane:
    """Return smooth random variation (H, W) with an amplitude of about 1."""
    total = np.zeros_like(x)
    for _ in range(waves):
        a, b, phase = random.normal(0, frequency), random.normal(0, frequency), random.uniform(0, 6.3)
        total += np.sin(a * x + b * y + phase)
    return total / math.sqrt(waves)


def _wall_light(appearance: Appearance, x: Plane, y: Plane) -> Plane:
    """Return the falloff of the key light over a wall, with darker corners."""
    across = 0.5 + 0.5 * (x - 0.5) * appearance.light[0] * 1.2
    corner = 1 - 0.35 * ((x - 0.5) ** 2 + (y - 0.45) ** 2)
    shadow = 1 - 0.22 * np.exp(
        -(((x - 0.5 - appearance.offset + 0.14 * appearance.light[0]) / 0.30) ** 2 + ((y - 0.62) / 0.42) ** 2)
    )
    return np.asarray((0.62 + 0.55 * across) * corner * shadow)[..., None]


def _plain_wall(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    wall = _uniform(x, WALL_COLORS[appearance.wall_color]) * (1 + 0.02 * _unevenness(random, x, y, 12, 25))[..., None]
    return wall * _wall_light(appearance, x, y)


def _curtain(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    folds = random.uniform(38, 58)
    bend = 0.25 * np.sin(3 * y + random.uniform(0, 6)) + 0.8 * _unevenness(random, x, 0 * y, 3, 9)
    shade = np.sin(folds * x + bend)
    cloth = (
        _uniform(x, WALL_COLORS[appearance.wall_color])
        * (0.80 + 0.20 * shade + 0.07 * np.sin(2.1 * folds * x + 1))[..., None]
    )
    return _blurred(cloth, 0.006) * _wall_light(appearance, x, y)


def _studio(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    base = np.array(
        ((0.30, 0.32, 0.36), (0.42, 0.40, 0.38), (0.22, 0.25, 0.32), (0.55, 0.56, 0.58))[random.integers(4)]
    )
    glow = np.exp(-(((x - 0.5 - 0.2 * appearance.light[0]) / 0.45) ** 2 + ((y - 0.42) / 0.5) ** 2))
    return _uniform(x, base) * (0.38 + 1.0 * glow)[..., None]


def _bookshelf(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    image = _uniform(x, (0.17, 0.10, 0.06))
    spacing = random.uniform(0.20, 0.27)
    top = random.uniform(-0.2, 0.0)
    colors = np.array(
        [(0.50, 0.13, 0.12), (0.14, 0.22, 0.42), (0.12, 0.34, 0.22), (0.72, 0.62, 0.42), (0.46, 0.30, 0.16),
         (0.80, 0.76, 0.68), (0.30, 0.14, 0.30), (0.62, 0.40, 0.16), (0.16, 0.16, 0.18)]
    )  # fmt: skip
    while top < 1:
        left = random.uniform(-0.05, 0)
        while left < 1:
            wide, tall = random.uniform(0.02, 0.05), spacing * random.uniform(0.62, 0.88)
            inside = (x >= left) & (x < left + wide) & (y >= top + spacing - 0.025 - tall) & (y < top + spacing - 0.025)
            round_spine = 0.62 + 0.5 * np.sin(np.pi * np.clip((x - left) / wide, 0, 1))
            tint = colors[random.integers(len(colors))] * random.uniform(0.7, 1.15)
            image = np.where(inside[..., None], tint * round_spine[..., None], image)
            left += wide + (random.uniform(0.03, 0.12) if random.random() < 0.07 else 0.002)
        board = (y >= top + spacing - 0.025) & (y < top + spacing)
        image[board] = (0.42, 0.27, 0.15)
        top += spacing
    return _blurred(image, 0.011) * (0.75 + 0.25 * _wall_light(appearance, x, y))


def _window(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    wall = np.array(((0.80, 0.76, 0.70), (0.70, 0.74, 0.74), (0.76, 0.70, 0.64))[random.integers(3)])
    image = _uniform(x, wall * 0.86) * (0.9 + 0.15 * (1 - y))[..., None]
    center, half = (0.20 if appearance.light[0] < 0 else 0.80) + random.uniform(-0.06, 0.06), random.uniform(0.22, 0.28)
    glass = (np.abs(x - center) < half) & (y > 0.06) & (y < 0.72)
    view = _uniform(x, (0.86, 0.93, 1.0)) - 0.10 * y[..., None]
    green = smooth_step(0.44, 0.62, y + 0.05 * _unevenness(random, x, y, 5, 14))[..., None]
    view = view * (1 - green) + green * np.array((0.50, 0.66, 0.42))
    image = np.where(glass[..., None], view, image)
    bars = glass & (
        (np.abs(np.abs(x - center) - half) < 0.02) | (np.abs(x - center) < 0.012) | (np.abs(y - 0.36) < 0.012)
    )
    image[bars] = (0.93, 0.93, 0.92)
    sill = (np.abs(x - center) < half + 0.04) & (y > 0.72) & (y < 0.76)
    image[sill] = (0.90, 0.89, 0.86)
    image[y > 0.92] = wall * 0.62
    return _blurred(image, 0.012)


def _park(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    image = _uniform(x, (0.62, 0.78, 0.93)) + (0.30 * (y - 0.1))[..., None] * np.array((0.6, 0.35, 0.1))
    for row, (ground, tint) in enumerate((((0.42), (0.42, 0.58, 0.40)), ((0.52), (0.25, 0.45, 0.22)))):
        for _ in range(9):
            cx, cy, r = random.uniform(-0.1, 1.1), ground - random.uniform(0.02, 0.2), random.uniform(0.09, 0.18)
            blob = smooth_step(1.1, 0.85, np.hypot((x - cx) / r, (y - cy) / r) + 0.1 * _unevenness(random, x, y, 4, 50))
            light = 0.8 + 0.5 * np.clip(-(y - cy) / r, -0.5, 1) + 0.1 * row
            leaf = np.array(tint) * random.uniform(0.8, 1.2)
            image = image * (1 - blob[..., None]) + blob[..., None] * leaf * light[..., None]
        trees = smooth_step(ground, ground + 0.03, y)[..., None]
        image = image * (1 - trees) + trees * np.array(tint) * 0.75
    lawn = smooth_step(0.62, 0.66, y)[..., None]
    image = image * (1 - lawn) + lawn * (np.array((0.46, 0.66, 0.26)) * (1.05 - 0.3 * (y - 0.6))[..., None])
    return _blurred(image, 0.016)


def _sea(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    horizon = random.uniform(0.44, 0.56)
    warm = random.random() < 0.35
    high, low = ((0.45, 0.55, 0.78), (0.98, 0.76, 0.56)) if warm else ((0.38, 0.62, 0.90), (0.82, 0.91, 0.97))
    t = np.clip(y / horizon, 0, 1)[..., None]
    image = np.array(high) * (1 - t) + np.array(low) * t
    cloud = np.clip(0.35 * _unevenness(random, x, 2.5 * y, 9, 11), 0, 0.5)[..., None]
    image = image * (1 - cloud) + cloud * np.array((1.0, 0.97, 0.94))
    ripple = 0.03 * np.sin(150 * np.maximum(y - horizon, 0) ** 0.8 + 4 * _unevenness(random, x, y, 5, 12))
    water = np.array((0.20, 0.38, 0.52) if warm else (0.13, 0.42, 0.58)) * (1.25 - 0.6 * (y - horizon))[..., None]
    water = water + np.asarray(ripple)[..., None]
    image = np.where((y > horizon)[..., None], water, image)
    shore = 0.86 + 0.02 * np.sin(9 * x + random.uniform(0, 6))
    image = np.where((y > shore)[..., None], np.array((0.86, 0.77, 0.60)), image)
    return _blurred(image, 0.007)


def _city_lights(appearance: Appearance, random: np.random.Generator, x: Plane, y: Plane) -> Plane:
    image = _uniform(x, (0.07, 0.08, 0.15)) + (0.10 * y)[..., None] * np.array((0.9, 0.6, 0.5))
    lamps = np.array([(1.0, 0.75, 0.40), (1.0, 0.55, 0.30), (0.55, 0.75, 1.0), (1.0, 0.90, 0.75), (0.95, 0.35, 0.35)])
    for _ in range(34):
        cx, cy, r = random.uniform(0, 1), np.clip(random.normal(0.48, 0.2), 0.02, 0.95), random.uniform(0.022, 0.06)
        disc = smooth_step(r, r * 0.85, np.hypot(x - cx, y - cy)) * random.uniform(0.2, 0.75)
        image = image + disc[..., None] * lamps[random.integers(len(lamps))]
    return _blurred(np.minimum(image, 1), 0.005)


def smooth_step(low: float, high: float, value: Plane) -> Plane:
    """Interpolate smoothly from 0 at ``low`` to 1 at ``high``; ``low`` may be larger than ``high``."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


_PAINT_FUNCTIONS: dict[str, _PaintFunction] = {
    "plain wall": _plain_wall,
    "studio": _studio,
    "bookshelf": _bookshelf,
    "window": _window,
    "park": _park,
    "sea": _sea,
    "city lights": _city_lights,
    "curtain": _curtain,
}
