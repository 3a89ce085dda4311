"""Render people: a person, an appearance and a face track become frames and face masks.

Rendering uses one thread, no clock and no global state. The same person, appearance and track give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from humo.errors import RequestError
from humo.synthetic.person.appearance import CLOTHES, CLOTHES_COLORS, PATTERNS, Appearance
from humo.synthetic.person.base_mesh import Floats
from humo.synthetic.person.figure import Figure, build_figure
from humo.synthetic.person.identity import EYE_COLORS, HAIR_COLORS, Person
from humo.synthetic.person.pose import Camera, pose_figure
from humo.synthetic.render import materials as m
from humo.synthetic.render.kernels import FAR, Fragments, rasterize, vertex_normals
from humo.synthetic.render.light import key_light_directions, light_visibility, sky_directions
from humo.synthetic.render.scene import render_background, to_linear
from humo.synthetic.render.shading import Surface, shade
from humo.synthetic.speech.face_track import FACE_UNIT_INDEX, FACE_UNITS, FaceTrack

Frames = NDArray[np.uint8]
Masks = NDArray[np.bool_]

MIN_SIDE = 16
"""Smallest width or height in pixels."""

_EXPOSURE = 1.0
_HIGHLIGHT_START = 0.80  # linear light above which highlights are compressed
_SHADOW_POSE = {"jawOpen": 0.10}  # pose in which shadows are computed: a closed mouth would make the lips black
_MIN_AMBIENT = {m.A_LIPS: 0.75, m.A_LASH: 0.70}  # least ambient visibility of lips and lids, which move most
_MIN_ROOT_AMBIENT, _MIN_ROOT_KEY = 0.65, 0.45  # least visibility of skin between hairs, which is not fully in shadow
_CLOTHES_BELOW_Y = 6.0  # canonical decimeters: below it, the attribute cover belongs to clothes

_DARK_GLASSES_FRAMES = ((0.10, 0.09, 0.10), (0.28, 0.16, 0.09), (0.16, 0.18, 0.30))
_LIGHT_GLASSES_FRAMES = ((0.82, 0.74, 0.52), (0.80, 0.80, 0.82), (0.86, 0.84, 0.78))  # for contrast with dark skin


def render_clip(
    person: Person, appearance: Appearance, track: FaceTrack, size: int | tuple[int, int] = 96, supersample: int = 2
) -> tuple[Frames, Masks]:
    """Render frames (F, H, W, 3) uint8 and face masks (F, H, W) of one clip.

    Args:
        person: the identity.
        appearance: clothes, background, light and framing.
        track: motion of the face.
        size: size of the frames in pixels: side, or (width, height). The height determines the framing.
        supersample: samples per pixel along each axis.

    Raises:
        RequestError: the size is below 16, or there is less than one sample per pixel.
        DependencyError: the package with the body data is not installed.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if min(width, height) < MIN_SIDE or supersample < 1:
        problem = f"{width} x {height} with {supersample} samples per pixel is too small"
        raise RequestError("size", problem, f"use at least {MIN_SIDE} pixels and 1 sample")
    frames = np.empty((len(track), height, width, 3), np.uint8)
    masks = np.empty((len(track), height, width), np.bool_)
    supersampled = _supersampled_frames(person, appearance, track, width * supersample, height * supersample)
    for i, (image, face_mask) in enumerate(supersampled):
        blocks = image.reshape(height, supersample, width, supersample, 3)
        frames[i] = np.rint(np.add.reduce(blocks, (1, 3)) * np.float32(255 / supersample**2)).astype(np.uint8)
        mask_blocks = face_mask.reshape(height, supersample, width, supersample)
        covered = np.add.reduce(mask_blocks.astype(np.int32), (1, 3))
        masks[i] = 2 * covered >= supersample**2
    return frames, masks


def render_still(
    person: Person,
    appearance: Appearance,
    size: int | tuple[int, int] = 96,
    track_frame: FaceTrack | None = None,
    supersample: int = 3,
) -> Frames:
    """Render one image (H, W, 3) uint8.

    Args:
        person: the identity.
        appearance: clothes, background, light and framing.
        size: side in pixels, or (width, height).
        track_frame: a track whose first frame is used; None is a face at rest.
        supersample: samples per pixel along each axis.

    Raises:
        RequestError, DependencyError: as for `render_clip`.
    """
    track = FaceTrack.at_rest(1) if track_frame is None else track_frame[:1]
    image: Frames = render_clip(person, appearance, track, size, supersample)[0][0]
    return image


def _supersampled_frames(
    person: Person, appearance: Appearance, track: FaceTrack, width: int, height: int
) -> Iterator[tuple[Floats, NDArray[np.uint8]]]:
    """Yield each frame before downsampling: display color (height, width, 3) in [0, 1], and the mask of the face.

    A square is rendered, and its middle part is kept.
    """
    side = max(width, height)
    top, left = (side - height) // 2, (side - width) // 2
    middle = (slice(top, top + height), slice(left, left + width))
    figure = build_figure(person, appearance.clothes)
    camera = Camera.of(figure, appearance, side, height)
    background = render_background(appearance, side)
    colors, parameters = _color_table(person, appearance, background), _parameter_row(person, appearance)
    attributes = _attributes_with_light(figure, appearance)
    fragments = Fragments(
        depth=np.empty((side, side), np.float32),
        index=np.empty((side, side), np.int32),
        weights=np.zeros((side, side, 3), np.float32),
    )
    for units, head, gaze in zip(track.units, track.head, track.gaze, strict=True):
        posed, rotation, lip_gap = pose_figure(figure, appearance, units, head, gaze)
        parameters[m.P_GAZE : m.P_GAZE + 2] = np.sin(gaze.astype(np.float64))
        parameters[m.P_LIP_GAP] = lip_gap
        parameters[m.P_HEAD_ROTATION : m.P_HEAD_ROTATION + 9] = rotation.ravel()
        fragments.depth.fill(FAR)
        fragments.index.fill(-1)
        rasterize(camera.project(posed), figure.raster_mesh, fragments)
        image, face_mask = background.copy(), np.zeros((side, side), np.uint8)
        normals = vertex_normals(posed, figure.triangles)
        surface = Surface(figure.triangles, figure.materials, normals, attributes)
        shade(image, face_mask, fragments, surface, colors, parameters)
        yield _tone_map(image[middle]), face_mask[middle]


def _attributes_with_light(figure: Figure, appearance: Appearance) -> Floats:
    """Return the figure's attributes with the visibility of ambient and key light at each vertex."""
    units = np.zeros(len(FACE_UNITS), np.float32)
    for name, strength in _SHADOW_POSE.items():
        units[FACE_UNIT_INDEX[name]] = strength
    posed, _, _ = pose_figure(figure, appearance, units, np.zeros(3, np.float32), np.zeros(2, np.float32))
    normals = vertex_normals(posed, figure.triangles)
    scene = (posed, normals, figure.raster_mesh, figure.head_center)
    ambient = light_visibility(*scene, sky_directions(), cosine=True)
    key = light_visibility(*scene, key_light_directions(appearance.light), cosine=False)
    attributes = figure.attributes.copy()
    base = len(figure.base)
    for column, least in _MIN_AMBIENT.items():
        weight = attributes[:base, column] * (figure.attributes[:base, m.A_INNER_MOUTH] < 0.9)
        ambient[:base] = np.maximum(ambient[:base], least * np.clip(weight, 0, 1))
    growth = np.maximum(figure.attributes[:base, m.A_BEARD], figure.attributes[:base, m.A_COVER] * 8)
    roots = np.clip(growth, 0, 1) * (figure.attributes[:base, m.A_Y] > _CLOTHES_BELOW_Y)
    ambient[:base] = np.maximum(ambient[:base], _MIN_ROOT_AMBIENT * roots)
    key[:base] = np.maximum(key[:base], _MIN_ROOT_KEY * roots)
    attributes[:, m.A_AMBIENT] = ambient[figure.outermost] * figure.shade
    attributes[:, m.A_KEY_LIGHT] = key[figure.outermost] * figure.shade
    return attributes


def _color_table(person: Person, appearance: Appearance, background: Floats) -> NDArray[np.float64]:
    """Return the table of linear colors, rows as `materials` names them."""
    table = np.zeros((m.C_GROUND + 1, 3))
    table[m.C_SKIN], table[m.C_LIPS] = to_linear(person.skin), to_linear(person.lips)
    hair = np.clip(np.array(HAIR_COLORS[person.hair_color]) * person.hair_shade, 0, 1)
    table[m.C_HAIR] = to_linear(hair)
    table[m.C_BROW] = to_linear(hair * 0.85) if hair.mean() < 0.5 else to_linear(hair * 0.78)
    table[m.C_IRIS] = to_linear(EYE_COLORS[person.eye_color])
    table[m.C_CLOTH] = to_linear(CLOTHES_COLORS[appearance.clothes_color])
    table[m.C_SECOND] = to_linear(CLOTHES_COLORS[appearance.second_color])
    glasses_colors = _LIGHT_GLASSES_FRAMES if person.melanin > 0.5 else _DARK_GLASSES_FRAMES
    table[m.C_FRAME] = to_linear(glasses_colors[person.seed % 3])
    warm = np.array((1 + 0.07 * appearance.warmth, 1.0, 1 - 0.09 * appearance.warmth))
    table[m.C_KEY] = 0.90 * appearance.strength * warm
    mean = np.add.reduce(background.astype(np.float64), (0, 1)) / background.shape[0] ** 2
    mean = 0.80 + 0.20 * mean / max(float(mean.max()), 1e-3)  # the background's hue at the brightness of a studio
    table[m.C_FILL] = 0.20 * mean
    table[m.C_SKY] = 0.50 * mean
    table[m.C_GROUND] = 0.20 * mean * np.array((1.05, 1.0, 0.95))
    return table


def _parameter_row(person: Person, appearance: Appearance) -> NDArray[np.float64]:
    """Return the row of parameters, offsets as `materials` names them; gaze, rotation and lip gap are set per frame."""
    row = np.zeros(m.NUM_PARAMETERS)
    row[m.P_LIGHT : m.P_LIGHT + 3] = appearance.light
    fill = np.array((-appearance.light[0], 0.1, 0.8))
    row[m.P_FILL : m.P_FILL + 3] = fill / np.sqrt((fill * fill).sum())
    row[m.P_BROWS], row[m.P_FRECKLES] = person.brows, person.freckles
    row[m.P_AGE] = max(0.0, (person.age - 0.62) / 0.35)
    row[m.P_WARMTH] = person.warmth
    row[m.P_CLOTHES], row[m.P_PATTERN] = CLOTHES.index(appearance.clothes), PATTERNS.index(appearance.pattern)
    row[m.P_STUBBLE] = 0.65 if person.beard == "stubble" else 1.0
    row[m.P_LASHES] = 0.95 if person.sex == "woman" else 0.6
    row[m.P_PARTING] = person.parting
    row[m.P_SCALP] = 0.0 if person.hair_style == "bald" else 0.95
    return row


def _tone_map(image: Floats) -> Floats:
    """Convert linear light to display color in [0, 1] and compress highlights."""
    light = image * np.float32(_EXPOSURE)
    excess = np.maximum(light - np.float32(_HIGHLIGHT_START), 0)
    compressed = np.float32(_HIGHLIGHT_START) + excess / (1 + excess / np.float32(1 - _HIGHLIGHT_START))
    light = np.where(excess > 0, compressed, light)
    displayed: Floats = np.maximum(light, 0) ** np.float32(1 / 2.2)
    return displayed
