"""Stage ``score``: every score of a clip, its reference image and thumbnail, and the clip itself if it passes.

A clip is read once, by its timestamps. All its scores are stored, whether or not it passes; the file is written only
if it does, because encoding costs as much as several scores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soxr
from numpy.typing import NDArray
from PIL import Image

from humo.data import appearance
from humo.data.build_recipe import SyncConfig, Thresholds, VideoConfig
from humo.data.clip_files import clip_file, reference_file, thumbnail_file
from humo.data.crop import crop_box, cropped
from humo.data.people import Person, PersonFinder
from humo.data.quality import TextFinder, light_and_motion, sharpness
from humo.data.remote_files import local_copy
from humo.data.sources import IMAGE_SUFFIXES
from humo.data.speech import SpeechJudge, loudness
from humo.data.sync import SyncScorer
from humo.data.tasks import Values
from humo.data.thresholds import failures
from humo.errors import MediaError
from humo.files import atomic_write
from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE
from humo.media.audio import AudioSamples, AudioTrack
from humo.media.clip_reader import Span, fitting_size, read_audio, read_span
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image
from humo.media.video import VideoFormat, write_video

WORK_LINES = 720
"""Shorter side in pixels of the frames that are scored."""

THUMBNAIL_SIDE = 160
"""Longer side in pixels of the images in the report."""

Frames = NDArray[np.uint8]


class Tools:
    """Networks of all scores; each is loaded at first use and kept for the clips that follow."""

    def __init__(self, sync: SyncConfig) -> None:
        self.people = PersonFinder()
        self.text = TextFinder()
        self.speech = SpeechJudge()
        self.sync = SyncScorer(sync)
        self.identity = FaceIdentity()


@lru_cache(maxsize=1)
def tools_for(judge: Literal["mesh", "syncnet"], max_offset: int) -> Tools:
    """Return the networks of this process."""
    return Tools(SyncConfig(judge=judge, max_offset=max_offset))


class Costs:
    """CPU seconds of each part of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the CPU time of the block to a part."""
        start = time.process_time()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.process_time() - start, 4)


def score_clip(payload: Values) -> Values:
    """Score a clip.

    Args:
        payload: ``path``, ``origin``, ``first``, ``count``, ``crop``; ``id``; ``kind``; ``sync`` and ``video``
            (tables of the recipe); ``thresholds`` for this clip; ``folder``, the output.

    Returns:
        ``scores``, ``costs`` (CPU seconds of each part), ``written`` (whether the clip's file was written).

    Raises:
        MediaError: the clip cannot be read.
        StorageError: a file cannot be written.
    """
    video, sync = VideoConfig(**payload["video"]), SyncConfig(**payload["sync"])
    tools, costs = tools_for(sync.judge, sync.max_offset), Costs()
    with costs.of("decode"), local_copy(payload["path"]) as path:
        frames, held_fraction, track = _read(path, payload, tools.sync.margin)
    scores: Values = {"held": held_fraction, "width": frames.shape[2], "height": frames.shape[1]}
    with costs.of("people"):
        person = tools.people.find(frames)
        scores |= person.scores()
    with costs.of("quality"):
        scores |= light_and_motion(frames) | sharpness(frames, person.faces)
    with costs.of("text"):
        scores |= tools.text.scores(frames)
    shift, margin = 0, tools.sync.margin
    wide = None if track is None else mono(track)
    with costs.of("sync"):
        if payload["kind"] == "talking":
            sync_scores, shift = tools.sync.scores(frames, person, wide)
            scores |= sync_scores
    own = None if wide is None else tools.sync.moved(wide, shift, len(frames))
    with costs.of("speech"):
        if payload["kind"] == "talking":
            scores |= tools.speech.scores(own)
        scores["loudness"] = loudness(own)
    with costs.of("identity"):
        scores |= appearance.identity(frames, person, tools.identity)
        scores |= {"colors": appearance.colors(frames, person), "hashes": appearance.hashes(frames)}
        scores |= _write_images(frames, person, Path(payload["folder"]), payload["id"])
    passes = not failures(scores, Thresholds(**payload["thresholds"]), payload["kind"])
    if passes:
        with costs.of("write"):
            _write_clip(frames, _moved(track, margin - shift, len(frames)), video, payload)
    return {"scores": scores, "costs": costs.seconds, "written": passes}


def _read(path: Path, payload: Values, margin: int) -> tuple[Frames, float, AudioTrack | None]:
    """Return the frames, the fraction that repeats older ones, and the audio with a margin in frames on both sides."""
    origin, first, count = Fraction(*payload["origin"]), payload["first"], payload["count"]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return np.asarray(load_image(path, field="source"), np.uint8)[None], 0.0, None
    clip = read_span(path, Span(origin, first, count), field="source", max_lines=WORK_LINES)
    if len(clip.frames) < count:
        raise MediaError(
            "source", f"has {len(clip.frames)} of {count} frames from frame {first} on", "repair it, or leave it out"
        )
    frames = cropped(clip.frames, crop_box(payload.get("crop"), clip.frames.shape[1:3]))
    track = None
    if clip.audio is not None:
        start = origin + Fraction(first - margin, FRAMES_PER_SECOND)
        track, _, _ = read_audio(path, "source", start, Fraction(count + 2 * margin, FRAMES_PER_SECOND))
    return frames, round(clip.timing.held_fraction, 4), track


def mono(track: AudioTrack) -> AudioSamples:
    """Return a track as mono samples at 16 kHz. A channel that cancels out the other one is turned over."""
    samples = track.samples
    mixed = samples.mean(axis=0)
    if len(samples) == 2 and np.square(mixed).sum() < 0.05 * np.square(samples).mean(axis=0).sum():
        mixed = (samples[0] - samples[1]) / 2
    if track.sample_rate != SAMPLE_RATE:
        mixed = soxr.resample(mixed, track.sample_rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(mixed, np.float32)


def _moved(track: AudioTrack | None, skipped: int, count: int) -> AudioTrack | None:
    """Return ``count`` frames of a track after the first ``skipped`` ones."""
    if track is None:
        return None
    start, end = (round(frames * track.sample_rate / FRAMES_PER_SECOND) for frames in (skipped, skipped + count))
    return AudioTrack(track.samples[:, start:end], track.sample_rate)


def _write_clip(frames: Frames, track: AudioTrack | None, video: VideoConfig, payload: Values) -> None:
    """Write the clip at the recipe's size."""
    import cv2

    width, height = fitting_size(frames.shape[2], frames.shape[1], video.lines)
    width, height = width - width % 2, height - height % 2
    scaled = (
        frame
        if frame.shape[:2] == (height, width)
        else np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        for frame in frames
    )
    if track is not None:
        if video.sample_rate == SAMPLE_RATE:
            track = AudioTrack(mono(track)[None], SAMPLE_RATE)
        elif track.sample_rate != video.sample_rate:
            stereo = soxr.resample(track.samples[:2].T, track.sample_rate, video.sample_rate, quality="HQ").T
            track = AudioTrack(np.ascontiguousarray(stereo, np.float32), video.sample_rate)
    write_video(
        clip_file(Path(payload["folder"]), payload["id"]),
        scaled,
        VideoFormat(width, height, FRAMES_PER_SECOND, video.crf),
        metadata={},
        track=track,
        field="OUT",
    )


def _write_images(frames: Frames, person: Person, folder: Path, name: str) -> Values:
    """Write the reference image that this clip offers to others, and a thumbnail."""
    image, view = appearance.reference_image(frames, person)
    if image is not None:
        _save(Image.fromarray(image), reference_file(folder, name), format="PNG")
    thumbnail = Image.fromarray(frames[len(frames) // 2])
    thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    _save(thumbnail, thumbnail_file(folder, name), format="JPEG", quality=70)
    return {"view": view, "reference_side": 0 if image is None else min(image.shape[:2])}


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    with atomic_write(path, "OUT") as part, part.open("wb") as stream:
        image.save(stream, **options)
