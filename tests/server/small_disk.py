"""A disk on which room is taken away page by page; where none can be made, a limit on how long files may get."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 4096


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, in memory.

    Args:
        folder: where it is.
    """

    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def leave(self, pages: int) -> None:
        """Fill it up until so many pages are free."""
        with self._filler.open("wb") as file:
            taken = shutil.disk_usage(self.folder).free - pages * PAGE_BYTES
            os.posix_fallocate(file.fileno(), 0, taken)

    def empty(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk | None]:
    """One, while it is needed; None where none can be made."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """Within, a write that makes a file longer than so many bytes fails, whoever in this process does it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
