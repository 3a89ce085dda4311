"""Videos as training, evaluation and verification read them: frames by presentation time, audio on the same clock.

A file's frame count and average rate say little about when a frame is shown. Phones record at variable rates, editors
drop frames, and tracks begin at different times. So every frame and every audio sample is placed by its timestamp.

Shape suffixes: F frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter

from humo.errors import MediaError
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import AudioSamples, AudioTrack, default_audio_stream, open_media, planar_samples
from humo.media.video import SCALER_FLAGS, Frame

HELD_SECONDS = 0.1
"""A frame that stays on screen longer than this fills a gap: 10 frames a second is the slowest rate taken as motion."""

JITTER_SECONDS = 0.02
"""Audio timestamps that are off by less continue the samples before: containers round them to milliseconds."""

_HALF_STEP = Fraction(1, 2 * FRAMES_PER_SECOND)
_FIXED_POINT = 65536  # of a display matrix, ISO/IEC 14496-12, 6.2.2
_QUARTER_TURNS = {  # signs of the display matrix (a, b, c, d) -> how often the frame is turned left, then mirrored
    (1, 0, 0, 1): (0, False),
    (0, 1, -1, 0): (3, False),
    (-1, 0, 0, -1): (2, False),
    (0, -1, 1, 0): (1, False),
    (-1, 0, 0, 1): (0, True),
    (1, 0, 0, -1): (2, True),
    (0, 1, 1, 0): (3, True),
    (0, -1, -1, 0): (1, True),
}


@dataclass(frozen=True, slots=True)
class ClipTiming:
    """Timing of a file, from its timestamps.

    Attributes:
        frame_rate: frames a second in the file, on average; 0 for a single frame.
        held_fraction: share of the frames read that repeat an older one because the file has a gap there.
        audio_start: seconds from the first frame to the first audio sample, negative where audio begins earlier.
        audio_gaps: seconds of silence that fill holes inside the audio track.
        quarter_turns: how often the frames were turned left by 90 degrees to stand upright.
        mirrored: whether it was mirrored afterwards.
    """

    frame_rate: float
    held_fraction: float
    audio_start: float
    audio_gaps: float
    quarter_turns: int
    mirrored: bool


@dataclass(frozen=True, eq=False)
class TimedClip:
    """A video on the grid of 25 frames a second.

    Attributes:
        frames: (F, H, W, 3) uint8, upright; frame i is what a player shows at i / 25 s.
        audio: samples of the same duration at the file's own rate, silence where the track has none; None without one.
        timing: what the timestamps were.
    """

    frames: Frame
    audio: AudioTrack | None
    timing: ClipTiming


def read_clip(path: Path, *, field: str = "video", max_seconds: float | None = None) -> TimedClip:
    """Read a video by its timestamps into memory.

    For each time of the 25-a-second grid the nearest frame is taken. Across a gap the frame before it is held, as
    players do. The clock begins with the first frame; audio before it is cut.

    Args:
        path: a video file, with or without audio.
        field: name of the input in error messages.
        max_seconds: longest part to read, from the start.

    Raises:
        MediaError: the file is missing, damaged or has no video stream.
    """
    count = None if max_seconds is None else max(1, round(max_seconds * FRAMES_PER_SECOND))
    return read_span(path, Span(count=count), field=field)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a video on its grid of 25 frames a second.

    Args:
        origin: time of frame 0 on the file's clock, in seconds; None: the time of the first frame that is decoded.
        first: number of the first frame. It needs an origin.
        count: number of frames; None: all.
    """

    origin: Fraction | None = None
    first: int = 0
    count: int | None = None


def read_span(path: Path, span: Span, *, field: str = "video", max_lines: int | None = None) -> TimedClip:
    """Read a part of a video by its timestamps into memory; see `read_clip`.

    Args:
        path: a video file, with or without audio.
        span: the part.
        field: name of the input in error messages.
        max_lines: the shorter side in pixels to which larger frames are scaled down.

    Raises:
        MediaError: the file is missing, damaged or has no video stream, or ends before the part.
    """
    grid = Grid(span)
    turns = Orientation()
    convert = VideoReformatter().reformat
    kept_frames: list[Frame] = []
    with open_media(path, field, is_video=True) as container:
        if not container.streams.video:
            raise MediaError(field, f"{path.name!r} has no video stream", "give a video file")
        for decoded, repeats in grid.frames(container):
            turns.read(decoded)
            width, height = fitting_size(decoded.width, decoded.height, max_lines)
            pixels: Any = convert(decoded, width, height, format="rgb24", interpolation=SCALER_FLAGS).to_ndarray()
            kept_frames += [turns.upright(pixels)] * repeats
        has_audio = bool(container.streams.audio)
    if not kept_frames:
        raise MediaError(field, f"{path.name!r} has no frames", "give another file; this one may be cut short")
    frames = np.stack(kept_frames)
    audio, start, gaps = None, 0.0, 0.0
    if has_audio:
        origin = grid.start + Fraction(span.first, FRAMES_PER_SECOND)
        audio, start, gaps = read_audio(path, field, origin, Fraction(len(frames), FRAMES_PER_SECOND))
    timing = ClipTiming(grid.frame_rate, grid.num_repeated / len(frames), start, gaps, turns.turns, turns.mirrored)
    return TimedClip(frames, audio, timing)


def fitting_size(width: int, height: int, max_lines: int | None) -> tuple[int, int]:
    """Return even width and height with the shorter side at most ``max_lines``; None keeps the size."""
    if max_lines is None or min(width, height) <= max_lines:
        return width, height
    scale = max_lines / min(width, height)
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


class Orientation:
    """Orientation of a video, from its first frame.

    Attributes:
        turns: quarter turns to the left that set a frame upright.
        mirrored: whether it is mirrored afterwards.
    """

    def __init__(self) -> None:
        self.turns, self.mirrored = 0, False
        self._is_known = False

    def read(self, decoded: av.VideoFrame) -> None:
        """Take the orientation from a frame, if it is the first one."""
        if not self._is_known:
            self.turns, self.mirrored = orientation_of(decoded)
            self._is_known = True

    def upright(self, pixels: Frame) -> Frame:
        """Return pixels (H, W, 3) turned upright."""
        turned = np.rot90(pixels, self.turns)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)


def orientation_of(decoded: av.VideoFrame) -> tuple[int, bool]:
    """Return how a frame has to be turned: quarter turns to the left, and whether it is mirrored afterwards.

    Other angles are rounded to the nearest quarter turn.

    **Source:** the display matrix of ISO/IEC 14496-12 (track header), as FFmpeg returns it.
    """
    side_data: Any = decoded.side_data  # by type, which its stubs do not say
    data = side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return 0, False
    matrix = np.frombuffer(bytes(data), np.int32).astype(np.float64) / _FIXED_POINT
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    largest = max(abs(a), abs(b), abs(c), abs(d))
    if not largest:
        return 0, False
    signs = [int(np.sign(value)) if abs(value) > largest / 2 else 0 for value in (a, b, c, d)]
    return _QUARTER_TURNS.get((signs[0], signs[1], signs[2], signs[3]), (0, False))


SEEK_MARGIN_SECONDS = 1.0
"""Seconds before a part at which reading begins, so that frames and samples that depend on earlier ones are whole."""


class Grid:
    """Times of the 25-a-second grid, and which frame of the file each one shows.

    Args:
        span: the part of the grid to fill.

    Attributes:
        start: time of frame 0 on the file's clock, in seconds.
        count: grid times that have their frame, counted from frame 0 of the file.
        num_repeated: how many of them repeat a frame across a gap.
    """

    def __init__(self, span: Span) -> None:
        self.limit = None if span.count is None else span.first + span.count
        self.start = span.origin or Fraction(0)
        self.count = span.first
        self.num_repeated = 0
        self._has_origin = span.origin is not None
        self._first = span.first
        self._times: list[Fraction] = []
        self._duration = Fraction(1, FRAMES_PER_SECOND)

    def frames(self, container: InputContainer) -> Iterator[tuple[av.VideoFrame, int]]:
        """Yield each frame that is shown, and at how many of the grid's times; 1 at 25 frames a second."""
        if self._first:
            seek(container, container.streams.video[0], self._time_of(self._first))
        pending: av.VideoFrame | None = None
        for time, duration, decoded in timed_frames(container):
            repeats = self._place(time, duration)
            if repeats and pending is not None:
                yield pending, repeats
            if self.is_full:
                return
            pending = decoded
        if pending is not None and (repeats := self._finish()):
            yield pending, repeats

    @property
    def is_full(self) -> bool:
        """True if all requested frames are placed."""
        return self.limit is not None and self.count >= self.limit

    @property
    def frame_rate(self) -> float:
        """Frames a second of the file, on average."""
        span = self._times[-1] - self._times[0] if self._times else Fraction(0)
        return float((len(self._times) - 1) / span) if span else 0.0

    def _place(self, time: Fraction, duration: Fraction) -> int:
        """Return how often the frame before is shown until the one at ``time`` (s) is, on the file's clock."""
        if not self._times and not self._has_origin:
            self.start = time
        previous = self._times[-1] if self._times else time
        time = max(time, previous)
        self._times.append(time)
        self._duration = duration
        return self._fill(previous, time)

    def _finish(self) -> int:
        """Return how often the last frame is shown until it ends."""
        last = self._times[-1]
        end = last + (self._duration or self._usual_step())
        repeats = 0
        while not self.is_full and (self.count == self._first or self._time_of(self.count) + _HALF_STEP < end):
            repeats += 1
            self.count += 1
        return repeats

    def _usual_step(self) -> Fraction:
        steps = sorted(after - before for before, after in zip(self._times, self._times[1:], strict=False))
        return steps[len(steps) // 2] if steps else Fraction(1, FRAMES_PER_SECOND)

    def _time_of(self, number: int) -> Fraction:
        return self.start + Fraction(number, FRAMES_PER_SECOND)

    def _fill(self, previous: Fraction, following: Fraction) -> int:
        """Give grid times to the frame at ``previous`` as long as it is nearer, or the next one is too far ahead."""
        repeats = 0
        while not self.is_full and len(self._times) > 1:
            now = self._time_of(self.count)
            ahead, behind = following - now, now - previous
            if ahead <= 0 or (ahead <= _HALF_STEP and ahead <= behind):
                break
            repeats += 1
            self.count += 1
            self.num_repeated += behind > HELD_SECONDS
        return repeats


def seek(container: InputContainer, stream: av.VideoStream | av.AudioStream, seconds: Fraction) -> None:
    """Continue reading a stream a little before a time on the file's clock, at a frame that needs no earlier one."""
    wanted = max(Fraction(0), seconds - Fraction(SEEK_MARGIN_SECONDS))
    container.seek(int(wanted / Fraction(stream.time_base or 1)), stream=stream, backward=True)


def timed_frames(container: InputContainer) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
    """Yield (time in s, duration in s or 0, frame) of the first video track, in the order in which they are shown."""
    stream = container.streams.video[0]
    rate = stream.average_rate or Fraction(FRAMES_PER_SECOND)
    time: Fraction | None = None
    for decoded in container.decode(stream):
        base = decoded.time_base or stream.time_base
        if decoded.pts is not None and base is not None:
            time = decoded.pts * Fraction(base)
        else:
            time = Fraction(0) if time is None else time + 1 / Fraction(rate)
        duration = Fraction(decoded.duration or 0) * Fraction(base or 0)
        yield time, duration, decoded


def read_audio(path: Path, field: str, start: Fraction, seconds: Fraction) -> tuple[AudioTrack | None, float, float]:
    """Return a part of the default audio track, silence where it has none; its offset; and its holes in seconds.

    Args:
        path: a file with audio.
        field: name of the input in error messages.
        start: seconds on the file's clock.
        seconds: length of the part.

    Raises:
        MediaError: the file cannot be read.
    """
    pieces: list[tuple[int, AudioSamples]] = []  # first sample on the clock, samples
    rate = channels = 0
    with open_media(path, field) as container:
        stream = default_audio_stream(container)
        if start > SEEK_MARGIN_SECONDS:
            seek(container, stream, start)
        for frame in container.decode(stream):
            if rate and (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                break
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            expected = pieces[-1][0] + pieces[-1][1].shape[1] if pieces else None
            base = frame.time_base or stream.time_base
            if frame.pts is not None and base is not None:
                position = round((frame.pts * Fraction(base) - start) * rate)
            else:
                position = expected or 0
            if expected is not None and abs(position - expected) < JITTER_SECONDS * rate:
                position = expected
            if position >= seconds * rate:
                break
            pieces.append((position, planar_samples(frame)))
    if not pieces:
        return None, 0.0, 0.0
    wanted = round(seconds * rate)
    samples = np.zeros((channels, wanted), np.float32)
    gaps, end = 0, pieces[0][0]
    for position, piece in pieces:
        gaps += max(0, position - max(end, 0)) if position > end else 0
        first = max(position, 0)
        part = piece[:, first - position : max(first, wanted) - position][:, : max(0, wanted - first)]
        samples[:, first : first + part.shape[1]] = part
        end = max(end, position + piece.shape[1])
    return AudioTrack(samples, rate), pieces[0][0] / rate, gaps / rate
