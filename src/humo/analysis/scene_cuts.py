"""Hard cuts of a video, found in its frames one after another.

**Source:** PySceneDetect 0.7 (https://www.scenedetect.com), ``AdaptiveDetector`` and ``ContentDetector``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from humo.analysis.face_mesh import Frame
from humo.errors import DependencyError
from humo.geometry import FRAMES_PER_SECOND

MIN_SHOT_FRAMES = 8
"""Frames between two cuts of the adaptive detector; a flash is not two cuts."""

ADAPTIVE_THRESHOLD = 3.0
"""PySceneDetect's threshold of the adaptive detector, in units of the changes around a frame."""

Detector = Literal["adaptive", "content"]
"""``adaptive`` compares a frame's change with the changes around it; ``content`` with a fixed bound."""


class CutFinder:
    """Finds the cuts of one video.

    Args:
        detector: see `Detector`.
        threshold: of the adaptive detector.

    Raises:
        DependencyError: PySceneDetect is not installed.
    """

    def __init__(self, detector: Detector = "adaptive", threshold: float = ADAPTIVE_THRESHOLD) -> None:
        try:
            from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
        except ImportError as error:
            remedy = "pip install 'humo-video[evaluate]'"
            raise DependencyError("evaluate", "scenedetect-headless is not installed", remedy) from error
        self._timecode: Any = FrameTimecode
        self._detector: Any = (
            ContentDetector()
            if detector == "content"
            else AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=MIN_SHOT_FRAMES)
        )

    def add(self, number: int, frame: Frame) -> list[int]:
        """Read the next frame (H, W, 3); return the first frames of new shots that are known by now.

        Args:
            number: of the frame.
            frame: a small image is enough.
        """
        timecode = self._timecode(number, float(FRAMES_PER_SECOND))
        cuts = self._detector.process_frame(timecode, np.ascontiguousarray(frame[..., ::-1]))
        return [cut.frame_num for cut in cuts]
