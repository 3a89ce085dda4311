"""Face detection and a face mesh of 468 points, and the mouth aspect ratio that is computed from it.

Both networks are MediaPipe's (`assets/faces/ORIGIN.md`) and run with LiteRT. Only the largest face of a frame is used.

Shape suffixes: H height, W width, N points.
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

FACE_MODELS = Path(__file__).parents[1] / "assets" / "faces"
"""Folder of the small networks that ship with the package for evaluation."""

DETECTOR, LANDMARKS = "face_detection_short_range.tflite", "face_landmark.tflite"
"""Files of the two networks."""

DETECTOR_INPUT_SIDE, MESH_INPUT_SIDE = 128, 192
"""Side in pixels of the square input of the two networks."""

ANCHOR_GRIDS = ((16, 2), (8, 6))
"""Anchor grids of the detector: cells a side, boxes a cell."""

MIN_DETECTION_SCORE, MIN_PRESENCE_SCORE = 0.5, 0.5
"""Scores from which on a box counts as a face, and a mesh as lying on a face (MediaPipe's defaults)."""

REGION_SCALE = 1.5
"""Side of the mesh network's input region, in units of the detected box (MediaPipe's)."""

MOUTH_CORNERS = (78, 308)
"""Mesh points at the inner corners of the mouth."""
INNER_LIP_PAIRS = ((82, 87), (13, 14), (312, 317))
"""Pairs of mesh points on the inner lips: upper, lower."""
MOUTH_OUTLINE = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
"""Mesh points on the outer outline of the lips."""
EYE_OUTLINES = ((33, 133, 159, 145), (362, 263, 386, 374))
"""Mesh points of each eye: corners, upper lid, lower lid."""

Frame = NDArray[np.uint8]
Points = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face.

    Args:
        box: left, top, right, bottom in pixels.
        score: the detector's, 0..1.
        points: mesh points, (468, 2) in pixels: x, y.
        presence: score that the mesh lies on a face, 0..1.
    """

    box: Box
    score: float
    points: Points
    presence: float

    @property
    def mouth_aspect(self) -> float:
        """Mouth aspect ratio: height of the mouth opening over its width."""
        height = np.mean([np.linalg.norm(self.points[a] - self.points[b]) for a, b in INNER_LIP_PAIRS])
        return float(height / max(1e-6, np.linalg.norm(self.points[MOUTH_CORNERS[0]] - self.points[MOUTH_CORNERS[1]])))


class FaceMesh:
    """Face detector and mesh network, loaded at first use.

    Raises:
        DependencyError: at first use, if LiteRT is not installed.
    """

    def detect(self, frame: Frame) -> Face | None:
        """Return the largest face of a frame (H, W, 3), or None if there is no face."""
        image = Image.fromarray(frame)
        detection = self._detect_box(image)
        if detection is None:
            return None
        box, eyes, score = detection
        points, presence = self._read_mesh(image, box, eyes)
        return Face(box, score, points, presence) if presence >= MIN_PRESENCE_SCORE else None

    def _detect_box(self, image: Image.Image) -> tuple[Box, Points, float] | None:
        """Return box and eye centers (2, 2) of the largest face, in pixels, and its score."""
        side = max(image.size)
        square = Image.new("RGB", (side, side))
        left, top = (side - image.width) // 2, (side - image.height) // 2
        square.paste(image, (left, top))
        resized = square.resize((DETECTOR_INPUT_SIDE, DETECTOR_INPUT_SIDE), Image.Resampling.BILINEAR)
        boxes, logits = self._detector(np.asarray(resized, np.float32)[None] / 127.5 - 1)
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0], -80, 80)))
        if scores.max() < MIN_DETECTION_SCORE:
            return None
        candidates = boxes[0] / DETECTOR_INPUT_SIDE
        area = np.where(scores >= MIN_DETECTION_SCORE, candidates[:, 2] * candidates[:, 3], 0)
        confident = scores >= 0.75 * scores[area.argmax()]  # among the boxes on one face, those with a high score
        best = int(np.where(confident & (area > 0.5 * area.max()), scores, 0).argmax())
        x, y, wide, high = candidates[best, :4]
        anchor = anchor_centers()[best]
        corner = (np.array([x, y]) + anchor - np.array([wide, high]) / 2) * side - (left, top)
        eyes = (candidates[best, 4:8].reshape(2, 2) + anchor) * side - (left, top)
        box = (corner[0], corner[1], corner[0] + wide * side, corner[1] + high * side)
        return tuple(map(float, box)), eyes.astype(np.float32), float(scores[best])  # type: ignore[return-value]

    def _read_mesh(self, image: Image.Image, box: Box, eyes: Points) -> tuple[Points, float]:
        """Return the mesh points (468, 2) in pixels and the score that they lie on a face."""
        across, down = eyes[1] - eyes[0]
        angle = float(np.arctan2(down, across))
        side = REGION_SCALE * max(box[2] - box[0], box[3] - box[1])
        center = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        scale = side / MESH_INPUT_SIDE
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
        shift = center - rotation @ np.full(2, MESH_INPUT_SIDE / 2)
        matrix = (rotation[0, 0], rotation[0, 1], shift[0], rotation[1, 0], rotation[1, 1], shift[1])
        region = image.transform(
            (MESH_INPUT_SIDE, MESH_INPUT_SIDE), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
        )
        points, presence = self._landmarks(np.asarray(region, np.float32)[None] / 255)
        in_pixels = points.reshape(-1, 3)[:, :2] @ rotation.T + shift
        return in_pixels.astype(np.float32), float(1 / (1 + np.exp(-np.clip(presence.ravel()[0], -80, 80))))

    @cached_property
    def _detector(self) -> TFLiteModel:
        return TFLiteModel(DETECTOR)

    @cached_property
    def _landmarks(self) -> TFLiteModel:
        return TFLiteModel(LANDMARKS)


class TFLiteModel:
    """A TFLite network on one CPU thread.

    Args:
        name: file name in `FACE_MODELS`.

    Raises:
        DependencyError: LiteRT is not installed.
    """

    def __init__(self, name: str) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            remedy = "pip install 'humo-video[evaluate]'"
            raise DependencyError("evaluate", "ai-edge-litert is not installed", remedy) from error
        self._interpreter: Any = Interpreter(str(FACE_MODELS / name), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        sizes = [(-int(np.prod(output["shape"])), output["index"]) for output in self._interpreter.get_output_details()]
        self._outputs = [index for _, index in sorted(sizes)]  # the larger first

    def __call__(self, image: NDArray[np.floating[Any]]) -> list[NDArray[np.float32]]:
        """Return the outputs for an image (1, H, W, 3), the larger output first."""
        self._interpreter.set_tensor(self._input, image.astype(np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def anchor_centers() -> Points:
    """Return the center of every anchor box of the detector, (896, 2), 0..1."""
    grids = []
    for cells, boxes in ANCHOR_GRIDS:
        down, across = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
        grid = (np.stack([across, down], axis=-1).reshape(-1, 2) + 0.5) / cells
        grids.append(np.repeat(grid, boxes, axis=0))
    return np.concatenate(grids).astype(np.float32)
