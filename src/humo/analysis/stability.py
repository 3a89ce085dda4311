"""Steadiness of a clip over time: temporal flicker, color drift, cuts and motion.

Shape suffixes: F frames, H height, W width. A curve has one value a frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from humo.analysis.face_mesh import EYE_OUTLINES, MOUTH_OUTLINE, Face
from humo.analysis.mesh_track import Curve, Frames, MeshTrack
from humo.analysis.opencv import opencv
from humo.analysis.scene_cuts import CutFinder
from humo.geometry import FRAMES_PER_SECOND

MASK_MARGIN = 0.6
"""Margin around mouth and eyes, as a fraction of their size, that `temporal_flicker` leaves out."""

MOTION_SIDE = 128
"""Shorter side in pixels of the frames in which motion is measured."""

CUT_SIDE = 96
"""Largest shorter side in pixels of the frames in which cuts are detected."""


def temporal_flicker(track: MeshTrack) -> float:
    """Return the mean absolute difference (0..255) of neighboring frames outside mouth and eyes; 0 for one frame.

    **Source:** VBench (arXiv 2311.17982), "temporal flickering", which uses the mean absolute error of neighboring
    frames, too. Mouth and eyes are left out here, because they are meant to move.
    """
    sums, counts = _masked_changes(track)
    return float(sums.sum() / max(1, counts.sum()))


def flicker_curve(track: MeshTrack) -> Curve:
    """Return the same for each frame and the one before it, (F,); 0 for the first frame."""
    sums, counts = _masked_changes(track)
    return np.concatenate([[0.0], sums / np.maximum(1, counts)])


def _masked_changes(track: MeshTrack) -> tuple[Curve, Curve]:
    """Return the sum of absolute differences outside mouth and eyes, and the number of pixels, both (F - 1,)."""
    sums, counts = [], []
    for number, (before, after) in enumerate(zip(track.frames, track.frames[1:], strict=False)):
        change = np.abs(after.astype(np.float32) - before).mean(axis=-1)
        included = np.ones(change.shape, bool)
        for face in track.faces[number : number + 2]:
            if face is not None:
                for outline in (MOUTH_OUTLINE, *EYE_OUTLINES):
                    included[_region(face, outline, change.shape)] = False
        sums.append(float(change[included].sum(dtype=np.float64)))
        counts.append(int(included.sum()))
    return np.array(sums, np.float64), np.array(counts, np.float64)


def _region(face: Face, outline: Sequence[int], size: Sequence[int]) -> tuple[slice, slice]:
    """Return rows and columns of the box around mesh points, enlarged by `MASK_MARGIN`."""
    points = face.points[list(outline)]
    low, high = points.min(axis=0), points.max(axis=0)
    margin = MASK_MARGIN * (high - low).max() / 2
    left, top = np.clip(np.floor(low - margin).astype(int), 0, None)
    right, bottom = np.ceil(high + margin).astype(int) + 1
    return slice(top, min(bottom, size[0])), slice(left, min(right, size[1]))


def color_curve(frames: Frames) -> Curve:
    """Return the distance in CIELAB of each frame's mean color to that of the first window, (F,).

    The window is a second, or a third of a shorter clip.
    """
    cv2 = opencv()
    means = np.array([cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).mean((0, 1)) for frame in frames])
    return np.asarray(np.linalg.norm(means - means[: window_frames(len(frames))].mean(axis=0), axis=1), np.float64)


def window_frames(frames: int) -> int:
    """Return the number of frames at each end of a clip that measures of drift compare."""
    return max(1, min(FRAMES_PER_SECOND, frames // 3))


def motion_curve(frames: Frames) -> Curve:
    """Return the mean optical flow into each frame, (F,), in shorter sides of the frame a second; 0 for the first.

    **Source:** Farneback, "Two-frame motion estimation based on polynomial expansion" (2003), as OpenCV has it.
    """
    cv2 = opencv()
    scale = MOTION_SIDE / min(frames.shape[1:3])
    size = (max(MOTION_SIDE, round(frames.shape[2] * scale)), max(MOTION_SIDE, round(frames.shape[1] * scale)))
    gray = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for frame in frames]
    flow = [
        float(np.linalg.norm(cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0), axis=-1).mean())
        for a, b in itertools.pairwise(gray)
    ]
    return np.array([0.0, *flow]) * FRAMES_PER_SECOND / MOTION_SIDE


def find_cuts(frames: Frames) -> list[int]:
    """Return the number of the first frame after each hard cut, by `scene_cuts.CutFinder`.

    Raises:
        DependencyError: PySceneDetect is not installed.
    """
    cv2 = opencv()
    finder = CutFinder()
    scale = min(1.0, CUT_SIDE / min(frames.shape[1:3]))
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    cuts: list[int] = []
    for number, frame in enumerate(frames):
        cuts += finder.add(number, cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    return cuts
