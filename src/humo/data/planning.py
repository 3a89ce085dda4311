"""From scanned sources to clips: shots without their transitions, divided into clips, with their face scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from humo.data.build_recipe import BuildRecipe, ShotConfig, checksum
from humo.data.sources import Source
from humo.data.tasks import Values
from humo.geometry import FRAMES_PER_SECOND

STAGE_VERSIONS = {"inventory": 1, "scan": 1, "score": 1}
"""Version of what each stage computes. A result of another version is computed again."""


TRANSITION_MARGIN = 3
"""Frames left out on both sides of a dissolve, besides those trimmed at each end of a shot.

The first and last images of a slow dissolve differ too little to be found. Of 14 dissolves, one was found 5 frames
late, and 4 are trimmed."""


@dataclass(frozen=True, slots=True)
class KnownSource:
    """A source after the inventory.

    Args:
        source: the source.
        sha256: checksum of its contents.
        origin: time of its first frame.
        first, count: frames of the part that is used.
        lines: shorter side in pixels.
        seconds: length of the part.
        rate: frames a second of the file.
        audio_tracks: their number.
        language: as the manifest or the file says.
        crop: left, top, right, bottom as fractions of the frame.
    """

    source: Source
    sha256: str
    origin: tuple[int, int]
    first: int
    count: int
    lines: int
    seconds: float
    rate: float
    audio_tracks: int
    language: str
    crop: tuple[float, ...] | None

    @property
    def identity(self) -> str:
        """Checksum of the contents and the part: the same on any machine."""
        return checksum(self.sha256, self.first, self.count, self.crop)

    def scores(self) -> Values:
        """Return the scores of the stage ``inventory``; an image has no length and no rate."""
        if self.source.is_image:
            return {"lines": self.lines, "audio_tracks": 0}
        return {
            "seconds": self.seconds,
            "lines": self.lines,
            "rate": self.rate,
            "audio_tracks": self.audio_tracks,
        }


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a source that is scanned at once: its first frame and number of frames."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """A clip before it is scored.

    Args:
        name: identifier, 32 hexadecimal digits.
        first, count: its frames.
        shot: number of its shot in the source.
        scan: face scores of every fifth frame; empty for a shot that is too short.
        reason: why it is not scored; empty if it is.
    """

    name: str
    first: int
    count: int
    shot: int
    scan: Values
    reason: str = ""


def known_source(source: Source, facts: Values) -> KnownSource:
    """Return a source with the results of its inventory."""
    total = round(facts["seconds"] * FRAMES_PER_SECOND)
    first, end = 0, total
    if source.frames is not None and facts["rate"]:
        first, end = (round(number / facts["rate"] * FRAMES_PER_SECOND) for number in source.frames)
    if source.start is not None:
        first = round(source.start * FRAMES_PER_SECOND)
    if source.end is not None:
        end = round(source.end * FRAMES_PER_SECOND)
    first, end = max(0, first), min(end, total)
    return KnownSource(
        source,
        facts["sha256"],
        tuple(facts["origin"]),
        first,
        max(0, end - first),
        min(facts["width"], facts["height"]),
        round(max(0, end - first) / FRAMES_PER_SECOND, 3),
        facts["rate"],
        facts["audio_tracks"],
        source.language or facts["language"],
        _as_fractions(source.crop, facts["width"], facts["height"]),
    )


def _as_fractions(crop: Sequence[float] | None, width: int, height: int) -> tuple[float, ...] | None:
    if crop is None:
        return None
    if max(crop) <= 1:
        return tuple(crop)
    left, top, right, bottom = crop
    return tuple(round(value, 6) for value in (left / width, top / height, right / width, bottom / height))


def units(known: KnownSource, unit_seconds: float) -> Iterator[Unit]:
    """Yield the parts of a source that are scanned: of equal length, none longer than ``unit_seconds``."""
    if known.source.is_image:
        return
    longest = int(unit_seconds * FRAMES_PER_SECOND)
    number = max(1, -(-known.count // longest))
    edges = [known.first + round(part * known.count / number) for part in range(number + 1)]
    for start, end in pairwise(edges):
        yield Unit(start, end - start)


def plan_clips(known: KnownSource, scans: Sequence[Values], recipe: BuildRecipe) -> Iterator[PlannedClip]:
    """Yield the clips of a source.

    Args:
        known: the source.
        scans: results of its parts, in order.
        recipe: the lengths of clips.
    """
    if known.source.is_image:
        name = checksum("clip", STAGE_VERSIONS["score"], known.sha256, 0, 1, known.crop, recipe.stage_settings())
        yield PlannedClip(name, 0, 1, 0, {})
        return
    end = max((scan["end"] for scan in scans), default=known.first)
    cuts = sorted({cut for scan in scans for cut in scan["cuts"]})
    transitions = sorted([a, b] for scan in scans for a, b in scan["transitions"])
    faces = np.array([row for scan in scans for row in scan["faces"]], float).reshape(-1, 3)
    settings = recipe.stage_settings()
    for number, (start, stop) in enumerate(_shots(known.first, end, cuts, transitions)):
        for first, count in _divided(start, stop, recipe.shots):
            name = checksum("clip", STAGE_VERSIONS["score"], known.sha256, first, count, known.crop, settings)
            short = count < recipe.shots.min_frames
            yield PlannedClip(name, first, count, number, {} if short else _scan_scores(faces, first, count),
                              "short-shot" if short else "")  # fmt: skip


def _shots(start: int, end: int, cuts: list[int], transitions: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Yield first frame and the frame after the last one of each shot, without dissolves."""
    edges = [start, *(cut for cut in cuts if start < cut < end), end]
    for first, stop in pairwise(edges):
        for a, b in transitions:
            if first <= a and b < stop:
                yield first, a - TRANSITION_MARGIN
                first = b + 1 + TRANSITION_MARGIN
        yield first, stop


def _divided(start: int, stop: int, config: ShotConfig) -> Iterator[tuple[int, int]]:
    """Yield first frame and number of frames of the clips of a shot; the whole shot if it is too short."""
    first, length = start + config.trim_frames, stop - start - 2 * config.trim_frames
    if length < config.min_frames:
        if stop > start:
            yield start, stop - start
        return
    number = -(-length // config.max_frames)
    each = length // number
    for part in range(number):
        yield first + part * each, each - (each - 1) % 4


def _scan_scores(faces: np.ndarray, first: int, count: int) -> Values:
    """Return the face scores of the scan for a clip."""
    rows = faces[(faces[:, 0] >= first) & (faces[:, 0] < first + count)]
    if not len(rows):
        return {"face_rate": 0.0, "several_rate": 0.0, "face_height": 0.0}
    heights = rows[rows[:, 1] > 0, 2]
    return {
        "face_rate": round(float((rows[:, 1] > 0).mean()), 4),
        "several_rate": round(float((rows[:, 1] > 1).mean()), 4),
        "face_height": round(float(np.median(heights)), 4) if len(heights) else 0.0,
    }
