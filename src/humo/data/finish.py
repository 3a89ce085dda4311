"""From the journal to the dataset: thresholds, copies, references, captions, splits, tables, report.

Nothing here decodes a source. The result depends on the journal and the recipe alone, not on the order of the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from humo.data.appearance import unpack
from humo.data.build_recipe import BuildRecipe, checksum
from humo.data.captions import Endpoint, caption_clips
from humo.data.catalog import Catalog
from humo.data.clip_files import clip_file, source_of_reference
from humo.data.publish import publish_files, publish_tables
from humo.data.report import write_report
from humo.data.selection import Entry, Portrait, Selection, select
from humo.data.sources import IMAGE_SUFFIXES, MissingRow, Source
from humo.data.tasks import Values
from humo.errors import RequestError
from humo.files import storage_error
from humo.geometry import FRAMES_PER_SECOND
from humo.media.corpus_layout import ID
from humo.progress import Note, Progress

WAITING = "waits-for-caption"
"""Reason of a clip that passed everything and has no caption yet."""

UNWRITTEN = "not-written"
"""Reason of a clip that passes with other thresholds than before: its file is written by the next build."""


@dataclass(slots=True)
class Finished:
    """Result of a run.

    Args:
        folder: the output.
        accepted: clips in the dataset.
        clips: all clips.
        sources: sources that were used.
        quarantined: items without a result.
        missing_rows: rows of manifests whose files are missing.
        reasons: reason -> clips that were rejected for it first.
        waiting: clips that wait for a caption.
        seconds: length of the dataset.
        stopped: why captioning ended early; empty if it did not.
        funnel: clips and seconds that remain after each decision, as in the report.
    """

    folder: Path
    accepted: int = 0
    clips: int = 0
    sources: int = 0
    quarantined: int = 0
    missing_rows: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    seconds: float = 0.0
    stopped: str = ""
    funnel: list[Values] = field(default_factory=list)


def finish(
    folder: Path,
    catalog: Catalog,
    missing: Sequence[MissingRow],
    sources: Sequence[tuple[Source, str]],
    endpoint: Endpoint | None,
    progress: Progress,
    note: Note,
) -> Finished:
    """Write the dataset.

    Args:
        folder: the output.
        catalog: its clips.
        missing: rows of manifests whose files are missing.
        sources: sources of the run with the keys of their inventories.
        endpoint: endpoint for captions; None for those of manifests and the recipe.
        progress: called with a phase, and units done and in total.
        note: called with messages.

    Raises:
        StorageError: a file cannot be written.
    """
    entries = sorted(_entries(folder, catalog), key=lambda entry: entry.name)
    colors = lru_cache(maxsize=256)(lambda name: str(_scores(catalog, name)["colors"]))
    selection = select(entries, catalog.recipe, colors, [*_portraits(catalog)])
    result = Finished(folder, clips=len(entries), sources=len(catalog.sources), missing_rows=len(missing))
    for entry in entries:
        if entry.passes and not entry.written:
            entry.reasons = (UNWRITTEN,)
    captions = _captions(folder, catalog, entries, endpoint, result, progress, note)
    for entry in entries:
        if entry.passes and entry.name not in captions:
            entry.reasons = (WAITING,)
    passing = [entry for entry in entries if entry.passes]
    result.accepted = len(passing)
    result.seconds = round(sum(entry.count for entry in passing) / FRAMES_PER_SECOND, 2)
    result.reasons = dict(sorted(Counter(entry.reasons[0] for entry in entries if entry.reasons).items()))
    result.waiting = result.reasons.get(WAITING, 0)
    quarantine = [*_quarantine(catalog, sources, missing)]
    result.quarantined = sum(row["stage"] != "manifest" for row in quarantine)
    _publish(folder, catalog, entries, captions, selection, quarantine)
    try:
        write_report(folder, catalog, entries, selection, quarantine, result)
    except OSError as error:
        raise storage_error(error, "OUT") from error
    return result


def _entries(folder: Path, catalog: Catalog) -> Iterator[Entry]:
    """Yield all clips with what decides about them."""
    for candidate in catalog.candidates():
        known, clip = catalog.sources[candidate.source], candidate.clip
        scores: Values = ((candidate.line or {}).get("result") or {}).get("scores") or {}
        embedding = scores.get("embedding")
        yield Entry(
            clip.name,
            known.source.group,
            candidate.source,
            clip.shot,
            clip.first,
            clip.count,
            catalog.clip_reasons(candidate),
            bool(scores) and clip_file(folder, clip.name).is_file(),
            scores.get("view", 0.0),
            scores.get("reference_side", 0),
            None if embedding is None else unpack(embedding, np.float16).tobytes(),
            bytes.fromhex(scores.get("hashes", "")),
            unpack(scores.get("loudness", ""), np.uint8).tobytes(),
            _named_references(catalog, clip.name),
        )


def _named_references(catalog: Catalog, name: str) -> tuple[tuple[int, int], ...]:
    """Return number and side of the references of a clip that a manifest names and that could be cut out."""
    line = catalog.journal.get("reference", name)
    images = ((line or {}).get("result") or {}).get("images", ())
    return tuple((image["number"], image["side"]) for image in images)


def _portraits(catalog: Catalog) -> Iterator[Portrait]:
    """Yield the portraits of the folder that the recipe names, as far as they could be read."""
    for _, key in portrait_keys(catalog.recipe):
        line = catalog.journal.get("portrait", key)
        if line is not None and "result" in line:
            values = line["result"]
            yield Portrait(key, unpack(values["embedding"], np.float16), values["colors"])


def portrait_keys(recipe: BuildRecipe) -> list[tuple[Path, str]]:
    """Return path and key of each portrait of a recipe.

    Raises:
        RequestError: the folder does not exist.
    """
    if recipe.reference.portraits is None:
        return []
    folder = Path(recipe.reference.portraits)
    if not folder.is_dir():
        raise RequestError("reference.portraits", f"there is no folder {str(folder)!r}", "check the path")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [(path, checksum("portrait", path.name, path.stat().st_size)) for path in paths]


def _scores(catalog: Catalog, name: str) -> Values:
    line = catalog.journal.get("score", name)
    assert line is not None
    scores: Values = line["result"]["scores"]
    return scores


def _captions(
    folder: Path,
    catalog: Catalog,
    entries: Sequence[Entry],
    endpoint: Endpoint | None,
    result: Finished,
    progress: Progress,
    note: Note,
) -> dict[str, str]:
    """Return the captions of passing clips: of manifests, of the endpoint, or the recipe's own."""
    passing = [entry for entry in entries if entry.passes]
    captions = {entry.name: text for entry in passing if (text := catalog.sources[entry.source].source.caption)}
    missing = []
    for entry in (each for each in passing if each.name not in captions):
        stored = catalog.journal.get("caption", endpoint.key(entry.name) if endpoint else _any_key(entry.name))
        if stored is not None:
            captions[entry.name] = stored["caption"]
        else:
            missing.append(entry.name)
    if endpoint is not None and missing:
        progress("captions", 0, len(missing))

        def keep(name: str, caption: str) -> None:
            for key in (endpoint.key(name), _any_key(name)):
                catalog.journal.add("caption", key, {"item": name, "caption": caption, "model": endpoint.model})
            captions[name] = caption

        report = caption_clips(
            missing,
            lambda name: clip_file(folder, name),
            endpoint,
            keep,
            lambda done: progress("captions", done, len(missing)),
        )
        result.stopped = report.stopped
        if report.failed:
            name, problem = next(iter(sorted(report.failed.items())))
            note(f"{len(report.failed)} clips got no caption, such as {name} ({problem})")
    elif catalog.recipe.captions.text:
        captions |= dict.fromkeys(missing, catalog.recipe.captions.text)
    return captions


def _any_key(name: str) -> str:
    """Return the key under which the last caption of a clip is stored, by whatever model."""
    return checksum("caption", name)


def _publish(
    folder: Path,
    catalog: Catalog,
    entries: Sequence[Entry],
    captions: Mapping[str, str],
    selection: Selection,
    quarantine: Sequence[Values],
) -> None:
    """Write files and tables."""
    passing = [entry for entry in entries if entry.passes]
    publish_files(
        folder,
        (entry.name for entry in passing),
        {entry.name: source_of_reference(folder, entry.reference) for entry in passing},
    )
    kept = {entry.name for entry in passing}
    publish_tables(
        folder,
        captions=((entry.name, captions[entry.name]) for entry in passing),
        attributes=(_attributes(catalog, entry) for entry in passing),
        scores=(_score_row(catalog, entry, selection) for entry in entries),
        pairs=[pair for pair in selection.pairs if pair.clip in kept],
        quarantine=quarantine,
        sources=_source_rows(catalog),
    )


def _attributes(catalog: Catalog, entry: Entry) -> Values:
    known = catalog.sources[entry.source]
    return {
        ID: entry.name,
        "split": entry.split,
        "source": known.source.path,
        "group": known.source.group,
        "person": entry.person,
        "language": known.language,
        "license": known.source.license,
        "start": entry.first / FRAMES_PER_SECOND,
        "end": (entry.first + entry.count) / FRAMES_PER_SECOND,
        "frames": entry.count,
        "reference": entry.reference,
        "judge": _scores(catalog, entry.name).get("judge"),
    }


def _score_row(catalog: Catalog, entry: Entry, selection: Selection) -> Values:
    line = catalog.journal.get("score", entry.name)
    scores: Values = ((line or {}).get("result") or {}).get("scores") or {}
    return scores | {
        ID: entry.name,
        "source": catalog.sources[entry.source].source.path,
        "start": entry.first / FRAMES_PER_SECOND,
        "end": (entry.first + entry.count) / FRAMES_PER_SECOND,
        "frames": entry.count,
        "passed": entry.passes,
        "reason": entry.reasons[0] if entry.reasons else "",
        "reasons": list(entry.reasons),
        "copy_of": selection.copies.get(entry.name),
    }


def _source_rows(catalog: Catalog) -> Iterator[Values]:
    for known, reason in zip(catalog.sources, catalog.reasons, strict=True):
        yield {
            "source": known.source.path,
            "sha256": known.sha256,
            **known.scores(),
            "group": known.source.group,
            "language": known.language,
            "license": known.source.license,
            "reason": reason,
        }


def _quarantine(
    catalog: Catalog, sources: Sequence[tuple[Source, str]], missing: Sequence[MissingRow]
) -> Iterator[Values]:
    """Yield every item that has no result, and why."""
    for row in sorted(missing, key=lambda each: (each.path, each.manifest)):
        yield {"item": row.path, "stage": "manifest", "reason": f"a row of {row.manifest} names it, and it is missing"}
    for path, key in sorted({(source.path, key) for source, key in sources}):
        yield from _fault(catalog, "inventory", key, path)
    for _, known in catalog.used_sources():
        for unit, key in catalog.units(known):
            yield from _fault(catalog, "scan", key, f"{known.source.path} from {unit.first / FRAMES_PER_SECOND:g} s on")
    for candidate in catalog.candidates():
        item = f"{catalog.sources[candidate.source].source.path} from {candidate.clip.first / FRAMES_PER_SECOND:g} s on"
        for stage in ("score", "reference"):
            yield from _fault(catalog, stage, candidate.clip.name, item)
    for portrait, key in portrait_keys(catalog.recipe):
        yield from _fault(catalog, "portrait", key, str(portrait))


def _fault(catalog: Catalog, stage: str, key: str, item: str) -> Iterator[dict[str, Any]]:
    line = catalog.journal.get(stage, key)
    if line is not None and "fault" in line:
        fault = line["fault"]
        yield {
            "item": item,
            "stage": stage,
            "reason": fault["reason"],
            "tries": fault["tries"],
            "last_words": fault["last_words"],
            "key": key,
        }
