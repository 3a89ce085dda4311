"""Render simple objects for reference images: signed distances, marched by rays, with one lamp.

**Source:** Hart, "Sphere tracing" (1996); formulas of distances as in Inigo Quilez' articles
(https://iquilezles.org/articles/distfunctions).

Shape suffixes: N points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, 3): x to the right, y up, z to the camera; objects are about 2 units high."""

Distance = Callable[[Points], NDArray[np.float64]]
Color = tuple[float, float, float]

MAX_STEPS, NEAR = 96, 1e-3
"""Steps of a ray, and distance at which it has arrived."""

CAMERA_DISTANCE, FIELD = 5.0, 0.42
"""Distance of the camera from the object's middle, and half of the image's height over that distance."""

LIGHT = np.array([-0.5, 0.75, 0.6]) / np.linalg.norm([-0.5, 0.75, 0.6])
HALFWAY = (LIGHT + np.array([0, 0, 1])) / np.linalg.norm(LIGHT + np.array([0, 0, 1]))
"""Directions toward the lamp, and halfway between it and the camera."""

BACKGROUND = np.array([0.88, 0.88, 0.86])
AMBIENT = 0.32


@dataclass(frozen=True)
class Object:
    """An object.

    Args:
        name: with an article, for prompts.
        parts: distance functions with their colors.
    """

    name: str
    parts: tuple[tuple[Distance, Color], ...]


def render_object(item: Object, side: int, angle: float) -> NDArray[np.uint8]:
    """Return an image (side, side, 3) of an object that is turned about its vertical axis.

    Args:
        item: the object.
        side: pixels.
        angle: radians.
    """
    rows, columns = np.mgrid[0:side, 0:side]
    x, y = (2 * (columns + 0.5) / side - 1) * FIELD, (1 - 2 * (rows + 0.5) / side) * FIELD
    directions = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = np.tile(np.array([0.0, 0.0, CAMERA_DISTANCE]), (len(directions), 1))
    for _ in range(MAX_STEPS):
        points += directions * np.clip(_nearest(item, _turned(points, angle))[0], -0.05, 0.4)[:, None]
    distance, color = _nearest(item, _turned(points, angle))
    hit = distance < 20 * NEAR
    normals = _normals(item, points, angle)
    diffuse = np.clip(normals @ LIGHT, 0, 1)
    shine = np.clip(normals @ HALFWAY, 0, 1) ** 40
    shaded = color * (AMBIENT + (1 - AMBIENT) * diffuse)[:, None] + 0.25 * shine[:, None]
    shade = 1 - 0.10 * (rows / side).reshape(-1, 1)
    image = np.where(hit[:, None], shaded, BACKGROUND * shade)
    pixels = np.round(np.clip(image, 0, 1).reshape(side, side, 3) ** (1 / 1.1) * 255)
    return np.asarray(pixels, np.uint8)


def _turned(points: Points, angle: float) -> Points:
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    tilt = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    return np.asarray(points @ tilt @ rotation)


def _nearest(item: Object, points: Points) -> tuple[NDArray[np.float64], Points]:
    """Return the distance to the nearest part, and its color."""
    distances = np.stack([part(points) for part, _ in item.parts])
    colors = np.array([color for _, color in item.parts])
    return distances.min(axis=0), colors[distances.argmin(axis=0)]


def _normals(item: Object, points: Points, angle: float) -> Points:
    slopes = []
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 1e-3
        ahead, behind = (_nearest(item, _turned(points + sign * step, angle))[0] for sign in (1, -1))
        slopes.append(ahead - behind)
    gradient = np.stack(slopes, axis=1)
    return np.asarray(gradient / np.maximum(1e-9, np.linalg.norm(gradient, axis=1, keepdims=True)))


def _ball(radius: float, center: Color = (0, 0, 0)) -> Distance:
    return lambda points: np.linalg.norm(points - center, axis=1) - radius


def _box(size: Color, center: Color = (0, 0, 0), rounding: float = 0.04) -> Distance:
    def distance(points: Points) -> NDArray[np.float64]:
        corner = np.abs(points - center) - np.array(size) + rounding
        outside = np.linalg.norm(np.maximum(corner, 0), axis=1)
        return np.asarray(outside + np.minimum(corner.max(axis=1), 0) - rounding)

    return distance


def _cylinder(radius: float, half: float, center: Color = (0, 0, 0)) -> Distance:
    def distance(points: Points) -> NDArray[np.float64]:
        local = points - center
        across = np.hypot(local[:, 0], local[:, 2]) - radius
        along = np.abs(local[:, 1]) - half
        outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
        return np.asarray(outside + np.minimum(np.maximum(across, along), 0))

    return distance


def _ring(radius: float, thickness: float, center: Color) -> Distance:
    """Return a ring in the plane of x and y."""

    def distance(points: Points) -> NDArray[np.float64]:
        local = points - center
        return np.asarray(np.hypot(np.hypot(local[:, 0], local[:, 1]) - radius, local[:, 2]) - thickness)

    return distance


def _cone(radius: float, half: float, center: Color) -> Distance:
    """Return a cone with its tip up; the distance is a lower bound."""

    def distance(points: Points) -> NDArray[np.float64]:
        local = points - center
        slope = radius / (2 * half)
        side = (np.hypot(local[:, 0], local[:, 2]) - slope * (half - local[:, 1])) / np.hypot(1, slope)
        return np.asarray(np.maximum(side, np.abs(local[:, 1]) - half))

    return distance


def _without(solid: Distance, hole: Distance) -> Distance:
    return lambda points: np.maximum(solid(points), -hole(points))


def _vase(points: Points) -> NDArray[np.float64]:
    """Return a vase: a radius that varies with the height; the distance is a lower bound."""
    height = np.clip(points[:, 1], -1, 1)
    radius = 0.42 + 0.18 * np.cos(2.6 * height + 0.5)
    return np.asarray(np.maximum((np.hypot(points[:, 0], points[:, 2]) - radius) * 0.8, np.abs(points[:, 1]) - 1))


_RED, _BLUE, _GREEN, _YELLOW = (0.78, 0.12, 0.12), (0.13, 0.30, 0.72), (0.16, 0.50, 0.24), (0.92, 0.76, 0.18)
_WHITE, _BROWN, _BLACK, _PURPLE = (0.93, 0.93, 0.90), (0.46, 0.28, 0.15), (0.10, 0.10, 0.11), (0.45, 0.20, 0.58)

_MUG = _without(_cylinder(0.62, 0.72), _cylinder(0.52, 0.72, (0, 0.12, 0)))

OBJECTS: Mapping[str, Object] = {
    "ball": Object("a red ball with a white band", ((_ball(0.95), _RED), (_cylinder(0.97, 0.12), _WHITE))),
    "mug": Object("a blue mug", ((_MUG, _BLUE), (_ring(0.36, 0.09, (0.78, 0, 0)), _BLUE))),
    "book": Object(
        "a green book", ((_box((0.62, 0.85, 0.14)), _GREEN), (_box((0.58, 0.81, 0.10), (0.06, 0, 0)), _WHITE))
    ),
    "vase": Object("a yellow vase", ((_vase, _YELLOW),)),
    "gift": Object(
        "a purple gift box with a yellow ribbon",
        (
            (_box((0.7, 0.6, 0.7)), _PURPLE),
            (_box((0.14, 0.62, 0.72)), _YELLOW),
            (_box((0.72, 0.62, 0.14)), _YELLOW),
            (_ring(0.2, 0.06, (-0.2, 0.75, 0)), _YELLOW),
            (_ring(0.2, 0.06, (0.2, 0.75, 0)), _YELLOW),
        ),
    ),
    "drum": Object(
        "a white toy drum with red rims",
        (
            (_cylinder(0.75, 0.45), _WHITE),
            (_cylinder(0.80, 0.08, (0, 0.42, 0)), _RED),
            (_cylinder(0.80, 0.08, (0, -0.42, 0)), _RED),
        ),
    ),
    "lamp": Object(
        "a desk lamp with a green shade",
        (
            (_cone(0.75, 0.4, (0, 0.5, 0)), _GREEN),
            (_cylinder(0.06, 0.6, (0, -0.4, 0)), _BLACK),
            (_cylinder(0.5, 0.06, (0, -0.95, 0)), _BLACK),
        ),
    ),
    "cat": Object(
        "a brown toy cat",
        (
            (_ball(0.55, (0, -0.35, 0)), _BROWN),
            (_ball(0.42, (0, 0.42, 0.1)), _BROWN),
            (_cone(0.18, 0.2, (-0.24, 0.85, 0.1)), _BROWN),
            (_cone(0.18, 0.2, (0.24, 0.85, 0.1)), _BROWN),
            (_ball(0.07, (-0.15, 0.5, 0.48)), _BLACK),
            (_ball(0.07, (0.15, 0.5, 0.48)), _BLACK),
        ),
    ),
}
"""Name -> object."""
