"""Parts of one video that its metrics share: decoded frames and audio, face meshes, embeddings; each computed once.

Networks are loaded once a process and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from humo.analysis.face_mesh import FaceMesh
from humo.analysis.lip_sync import predict_jaw
from humo.analysis.mesh_track import Curve, Frames, MeshTrack, track_faces
from humo.errors import MediaError
from humo.evaluation.cases import Case
from humo.geometry import SAMPLE_RATE
from humo.media.audio import AudioSamples, load_audio
from humo.media.clip_reader import TimedClip, read_clip
from humo.media.face_identity import Embedding, FaceIdentity
from humo.media.image import load_image

Result = TypeVar("Result")


class CaseContext:
    """A video with its case.

    Args:
        case: the case.
        path: the video.
        device: torch device of the networks.
    """

    def __init__(self, case: Case, path: Path, device: str = "cpu") -> None:
        self.case, self.path, self.device = case, path, device
        self._results: dict[str, Any] = {}

    def once(self, key: str, compute: Callable[[], Result]) -> Result:
        """Return what several metrics share, computed at the first call with its key."""
        if key not in self._results:
            self._results[key] = compute()
        result: Result = self._results[key]
        return result

    @cached_property
    def clip(self) -> TimedClip:
        """The video at 25 frames a second, by its timestamps.

        Raises:
            MediaError: it cannot be read.
        """
        return read_clip(self.path, field="video")

    @property
    def frames(self) -> Frames:
        """Frames (F, H, W, 3)."""
        return self.clip.frames

    @cached_property
    def own_audio(self) -> AudioSamples | None:
        """The video's own audio, mono at 16 kHz and on the video's clock; None without one."""
        track = self.clip.audio
        return None if track is None else load_audio((track.samples, track.sample_rate))

    @cached_property
    def speech(self) -> AudioSamples | None:
        """The voice alone where the case has it, else the case's audio, else the video's own; mono at 16 kHz.

        Raises:
            MediaError: the case's file cannot be read.
        """
        path = self.case.speech or self.case.audio
        return self.own_audio if path is None else load_audio(path, field="audio")

    @property
    def judged_audio(self) -> AudioSamples | None:
        """The video's own audio, else that of the case."""
        return self.own_audio if self.own_audio is not None else self.speech

    @cached_property
    def mesh(self) -> MeshTrack:
        """Face mesh of every frame."""
        return track_faces(self.frames, face_mesh())

    @cached_property
    def jaw(self) -> Curve | None:
        """Jaw curve that the audio implies, as long as the video; None without audio."""
        samples = self.judged_audio
        if samples is None or len(samples) < SAMPLE_RATE // 10:
            return None
        jaw = predict_jaw(samples)[: len(self.frames)]
        return np.pad(jaw, (0, len(self.frames) - len(jaw)), mode="edge")

    @cached_property
    def reference_embedding(self) -> Embedding | None:
        """dlib's embedding of the face in the first reference of a person; None if no face is detected."""
        path = self.case.person_reference
        return None if path is None else reference_embedding(path)

    def embedding(self, number: int) -> Embedding | None:
        """Return dlib's embedding of the largest face of a frame; None if no face is detected."""
        return self.once(f"dlib {number}", lambda: face_identity().embed(self.frames[number]))


@cache
def face_mesh() -> FaceMesh:
    """Return the face mesh networks of this process."""
    return FaceMesh()


@cache
def face_identity() -> FaceIdentity:
    """Return dlib's networks of this process."""
    return FaceIdentity()


@cache
def reference_embedding(path: Path) -> Embedding | None:
    """Return dlib's embedding of the face in an image; None if no face is detected.

    Raises:
        MediaError: the image cannot be read.
    """
    return face_identity().embed(np.asarray(load_image(path, field="reference")))


def require_frames(context: CaseContext, count: int) -> None:
    """Refuse a clip with fewer frames than a metric needs.

    Raises:
        MediaError: it is shorter.
    """
    if len(context.frames) < count:
        raise MediaError("video", f"has {len(context.frames)} frames, fewer than {count}", "give a longer video")
