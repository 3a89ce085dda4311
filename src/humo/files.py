"""Files in and out: what is wrong with one in one line, and outputs that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from humo.errors import MediaError, StorageError

HASH_CHUNK_BYTES = 8 * 2**20
"""Read at a time for a sum."""


def check_file(path: Path, field: str) -> None:
    """Raise MediaError unless ``path`` is a file that is not empty and may be read.

    Args:
        path: the file.
        field: the user's word for it, for the message.
    """
    try:
        if path.exists() and not path.is_file():
            raise MediaError(field, f"{str(path)!r} is a folder or a device, not a file", "give a file")
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
    """The words of an error without its number and path."""
    return str(getattr(error, "strerror", None) or error)


DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Numbers of errors that mean that no more may be written."""


def storage_error(error: OSError, field: str = "data") -> StorageError:
    """What to tell of a write that failed.

    Args:
        error: of the system.
        field: the user's word for what was written.
    """
    return StorageError(
        field, f"cannot be written ({os_error_text(error)})", "make room on the disk, or see to its rights"
    )


def hash_file(path: str | Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Args:
        path: the file.
        counted: called with the bytes of each piece that was read.
    """
    found = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while piece := stream.read(HASH_CHUNK_BYTES):
            found.update(piece)
            on_bytes(len(piece))
    return found.hexdigest()


@contextmanager
def create_parents(path: Path) -> Iterator[None]:
    """The folder of a file is there within the block; whatever was made of it goes again unless something is in it.

    Args:
        path: the file.

    Raises:
        OSError, ValueError: the folder cannot be made.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def atomic_write(path: Path, field: str) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place if the block ends well, and is removed if it does not.

    Missing folders are made, and go the same way.

    Args:
        path: where the finished file shall be.
        field: the user's word for it, for the message.

    Yields:
        the path to write to: in the same folder, so that the last step is one rename.

    Raises:
        StorageError: the file cannot be made, or not be put in its place.
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
