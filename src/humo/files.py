"""Check, hash and write files: one-line errors, and outputs that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from humo.errors import MediaError, StorageError

HASH_CHUNK_BYTES = 8 * 2**20
"""Bytes that are read at a time for a checksum."""

SPARE_BYTES = 64 * 2**20
"""Disk space in bytes asked for beyond the weights: configurations, the tokenizer, the file system's own."""


def check_file(path: Path, field: str) -> None:
    """Check that a file exists, is not empty and can be read.

    Args:
        path: the file.
        field: name of the input in error messages.

    Raises:
        MediaError: it cannot be used.
    """
    if path.parts[:1] in (("http:",), ("https:",)):
        problem = "is a web address, and only files of this machine are read"
        raise MediaError(field, problem, "download the file, and give its path")
    try:
        if path.exists() and not path.is_file():
            raise MediaError(field, f"{str(path)!r} is a folder or a device, not a file", "give the path of a file")
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError:
        raise MediaError(field, f"there is no file {str(path)!r}", "check the path") from None
    except (OSError, ValueError) as error:
        remedy = "check the path and its permissions"
        raise MediaError(field, f"{str(path)!r} cannot be opened ({os_error_text(error)})", remedy) from error
    if empty:
        raise MediaError(field, f"{path.name!r} is empty", "give another file; this one may be an unfinished download")


def os_error_text(error: Exception) -> str:
    """Return the text of an error without its number and path."""
    return str(getattr(error, "strerror", None) or error)


DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Error numbers that mean that the disk or a quota is full."""


def storage_error(error: OSError, field: str = "data") -> StorageError:
    """Return the StorageError of a failed write.

    Args:
        error: from the operating system.
        field: name of the output in error messages.
    """
    return StorageError(
        field, f"cannot be written ({os_error_text(error)})", "free disk space, or check the permissions"
    )


def hash_file(path: str | Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: the file.
        on_bytes: is called with the number of bytes of each chunk that was read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


@contextmanager
def create_parents(path: Path) -> Iterator[None]:
    """Create the missing parent folders of a file; those that are empty after the block are removed again.

    Args:
        path: the file.

    Raises:
        OSError, ValueError: a folder cannot be created.
    """
    created = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def atomic_write(path: Path, field: str) -> Iterator[Path]:
    """Write a file atomically: a temporary file replaces ``path`` if the block succeeds, and is removed if it fails.

    Missing folders are created, and removed again if the block fails.

    Args:
        path: the finished file.
        field: name of the output in error messages.

    Yields:
        the path to write to, in the same folder, so that the last step is a rename.

    Raises:
        StorageError: the file cannot be created or renamed.
    """
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    with ExitStack() as stack:
        try:
            stack.enter_context(create_parents(path))
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except (OSError, ValueError) as error:
            raise StorageError(
                field, f"{str(path)!r} cannot be written ({os_error_text(error)})", "choose a folder you may write to"
            ) from error
        try:
            yield part
            try:
                os.replace(part, path)
            except OSError as error:
                problem = f"{str(path)!r} cannot be replaced ({os_error_text(error)})"
                raise StorageError(field, problem, "choose another name") from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


@contextmanager
def new_folder(destination: Path, needed_bytes: int, overwrite: bool, replaceable: frozenset[str]) -> Iterator[Path]:
    """Yield a folder to fill, which takes its final name if the block succeeds and is deleted if it fails.

    Args:
        destination: its final name.
        needed_bytes: what will be written into it.
        overwrite: whether a folder that is there may be replaced.
        replaceable: names that such a folder may hold: one with anything else in it is never replaced.

    Raises:
        StorageError: it is there already, cannot be made, or does not fit on the disk.
    """
    _check_destination(destination, overwrite, replaceable)
    unique = uuid.uuid4().hex[:8]
    partial = destination.parent / f".{destination.name}.partial-{unique}"
    try:
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < needed_bytes + SPARE_BYTES:
            problem = f"needs {needed_bytes / 1e9:.1f} GB, of which {free / 1e9:.1f} GB are free"
            raise StorageError(str(destination), problem, "free some space or choose another disk")
        yield partial
        _replace(partial, destination, unique)
    except OSError as error:
        why = "no space is left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise StorageError(str(destination), f"cannot be written ({why})", "choose another folder or disk") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_destination(destination: Path, overwrite: bool, replaceable: frozenset[str]) -> None:
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise StorageError(str(destination), "exists and is not a folder", "choose another name")
    if not destination.exists():
        return
    names = {path.name for path in destination.iterdir()}
    if names and not overwrite:
        raise StorageError(str(destination), "exists and is not empty", "choose another name, or add --overwrite")
    if strange := sorted(names - replaceable):
        problem = f"contains {strange[0]!r}, which no conversion wrote, so it is not replaced"
        raise StorageError(str(destination), problem, "choose another name or remove the folder")


def _replace(partial: Path, destination: Path, unique: str) -> None:
    """Give the finished folder its name; the one it replaces goes only after that."""
    old = destination.parent / f".{destination.name}.old-{unique}"
    if destination.exists():
        destination.rename(old)
    try:
        partial.rename(destination)
    except OSError:
        if old.exists():
            old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)
