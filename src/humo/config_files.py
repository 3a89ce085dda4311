"""Read JSON, JSONL, YAML, TOML and CSV files as plain values, with one-line errors."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from humo.errors import RequestError, did_you_mean

MAX_FILE_BYTES = 64 * 2**20
"""Bytes of the largest configuration file that is read; it refuses a video given by mistake."""


class InvalidLine(str):
    """Error text of a JSONL line that is not JSON, in place of its value."""


def read_config_file(path: Path) -> Any:
    """Return the contents of a file as dictionaries, lists and plain values.

    A JSONL file gives a list with one value a line (or a `BrokenLine`), a CSV file one dictionary a row, without its
    empty cells.

    Args:
        path: the file; its suffix selects the format.

    Raises:
        RequestError: there is no such file, it is not text, or not in the format of its suffix.
    """
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        known = ", ".join(_PARSERS)
        near = did_you_mean(path.suffix.lower(), _PARSERS) if path.suffix else f"known are {known}"
        raise RequestError(path.name, f"{path.suffix or 'no suffix'!r} is not a supported file type", near)
    text = _read_text(path)
    try:
        return parse(text)
    except RecursionError:
        raise RequestError(path.name, "is nested too deeply", "remove levels of nesting") from None
    except (ValueError, yaml.YAMLError, csv.Error) as error:
        kind = path.suffix[1:].upper()
        raise RequestError(path.name, f"is not {kind}: {error}", "correct the file at that line") from error


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise RequestError(path.name, "is a folder", "give the path of a file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(
                path.name, f"is larger than {MAX_FILE_BYTES >> 20} MB", "give a configuration or batch file"
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(path.name, "is not text in UTF-8", "save it as UTF-8") from None
    except FileNotFoundError:
        raise RequestError(str(path), "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise RequestError(str(path), problem, "check the path and its permissions") from error


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a JSON object with the same key twice, of which the json module would keep the last one only."""
    merged = dict(pairs)
    if len(merged) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return merged


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_reject_duplicates)


class _YamlLoader(yaml.SafeLoader):
    """Refuses a table with the same key twice, of which YAML would keep the last one only."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a table of which no name occurs twice."""
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
        return node


def _yaml(text: str) -> Any:
    return yaml.load(text, _YamlLoader)


def _json_lines(text: str) -> list[Any]:
    rows: list[Any] = []
    for line in text.split("\n"):  # not splitlines: a prompt may hold Unicode's other line ends
        if line.strip():
            try:
                rows.append(_json(line))
            except ValueError as error:
                rows.append(InvalidLine(f"is not JSON: {error}"))
    return rows


def _csv(text: str) -> list[dict[str, Any]]:
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = [name.strip() for name in next(table, [])]
    if len(set(header)) != len(header):
        raise ValueError("two columns have the same name")
    rows = []
    for cells in table:
        if any(cell.strip() for cell in cells):
            extra = {f"column {number}": cells[number - 1] for number in range(len(header) + 1, len(cells) + 1)}
            named = dict(zip(header, cells, strict=False)) | extra
            rows.append({name: cell for name, cell in named.items() if cell.strip()})
    return rows


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".toml": tomllib.loads,
    ".csv": _csv,
}
