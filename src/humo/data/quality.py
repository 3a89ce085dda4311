"""Light, sharpness, motion and burnt-in text of a clip."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.analysis.face_mesh import Face
from humo.data.scan import missing_package
from humo.data.tasks import Values

Frames = NDArray[np.uint8]

SMALL_LINES = 90
"""Shorter side in pixels of the frames in which light and motion are measured."""

PATCH_SIDE = 128
"""Largest side in pixels of the image of a face in which sharpness is measured."""

SHARPNESS_FRAMES = 8
"""Frames of a clip in which sharpness is measured."""

TEXT_AT = (1 / 3, 2 / 3)
"""Instants of a clip, 0..1, at which text is looked for."""

MIN_LETTERS, MIN_TEXT_SCORE = 3, 0.5
"""Letters and score from which on a box counts as text; boxes alone are found on clothes and walls."""


def light_and_motion(frames: Frames) -> Values:
    """Return ``luminance`` (0..255) and ``motion``: mean absolute difference of neighboring frames, 0..1."""
    import cv2

    scale = SMALL_LINES / min(frames.shape[1:3])
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    gray = np.stack([cv2.cvtColor(_smaller(frame, size), cv2.COLOR_RGB2GRAY) for frame in frames])
    steps = [float(cv2.absdiff(a, b).mean()) / 255 for a, b in pairwise(gray)]
    luminance = {"luminance": round(float(gray.mean()), 3)}
    return luminance | {"motion": round(float(np.mean(steps)), 6)} if steps else luminance


def _smaller(frame: NDArray[np.uint8], size: tuple[int, int]) -> Any:
    import cv2

    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def sharpness(frames: Frames, faces: tuple[Face | None, ...]) -> Values:
    """Return ``sharpness``: standard deviation of the Laplacian over that of the image, of the face, in the median.

    **Source:** the variance of the Laplacian as a focus measure (Pech-Pacheco et al., 2000). It is divided by the
    contrast, so that a dark face is no blurred one.
    """
    present = [number for number, face in enumerate(faces) if face is not None]
    picks = [present[int(at)] for at in np.linspace(0, len(present) - 1, min(len(present), SHARPNESS_FRAMES))]
    values = [_sharpness(frames[number], faces[number]) for number in picks]
    return {"sharpness": round(float(np.median(values)), 4) if values else 0.0}


def _sharpness(frame: NDArray[np.uint8], face: Face | None) -> float:
    import cv2

    assert face is not None
    left, top, right, bottom = (max(0, round(value)) for value in face.box)
    patch = cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    if max(patch.shape) > PATCH_SIDE:
        scale = PATCH_SIDE / max(patch.shape)
        size = (max(8, round(patch.shape[1] * scale)), max(8, round(patch.shape[0] * scale)))
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    laplacian = cv2.Laplacian(patch, cv2.CV_64F)
    return float(laplacian.std() / max(1.0, float(patch.std())))


class TextFinder:
    """Finds burnt-in text with RapidOCR's networks, loaded at first use.

    Raises:
        DependencyError: at first use, if RapidOCR is not installed.
    """

    def scores(self, frames: Frames) -> Values:
        """Return ``text``: fraction of the frame's area that text covers, the larger one of two frames."""
        return {"text": round(max(self._area(frames[int(at * (len(frames) - 1))]) for at in TEXT_AT), 5)}

    def _area(self, frame: NDArray[np.uint8]) -> float:
        result = self._reader(frame[..., ::-1])
        if result.boxes is None:
            return 0.0
        area = 0.0
        for box, text, score in zip(result.boxes, result.txts, result.scores, strict=True):
            if len("".join(text.split())) >= MIN_LETTERS and score >= MIN_TEXT_SCORE:
                corners = np.asarray(box, float)
                wide, high = corners.max(axis=0) - corners.min(axis=0)
                area += float(wide * high)
        return float(area / (frame.shape[0] * frame.shape[1]))

    @cached_property
    def _reader(self) -> Any:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise missing_package("rapidocr") from error
        threads = {f"EngineConfig.onnxruntime.{name}_op_num_threads": 1 for name in ("intra", "inter")}
        return RapidOCR(params={"Global.use_cls": False, "Global.log_level": "error", **threads})
