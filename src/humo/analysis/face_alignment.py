"""Detect faces with five key points and align them, as face recognition networks expect it.

**Source:** InsightFace (https://github.com/deepinsight/insightface, MIT): ``model_zoo/scrfd.py`` and
``utils/face_align.py``.

Shape suffixes: N faces, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.analysis.networks.s3fd import suppress
from humo.analysis.opencv import opencv
from humo.errors import CheckpointError, DependencyError

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Places of eyes, nose and corners of the mouth in an aligned face of 112 pixels."""

LEVELS, BOXES_PER_CELL = (8, 16, 32), 2
"""Pixels of a cell of each level of the detector, and boxes of each cell."""

MIN_SCORE, MAX_OVERLAP = 0.5, 0.4
"""Lowest score of a face, and largest overlap of two faces."""

RETRY_MARGIN = 0.25
"""Gray margin that is added where no face is detected, in units of the image."""

Frame = NDArray[np.uint8]
Points = NDArray[np.float32]
Network = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]
"""Takes (1, 3, H, W) and returns the scores, boxes and key points of all levels."""


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """A face: its box (left, top, right, bottom) and five key points (5, 2) in pixels, and the detector's score."""

    box: NDArray[np.float32]
    points: Points
    score: float

    @property
    def area(self) -> float:
        """Area of the box in pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


def load_onnx(path: Path) -> Network:
    """Return an ONNX network as a function, on one CPU thread.

    Raises:
        DependencyError: onnxruntime is not installed.
        CheckpointError: the file is damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "evaluate", "onnxruntime is not installed", "pip install 'humo-video[evaluate]'"
        ) from error
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        problem = f"{path.name!r} cannot be loaded ({str(error).splitlines()[0]})"
        raise CheckpointError(path.name, problem, "download it again") from error
    name = session.get_inputs()[0].name
    return lambda image: list(session.run(None, {name: image}))


def detect(network: Network, image: Frame, side: int) -> list[DetectedFace]:
    """Return the faces of an image (H, W, 3) RGB, the highest score first.

    Args:
        network: the detector.
        image: any size; it is scaled into a square and padded with black right or below.
        side: side of the square in pixels.
    """
    cv2 = opencv()
    height, width = image.shape[:2]
    size = (int(side / (height / width)), side) if height / width > 1 else (side, int(side * (height / width)))
    scale = size[1] / height
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = cv2.resize(image, size)
    pixels = (square.astype(np.float32) - 127.5) / 128
    outputs = network(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
    scores, boxes, points = _decode(outputs, side)
    order = scores.argsort(kind="stable")[::-1]
    scores, boxes, points = scores[order], boxes[order] / scale, points[order] / scale
    return [DetectedFace(boxes[n], points[n], float(scores[n])) for n in suppress_pixels(boxes, scores)]


def _decode(outputs: list[NDArray[np.float32]], side: int) -> tuple[Any, Any, Any]:
    """Return scores (N,), boxes (N, 4) and key points (N, 5, 2) of all levels with at least `MIN_SCORE`."""
    scores, boxes, points = [], [], []
    for number, step in enumerate(LEVELS):
        score, box, point = (
            outputs[number + len(LEVELS) * part].reshape(-1, width) for part, width in enumerate((1, 4, 10))
        )
        cells = side // step
        y, x = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
        centers = np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32) * step, BOXES_PER_CELL, axis=0)
        box, point = box * step, point * step
        confident = score[:, 0] >= MIN_SCORE
        corners = np.concatenate([centers - box[:, :2], centers + box[:, 2:]], axis=1)
        scores.append(score[confident, 0])
        boxes.append(corners[confident])
        points.append((centers[:, None] + point.reshape(-1, 5, 2))[confident])
    return np.concatenate(scores), np.concatenate(boxes), np.concatenate(points)


def suppress_pixels(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> list[int]:
    """Return the indices of faces that stay; boxes count their last row and column, as in the published code."""
    return suppress(boxes + np.array([0, 0, 1, 1], np.float32), scores, MAX_OVERLAP)


def largest_face(network: Network, image: Frame, side: int) -> DetectedFace | None:
    """Return the largest face of an image; where there is none, a gray margin is added for a second try."""
    faces = detect(network, image, side)
    if faces:
        return max(faces, key=lambda face: face.area)
    cv2 = opencv()
    top, left = (int(length * RETRY_MARGIN) for length in image.shape[:2])
    padded = cv2.copyMakeBorder(image, top, top, left, left, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    faces = detect(network, padded, side)
    if not faces:
        return None
    face = max(faces, key=lambda face: face.area)
    shift = np.array([left, top], np.float32)
    return DetectedFace(face.box - np.tile(shift, 2), face.points - shift, face.score)


def align_face(image: Frame, points: Points, side: int) -> Frame:
    """Return the face turned and scaled onto `TEMPLATE`, (side, side, 3).

    Args:
        image: (H, W, 3).
        points: five key points in pixels.
        side: a multiple of 112.
    """
    cv2 = opencv()
    aligned: Frame = cv2.warpAffine(image, similarity(points, TEMPLATE * (side / 112)), (side, side), borderValue=0.0)
    return aligned


def similarity(source: Points, target: Points) -> NDArray[np.float64]:
    """Return the rotation, uniform scale and shift (2, 3) that maps points onto others with the least squared error.

    **Source:** Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991).
    """
    source, target = source.astype(np.float32), target.astype(np.float32)  # as published: more digits move pixels
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    from_center, to_center = source - source_mean, target - target_mean
    left, singular, right = np.linalg.svd(to_center.T @ from_center / len(source))
    signs = np.ones(2)
    if np.linalg.det(left) * np.linalg.det(right) < 0:
        signs[-1] = -1
    rotation = left @ np.diag(signs) @ right
    scale = float(1.0 / from_center.var(axis=0).sum() * (singular @ signs))
    shift = target_mean - scale * (rotation @ source_mean)
    return np.concatenate([scale * rotation, shift[:, None]], axis=1)
