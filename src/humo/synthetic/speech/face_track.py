"""The motion of a face over time: expression units, head and gaze, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNITS: tuple[str, ...] = (
    "jawOpen",
    "jawForward",
    "jawLeft",
    "jawRight",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthLeft",
    "mouthRight",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "tongueOut",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "eyeSquintLeft",
    "eyeSquintRight",
    "eyeWideLeft",
    "eyeWideRight",
    "browInnerUp",
    "browDownLeft",
    "browDownRight",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "noseSneerLeft",
    "noseSneerRight",
)
"""Face units by their ARKit names, in the order of `FaceTrack.units`; the eight eyeLook units are `FaceTrack.gaze`."""

UNIT: dict[str, int] = {name: column for column, name in enumerate(UNITS)}
"""Column of each unit."""


@dataclass(frozen=True, slots=True, eq=False)
class FaceTrack:
    """What a face does, 25 frames a second.

    Args:
        units: (F, len(UNITS)) float32, strength of each unit in [0, 1].
        head: (F, 3) float32, yaw (positive: to the person's left), pitch (positive: down) and roll in radians.
        gaze: (F, 2) float32, right-of-picture and up, in radians.

    Raises:
        ValueError: shapes that do not belong together.
    """

    units: NDArray[np.float32]
    head: NDArray[np.float32]
    gaze: NDArray[np.float32]

    def __post_init__(self) -> None:
        frames = len(self.units)
        wanted = {"units": (frames, len(UNITS)), "head": (frames, 3), "gaze": (frames, 2)}
        for name, shape in wanted.items():
            array = np.ascontiguousarray(getattr(self, name), np.float32)
            if array.shape != shape:
                raise ValueError(f"{name}: shape {array.shape} is not {shape}")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """Frames."""
        return len(self.units)

    @classmethod
    def still(cls, frames: int) -> FaceTrack:
        """A face at rest that looks straight ahead.

        Args:
            frames: how long.
        """
        zeros = np.zeros((frames, len(UNITS)), np.float32)
        return cls(zeros, np.zeros((frames, 3), np.float32), np.zeros((frames, 2), np.float32))

    def __getitem__(self, frames: slice) -> FaceTrack:
        """A part of the track.

        Args:
            frames: a slice of frames.
        """
        return FaceTrack(self.units[frames], self.head[frames], self.gaze[frames])
