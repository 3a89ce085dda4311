"""Download a published model: fetch its files, compare their checksums with the hub's, and make a model folder of them.

Files that are used as they are stay in one folder, in ComfyUI's subfolders, where models share them; the model folder
points to them. Other files are converted. An interrupted download keeps its files, and the next run resumes it. The
model folder is created only after all files were compared.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol

from humo.checkpoints.comfyui import find_file, models_folder_in
from humo.checkpoints.convert import ConversionReport, convert
from humo.checkpoints.hubs.catalog import CatalogEntry, RemoteFile, Repository
from humo.checkpoints.manifest import write_manifest
from humo.errors import CheckpointError, StorageError
from humo.files import SPARE_BYTES, hash_file
from humo.progress import Progress

DOWNLOADS = ".downloads"
"""Folder beside the models for downloads in progress."""

STORE = ".files"
"""Folder beside the models for downloaded files that are used as they are."""

STAGING = ".download"
"""Folder beside such a file while it is downloaded."""


class Hub(Protocol):
    """A hub of published files: `huggingface.HuggingFace` or `modelscope.ModelScope`."""

    def files(self, repository: str) -> list[RemoteFile]:
        """Return all files of a repository."""

    def download(self, file: RemoteFile, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        """Download one file and return its path."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a model, and where it belongs on this machine.

    Args:
        remote: the file on the hub.
        path: where it is, or is to be.
        staging: folder to download it into, if it is moved from there to ``path``; None if it is downloaded in place.
        folder: local folder of its repository.
    """

    remote: RemoteFile
    path: Path
    staging: Path | None
    folder: Path

    @property
    def exists(self) -> bool:
        """True if a file of that name and size exists."""
        return self.path.is_file() and self.path.stat().st_size == self.remote.bytes


@dataclass(frozen=True, slots=True)
class Download:
    """Files of a model, those that exist and those to download.

    Args:
        name: of the model.
        entry: of the catalog.
        models: the folder of all models.
        keep: the folder of the files that the user named, or None.
        files: all files of the model.
    """

    name: str
    entry: CatalogEntry
    models: Path
    keep: Path | None
    files: tuple[LocalFile, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.remote.bytes for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes of the files that do not exist."""
        return sum(file.remote.bytes for file in self.files if not file.exists)


def list_files(entry: CatalogEntry, hub: Hub) -> list[tuple[Repository, RemoteFile]]:
    """Return the files that a model needs, as the hub lists them, with their entries in the catalog.

    Raises:
        CheckpointError: the hub cannot be reached, has no such files, or has others than the catalog.
    """
    listed: dict[str, list[RemoteFile]] = {}
    matching = []
    for repository in entry.repositories:
        name = repository.repository
        if name not in listed:
            listed[name] = hub.files(name)
        matching += [(repository, file) for file in _matching_files(repository, listed[name])]
    return matching


def _matching_files(repository: Repository, existing: list[RemoteFile]) -> list[RemoteFile]:
    """Return the files of a repository that the model needs."""
    name = repository.repository
    for pattern in repository.files:
        if not any(fnmatchcase(one.name, pattern) for one in existing):
            remedy = "use another --endpoint, or report it if this is the published repository"
            raise CheckpointError(name, f"has no file {pattern}", remedy)
    matching = [one for one in existing if any(fnmatchcase(one.name, pattern) for pattern in repository.files)]
    for one in matching:
        if PurePosixPath(one.name).is_absolute() or ".." in PurePosixPath(one.name).parts or "\\" in one.name:
            problem = f"lists the file {one.name!r}, which lies outside the repository"
            raise CheckpointError(name, problem, "use another --endpoint")
        known = repository.known.get(PurePosixPath(one.name).name)
        if known is not None and (one.bytes, one.sha256 or known.sha256) != (known.bytes, known.sha256):
            problem = f"is another file than the published one: {one.bytes} bytes with the checksum {one.sha256}"
            raise CheckpointError(f"{name}/{one.name}", problem, "use another --endpoint or --source")
    return matching


def plan_download(name: str, entry: CatalogEntry, models: Path, *, hub: Hub, keep: Path | None = None) -> Download:
    """Ask the hub for a model's files, look for those that exist, and check the free disk space.

    Args:
        name: name of the folder to create in ``models``.
        entry: the model's repositories.
        models: the folder of all models.
        hub: where the files come from.
        keep: folder for the downloaded files, such as ComfyUI's; files that it has are used. Default: a folder beside
            the models, which is removed after a conversion.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such files.
        StorageError: the model exists already, or the disk is too small.
    """
    target = models / name
    if target.exists():
        raise StorageError(name, f"exists already, in {str(target)!r}", f"run `humo models remove {name}` first")
    store = models / STORE if keep is None else models_folder_in(keep)
    converted = keep or models / DOWNLOADS / name
    files = []
    for repository, remote in list_files(entry, hub):
        if repository.folder is None:
            folder = converted / remote.repository
            files.append(LocalFile(remote, folder / remote.name, None, folder))
        else:
            file_name = PurePosixPath(remote.name).name
            path = find_file(keep or store, repository.folder, file_name, remote.bytes)
            path = path or store / repository.folder / file_name
            files.append(LocalFile(remote, path, path.parent / STAGING, store))
    download = Download(name, entry, models, keep, tuple(files))
    for file in files:
        if file.staging is not None and file.path.exists() and not file.exists:
            problem = f"exists, but has {file.path.stat().st_size} bytes, and the hub's file {file.remote.bytes}"
            raise StorageError(str(file.path), problem, "move it away, or choose another --keep")
    _check_space(
        Counter({keep or models: download.missing_bytes})
        + Counter({models: 0 if entry.is_linked else download.total_bytes})
    )
    return download


def download_model(
    download: Download, *, hub: Hub, progress: Progress = lambda phase, done, total: None
) -> ConversionReport:
    """Download a model's missing files, compare all checksums, and create its folder and manifest.

    Args:
        download: from `plan_download`.
        hub: where the files come from.
        progress: called with the phase (``download``, ``compare``, a component's name, or ``checksums``), bytes done,
            bytes in total.

    Raises:
        CheckpointError: the hub cannot be reached, or a checksum differs.
        StorageError: a file cannot be written.
    """
    done, total = download.total_bytes - download.missing_bytes, download.total_bytes
    checksums: dict[Path, str] = {}
    for file in download.files:
        if file.exists:
            continue

        def on_bytes(count: int, before: int = done) -> None:
            progress("download", before + count, total)

        _fetch(file, hub, on_bytes, checksums)
        done += file.remote.bytes
        progress("download", done, total)
    _compare(download, checksums, progress)
    target = download.models / download.name
    linked = [file.path for file in download.files if file.staging is not None]
    sources = linked if download.entry.is_linked else sorted({file.folder for file in download.files})
    report = convert(
        sources,
        target,
        family=download.entry.family,
        head_dim=download.entry.head_dim,
        link=download.entry.is_linked,
        progress=progress,
    )
    write_manifest(target, progress, checksums)
    if download.keep is None and not download.entry.is_linked:
        shutil.rmtree(download.models / DOWNLOADS / download.name)
    return report


def _fetch(file: LocalFile, hub: Hub, on_bytes: Callable[[int], None], checksums: dict[Path, str]) -> None:
    """Download a file to its place; a file that is used as it is arrives there only if its checksum is right."""
    path = hub.download(file.remote, file.staging or file.folder, on_bytes)
    name, size = f"{file.remote.repository}/{file.remote.name}", path.stat().st_size
    if size != file.remote.bytes:
        path.unlink()
        raise CheckpointError(name, f"has {size} bytes, not {file.remote.bytes} as listed", "run the command again")
    if file.staging is not None:
        checksum = _check_sum(file, path)
        os.replace(path, file.path)
        shutil.rmtree(file.staging, ignore_errors=True)
        checksums[file.path.resolve()] = checksum


def download_file(file: RemoteFile, folder: Path, hub: Hub, on_bytes: Callable[[int], None]) -> Path:
    """Download one file, compare its checksum, and return its path; a file that exists already is compared as well.

    Raises:
        CheckpointError: the hub cannot be reached, or the checksum differs.
    """
    path = hub.download(file, folder, on_bytes)
    _check_sum(LocalFile(file, path, None, folder), path)
    return path


def _compare(download: Download, checksums: dict[Path, str], progress: Progress) -> None:
    """Compare the checksums that are not known yet with the hub's, and add those of files that are used as they are."""
    unknown = [file for file in download.files if file.path.resolve() not in checksums]
    done, total = 0, sum(file.remote.bytes for file in unknown)

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress("compare", done, total)

    for file in unknown:
        checksum = _check_sum(file, file.path, on_bytes)
        if file.staging is not None:
            checksums[file.path.resolve()] = checksum


def _check_sum(file: LocalFile, path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Return a file's checksum. A download that differs from the hub's is removed; a file of the user never is."""
    checksum = hash_file(path, on_bytes)
    if file.remote.sha256 in (None, checksum):
        return checksum
    if path == file.path and file.staging is not None:
        problem = "has another checksum than the hub lists"
        raise StorageError(str(path), problem, "move it away, or choose another --keep")
    path.unlink()
    problem = "has another checksum than the hub lists, and was removed"
    name = f"{file.remote.repository}/{file.remote.name}"
    raise CheckpointError(name, problem, "run the command again, or use another --endpoint")


def _check_space(needed: Mapping[Path, int]) -> None:
    """Raise StorageError unless the disks of these folders have enough free space; create the folders."""
    by_disk: Counter[int] = Counter()
    for folder, size in needed.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            disk, free = folder.stat().st_dev, shutil.disk_usage(folder).free
        except OSError as error:
            remedy = "set HUMO_MODELS to another folder, or choose another --keep"
            raise StorageError(str(folder), f"cannot be created ({error.strerror})", remedy) from error
        by_disk[disk] += size
        if free < by_disk[disk] + SPARE_BYTES:
            problem = f"has {free / 1e9:.1f} GB free, but the model needs {by_disk[disk] / 1e9:.1f} GB"
            raise StorageError(str(folder), problem, "free some space, or set HUMO_MODELS to another folder")


def remove_unused_files(models: Path, used: set[Path]) -> int:
    """Remove downloaded files that no model uses any more, and return their bytes.

    Args:
        models: the folder of all models.
        used: the files that the remaining models read.
    """
    unused = [path for path in (models / STORE).rglob("*") if path.is_file() and path.resolve() not in used]
    size = sum(path.stat().st_size for path in unused)
    for path in unused:
        path.unlink()
    return size
