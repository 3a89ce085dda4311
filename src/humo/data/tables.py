"""Parquet tables of a dataset: one schema in all row groups, rows in a fixed order, the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from humo.errors import DependencyError
from humo.files import atomic_write, storage_error

ROWS_PER_GROUP = 1024
"""Rows that are held in memory and written at a time."""

Kinds = Mapping[str, str]
"""Column -> ``text``, ``texts``, ``number``, ``count`` or ``flag``."""


def write_table(path: Path, kinds: Kinds, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a table atomically.

    Args:
        path: the file.
        kinds: its columns.
        rows: read as they are written; a missing value is null.

    Returns:
        the number of rows.

    Raises:
        StorageError: the file cannot be written.
        DependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError("data", "pyarrow is not installed", "pip install 'humo-video[data]'") from error
    types = {
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "number": pyarrow.float64(),
        "count": pyarrow.int64(),
        "flag": pyarrow.bool_(),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    remaining, count = iter(rows), 0
    with atomic_write(path, "OUT") as part:
        try:
            with pyarrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
                while batch := list(islice(remaining, ROWS_PER_GROUP)):
                    columns = [[row.get(name) for row in batch] for name in kinds]
                    arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
                    writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                    count += len(batch)
        except OSError as error:
            raise storage_error(error, "OUT") from error
    return count
