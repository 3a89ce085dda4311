"""Raw videos with known contents, joined from rendered shots: cuts, dissolves, faults. For tests and benchmarks.

A folder of ``humo data render`` gives the shots. `Reel` joins some of them and writes a video; what it contains is
returned as `Truth`, frame by frame, so that every decision of a dataset build can be compared with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from humo.geometry import FRAMES_PER_SECOND, SAMPLES_PER_FRAME
from humo.media.clip_reader import read_clip

Frames = NDArray[np.uint8]
Samples = NDArray[np.float32]
AUDIO_RATE = 16_000


@dataclass(frozen=True, slots=True)
class ShotTruth:
    """Contents of one shot of a video.

    Args:
        start, end: its first frame that is whole, and the frame after the last one that is.
        clip: name of the rendered clip.
        person: number of the person.
        shift: frames by which the audio is late.
        fault: "" or the fault that was built in: ``voice-over``, ``silent``, ``noise``, ``text``, ``two``, ``still``.
        transition: frames of the dissolve that leads into it; 0 for a cut.
        copy_of: clip that it is a copy of; "" if it is none.
    """

    start: int
    end: int
    clip: str
    person: int
    shift: int = 0
    fault: str = ""
    transition: int = 0
    copy_of: str = ""


@dataclass(slots=True)
class Truth:
    """Contents of a video.

    Args:
        name: file name.
        shots: in order.
        broken: how the file was damaged; empty for a good one.
        form: how it was written: ``plain``, ``vfr``, ``rotated``, ``two-tracks``.
    """

    name: str
    shots: list[ShotTruth] = field(default_factory=list)
    broken: str = ""
    form: str = "plain"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Shot:
    """A rendered clip in memory.

    Args:
        name, person: its name, and the number of its person.
        frames: (F, H, W, 3).
        samples: (F * 640,) mono at 16 kHz; zeros for a silent clip.
        speaks: whether it has audio.
    """

    name: str
    person: int
    frames: Frames
    samples: Samples
    speaks: bool


class ShotLibrary:
    """The clips of a folder of ``humo data render``."""

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(folder / "truth" / "attributes.parquet").to_pylist()
        self._folder = folder
        rows = sorted(table, key=lambda row: int(row["index"]))
        self.people = {row["id"]: int(row["person"]) for row in rows}
        self.names = list(self.people)
        self.speaking = {row["id"] for row in rows if row["has_sound"]}  # word kept: column of rendered corpora

    def load(self, name: str) -> Shot:
        """Read a clip."""
        clip = read_clip(self._folder / "video" / f"{name}.mp4")
        length = len(clip.frames) * SAMPLES_PER_FRAME
        samples = np.zeros(length, np.float32) if clip.audio is None else clip.audio.samples[0][:length]
        samples = np.pad(samples, (0, length - len(samples)))
        return Shot(name, self.people[name], clip.frames, samples, clip.audio is not None)


class Reel:
    """Shots that are joined into one video."""

    def __init__(self) -> None:
        self._frames: list[Frames] = []
        self._samples: list[Samples] = []
        self._count = 0
        self.shots: list[ShotTruth] = []

    def add(self, shot: Shot, *, dissolve: int = 0, shift: int = 0, fault: str = "", other: Shot | None = None,
            copy_of: str = "", noise_db: float = 0.0) -> Reel:  # fmt: skip
        """Append a shot.

        Args:
            shot: the shot.
            dissolve: frames over which it is blended with the end of the one before.
            shift: frames by which its audio is late.
            fault: the fault to build in; see `ShotTruth`.
            other: source of a second face or of other audio.
            copy_of: clip that this is a copy of.
            noise_db: signal-to-noise ratio for the fault ``noise``.
        """
        frames, samples = shot.frames, np.roll(shot.samples, shift * SAMPLES_PER_FRAME)
        if fault == "voice-over" and other is not None:
            samples = np.resize(other.samples, len(samples))
        if fault == "silent":
            samples = np.zeros_like(samples)
        if fault == "noise":
            samples = with_noise(samples, noise_db)
        if fault == "text":
            frames = with_text(frames, "Subscribe now")
        if fault == "two" and other is not None:
            frames = side_by_side(frames, other.frames)
        if fault == "still":
            frames = np.repeat(frames[:1], len(frames), axis=0)
        start, dissolve = self._count, dissolve if self._frames else 0
        if dissolve:
            tail = self._frames[-1][-dissolve:].astype(np.float32)
            weights = np.linspace(0, 1, dissolve + 2)[1:-1, None, None, None]
            blended = tail * (1 - weights) + frames[:dissolve].astype(np.float32) * weights
            self._frames[-1] = self._frames[-1][:-dissolve]
            self._samples[-1] = self._samples[-1][: -dissolve * SAMPLES_PER_FRAME]
            before = self.shots[-1]
            self.shots[-1] = replace(before, end=before.end - dissolve)
            frames = np.concatenate([blended.round().astype(np.uint8), frames[dissolve:]])
            start = self._count - dissolve
            self._count = start
        self._frames.append(frames)
        self._samples.append(samples)
        self.shots.append(
            ShotTruth(start + dissolve, start + len(frames), shot.name, shot.person, shift, fault, dissolve, copy_of)
        )
        self._count = start + len(frames)
        return self

    def write(self, path: Path, form: str = "plain", *, crf: int = 16, scale: float = 1.0) -> Truth:
        """Write the video.

        Args:
            path: the file.
            form: ``plain``; ``vfr``: 30 frames a second with irregular gaps; ``rotated``: turned in the header;
                ``two-tracks``: a silent track before the default one, in Matroska.
            crf: x264's rate factor.
            scale: factor on the size, for copies that were encoded again.
        """
        frames, samples = np.concatenate(self._frames), np.concatenate(self._samples)
        if scale != 1.0:
            size = tuple(2 * round(side * scale / 2) for side in frames.shape[2:0:-1])
            frames = np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])
        if form == "rotated":
            frames = np.ascontiguousarray(np.rot90(frames, axes=(1, 2)))
        times = _frame_times(len(frames)) if form == "vfr" else [n / FRAMES_PER_SECOND for n in range(len(frames))]
        write_raw(path, frames, times, samples, crf=crf, rotated=form == "rotated", two_tracks=form == "two-tracks")
        return Truth(path.name, self.shots, form=form)


def _frame_times(count: int) -> list[float]:
    """Return times that are up to 8 ms early or late, as phones write them."""
    random = np.random.default_rng(count)
    return [max(0.0, n / FRAMES_PER_SECOND + float(random.uniform(-0.008, 0.008))) for n in range(count)]


def write_raw(
    path: Path, frames: Frames, times: Sequence[float], samples: Samples, *, crf: int = 16, rotated: bool = False,
    two_tracks: bool = False,
) -> None:  # fmt: skip
    """Write frames at given times, and mono audio at 16 kHz."""
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0:threads=1"}
    with av.open(str(path), "w", format="matroska" if two_tracks else "mp4") as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        video.codec_context.time_base = Fraction(1, 12_800)
        tracks = [container.add_stream("aac", rate=AUDIO_RATE, layout="mono") for _ in range(1 + two_tracks)]
        if two_tracks:
            tracks[0].disposition = av.stream.Disposition(0)
            tracks[1].disposition = av.stream.Disposition.default
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * 12_800), Fraction(1, 12_800)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number, track in enumerate(tracks):
            audible = np.zeros_like(samples) if number < len(tracks) - 1 else samples
            for start in range(0, len(audible), 1024):
                chunk = np.ascontiguousarray(audible[None, start : start + 1024])
                audio = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
                audio.sample_rate, audio.time_base, audio.pts = AUDIO_RATE, Fraction(1, AUDIO_RATE), start
                container.mux(track.encode(audio))
            container.mux(track.encode(None))
    if rotated:
        set_rotation(path)


def set_rotation(path: Path) -> None:
    """Turn the first track of an MP4 by a quarter in its header, as phones do (ISO/IEC 14496-12, ``tkhd``)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))


def with_noise(samples: Samples, decibels: float) -> Samples:
    """Return samples with white noise at a signal-to-noise ratio."""
    noise = np.random.default_rng(len(samples)).standard_normal(len(samples)).astype(np.float32)
    level = np.sqrt(np.mean(np.square(samples)) / 10 ** (decibels / 10))
    return np.asarray((samples + level * noise).clip(-1, 1), np.float32)


def with_text(frames: Frames, text: str) -> Frames:
    """Return frames with a line of text burnt in at the bottom."""
    height, width = frames.shape[1:3]
    font = ImageFont.load_default(size=max(12, height // 11))
    output = []
    for frame in frames:
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image)
        draw.text(
            (width / 2, height * 0.9), text, fill="white", stroke_width=1, stroke_fill="black", anchor="mm", font=font
        )
        output.append(np.asarray(image))
    return np.stack(output)


def side_by_side(left: Frames, right: Frames) -> Frames:
    """Return frames whose halves are the middles of two shots: two people in one image."""
    count = min(len(left), len(right))
    quarter = left.shape[2] // 4
    halves = [part[:count, :, quarter : quarter + left.shape[2] // 2] for part in (left, right)]
    joined = np.concatenate(halves, axis=2)
    return np.concatenate([joined, joined[-1:].repeat(len(left) - count, axis=0)])


def damage(path: Path, kind: str) -> None:
    """Damage a file: ``cut`` off, ``flipped`` bits, ``empty``, ``text``, ``audio-only`` or ``header`` lost."""
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[: len(data) * 6 // 10])
    elif kind == "flipped":
        changed = bytearray(data)
        for at in np.random.default_rng(1).integers(len(data) // 5, len(data) * 4 // 5, 400):
            changed[at] ^= 0xFF
        path.write_bytes(bytes(changed))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>\n" * 40)
    elif kind == "header":
        path.write_bytes(data[64:])
    elif kind == "audio-only":
        with av.open(str(path), "w", format="mp4") as container:
            track = container.add_stream("aac", rate=AUDIO_RATE, layout="mono")
            audio = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            audio.sample_rate, audio.pts = AUDIO_RATE, 0
            container.mux([*track.encode(audio), *track.encode(None)])
    else:
        raise ValueError(kind)


DAMAGES = ("cut", "flipped", "empty", "text", "header", "audio-only")
"""Kinds of damage."""


def write_truth(path: Path, truths: Sequence[Truth]) -> None:
    """Write what videos contain, for comparison after a build."""
    path.write_text(json.dumps([truth.as_dict() for truth in truths], indent=1) + "\n", encoding="utf-8")
