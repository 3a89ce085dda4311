"""Windows of a long clip on disk, so that a run that was stopped goes on from the last one that is finished."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from humo.errors import StorageError
from humo.files import atomic_write, os_error_text

KEY, LATENTS = "made from", "latents"


class DiskWindowCache:
    """A `WindowCache` of one file a window; files of another clip are ignored.

    Args:
        folder: made when it is needed.
        key: of the clip: whatever its frames follow from.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def get(self, number: int) -> Tensor | None:
        """A window's latents (B, C, L, H, W), if it was made before, of the same clip."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), "pt") as file:
                found: Tensor = file.get_tensor(LATENTS)
                return found if (file.metadata() or {}).get(KEY) == self._key else None
        except (SafetensorError, OSError):
            return None  # damaged: it is made again

    def put(self, number: int, latents: Tensor) -> None:
        """Keep a window's latents.

        Raises:
            StorageError: there is no room.
        """
        try:
            with atomic_write(self._path(number), "output") as part:
                save_file({LATENTS: latents.contiguous().cpu()}, str(part), {KEY: self._key})
        except (SafetensorError, OSError) as error:
            problem = f"finished windows cannot be kept in {str(self._folder)!r} ({os_error_text(error)})"
            raise StorageError("output", problem, "make room on that disk") from error

    def clear(self) -> None:
        """The clip is finished, and its windows are no longer wanted."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05}.safetensors"
