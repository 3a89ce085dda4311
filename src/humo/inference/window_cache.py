"""Caches for the finished windows of a long clip, so that an interrupted run resumes from the last one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from humo.errors import StorageError
from humo.files import atomic_write, os_error_text

KEY, LATENTS = "made from", "latents"  # stored in files: the names stay


class WindowCache(Protocol):
    """Keeps the windows of a clip while it is generated."""

    def get(self, number: int) -> Tensor | None:
        """Return a window's latents (B, C, L, H, W), or None if it was not generated before."""

    def put(self, number: int, latents: Tensor) -> None:
        """Keep a window's latents."""


class NoWindowCache:
    """Keeps nothing."""

    def get(self, number: int) -> Tensor | None:
        """Return None."""
        return None

    def put(self, number: int, latents: Tensor) -> None:
        """Keep nothing."""


NO_WINDOW_CACHE = NoWindowCache()


class DiskWindowCache:
    """A `WindowCache` of one file a window; files of another clip are ignored.

    Args:
        folder: is created when the first window is kept.
        key: identifies the clip: everything that determines its frames.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    @property
    def num_finished(self) -> int:
        """Number of windows of this clip that are kept, from the first one on."""
        number = 0
        while self.get(number) is not None:
            number += 1
        return number

    def get(self, number: int) -> Tensor | None:
        """Return a window's latents (B, C, L, H, W), or None if the file is missing, damaged or of another clip."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), "pt") as file:
                latents: Tensor = file.get_tensor(LATENTS)
                return latents if (file.metadata() or {}).get(KEY) == self._key else None
        except (SafetensorError, OSError):
            return None  # damaged: the window is generated again

    def put(self, number: int, latents: Tensor) -> None:
        """Keep a window's latents.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        try:
            with atomic_write(self._path(number), "output") as part:
                save_file({LATENTS: latents.contiguous().cpu()}, str(part), {KEY: self._key})
        except (SafetensorError, OSError) as error:
            problem = f"finished windows cannot be kept in {str(self._folder)!r} ({os_error_text(error)})"
            raise StorageError("output", problem, "free some space on that disk") from error

    def clear(self) -> None:
        """Delete the folder: the clip is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05}.safetensors"
