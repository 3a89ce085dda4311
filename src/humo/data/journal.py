"""Results of all stages of a folder, in one file that only grows, and the lock of a folder.

``work/journal.jsonl`` has a line of JSON for each finished task. A line is written with one call and synchronized to
the disk before the next task counts as finished. A line that a killed process left unfinished is cut off when the
journal is opened. One file instead of one a task: 670,000 clips would be that many small files to list at each start.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from humo.errors import StorageError
from humo.files import os_error_text, storage_error

JOURNAL = "work/journal.jsonl"
"""File of the journal in a folder."""

LOCK = "work/lock"
"""File that a run locks. The lock ends with the process, however it ends."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for one run.

    Raises:
        StorageError: another run is writing to it, or it cannot be created.
    """
    lock = FileLock(folder / LOCK)
    try:
        (folder / LOCK).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        problem = f"{str(folder)!r} is being written by another run"
        raise StorageError("OUT", problem, "wait until it ends, or use another folder") from None
    except OSError as error:
        problem = f"{str(folder)!r} cannot be used ({os_error_text(error)})"
        raise StorageError("OUT", problem, "choose a folder you may write to") from error
    try:
        yield
    finally:
        lock.release()


class Journal:
    """The journal of a folder. Lines are found by stage and key; none is kept in memory.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
        self._reader: IO[bytes] = self._path.open("rb")
        self._positions: dict[tuple[str, bytes], int] = {}
        self._load()

    def __contains__(self, task: tuple[str, str]) -> bool:
        return (task[0], _packed(task[1])) in self._positions

    def add(self, stage: str, key: str, values: dict[str, Any]) -> None:
        """Append a line and wait until it is on the disk.

        Raises:
            StorageError: the disk is full.
        """
        text = json.dumps({"stage": stage, "key": key, **values}, ensure_ascii=False, separators=(",", ":")) + "\n"
        line = text.encode()
        try:
            if os.write(self._writer, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._writer)
        except OSError as error:
            os.ftruncate(self._writer, self._end)  # half a line would hide the ones that follow
            raise storage_error(error, "OUT") from error
        self._positions[stage, _packed(key)] = self._end
        self._end += len(line)

    def get(self, stage: str, key: str) -> dict[str, Any] | None:
        """Return the line of a task, if it is finished."""
        position = self._positions.get((stage, _packed(key)))
        if position is None:
            return None
        return self._line_at(position)

    def lines(self, stage: str) -> Iterator[dict[str, Any]]:
        """Yield the current line of each task of a stage, in the order of their keys."""
        keys = sorted(key for name, key in self._positions if name == stage)
        for key in keys:
            yield self._line_at(self._positions[stage, key])

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        os.close(self._writer)

    def _line_at(self, position: int) -> dict[str, Any]:
        self._reader.seek(position)
        values: dict[str, Any] = json.loads(self._reader.readline())
        return values

    def _load(self) -> None:
        """Find all lines, and cut off an unfinished one at the end."""
        self._end = 0
        for line in self._reader:
            try:
                if not line.endswith(b"\n"):
                    raise ValueError
                values = json.loads(line)
                self._positions[values["stage"], _packed(values["key"])] = self._end
            except (ValueError, KeyError):
                break
            self._end += len(line)
        os.ftruncate(self._writer, self._end)


def _packed(key: str) -> bytes:
    """Return a key in few bytes: most keys are hexadecimal digits."""
    try:
        return bytes.fromhex(key)
    except ValueError:
        return key.encode()
