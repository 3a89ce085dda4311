"""Job files (one request) and batch files (many), ours and the published ones, as plain fields of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from humo.config_files import InvalidLine, read_config_file
from humo.errors import RequestError, did_you_mean
from humo.jobs.published_files import is_item, is_published, item_fields, parse_overrides, read_published_config
from humo.request import GenerateRequest

IMAGE_SEPARATOR = ";"  # between the pictures in one cell of a CSV file
INPUT_FIELDS = ("images", "audio", "vocal_separator", "model")
"""Fields that name files which must be there."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of work of a batch file.

    Args:
        number: 1 for the first.
        name: names the output.
        fields: fields of a request.
        published: it is an item of a published file, whose output's name holds the seed.
        problem: what is wrong with the row as a whole, if anything.
    """

    number: int
    name: str
    fields: Mapping[str, Any]
    published: bool = False
    problem: RequestError | None = None


@dataclass(frozen=True, slots=True)
class RequestFile:
    """What a file given as ``--config`` asks for.

    Args:
        fields: fields of a request.
        items: the batch file whose rows it wants made, if it names one.
        output_folder: where their videos go.
        family: name of the preset it was written for, if it tells.
        notes: what is worth saying, a line each.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    items: Path | None = None
    output_folder: str | None = None
    family: str | None = None
    notes: tuple[str, ...] = ()


def read_request_file(path: Path, overrides: Sequence[str] = ()) -> RequestFile:
    """A published configuration, or a TOML, YAML or JSON file of a request's fields.

    Args:
        path: the file.
        overrides: ``key=value`` words laid over it: the published dotted keys, or fields of a request.

    Raises:
        RequestError: the file cannot be read, or holds what is not a field.
    """
    values = read_config_file(path)
    if is_published(values):
        found = read_published_config(values, path, overrides)
        items = None if found.items is None else _locate(found.items, path)
        fields = resolve_paths(found.fields, path)
        return RequestFile(fields, items, found.output_folder, found.family, found.notes)
    if not isinstance(values, Mapping):
        raise RequestError(path.name, "is not a job file", "a job file holds the fields of one request")
    fields = dict(values) | parse_overrides(overrides)
    for name in fields:
        if name not in GenerateRequest.model_fields:
            several = all(isinstance(value, Mapping) for value in values.values())
            hint = "for several requests: humo batch" if several else did_you_mean(name, GenerateRequest.model_fields)
            raise RequestError(f"{path.name}: {name}", "is not a field of a request", hint)
    return RequestFile(resolve_paths({name: value for name, value in fields.items() if value is not None}, path))


def read_rows(path: Path) -> list[Row]:
    """The rows of a batch file: a published ``test_case.json``, or JSON, JSONL, CSV, YAML, TOML.

    A list of rows; a table of rows by name; a table with one list of rows in it (TOML's ``[[job]]``); or one row.
    A row that is wrong as a whole comes with its problem.

    Raises:
        RequestError: the file cannot be read, or holds no rows.
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
        raise RequestError(path.name, "holds no rows", "give a list of requests, or a table of them by name")
    if not named:
        raise RequestError(path.name, "holds no rows", "give at least one")
    return [_row(number, name, row, path) for number, (name, row) in enumerate(named, 1)]


def resolve_paths(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields with their input files found: beside the current folder, else beside the file that names them."""
    found = dict(fields)
    for name in INPUT_FIELDS:
        value = found.get(name)
        if isinstance(value, str):
            found[name] = str(_locate(Path(value), path))
        elif isinstance(value, list):
            found[name] = [str(_locate(Path(entry), path)) if isinstance(entry, str) else entry for entry in value]
    return found


def _locate(wanted: Path, path: Path) -> Path:
    """``wanted`` as it is, or taken from the folder of ``path`` where it is only there."""
    beside = path.parent / wanted
    try:
        return beside if not wanted.exists() and beside.exists() else wanted
    except (OSError, ValueError):  # no name a file could have: whoever opens it says so
        return wanted


def _row(number: int, name: str | None, values: object, path: Path) -> Row:
    row = Row(number, name or f"{path.stem}_{number:04}", {})
    if isinstance(values, InvalidLine):
        return replace(row, problem=RequestError("line", values, "correct the file at that line"))
    if not isinstance(values, Mapping):
        shown = repr(values) if len(repr(values)) <= 40 else repr(values)[:40] + "..."
        return replace(row, problem=RequestError("row", f"{shown} is not a table of fields", "write field: value"))
    fields = {str(key): value for key, value in values.items() if value is not None}
    given = fields.pop("name", None)
    if given is not None:
        row = replace(row, name=str(given))
    if not row.name.strip() or Path(row.name).name != row.name or "\0" in row.name:
        return replace(row, problem=RequestError("name", f"{row.name!r} cannot name a file", "use letters and digits"))
    published = is_item(values)
    if published:
        fields = item_fields(fields)
    if path.suffix.lower() == ".csv" and isinstance(fields.get("images"), str):
        fields["images"] = [part.strip() for part in fields["images"].split(IMAGE_SEPARATOR) if part.strip()]
    return replace(row, fields=resolve_paths(fields, path), published=published)
