"""Motion of a face over time: expression units, head and gaze for each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FACE_UNITS: tuple[str, ...] = (
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
"""ARKit's names of face units, in the order of `FaceTrack.units`. `FaceTrack.gaze` replaces the eight eyeLook units."""

FACE_UNIT_INDEX: dict[str, int] = {name: column for column, name in enumerate(FACE_UNITS)}
"""Name of a face unit -> its column in `FaceTrack.units`."""


@dataclass(frozen=True, slots=True, eq=False)
class FaceTrack:
    """Motion of a face at 25 frames a second.

    Args:
        units: (F, len(UNITS)) float32, strength of each unit in [0, 1].
        head: (F, 3) float32, yaw (positive: to the person's left), pitch (positive: down) and roll in radians.
        gaze: (F, 2) float32, to the right of the image and up, in radians.

    Raises:
        ValueError: the shapes do not match.
    """

    units: NDArray[np.float32]
    head: NDArray[np.float32]
    gaze: NDArray[np.float32]

    def __post_init__(self) -> None:
        frames = len(self.units)
        shapes = {"units": (frames, len(FACE_UNITS)), "head": (frames, 3), "gaze": (frames, 2)}
        for name, shape in shapes.items():
            array = np.ascontiguousarray(getattr(self, name), np.float32)
            if array.shape != shape:
                raise ValueError(f"{name}: shape {array.shape} is not {shape}")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.units)

    @classmethod
    def at_rest(cls, frames: int) -> FaceTrack:
        """Return a face at rest that looks straight ahead.

        Args:
            frames: number of frames.
        """
        zeros = np.zeros((frames, len(FACE_UNITS)), np.float32)
        return cls(zeros, np.zeros((frames, 3), np.float32), np.zeros((frames, 2), np.float32))

    def __getitem__(self, frames: slice) -> FaceTrack:
        """Return a range of frames."""
        return FaceTrack(self.units[frames], self.head[frames], self.gaze[frames])
