"""Light, sharpness, motion and burnt-in text of a clip."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.analysis.face_mesh import Face
from humo.analysis.sharpness import face_sharpness
from humo.data.scan import missing_package
from humo.data.tasks import Values

Frames = NDArray[np.uint8]

SMALL_LINES = 90
"""Shorter side in pixels of the frames in which light and motion are measured."""

SHARPNESS_FRAMES = 8
"""Frames of a clip in which sharpness is measured."""

TEXT_AT = (1 / 3, 2 / 3)
"""Instants of a clip, 0..1, at which text is looked for."""

TEXT_LINES = 256
"""Shorter side in pixels of the frames in which text is looked for."""

MIN_LETTERS, MIN_TEXT_SCORE = 3, 0.5
"""Letters and digits, and score, from which on a box counts as text; boxes alone are found on clothes and walls."""


def light_and_motion(frames: Frames) -> Values:
    """Return ``luminance`` (0..255) and ``motion``: mean absolute difference of neighboring frames, 0..1."""
    import cv2

    scale = SMALL_LINES / min(frames.shape[1:3])
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    gray = np.stack([cv2.cvtColor(_resized(frame, size), cv2.COLOR_RGB2GRAY) for frame in frames])
    steps = [float(cv2.absdiff(a, b).mean()) / 255 for a, b in pairwise(gray)]
    luminance = {"luminance": round(float(gray.mean()), 3)}
    return luminance | {"motion": round(float(np.mean(steps)), 6)} if steps else luminance


def _resized(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a frame of a size (width, height)."""
    import cv2

    method = cv2.INTER_AREA if size[0] < frame.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(frame, size, interpolation=method), np.uint8)


def sharpness(frames: Frames, faces: tuple[Face | None, ...]) -> Values:
    """Return ``sharpness`` of the face, in the median over `SHARPNESS_FRAMES` frames."""
    present = [(number, face) for number, face in enumerate(faces) if face is not None]
    picks = [present[int(at)] for at in np.linspace(0, len(present) - 1, min(len(present), SHARPNESS_FRAMES))]
    values = [face_sharpness(frames[number], face) for number, face in picks]
    return {"sharpness": round(float(np.median(values)), 4) if values else 0.0}


class TextFinder:
    """Finds burnt-in text with RapidOCR's networks, loaded at first use.

    Raises:
        DependencyError: at first use, if RapidOCR is not installed.
    """

    def scores(self, frames: Frames) -> Values:
        """Return ``text``: fraction of the frame's area that text covers, the larger one of two frames."""
        return {"text": round(max(self._area(frames[int(at * (len(frames) - 1))]) for at in TEXT_AT), 5)}

    def _area(self, frame: NDArray[np.uint8]) -> float:
        """Return the fraction of a frame that text covers."""
        scale = TEXT_LINES / min(frame.shape[:2])
        frame = _resized(frame, (round(frame.shape[1] * scale), round(frame.shape[0] * scale)))
        result = self._reader(np.ascontiguousarray(frame[..., ::-1]))
        if result.boxes is None:
            return 0.0
        area = 0.0
        for box, text, score in zip(result.boxes, result.txts, result.scores, strict=True):
            if sum(map(str.isalnum, text)) >= MIN_LETTERS and score >= MIN_TEXT_SCORE:
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
        settings = {"Global.use_cls": False, "Global.log_level": "error", "Det.limit_side_len": TEXT_LINES}
        return RapidOCR(params=settings | threads)
