"""The dataset in HuMoSet's layout: links to the clips that pass, their references, captions, scores and attributes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from humo.data.clip_files import clip_file
from humo.data.selection import Pair
from humo.data.tables import write_table
from humo.errors import StorageError
from humo.files import atomic_write, os_error_text, storage_error
from humo.media.corpus_layout import ATTRIBUTES, CAPTIONS, ID, PARAPHRASES, REFERENCES, SPLIT, VIDEOS

SCORES, PAIRS, QUARANTINE, SOURCES = "scores.parquet", "pairs.parquet", "quarantine.parquet", "sources.parquet"
"""Tables beside the dataset."""

CAPTION_COLUMNS = {ID: "text", "caption": "text", PARAPHRASES: "texts"}
ATTRIBUTE_COLUMNS = {
    ID: "text", SPLIT: "text", "source": "text", "group": "text", "person": "text", "language": "text",
    "license": "text", "start": "number", "end": "number", "frames": "count", "reference": "text", "judge": "text",
}  # fmt: skip
PAIR_COLUMNS = {
    ID: "text", "reference": "text", "rank": "count", "distance": "number", "overlap": "number",
    "gap_seconds": "number",
}  # fmt: skip
QUARANTINE_COLUMNS = {
    "item": "text", "stage": "text", "reason": "text", "tries": "count", "last_words": "text", "key": "text",
}  # fmt: skip
SCORE_COLUMNS = {
    ID: "text", "source": "text", "start": "number", "end": "number", "frames": "count", "passed": "flag",
    "reason": "text", "reasons": "texts", "copy_of": "text", "held": "number", "face_rate": "number",
    "several_rate": "number", "face_height": "number", "frontal_rate": "number", "luminance": "number",
    "motion": "number", "sharpness": "number", "text": "number", "speech_rate": "number",
    "background_quality": "number", "sync": "number", "sync_margin": "number", "sync_confidence": "number",
    "sync_distance": "number", "offset": "count",
    "sync_after": "number", "offset_left": "count", "judge": "text", "identity_spread": "number", "view": "number",
    "reference_side": "count",
}  # fmt: skip
SOURCE_COLUMNS = {
    "source": "text", "sha256": "text", "seconds": "number", "rate": "number", "lines": "count",
    "audio_tracks": "count", "group": "text", "language": "text", "license": "text", "reason": "text",
}  # fmt: skip


def publish_files(folder: Path, names: Iterable[str], references: Mapping[str, Path]) -> None:
    """Make ``video`` and ``reference_image`` hold the accepted clips and their references, and nothing else.

    Files are linked where the file system can, and copied elsewhere.

    Args:
        folder: the output.
        names: accepted clips.
        references: clip -> its reference image.

    Raises:
        StorageError: a file cannot be written.
    """
    wanted = {VIDEOS: {}, REFERENCES: {}}  # type: dict[str, dict[str, Path]]
    for name in names:
        wanted[VIDEOS][f"{name}.mp4"] = clip_file(folder, name)
        wanted[REFERENCES][f"{name}.png"] = references[name]
    for subfolder, files in wanted.items():
        target = folder / subfolder
        target.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(target):
            if entry.name not in files:
                Path(entry.path).unlink()
        for name, source in files.items():
            _link(source, target / name)


def _link(source: Path, target: Path) -> None:
    """Make a file appear under a second name."""
    try:
        if target.exists():
            if os.path.samefile(source, target):
                return
            target.unlink()
        with suppress(OSError):
            os.link(source, target)
            return
        with atomic_write(target, "OUT") as part:
            shutil.copyfile(source, part)
    except OSError as error:
        problem = f"{str(target)!r} cannot be written ({os_error_text(error)})"
        raise StorageError("OUT", problem, "free disk space, or check the permissions") from error


def publish_tables(
    folder: Path,
    *,
    captions: Iterable[tuple[str, str]],
    attributes: Iterable[Mapping[str, Any]],
    scores: Iterable[Mapping[str, Any]],
    pairs: Iterable[Pair],
    quarantine: Iterable[Mapping[str, Any]],
    sources: Iterable[Mapping[str, Any]],
) -> None:
    """Write all tables; every iterable is in the order of its first column.

    Raises:
        StorageError: a table cannot be written.
    """
    try:
        write_table(folder / CAPTIONS, CAPTION_COLUMNS, _caption_rows(captions))
        write_table(folder / ATTRIBUTES, ATTRIBUTE_COLUMNS, attributes)
        write_table(folder / SCORES, SCORE_COLUMNS, scores)
        write_table(folder / PAIRS, PAIR_COLUMNS, _pair_rows(pairs))
        write_table(folder / QUARANTINE, QUARANTINE_COLUMNS, quarantine)
        write_table(folder / SOURCES, SOURCE_COLUMNS, sources)
    except OSError as error:
        raise storage_error(error, "OUT") from error


def _caption_rows(captions: Iterable[tuple[str, str]]) -> Iterator[Mapping[str, Any]]:
    for name, caption in captions:
        yield {ID: name, "caption": caption, PARAPHRASES: []}


def _pair_rows(pairs: Iterable[Pair]) -> Iterator[Mapping[str, Any]]:
    for pair in sorted(pairs, key=lambda each: (each.clip, each.rank)):
        yield {
            ID: pair.clip,
            "reference": pair.reference,
            "rank": pair.rank,
            "distance": pair.distance,
            "overlap": pair.overlap,
            "gap_seconds": pair.gap_seconds,
        }
