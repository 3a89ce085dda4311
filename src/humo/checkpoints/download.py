"""Brings a published model here: its files from their repositories, compared with the hub's sums, made a model folder.

What has arrived stays when a run is cut off, and the next one goes on from it; nothing counts as a model before the
last file has been compared. The hub is whatever ``endpoint`` names: Hugging Face, or a mirror of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from humo.checkpoints.catalogue import Entry, Origin
from humo.checkpoints.convert import ConversionReport, convert
from humo.checkpoints.manifest import write_manifest
from humo.errors import CheckpointError, StorageError
from humo.media.files import hash_file

DOWNLOADS = ".downloads"
"""Beside the models, for what is on its way."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, bytes done, bytes in total."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Args:
        repository, name: where it is.
        bytes: its size.
        sha256: its sum, as the hub has it; None for a small text file, which has none.
    """

    repository: str
    name: str
    bytes: int
    sha256: str | None


def list_files(entry: Entry, endpoint: str | None) -> list[RemoteFile]:
    """The files that a model needs, as the hub lists them.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such files.
    """
    return [file for origin in entry.origins for file in _of_origin(origin, endpoint)]


def _of_origin(origin: Origin, endpoint: str | None) -> Iterator[RemoteFile]:
    from huggingface_hub import HfApi

    with _reached(origin.repository):
        siblings = HfApi(endpoint=endpoint).model_info(origin.repository, files_metadata=True).siblings or []
    wanted = [one for one in siblings if any(fnmatchcase(one.rfilename, pattern) for pattern in origin.files)]
    for pattern in origin.files:
        if not any(fnmatchcase(one.rfilename, pattern) for one in wanted):
            raise CheckpointError(origin.repository, f"holds no {pattern}", "it has changed; report this")
    for one in wanted:
        yield RemoteFile(origin.repository, one.rfilename, one.size or 0, None if one.lfs is None else one.lfs.sha256)


def fetch(
    name: str,
    entry: Entry,
    models: Path,
    *,
    endpoint: str | None = None,
    keep: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> ConversionReport:
    """Download a model, compare it, make a model folder of it, write its manifest.

    Args:
        name: of the folder to make in ``models``.
        entry: what is needed.
        models: the folder of all models.
        endpoint: address of the hub; the usual one by default.
        keep: the downloaded files stay.
        progress: called with what is done, bytes done, bytes in total.

    Raises:
        CheckpointError: the hub cannot be reached, or a file is not what the hub says.
        StorageError: it is there already, or the disk is too small.
    """
    target = models / name
    if target.exists():
        raise StorageError(name, f"is there already, in {str(target)!r}", f"`humo models remove {name}` first")
    folder = models / DOWNLOADS / name
    files = list_files(entry, endpoint)
    total = sum(file.bytes for file in files)
    there = sum(file.bytes for file in files if (folder / file.repository / file.name).exists())
    _check_space(models, 2 * total - there)
    done = 0
    for file in files:

        def counted(count: int, before: int = done) -> None:
            progress("get", before + count, total)

        _download(file, folder / file.repository, endpoint, counted)
        done += file.bytes
        progress("get", done, total)
    report = convert(
        sorted(folder / origin.repository for origin in entry.origins),
        target,
        family=name,
        head_width=entry.head_width,
        progress=progress,
    )
    write_manifest(target, progress)
    if not keep:
        shutil.rmtree(folder)
    return report


def _download(file: RemoteFile, folder: Path, endpoint: str | None, counted: Callable[[int], None]) -> None:
    """One file, whole and as the hub says; one that is there already is compared all the same."""
    from huggingface_hub import hf_hub_download

    with _reached(file.repository):
        path = Path(
            hf_hub_download(
                file.repository, file.name, local_dir=folder, endpoint=endpoint, tqdm_class=_listening(counted)
            )
        )
    if file.sha256 is not None and hash_file(path) != file.sha256:
        path.unlink()
        remedy = "it was removed; run the same again, or try another --endpoint"
        raise CheckpointError(f"{file.repository}/{file.name}", "is not the file that the hub describes", remedy)


def _listening(counted: Callable[[int], None]) -> Any:
    """A tqdm that shows nothing and tells how many bytes are there."""
    from tqdm import tqdm

    class Listener(tqdm):
        """Bytes of one file."""

        def __init__(self, *args: Any, **settings: Any) -> None:
            settings.pop("name", None)
            super().__init__(*args, **{**settings, "disable": True})
            self.n = settings.get("initial", 0)

        def update(self, n: float | None = 1) -> bool | None:
            """Some bytes more."""
            self.n += n or 0
            counted(int(self.n))
            return None

    return Listener


@contextmanager
def _reached(repository: str) -> Iterator[None]:
    """Whatever keeps a hub from answering is one line that says what to do."""
    from huggingface_hub import errors

    unreachable: Any = getattr(errors, "HTTPError", errors.HfHubHTTPError)  # of whichever HTTP library it stands on
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        problem = "is not here, and HF_HUB_OFFLINE forbids to look"
        raise CheckpointError(repository, problem, "unset it, or `humo models import` what you have") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, unreachable) as error:
        remedy = "what has arrived is kept: run the same again, or name a mirror with --endpoint"
        raise CheckpointError(repository, f"cannot be downloaded: {_first_line(error)}", remedy) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_space(models: Path, needed: int) -> None:
    try:
        models.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models).free
    except OSError as error:
        raise StorageError(str(models), f"cannot be made: {error.strerror}", "set HUMO_MODELS") from error
    if free < needed:
        problem = f"has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed to download and to convert"
        raise StorageError(str(models), problem, "free some space, or name another folder in HUMO_MODELS")
