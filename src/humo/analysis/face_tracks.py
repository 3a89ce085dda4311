"""Tracks of faces through a shot, and the crops that SyncNet takes.

**Source:** https://github.com/joonson/syncnet_python, ``run_pipeline.py`` (``track_shot``, ``crop_video``);
https://github.com/bytedance/LatentSync, ``eval/syncnet_detect.py``, which is equal but for the shortest track; and
https://github.com/congwei1230/MoChaBench, ``eval-lipsync/script/syncnet_pipeline.py``, whose search in a frame ends at
the first face that does not fit. Frames are not compressed again between the steps here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from humo.analysis.mesh_track import Frames
from humo.analysis.opencv import opencv

MIN_OVERLAP, MAX_MISSED, MIN_FACE_SIDE = 0.5, 25, 100
"""Least overlap of a face with the one before, most frames between them, and least mean side in pixels."""

CROP_SCALE, PADDING_GRAY, CROP_SIDE = 0.4, 110, 224
"""Margin of a crop in units of the face, gray around the frame, and side of a crop in pixels."""

MEDIAN_FRAMES = 13
"""Frames of the median filter on position and size."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrackRules:
    """Settings in which published trackers differ.

    Args:
        min_frames: a track is longer than this, a shot at least as long.
        ends_at_misfit: the search in a frame ends at the first face that does not continue the track.
    """

    min_frames: int
    ends_at_misfit: bool


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """A face through a shot.

    Args:
        frames: numbers of its frames, one after another.
        boxes: left, top, right, bottom in pixels in each of them, (F, 4); linear over frames without a detection.
    """

    frames: NDArray[np.int64]
    boxes: Floats


def find_tracks(
    detections: Sequence[Sequence[Sequence[float]]], rules: TrackRules, first_frame: int = 0
) -> list[FaceTrack]:
    """Return the tracks of a shot.

    Args:
        detections: for each frame its faces: left, top, right, bottom.
        rules: of the tracker.
        first_frame: number of the shot's first frame.
    """
    if len(detections) < rules.min_frames:
        return []
    remaining = [[tuple(face[:4]) for face in faces] for faces in detections]
    tracks = []
    while chain := _follow(remaining, rules):
        if len(chain) <= rules.min_frames:
            continue
        numbers = np.array([number for number, _ in chain])
        corners = np.array([box for _, box in chain], np.float64)
        frames = np.arange(numbers[0], numbers[-1] + 1)
        boxes = np.stack([np.interp(frames, numbers, corners[:, column]) for column in range(4)], axis=1)
        sides = (boxes[:, 2:] - boxes[:, :2]).mean(axis=0)
        if sides.max() > MIN_FACE_SIDE:
            tracks.append(FaceTrack(frames + first_frame, boxes))
    return tracks


def _follow(remaining: list[list[tuple[float, ...]]], rules: TrackRules) -> list[tuple[int, tuple[float, ...]]]:
    """Take the faces of the next track out of ``remaining`` and return them with their frames.

    As in the published code, the face after one that was taken is passed over in that frame.
    """
    chain: list[tuple[int, tuple[float, ...]]] = []
    for number, faces in enumerate(remaining):
        place = 0
        while place < len(faces):
            near = not chain or number - chain[-1][0] <= MAX_MISSED
            fits = near and (not chain or _overlap(faces[place], chain[-1][1]) > MIN_OVERLAP)
            if fits:
                chain.append((number, faces.pop(place)))
            elif rules.ends_at_misfit or not near:
                break
            place += 1
    return chain


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the intersection over union of two boxes."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = wide * high
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def crop_track(frames: Frames, track: FaceTrack) -> Frames:
    """Return the crops (F, `CROP_SIDE`, `CROP_SIDE`, 3) of a track; the mouth is in their lower half.

    Args:
        frames: (F, H, W, 3) of the whole clip.
        track: the face.
    """
    cv2 = opencv()
    sides = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1) / 2
    half = median_filter(sides)
    x, y = (median_filter(track.boxes[:, [axis, axis + 2]].mean(axis=1)) for axis in (0, 1))
    crops = np.empty((len(track.frames), CROP_SIDE, CROP_SIDE, 3), np.uint8)
    for place, number in enumerate(track.frames):
        size = half[place]
        margin = int(size * (1 + 2 * CROP_SCALE))
        padded = np.pad(frames[number], ((margin, margin), (margin, margin), (0, 0)), constant_values=PADDING_GRAY)
        left, top = x[place] + margin, y[place] + margin
        rows = slice(int(top - size), int(top + size * (1 + 2 * CROP_SCALE)))
        columns = slice(int(left - size * (1 + CROP_SCALE)), int(left + size * (1 + CROP_SCALE)))
        crops[place] = cv2.resize(padded[rows, columns], (CROP_SIDE, CROP_SIDE))
    return crops


def median_filter(values: Floats) -> Floats:
    """Return the running median over `MEDIAN_FRAMES` values; zeros continue both ends, as in SciPy's ``medfilt``."""
    reach = MEDIAN_FRAMES // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach), MEDIAN_FRAMES)
    return np.asarray(np.median(windows, axis=1))
