"""Read files of one request (``--config``) and batch files, ours and the published ones, as fields of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from humo.config_files import InvalidLine, read_config_file
from humo.errors import RequestError, did_you_mean
from humo.jobs.published_files import is_item, is_published, item_fields, parse_overrides, read_published_config
from humo.loras import parse_lora
from humo.request import GenerateRequest

LIST_SEPARATOR = ";"
"""Separates the images, or the LoRAs, in one cell of a CSV file."""
LIST_FIELDS = ("images", "loras")
"""Fields that hold several names."""
INPUT_FIELDS = ("images", "audio", "vocal_separator", "model", "loras")
"""Fields that name files which must exist."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a batch file.

    Args:
        number: from 1.
        name: stem of the output's file name.
        fields: fields of a request.
        published: it is an item of a published file, whose output's name contains the seed.
        problem: error of the row as a whole, if any.
    """

    number: int
    name: str
    fields: Mapping[str, Any]
    published: bool = False
    problem: RequestError | None = None


@dataclass(frozen=True, slots=True)
class RequestFile:
    """Contents of a file given as ``--config``.

    Args:
        fields: fields of a request.
        items: batch file to generate, if it names one.
        output_folder: folder of their videos.
        family: name of the preset it was written for, if known.
        notes: lines to show to the user.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    items: Path | None = None
    output_folder: str | None = None
    family: str | None = None
    notes: tuple[str, ...] = ()


def read_request_file(path: Path, overrides: Sequence[str] = ()) -> RequestFile:
    """Read a published configuration, or a TOML, YAML or JSON file with fields of a request.

    Args:
        path: the file.
        overrides: ``key=value`` that replace entries: published dotted keys, or fields of a request.

    Raises:
        RequestError: the file cannot be read, or has an unknown field.
    """
    values = read_config_file(path)
    if is_published(values):
        config = read_published_config(values, path, overrides)
        items = None if config.items is None else _locate(config.items, path)
        fields = resolve_paths(config.fields, path)
        return RequestFile(fields, items, config.output_folder, config.family, config.notes)
    if not isinstance(values, Mapping):
        raise RequestError(path.name, "has no fields of a request", "give a file with field: value")
    fields = dict(values) | parse_overrides(overrides)
    for name in fields:
        if name not in GenerateRequest.model_fields:
            several = all(isinstance(value, Mapping) for value in values.values())
            hint = (
                "for several requests, use humo batch" if several else did_you_mean(name, GenerateRequest.model_fields)
            )
            raise RequestError(f"{path.name}: {name}", "is not a field of a request", hint)
    return RequestFile(resolve_paths({name: value for name, value in fields.items() if value is not None}, path))


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a batch file: a published ``test_case.json``, or JSON, JSONL, CSV, YAML, TOML.

    The file is a list of rows, a table of rows by name, a table with one list of rows (TOML's ``[[job]]``), or one row.
    A row that is wrong as a whole has its error in ``problem``.

    Raises:
        RequestError: the file cannot be read, or has no rows.
    """
    values = read_config_file(path)
    if isinstance(values, Mapping) and len(values) == 1 and isinstance(next(iter(values.values())), list):
        values = next(iter(values.values()))
    named: list[tuple[str | None, object]]
    if isinstance(values, list):
        named = [(None, row) for row in values]
    elif isinstance(values, Mapping) and values and all(isinstance(row, Mapping) for row in values.values()):
        named = [(str(name), row) for name, row in values.items()]
    elif isinstance(values, Mapping) and not GenerateRequest.model_fields.keys().isdisjoint(values):
        named = [(None, values)]
    else:
        raise RequestError(path.name, "has no rows", "give a list of requests, or a table of requests by name")
    if not named:
        raise RequestError(path.name, "has no rows", "add at least one")
    return [_row(number, name, row, path) for number, (name, row) in enumerate(named, 1)]


def resolve_paths(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields with input files resolved: in the current folder, else beside the file that names them."""
    resolved = dict(fields)
    for name in INPUT_FIELDS:
        value = resolved.get(name)
        locate = _locate_lora if name == "loras" else _locate_text
        if isinstance(value, str):
            resolved[name] = locate(value, path)
        elif isinstance(value, list):
            resolved[name] = [locate(entry, path) if isinstance(entry, str) else entry for entry in value]
    return resolved


def _locate_text(name: str, path: Path) -> str:
    return str(_locate(Path(name), path))


def _locate_lora(text: str, path: Path) -> str:
    """Return ``FILE[:STRENGTH]`` with the file located; the name of an installed LoRA stays as it is."""
    try:
        choice = parse_lora(text)
    except ValueError:
        return text  # the check of the request reports it
    return str(replace(choice, name=_locate_text(choice.name, path)))


def _locate(name: Path, path: Path) -> Path:
    """Return a path as it is, or relative to the folder of ``path`` if it exists only there."""
    beside = path.parent / name
    try:
        return beside if not name.exists() and beside.exists() else name
    except (OSError, ValueError):  # not a valid file name: opening it reports that
        return name


def _row(number: int, name: str | None, values: object, path: Path) -> Row:
    row = Row(number, name or f"{path.stem}_{number:04}", {})
    if isinstance(values, InvalidLine):
        return replace(row, problem=RequestError("line", values, "correct the file at that line"))
    if not isinstance(values, Mapping):
        text = repr(values) if len(repr(values)) <= 40 else repr(values)[:40] + "..."
        return replace(row, problem=RequestError("row", f"{text} is not a table of fields", "give field: value"))
    fields = {str(key): value for key, value in values.items() if value is not None}
    row_name = fields.pop("name", None)
    if row_name is not None:
        row = replace(row, name=str(row_name))
    if not row.name.strip() or Path(row.name).name != row.name or "\0" in row.name:
        return replace(row, problem=RequestError("name", f"{row.name!r} cannot name a file", "use letters and digits"))
    published = is_item(values)
    if published:
        fields = item_fields(fields)
    for name in LIST_FIELDS:
        if path.suffix.lower() == ".csv" and isinstance(fields.get(name), str):
            fields[name] = [part.strip() for part in fields[name].split(LIST_SEPARATOR) if part.strip()]
    return replace(row, fields=resolve_paths(fields, path), published=published)
