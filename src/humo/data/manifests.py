"""Manifests of sources: tables of any project with a path, and the annotation files of four published datasets.

A table (Parquet, CSV, JSON, JSONL) needs a column of paths; start, end, caption, group, language and license are
optional. `COLUMNS` lists the names that are known. Further formats, recognized by their contents:

- Koala-36M and Panda-70M: ``timestamp`` with a start and an end.
- Phantom-Data: ``vid``, ``video_caption``, ``cross_pair`` with boxes of references in other clips.
- OpenS2V-5M: JSON of identifier -> ``metadata`` (``path``, ``face_cut``, ``crop``, captions).
- HuMoSet: ``video_caption.parquet`` beside the folder ``video``.

**Source:** the README files of github.com/Phantom-video/Phantom-Data and PKU-YuanGroup/OpenS2V-Nexus.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humo.config_files import InvalidLine, read_config_file
from humo.data.tasks import Values
from humo.errors import DependencyError, MediaError, RequestError

MANIFEST_SUFFIXES = frozenset((".csv", ".json", ".jsonl", ".parquet"))
"""Suffixes of manifests."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "video", "video_path", "file", "file_path", "filename", "file_name", "clip_path", "videoLoc",
             "video_name", "clip_id", "id", "vid"),
    "start": ("start", "start_time", "start_seconds", "begin"),
    "end": ("end", "end_time", "end_seconds", "stop"),
    "caption": ("caption", "prompt", "video_caption", "text", "long_caption", "description", "captions"),
    "group": ("group", "source", "video_id", "source_video", "origin"),
    "language": ("language", "lang"),
    "license": ("license", "licence"),  # word kept: columns of other projects
}  # fmt: skip
"""Field of a source -> names of columns, the first one that exists counts."""

CAPTION_KEYS = ("face_cap_qwen", "cap", "caption")
"""Keys of captions in OpenS2V's metadata."""


def read_manifest(path: Path) -> Iterator[Values]:
    """Yield fields of `humo.data.sources.Source` for each row of a manifest.

    Raises:
        RequestError: the file has no column of paths, or a wrong value.
        MediaError: the file cannot be read.
        DependencyError: pyarrow is not installed.
    """
    if path.suffix.lower() == ".parquet":
        yield from _rows(_parquet_rows(path), path)
        return
    contents = _json_value(path) if path.suffix.lower() == ".json" else read_config_file(path)
    if isinstance(contents, dict) and any(
        isinstance(value, dict) and "metadata" in value for value in contents.values()
    ):
        yield from _opens2v(contents)
    elif isinstance(contents, dict):
        rows = contents.get("data") or [
            {"path": name, **value} for name, value in contents.items() if isinstance(value, dict)
        ]
        yield from _rows(iter(rows), path)
    else:
        yield from _rows(iter(contents), path)


def _json_value(path: Path) -> Any:
    """Read JSON of any size: annotation files have hundreds of megabytes."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RequestError(path.name, f"is not JSON: {error}", "correct the file at that line") from error


def _parquet_rows(path: Path) -> Iterator[Values]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError("data", "pyarrow is not installed", "pip install 'humo-video[data]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise MediaError("INPUT", f"{str(path)!r} cannot be read: {error}", "download it again") from error


def _rows(rows: Iterator[Any], path: Path) -> Iterator[Values]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, InvalidLine):
            raise RequestError(path.name, f"line {number} {row}", "correct the file at that line")
        if not isinstance(row, dict):
            raise RequestError(path.name, f"row {number} is not a table of fields", "give an object with a path")
        yield _row(row, path, number)


def _row(row: Mapping[str, Any], path: Path, number: int) -> Values:
    """Return the fields of one row."""
    if "cross_pair" in row:
        return _phantom(row)
    values: Values = {}
    for name, columns in COLUMNS.items():
        column = next((each for each in columns if row.get(each) not in (None, "")), None)
        if column is not None:
            values[name] = row[column]
    if "path" not in values:
        known = ", ".join(COLUMNS["path"][:5])
        raise RequestError(path.name, f"row {number} has no path", f"give a column named {known}")
    if row.get("timestamp") and "start" not in values:
        values["start"], values["end"] = _timestamps(row["timestamp"], path, number)
    values["path"] = str(values["path"])
    for name in ("start", "end"):
        if name in values:
            values[name] = _seconds(values[name], path, number)
    if isinstance(values.get("caption"), list):
        values["caption"] = values["caption"][0] if values["caption"] else ""
    for name in ("caption", "group", "language", "license"):
        if name in values:
            values[name] = str(values[name]).strip()
    return values


def _timestamps(value: Any, path: Path, number: int) -> tuple[Any, Any]:
    """Return start and end of ``['0:00:01.5', '0:00:07']``, given as a list or as text."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = value.split(",")
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise RequestError(path.name, f"row {number} has the timestamp {value!r}", "give a start and an end")
    return value[0], value[1]


def _seconds(value: Any, path: Path, number: int) -> float:
    """Return seconds from a number or from hours:minutes:seconds."""
    if isinstance(value, int | float):
        return float(value)
    parts = str(value).strip().split(":")
    if not all(re.fullmatch(r"\d+(?:\.\d*)?", part) for part in parts):
        raise RequestError(path.name, f"row {number} has the time {value!r}", "give seconds or hours:minutes:seconds")
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + float(part)
    return seconds


def _phantom(row: Mapping[str, Any]) -> Values:
    """Return the fields of a row of Phantom-Data: objects as references, each in another clip."""
    pairs = row["cross_pair"]
    if isinstance(pairs, str):
        pairs = json.loads(pairs)
    entries = pairs.items() if isinstance(pairs, dict) else list(pairs or ())
    references = []
    for phrase, entry in entries:
        for result in (entry or {}).get("refer_result") or ():
            box = result.get("bbox") or result.get("box")
            if box is not None:
                references.append(
                    {
                        "path": str(result.get("vid", row["vid"])),
                        "instant": float(result.get("frame_idx", 0.5)),
                        "box": [float(value) for value in box],
                        "phrase": str(phrase),
                    }
                )
    return {
        "path": str(row["vid"]),
        "name": str(row["vid"]),
        "caption": str(row.get("video_caption") or ""),
        "references": tuple(references),
    }


def _opens2v(contents: Mapping[str, Any]) -> Iterator[Values]:
    """Yield the fields of OpenS2V's rows: a part in frames, without burnt-in edges."""
    for name, value in contents.items():
        metadata = value.get("metadata") or {}
        if not metadata.get("path"):
            continue
        values: Values = {"path": str(metadata["path"]), "name": str(name)}
        if metadata.get("face_cut"):
            values["frames"] = tuple(int(number) for number in metadata["face_cut"])
        if metadata.get("crop"):
            left, right, top, bottom = metadata["crop"]
            values["crop"] = (float(left), float(top), float(right), float(bottom))
        caption = next((metadata[key] for key in CAPTION_KEYS if metadata.get(key)), "")
        values["caption"] = caption[0] if isinstance(caption, list) else str(caption)
        values["group"] = str(Path(str(metadata["path"])).parent)
        yield values
