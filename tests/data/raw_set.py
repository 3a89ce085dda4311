"""A set of raw videos with known contents, for measuring a dataset build as a whole."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.raw_videos import DAMAGES, Reel, ShotLibrary, ShotTruth, Truth, damage, write_truth

SHOTS_PER_VIDEO = 10
"""Shots of an ordinary video; one video has ten times as many."""

SHIFTS = (-6, -4, -2, 2, 4, 6)
"""Frames by which audio is late."""

FAULTS = (("voice-over", 0.08), ("silent", 0.03), ("noise", 0.04), ("text", 0.06), ("two", 0.03), ("still", 0.02))
"""Faults of shots, and how often each one is built in."""

SHIFTED, DISSOLVED, COPIED, BROKEN = 0.2, 0.2, 0.03, 0.05
"""Fractions of shots with shifted audio, after a dissolve, that occur twice; of videos that are damaged."""

FORMS = (("vfr", 0.1), ("rotated", 0.05), ("two-tracks", 0.05))
"""Forms of videos besides the plain one."""


def compose(library: ShotLibrary, folder: Path, seed: int = 0) -> list[Truth]:
    """Join all shots of a library into videos, and return what they contain.

    Args:
        library: rendered shots; each is used once, and some again as copies.
        folder: where the videos are written, with ``truth.json`` beside it.
        seed: of all choices.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    casts = [*_casts(library, random)]
    truths, copies = [], []
    for number, cast in enumerate(casts):
        reel = Reel()
        for name in cast:
            _add(reel, library, name, random)
            if random.random() < COPIED and reel.shots[-1].fault == "" and not reel.shots[-1].shift:
                copies.append(name)
        form = _draw(FORMS, random, "plain")
        suffix = "mkv" if form == "two-tracks" else "mp4"
        truths.append(reel.write(folder / f"video-{number:04d}.{suffix}", form))
    for number, name in enumerate(copies):
        reel = Reel().add(library.load(name), copy_of=name)
        truths.append(reel.write(folder / f"copy-{number:04d}.mp4", crf=26, scale=0.8))
    for number in range(max(len(DAMAGES), round(BROKEN * len(truths)))):
        kind = DAMAGES[number % len(DAMAGES)]
        path = folder / f"broken-{number:04d}.mp4"
        truth = Reel().add(library.load(library.names[number % len(library.names)])).write(path)
        damage(path, kind)
        truths.append(Truth(truth.name, truth.shots, broken=kind))
    write_truth(folder.parent / "truth.json", truths)
    return truths


def _casts(library: ShotLibrary, random: np.random.Generator) -> Any:
    """Yield the shots of each video: some people, with several looks of each; the first video is ten times longer."""
    by_person: dict[int, list[str]] = defaultdict(list)
    for name in library.names:
        by_person[library.people[name]].append(name)
    queue: list[str] = []
    for person in random.permutation(sorted(by_person)):
        queue += by_person[int(person)]
    length = min(10 * SHOTS_PER_VIDEO, max(SHOTS_PER_VIDEO, len(queue) // 4))
    while queue:
        cast, queue = queue[:length], queue[length:]
        length = SHOTS_PER_VIDEO
        yield [cast[int(at)] for at in random.permutation(len(cast))]


def _draw(choices: tuple[tuple[str, float], ...], random: np.random.Generator, otherwise: str) -> str:
    position = random.random()
    for name, share in choices:
        if position < share:
            return name
        position -= share
    return otherwise


def _add(reel: Reel, library: ShotLibrary, name: str, random: np.random.Generator) -> None:
    """Append a shot with what the draw gives it."""
    shot = library.load(name)
    fault = _draw(FAULTS, random, "")
    other = library.load(str(random.choice([each for each in library.names if library.people[each] != shot.person])))
    if fault == "voice-over":
        speaking = sorted(each for each in library.speaking if library.people[each] != shot.person)
        other = library.load(str(random.choice(speaking)))
    shift = int(random.choice(SHIFTS)) if not fault and shot.speaks and random.random() < SHIFTED else 0
    dissolve = int(random.integers(8, 20)) if random.random() < DISSOLVED else 0
    if not shot.speaks:
        fault = fault or "silent"
    reel.add(shot, dissolve=dissolve, shift=shift, fault=fault, other=other, noise_db=float(random.uniform(0, 10)))


@dataclass(frozen=True, slots=True)
class Matched:
    """A clip of a build, and the shot that it is from.

    Args:
        row: its row of ``scores.parquet``.
        shot: contents of the shot.
        inside: whether the clip lies inside the shot, without its transitions.
    """

    row: dict[str, Any]
    shot: ShotTruth
    inside: bool


def match(rows: list[dict[str, Any]], truth_file: Path) -> list[Matched]:
    """Return each clip of at least the shortest length with the shot that contains its middle."""
    truths = {truth["name"]: [ShotTruth(**shot) for shot in truth["shots"]] for truth in read_truth(truth_file)}
    matched = []
    for row in rows:
        start, end = round(row["start"] * 25), round(row["end"] * 25)
        shots = truths[Path(row["source"]).name]
        shot = min(shots, key=lambda each: abs((each.start + each.end) - (start + end)))
        matched.append(Matched(row, shot, shot.start <= start and end <= shot.end))
    return matched


def read_truth(path: Path) -> list[dict[str, Any]]:
    """Return what `compose` wrote."""
    truths: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return truths
