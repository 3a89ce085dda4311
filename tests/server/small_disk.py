"""A small file system that is filled page by page; without the rights to mount one, a limit on file sizes."""

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
    """A file system in memory.

    Args:
        folder: where it is mounted.
    """

    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def leave(self, pages: int) -> None:
        """Fill it until a number of pages is free."""
        with self._filler.open("wb") as file:
            filled = shutil.disk_usage(self.folder).free - pages * PAGE_BYTES
            os.posix_fallocate(file.fileno(), 0, filled)

    def empty(self) -> None:
        """Free the filled space."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk | None]:
    """Mount a file system; yield None without the rights to do so."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def file_size_limit(count: int) -> Iterator[None]:
    """Make writes of this process fail that extend a file beyond ``count`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
