"""A figure in motion: face units, the head's turn, and the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from humo.synthetic.person.appearance import Look
from humo.synthetic.person.base_mesh import Floats, floats, target
from humo.synthetic.person.body import lip_gap
from humo.synthetic.person.figure import Figure
from humo.synthetic.render.jit import Array, compiled
from humo.synthetic.speech.face_track import UNITS

CAMERA_DISTANCE = 14.0  # decimetres from the head's middle
_LID_FOLLOWS = 0.5  # radians of gaze at which the lids follow all the way
_SMALLEST = 1e-4  # units weaker than this are left out


def rotation(yaw: float, pitch: float, roll: float) -> Floats:
    """Rotation (3, 3) of the head: roll, then pitch, then yaw; radians."""
    cy, sy, cp, sp, cr, sr = (f(v) for v in (yaw, pitch, roll) for f in (math.cos, math.sin))
    return floats(
        [
            [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, sy * cp],
            [cp * sr, cp * cr, -sp],
            [-sy * cr + cy * sp * sr, sy * sr + cy * sp * cr, cy * cp],
        ]
    )


def expression(points: Floats, units: Floats, gaze: Floats | None = None) -> Floats:
    """A face (V, 3) at rest moved by face units.

    Args:
        points: (V, 3) the base mesh's vertices of a person at rest.
        units: (len(UNITS),) strengths in [0, 1].
        gaze: (2,) right and up in radians; the lids follow it.
    """
    moved = points.copy()
    for name, strength in zip(UNITS, units.tolist(), strict=True):
        if strength > _SMALLEST:
            _add(moved, target(name), strength)
    if gaze is not None and abs(float(gaze[1])) > _SMALLEST:
        way, strength = ("Up", float(gaze[1])) if gaze[1] > 0 else ("Down", -float(gaze[1]))
        for side in ("Left", "Right"):
            _add(moved, target(f"eyeLook{way}{side}"), min(strength / _LID_FOLLOWS, 1.0))
    return moved


def place(body: Figure, look: Look, units: Floats, head: Floats, gaze: Floats) -> tuple[Floats, Floats, float]:
    """Every vertex (N, 3) of a figure in camera space, the head's rotation (3, 3), the opening of the lips; decimetres.

    Args:
        body: the figure.
        look: gives the base pose.
        units, head, gaze: one row each of a `FaceTrack`.
    """
    face = expression(body.base, units, gaze)
    yaw, pitch, roll = (float(angle) + extra for angle, extra in zip(head, look.pose, strict=True))
    turned = rotation(yaw, pitch, roll)
    stand = rotation(look.turn, 0.0, 0.0)
    placed = np.empty((len(body.head), 3), np.float32)
    _assemble(face, body.source, body.offset, body.head, body.neck, turned, stand, placed)
    return placed, (stand.astype(np.float64) @ turned.astype(np.float64)).astype(np.float32), lip_gap(face)


@compiled
def _add(points: Array, displacement: Array, strength: float) -> None:
    """points (V, 3) += strength * displacement (V, 3), float32."""
    for i in range(points.shape[0]):
        for k in range(3):
            points[i, k] += strength * displacement[i, k]


@compiled
def _assemble(
    face: Array, source: Array, offset: Array, head: Array, neck: Array, turned: Array, stand: Array, placed: Array
) -> None:
    """Hang hair and glasses on the face, turn the head about the neck, then the whole figure."""
    count = face.shape[0]
    p, q = np.zeros(3), np.zeros(3)
    for i in range(placed.shape[0]):
        for k in range(3):
            if i < count:
                p[k] = face[i, k] - neck[k]
            else:
                at = source[i - count]
                p[k] = offset[i - count, k] + (face[at, k] if at >= 0 else 0.0) - neck[k]
        for k in range(3):
            full = turned[k, 0] * p[0] + turned[k, 1] * p[1] + turned[k, 2] * p[2]
            q[k] = p[k] + head[i] * (full - p[k])
        for k in range(3):
            placed[i, k] = stand[k, 0] * q[0] + stand[k, 1] * q[1] + stand[k, 2] * q[2] + neck[k]


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the picture is taken from.

    Args:
        x, y: decimetres at the middle of the picture, at the depth ``z``.
        z: depth of the head's middle.
        scale: pixels a decimetre at that depth.
        side: pixels.
        shift: of the figure to the right, pixels.
    """

    x: float
    y: float
    z: float
    scale: float
    side: int
    shift: float

    @classmethod
    def of(cls, body: Figure, look: Look, side: int, height: int | None = None) -> Camera:
        """The camera of a look on a figure.

        Args:
            body: the figure.
            look: gives framing and offset.
            side: of the picture, pixels.
            height: of the middle part that is kept, pixels; the framing is that part's. All by default.
        """
        drop = 0.62 * (look.framing - 1.0) - 0.06  # the wider, the more of the shoulders
        return cls(
            x=float(body.neck[0]),
            y=float(body.middle[1]) - drop * body.half,
            z=float(body.middle[2]),
            scale=(side if height is None else height) / (2 * look.framing * body.half),
            side=side,
            shift=look.offset * side,
        )

    def project(self, placed: Floats) -> Floats:
        """Screen positions (N, 3) of points (N, 3): x right and y down in pixels, depth in decimetres."""
        screen = np.empty_like(placed)
        nearer = np.float32(CAMERA_DISTANCE) / (np.float32(CAMERA_DISTANCE + self.z) - placed[:, 2])
        half = np.float32(self.side / 2)
        screen[:, 0] = half + np.float32(self.shift) + (placed[:, 0] - np.float32(self.x)) * nearer * self.scale
        screen[:, 1] = half - (placed[:, 1] - np.float32(self.y)) * nearer * self.scale
        screen[:, 2] = -placed[:, 2]
        return screen
