"""Brings a published model here: its files from their repositories, compared with the hub's sums, made a model folder.

What has arrived stays when a run is cut off, and the next one goes on from it; nothing counts as a model before the
last file has been compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol

from humo.checkpoints.convert import ConversionReport, convert
from humo.checkpoints.hubs.catalog import CatalogEntry, RemoteFile, Repository
from humo.checkpoints.manifest import write_manifest
from humo.errors import CheckpointError, StorageError
from humo.files import hash_file
from humo.progress import Progress

DOWNLOADS = ".downloads"
"""Beside the models, for what is on its way."""

"""Called with what is done, bytes done, bytes in total."""


class Hub(Protocol):
    """Where published files are: `huggingface.HuggingFace`, `modelscope.ModelScope`."""

    def files(self, repository: str) -> list[RemoteFile]:
        """All files of a repository."""

    def download(self, file: RemoteFile, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        """One file, whole."""


def list_files(entry: CatalogEntry, hub: Hub) -> list[RemoteFile]:
    """The files that a model needs, as the hub lists them.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such files.
    """
    return [file for repository_files in entry.repositories for file in _of_origin(repository_files, hub)]


def _of_origin(repository_files: Repository, hub: Hub) -> list[RemoteFile]:
    there = hub.files(repository_files.repository)
    for pattern in repository_files.files:
        if not any(fnmatchcase(one.name, pattern) for one in there):
            remedy = "it is not this model's, or it has changed; report this if it is the published one"
            raise CheckpointError(repository_files.repository, f"holds no {pattern}", remedy)
    found = [one for one in there if any(fnmatchcase(one.name, pattern) for pattern in repository_files.files)]
    for one in found:
        if PurePosixPath(one.name).is_absolute() or ".." in PurePosixPath(one.name).parts or "\\" in one.name:
            raise CheckpointError(
                repository_files.repository, f"names a file outside of itself: {one.name!r}", "do not trust it"
            )
    return found


def download_model(
    name: str,
    entry: CatalogEntry,
    models: Path,
    *,
    hub: Hub,
    keep: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> ConversionReport:
    """Download a model, compare it, make a model folder of it, write its manifest.

    Args:
        name: of the folder to make in ``models``.
        entry: what is needed.
        models: the folder of all models.
        hub: where they come from.
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
    files = list_files(entry, hub)
    total = sum(file.bytes for file in files)
    there = sum(file.bytes for file in files if (folder / file.repository / file.name).exists())
    _check_space(models, 2 * total - there)
    done = 0
    for file in files:

        def on_bytes(count: int, before: int = done) -> None:
            progress("get", before + count, total)

        _download(file, folder / file.repository, hub, on_bytes)
        done += file.bytes
        progress("get", done, total)
    report = convert(
        sorted(folder / repository_files.repository for repository_files in entry.repositories),
        target,
        family=name,
        head_dim=entry.head_dim,
        progress=progress,
    )
    write_manifest(target, progress)
    if not keep:
        shutil.rmtree(folder)
    return report


def _download(file: RemoteFile, folder: Path, hub: Hub, on_bytes: Callable[[int], None]) -> None:
    """One file, whole and as the hub says; one that is there already is compared all the same."""
    path = hub.download(file, folder, on_bytes)
    if file.sha256 is not None and hash_file(path) != file.sha256:
        path.unlink()
        remedy = "it was removed; run the same again, or try another --endpoint"
        raise CheckpointError(f"{file.repository}/{file.name}", "is not the file that the hub describes", remedy)


def _check_space(models: Path, needed: int) -> None:
    try:
        models.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models).free
    except OSError as error:
        raise StorageError(str(models), f"cannot be made: {error.strerror}", "set HUMO_MODELS") from error
    if free < needed:
        problem = f"has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed to download and to convert"
        raise StorageError(str(models), problem, "free some space, or name another folder in HUMO_MODELS")
