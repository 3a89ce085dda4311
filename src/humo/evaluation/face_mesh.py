"""Finds a face and its mesh of 468 points in a frame, and reads off it how far the mouth is open.

The two small networks are MediaPipe's (`assets/faces/ORIGIN.md`), run by LiteRT. Only the largest face counts.

Shape suffixes: H, W size, N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from humo.errors import DependencyError

MODELS = Path(__file__).parents[1] / "assets" / "faces"
DETECTOR, LANDMARKS = "face_detection_short_range.tflite", "face_landmark.tflite"

DETECTOR_SIDE, MESH_SIDE = 128, 192
"""Pixels of what the two networks see."""

ANCHOR_GRIDS = ((16, 2), (8, 6))
"""Cells a side, and boxes a cell, that the detector speaks of."""

DETECTED, PRESENT = 0.5, 0.5
"""Scores from which on a face was found, and a mesh lies on a face (MediaPipe's)."""

REGION_SCALE = 1.5
"""Side of the region that the mesh is read from, in those of the detected box (MediaPipe's)."""

CORNERS = (78, 308)
"""Points of the mouth's inner corners."""
LIPS = ((82, 87), (13, 14), (312, 317))
"""Pairs of points of the inner lips: upper, lower."""
MOUTH_OUTLINE = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
EYES = ((33, 133, 159, 145), (362, 263, 386, 374))
"""Points of each eye: corners, upper and lower lid."""

Frame = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Face:
    """What was found in a frame.

    Args:
        box: left, top, right, bottom in pixels.
        score: of the detector, 0..1.
        points: (468, 2) in pixels; x, y.
        presence: of the mesh, 0..1.
    """

    box: tuple[float, float, float, float]
    score: float
    points: Points
    presence: float

    @property
    def mouth_aspect(self) -> float:
        """Height of the mouth's opening over its width."""
        height = np.mean([np.linalg.norm(self.points[a] - self.points[b]) for a, b in LIPS])
        return float(height / max(1e-6, np.linalg.norm(self.points[CORNERS[0]] - self.points[CORNERS[1]])))


class FaceMesh:
    """The two networks, loaded at first use.

    Raises:
        DependencyError: at first use, if LiteRT is not installed.
    """

    def find(self, frame: Frame) -> Face | None:
        """The largest face of a frame (H, W, 3), if there is one."""
        picture = Image.fromarray(frame)
        found = self._detect(picture)
        if found is None:
            return None
        box, eyes, score = found
        points, presence = self._mesh(picture, box, eyes)
        return Face(box, score, points, presence) if presence >= PRESENT else None

    def _detect(self, picture: Image.Image) -> tuple[tuple[float, float, float, float], Points, float] | None:
        """Box and eyes (2, 2) of the largest face, in pixels, and the score."""
        side = max(picture.size)
        square = Image.new("RGB", (side, side))
        left, top = (side - picture.width) // 2, (side - picture.height) // 2
        square.paste(picture, (left, top))
        seen = square.resize((DETECTOR_SIDE, DETECTOR_SIDE), Image.Resampling.BILINEAR)
        boxes, logits = self._detector(np.asarray(seen, np.float32)[None] / 127.5 - 1)
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0], -80, 80)))
        if scores.max() < DETECTED:
            return None
        found = boxes[0] / DETECTOR_SIDE
        area = np.where(scores >= DETECTED, found[:, 2] * found[:, 3], 0)
        near = scores >= 0.75 * scores[area.argmax()]  # of the boxes on one face, the surest
        best = int(np.where(near & (area > 0.5 * area.max()), scores, 0).argmax())
        x, y, wide, high = found[best, :4]
        centre = _anchors()[best]
        corner = (np.array([x, y]) + centre - np.array([wide, high]) / 2) * side - (left, top)
        eyes = (found[best, 4:8].reshape(2, 2) + centre) * side - (left, top)
        box = (corner[0], corner[1], corner[0] + wide * side, corner[1] + high * side)
        return tuple(map(float, box)), eyes.astype(np.float32), float(scores[best])  # type: ignore[return-value]

    def _mesh(self, picture: Image.Image, box: tuple[float, float, float, float], eyes: Points) -> tuple[Points, float]:
        """Points (468, 2) in pixels and the score that they lie on a face."""
        across, down = eyes[1] - eyes[0]
        angle = float(np.arctan2(down, across))
        side = REGION_SCALE * max(box[2] - box[0], box[3] - box[1])
        centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * side / MESH_SIDE
        shift = centre - turn @ np.full(2, MESH_SIDE / 2)
        matrix = (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])
        seen = picture.transform(
            (MESH_SIDE, MESH_SIDE), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
        )
        points, presence = self._landmarks(np.asarray(seen, np.float32)[None] / 255)
        flat = points.reshape(-1, 3)[:, :2] @ turn.T + shift
        return flat.astype(np.float32), float(1 / (1 + np.exp(-np.clip(presence.ravel()[0], -80, 80))))

    @cached_property
    def _detector(self) -> Network:
        return Network(DETECTOR)

    @cached_property
    def _landmarks(self) -> Network:
        return Network(LANDMARKS)


class Network:
    """One of the two networks.

    Args:
        name: of its file.
    """

    def __init__(self, name: str) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            remedy = "pip install humo-video[evaluate]"
            raise DependencyError("evaluate", "ai-edge-litert is not installed", remedy) from error
        self._interpreter: Any = Interpreter(str(MODELS / name), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        sizes = [(-int(np.prod(one["shape"])), one["index"]) for one in self._interpreter.get_output_details()]
        self._outputs = [index for _, index in sorted(sizes)]  # the larger first

    def __call__(self, picture: NDArray[np.floating[Any]]) -> list[NDArray[np.float32]]:
        """The outputs for (1, H, W, 3), the larger first."""
        self._interpreter.set_tensor(self._input, picture.astype(np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _anchors() -> Points:
    """The middle of every box that the detector speaks of, (896, 2), 0..1."""
    middles = []
    for cells, boxes in ANCHOR_GRIDS:
        down, across = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
        grid = (np.stack([across, down], axis=-1).reshape(-1, 2) + 0.5) / cells
        middles.append(np.repeat(grid, boxes, axis=0))
    return np.concatenate(middles).astype(np.float32)
