"""Download files from Hugging Face or a mirror of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from humo.checkpoints.hubs.catalog import RemoteFile
from humo.checkpoints.hubs.connection import hub_errors

TOKEN_VARIABLE = "HF_TOKEN"
"""Environment variable of the access token; `hf auth login` stores one as well."""


class HuggingFace:
    """Hugging Face as a hub.

    Args:
        endpoint: its address; huggingface.co by default.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def files(self, repository: str) -> list[RemoteFile]:
        """Return all files of a repository.

        Raises:
            CheckpointError: the hub cannot be reached, or has no such repository.
        """
        from huggingface_hub import HfApi

        with hub_errors(repository, TOKEN_VARIABLE):
            siblings = HfApi(endpoint=self._endpoint).model_info(repository, files_metadata=True).siblings or []
        return [
            RemoteFile(repository, one.rfilename, one.size or 0, None if one.lfs is None else one.lfs.sha256)
            for one in siblings
        ]

    def download(self, file: RemoteFile, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        """Download one file; an interrupted download is resumed.

        Args:
            file: from `files`.
            folder: local folder of its repository.
            on_bytes: called with the number of bytes downloaded so far.

        Raises:
            CheckpointError: the hub cannot be reached, or the connection was interrupted.
        """
        from huggingface_hub import hf_hub_download

        with hub_errors(f"{file.repository}/{file.name}", TOKEN_VARIABLE):
            return Path(
                hf_hub_download(
                    file.repository,
                    file.name,
                    local_dir=folder,
                    endpoint=self._endpoint,
                    tqdm_class=_progress_bar_class(on_bytes),
                )
            )


def _progress_bar_class(on_bytes: Callable[[int], None]) -> Any:
    """Return a tqdm class that prints nothing and passes the number of downloaded bytes on."""
    from tqdm import tqdm

    class ProgressBar(tqdm):
        """Progress of one file."""

        def __init__(self, *args: Any, **settings: Any) -> None:
            settings.pop("name", None)
            super().__init__(*args, **{**settings, "disable": True})
            self.n = settings.get("initial", 0)

        def update(self, n: float | None = 1) -> bool | None:
            """Count ``n`` more bytes."""
            self.n += n or 0
            on_bytes(int(self.n))
            return None

    return ProgressBar
