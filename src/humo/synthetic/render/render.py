"""Pictures of people that never lived: a person, a look and a face track become frames and face masks.

One thread, no clock, no global state: the same person, look and track give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from humo.errors import RequestError
from humo.synthetic.person.appearance import CLOTHES, CLOTHES_COLOURS, PATTERNS, Look
from humo.synthetic.person.base_mesh import Floats
from humo.synthetic.person.figure import Figure, figure
from humo.synthetic.person.identity import EYE_COLOURS, HAIR_COLOURS, Person
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.person.pose import Camera, place
from humo.synthetic.render import materials as m
from humo.synthetic.render.kernels import FAR, rasterise, vertex_normals
from humo.synthetic.render.light import lamp_directions, reached, sky_directions
from humo.synthetic.render.scene import backdrop, to_linear
from humo.synthetic.render.shading import shade
from humo.synthetic.speech.face_track import UNIT, UNITS, FaceTrack

__all__ = ["mouth_curve", "render_clip", "render_still"]

Frames = NDArray[np.uint8]
Masks = NDArray[np.bool_]

SMALLEST_SIDE = 16  # pixels
_EXPOSURE = 1.0
_SHOULDER = 0.80  # linear light above which highlights are rolled off
_PARTED = {"jawOpen": 0.10}  # pose of the figure while shadows are found: what a closed mouth hides would be black
_OPEN_FLOOR = {m.LIPS: 0.75, m.LASH: 0.70}  # least ambient visibility of lips and lids, which move most

_ROOTS_OPEN, _ROOTS_LIT = 0.65, 0.45  # least visibility of skin between hairs, which is not in one solid shadow
_NECK_TOP = 6.0  # canonical decimetres: cover means clothes below it

_DARK_FRAMES = ((0.10, 0.09, 0.10), (0.28, 0.16, 0.09), (0.16, 0.18, 0.30))
_PALE_FRAMES = ((0.82, 0.74, 0.52), (0.80, 0.80, 0.82), (0.86, 0.84, 0.78))  # what shows on dark skin


def render_clip(
    person: Person, look: Look, track: FaceTrack, size: int | tuple[int, int] = 96, supersample: int = 2
) -> tuple[Frames, Masks]:
    """Frames (F, H, W, 3) uint8 and face masks (F, H, W) of one clip.

    Args:
        person: who.
        look: in which clothes, where, how lit and framed.
        track: what the face does.
        size: of the pictures in pixels: side, or (width, height). The framing is the height's.
        supersample: samples a pixel along each axis.

    Raises:
        RequestError: a size below 16 or less than one sample.
        DependencyError: the package with the bodies is not installed.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if min(width, height) < SMALLEST_SIDE or supersample < 1:
        raise RequestError("size", f"{size} x {supersample} is too small", f"at least {SMALLEST_SIDE} x 1")
    frames = np.empty((len(track), height, width, 3), np.uint8)
    masks = np.empty((len(track), height, width), np.bool_)
    for i, (picture, face) in enumerate(_samples(person, look, track, width * supersample, height * supersample)):
        blocks = picture.reshape(height, supersample, width, supersample, 3)
        frames[i] = np.rint(np.add.reduce(blocks, (1, 3)) * np.float32(255 / supersample**2)).astype(np.uint8)
        share = np.add.reduce(face.reshape(height, supersample, width, supersample).astype(np.int32), (1, 3))
        masks[i] = 2 * share >= supersample**2
    return frames, masks


def render_still(
    person: Person,
    look: Look,
    size: int | tuple[int, int] = 96,
    track_frame: FaceTrack | None = None,
    supersample: int = 3,
) -> Frames:
    """One picture (H, W, 3) uint8.

    Args:
        person: who.
        look: in which clothes, where, how lit and framed.
        size: side in pixels, or (width, height).
        track_frame: a track whose first frame is taken; None is a face at rest.
        supersample: samples a pixel along each axis.

    Raises:
        RequestError, DependencyError: as `render_clip`.
    """
    track = FaceTrack.still(1) if track_frame is None else track_frame[:1]
    picture: Frames = render_clip(person, look, track, size, supersample)[0][0]
    return picture


def _samples(
    person: Person, look: Look, track: FaceTrack, width: int, height: int
) -> Iterator[tuple[Floats, NDArray[np.uint8]]]:
    """Each frame at full sampling: displayed colour (height, width, 3) in [0, 1], and where the face is.

    A square is drawn, and the middle of it is the picture.
    """
    side = max(width, height)
    top, left = (side - height) // 2, (side - width) // 2
    middle = (slice(top, top + height), slice(left, left + width))
    body = figure(person, look.clothes)
    camera = Camera.of(body, look, side, height)
    behind = backdrop(look, side)
    colours, numbers = _colours(person, look, behind), _numbers(person, look)
    attributes = _lit(body, look)
    depth = np.empty((side, side), np.float32)
    index = np.empty((side, side), np.int32)
    weights = np.zeros((side, side, 3), np.float32)
    for units, head, gaze in zip(track.units, track.head, track.gaze, strict=True):
        placed, turned, parted = place(body, look, units, head, gaze)
        numbers[m.P_GAZE : m.P_GAZE + 2] = np.sin(gaze.astype(np.float64))
        numbers[m.P_PARTED] = parted
        numbers[m.P_TURN : m.P_TURN + 9] = turned.ravel()
        depth.fill(FAR)
        index.fill(-1)
        rasterise(camera.project(placed), body.triangles, body.kinds, body.fuzz, body.fields, depth, index, weights)
        picture, face = behind.copy(), np.zeros((side, side), np.uint8)
        normals = vertex_normals(placed, body.triangles)
        shade(picture, face, index, weights, body.triangles, body.materials, normals, attributes, colours, numbers)
        yield _displayed(picture[middle]), face[middle]


def _lit(body: Figure, look: Look) -> Floats:
    """The figure's attributes with the sky and key light that reach each vertex."""
    units = np.zeros(len(UNITS), np.float32)
    for name, strength in _PARTED.items():
        units[UNIT[name]] = strength
    placed, _, _ = place(body, look, units, np.zeros(3, np.float32), np.zeros(2, np.float32))
    normals = vertex_normals(placed, body.triangles)
    surface = (placed, normals, body.triangles, body.kinds, body.fuzz, body.fields, body.middle)
    sky = reached(*surface, sky_directions(), cosine=True)
    lamp = reached(*surface, lamp_directions(look.light), cosine=False)
    attributes = body.attributes.copy()
    base = len(body.base)
    for column, least in _OPEN_FLOOR.items():
        share = attributes[:base, column] * (body.attributes[:base, m.INNER] < 0.9)
        sky[:base] = np.maximum(sky[:base], least * np.clip(share, 0, 1))
    growth = np.maximum(body.attributes[:base, m.BEARDED], body.attributes[:base, m.COVER] * 8)
    roots = np.clip(growth, 0, 1) * (body.attributes[:base, m.Y] > _NECK_TOP)
    sky[:base] = np.maximum(sky[:base], _ROOTS_OPEN * roots)
    lamp[:base] = np.maximum(lamp[:base], _ROOTS_LIT * roots)
    attributes[:, m.OPEN] = sky[body.outer] * body.shade
    attributes[:, m.LIT] = lamp[body.outer] * body.shade
    return attributes


def _colours(person: Person, look: Look, behind: Floats) -> NDArray[np.float64]:
    """The table of linear colours, rows as `materials` names them."""
    table = np.zeros((m.C_GROUND + 1, 3))
    table[m.C_SKIN], table[m.C_LIPS] = to_linear(person.skin), to_linear(person.lips)
    hair = np.clip(np.array(HAIR_COLOURS[person.hair_colour]) * person.hair_shade, 0, 1)
    table[m.C_HAIR] = to_linear(hair)
    table[m.C_BROW] = to_linear(hair * 0.85) if hair.mean() < 0.5 else to_linear(hair * 0.78)
    table[m.C_IRIS] = to_linear(EYE_COLOURS[person.eye_colour])
    table[m.C_CLOTH] = to_linear(CLOTHES_COLOURS[look.clothes_colour])
    table[m.C_SECOND] = to_linear(CLOTHES_COLOURS[look.second_colour])
    table[m.C_FRAME] = to_linear((_PALE_FRAMES if person.melanin > 0.5 else _DARK_FRAMES)[person.seed % 3])
    warm = np.array((1 + 0.07 * look.warmth, 1.0, 1 - 0.09 * look.warmth))
    table[m.C_KEY] = 0.90 * look.strength * warm
    around = np.add.reduce(behind.astype(np.float64), (0, 1)) / behind.shape[0] ** 2
    around = 0.80 + 0.20 * around / max(float(around.max()), 1e-3)  # the scene's hue, at the studio's brightness
    table[m.C_FILL] = 0.20 * around
    table[m.C_SKY] = 0.50 * around
    table[m.C_GROUND] = 0.20 * around * np.array((1.05, 1.0, 0.95))
    return table


def _numbers(person: Person, look: Look) -> NDArray[np.float64]:
    """The row of numbers, places as `materials` names them; gaze, turn and parting lips are each frame's."""
    row = np.zeros(m.NUMBERS)
    row[m.P_LIGHT : m.P_LIGHT + 3] = look.light
    fill = np.array((-look.light[0], 0.1, 0.8))
    row[m.P_FILL : m.P_FILL + 3] = fill / np.sqrt((fill * fill).sum())
    row[m.P_BROWS], row[m.P_FRECKLES] = person.brows, person.freckles
    row[m.P_AGE] = max(0.0, (person.age - 0.62) / 0.35)
    row[m.P_WARMTH] = person.warmth
    row[m.P_CLOTHES], row[m.P_PATTERN] = CLOTHES.index(look.clothes), PATTERNS.index(look.pattern)
    row[m.P_STUBBLE] = 0.65 if person.beard == "stubble" else 1.0
    row[m.P_LASHES] = 0.95 if person.sex == "woman" else 0.6
    row[m.P_PARTING] = person.parting
    row[m.P_SCALP] = 0.0 if person.hair_style == "bald" else 0.95
    return row


def _displayed(picture: Floats) -> Floats:
    """Linear light as displayed colour in [0, 1], highlights rolled off."""
    light = picture * np.float32(_EXPOSURE)
    over = np.maximum(light - np.float32(_SHOULDER), 0)
    rolled = np.float32(_SHOULDER) + over / (1 + over / np.float32(1 - _SHOULDER))
    light = np.where(over > 0, rolled, light)
    shown: Floats = np.maximum(light, 0) ** np.float32(1 / 2.2)
    return shown
