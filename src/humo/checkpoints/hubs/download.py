"""Download a published model: fetch its files, compare their checksums with the hub's, and convert them.

An interrupted download keeps its files, and the next run resumes it. The model folder is created only after all files
were compared.
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
"""Folder beside the models for downloads in progress."""


class Hub(Protocol):
    """A hub of published files: `huggingface.HuggingFace` or `modelscope.ModelScope`."""

    def files(self, repository: str) -> list[RemoteFile]:
        """Return all files of a repository."""

    def download(self, file: RemoteFile, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        """Download one file and return its path."""


def list_files(entry: CatalogEntry, hub: Hub) -> list[RemoteFile]:
    """Return the files that a model needs, as the hub lists them.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such files.
    """
    return [file for repository_files in entry.repositories for file in _matching_files(repository_files, hub)]


def _matching_files(repository_files: Repository, hub: Hub) -> list[RemoteFile]:
    """Return the files of a repository that the model needs."""
    existing = hub.files(repository_files.repository)
    for pattern in repository_files.files:
        if not any(fnmatchcase(one.name, pattern) for one in existing):
            remedy = "use another --endpoint, or report it if this is the published repository"
            raise CheckpointError(repository_files.repository, f"has no file {pattern}", remedy)
    matching = [one for one in existing if any(fnmatchcase(one.name, pattern) for pattern in repository_files.files)]
    for one in matching:
        if PurePosixPath(one.name).is_absolute() or ".." in PurePosixPath(one.name).parts or "\\" in one.name:
            problem = f"lists the file {one.name!r}, which lies outside the repository"
            raise CheckpointError(repository_files.repository, problem, "use another --endpoint")
    return matching


def download_model(
    name: str,
    entry: CatalogEntry,
    models: Path,
    *,
    hub: Hub,
    keep: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> ConversionReport:
    """Download a model, compare checksums, convert it to a model folder, and write its manifest.

    Args:
        name: name of the folder to create in ``models``.
        entry: the model's repositories.
        models: the folder of all models.
        hub: where the files come from.
        keep: keep the downloaded files.
        progress: called with the phase (``download``, a component's name, or ``checksums``), bytes done, bytes in
            total.

    Raises:
        CheckpointError: the hub cannot be reached, or a checksum differs.
        StorageError: the model exists already, or the disk is too small.
    """
    target = models / name
    if target.exists():
        raise StorageError(name, f"exists already, in {str(target)!r}", f"run `humo models remove {name}` first")
    folder = models / DOWNLOADS / name
    files = list_files(entry, hub)
    total = sum(file.bytes for file in files)
    existing = sum(file.bytes for file in files if (folder / file.repository / file.name).exists())
    _check_space(models, 2 * total - existing)
    done = 0
    for file in files:

        def on_bytes(count: int, before: int = done) -> None:
            progress("download", before + count, total)

        download_file(file, folder / file.repository, hub, on_bytes)
        done += file.bytes
        progress("download", done, total)
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


def download_file(file: RemoteFile, folder: Path, hub: Hub, on_bytes: Callable[[int], None]) -> Path:
    """Download one file, compare its checksum, and return its path; a file that exists already is compared as well.

    Raises:
        CheckpointError: the hub cannot be reached, or the checksum differs.
    """
    path = hub.download(file, folder, on_bytes)
    if file.sha256 is not None and hash_file(path) != file.sha256:
        path.unlink()
        remedy = "run the command again, or use another --endpoint"
        problem = "has another checksum than the hub lists, and was removed"
        raise CheckpointError(f"{file.repository}/{file.name}", problem, remedy)
    return path


def _check_space(models: Path, needed: int) -> None:
    try:
        models.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(models).free
    except OSError as error:
        remedy = "set HUMO_MODELS to another folder"
        raise StorageError(str(models), f"cannot be created ({error.strerror})", remedy) from error
    if free < needed:
        problem = f"has {free / 1e9:.1f} GB free, but download and conversion need {needed / 1e9:.1f} GB"
        raise StorageError(str(models), problem, "free some space, or set HUMO_MODELS to another folder")
