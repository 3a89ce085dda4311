"""Pose a figure: face units, rotation of the head, and the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.base_mesh import Floats, as_float32, morph_target
from humo.synthetic.person.body import lip_gap
from humo.synthetic.person.figure import Figure
from humo.synthetic.render.jit import Array, jit
from humo.synthetic.speech.face_track import FACE_UNITS

CAMERA_DISTANCE = 14.0
"""Distance of the camera from the center of the head, decimeters."""

_FULL_LID_GAZE = 0.5  # vertical gaze in radians at which the lids follow completely
_MIN_STRENGTH = 1e-4  # weaker units are skipped


def rotation(yaw: float, pitch: float, roll: float) -> Floats:
    """Return the rotation (3, 3) of the head: roll, then pitch, then yaw, in radians."""
    cy, sy, cp, sp, cr, sr = (f(v) for v in (yaw, pitch, roll) for f in (math.cos, math.sin))
    return as_float32(
        [
            [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, sy * cp],
            [cp * sr, cp * cr, -sp],
            [-sy * cr + cy * sp * sr, sy * sr + cy * sp * cr, cy * cp],
        ]
    )


def apply_face_units(points: Floats, units: Floats, gaze: Floats | None = None) -> Floats:
    """Move a face at rest by face units; return the moved points (V, 3).

    Args:
        points: (V, 3) vertices of the base mesh of a person at rest.
        units: (len(FACE_UNITS),) strengths in [0, 1].
        gaze: (2,) right and up in radians; the lids follow it.
    """
    moved = points.copy()
    for name, strength in zip(FACE_UNITS, units.tolist(), strict=True):
        if strength > _MIN_STRENGTH:
            _add(moved, morph_target(name), strength)
    if gaze is not None and abs(float(gaze[1])) > _MIN_STRENGTH:
        direction, strength = ("Up", float(gaze[1])) if gaze[1] > 0 else ("Down", -float(gaze[1]))
        for side in ("Left", "Right"):
            _add(moved, morph_target(f"eyeLook{direction}{side}"), min(strength / _FULL_LID_GAZE, 1.0))
    return moved


def pose_figure(
    figure: Figure, appearance: Appearance, units: Floats, head: Floats, gaze: Floats
) -> tuple[Floats, Floats, float]:
    """Pose a figure for one frame.

    Args:
        figure: the figure.
        appearance: gives the base pose.
        units, head, gaze: one row each of a `FaceTrack`.

    Returns:
        Vertices (N, 3) in camera space, rotation (3, 3) of the head, opening of the lips; decimeters.
    """
    face = apply_face_units(figure.base, units, gaze)
    yaw, pitch, roll = (float(angle) + base for angle, base in zip(head, appearance.pose, strict=True))
    head_rotation = rotation(yaw, pitch, roll)
    body_rotation = rotation(appearance.turn, 0.0, 0.0)
    posed = np.empty((len(figure.head_weights), 3), np.float32)
    _transform_vertices(
        face, figure.parents, figure.offset, figure.head_weights, figure.neck, (head_rotation, body_rotation), posed
    )
    total = (body_rotation.astype(np.float64) @ head_rotation.astype(np.float64)).astype(np.float32)
    return posed, total, lip_gap(face)


@jit
def _add(points: Array, displacement: Array, strength: float) -> None:
    """Add ``strength * displacement`` (V, 3) to ``points`` (V, 3), float32, in place."""
    for i in range(points.shape[0]):
        for k in range(3):
            points[i, k] += strength * displacement[i, k]


@jit
def _transform_vertices(
    face: Array,
    parents: Array,
    offset: Array,
    head_weights: Array,
    neck: Array,
    rotations: tuple[Array, Array],
    posed: Array,
) -> None:
    """Attach hair and glasses to the face, rotate the head about the neck, then the whole figure."""
    head, body = rotations
    count = face.shape[0]
    p, q = np.zeros(3), np.zeros(3)
    for i in range(posed.shape[0]):
        for k in range(3):
            if i < count:
                p[k] = face[i, k] - neck[k]
            else:
                parent = parents[i - count]
                p[k] = offset[i - count, k] + (face[parent, k] if parent >= 0 else 0.0) - neck[k]
        for k in range(3):
            rotated = head[k, 0] * p[0] + head[k, 1] * p[1] + head[k, 2] * p[2]
            q[k] = p[k] + head_weights[i] * (rotated - p[k])
        for k in range(3):
            posed[i, k] = body[k, 0] * q[0] + body[k, 1] * q[1] + body[k, 2] * q[2] + neck[k]


@dataclass(frozen=True, slots=True)
class Camera:
    """Position and scale of the camera.

    Args:
        x, y: decimeters at the center of the image, at the depth ``z``.
        z: depth of the center of the head.
        scale: pixels per decimeter at that depth.
        side: side of the image in pixels.
        shift: offset of the figure to the right, in pixels.
    """

    x: float
    y: float
    z: float
    scale: float
    side: int
    shift: float

    @classmethod
    def of(cls, figure: Figure, appearance: Appearance, side: int, height: int | None = None) -> Camera:
        """Return the camera that an appearance gives for a figure.

        Args:
            figure: the figure.
            appearance: gives framing and offset.
            side: side of the square image in pixels.
            height: height of the middle part that is kept, in pixels; the framing refers to this part. By default the
                whole image.
        """
        drop = 0.62 * (appearance.framing - 1.0) - 0.06  # a wider framing shows more of the shoulders
        half = figure.head_half_height
        return cls(
            x=float(figure.neck[0]),
            y=float(figure.head_center[1]) - drop * half,
            z=float(figure.head_center[2]),
            scale=(side if height is None else height) / (2 * appearance.framing * half),
            side=side,
            shift=appearance.offset * side,
        )

    def project(self, points: Floats) -> Floats:
        """Project points (N, 3) to the image; return x right and y down in pixels, and depth in decimeters."""
        screen = np.empty_like(points)
        magnification = np.float32(CAMERA_DISTANCE) / (np.float32(CAMERA_DISTANCE + self.z) - points[:, 2])
        half = np.float32(self.side / 2)
        screen[:, 0] = half + np.float32(self.shift) + (points[:, 0] - np.float32(self.x)) * magnification * self.scale
        screen[:, 1] = half - (points[:, 1] - np.float32(self.y)) * magnification * self.scale
        screen[:, 2] = -points[:, 2]
        return screen
