"""Sources by path or by address: ``s3://``, ``hf://`` and whatever else fsspec has a package for.

A remote source is copied to this machine while it is worked on. Sources are opened for reading only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from humo.errors import DependencyError, HuMoError, MediaError

CACHE = Path(tempfile.gettempdir()) / "humo-data-cache"
"""Folder of copies on this machine."""

CACHE_BYTES = 20 * 2**30
"""Bytes of copies that are kept; the oldest ones are removed first."""


def is_remote(path: str) -> bool:
    """Return whether a path is an address."""
    return "://" in path


def file_system(path: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        DependencyError: the package for this kind of address is missing.
        MediaError: there is no such kind of address.
    """
    try:
        import fsspec
    except ImportError as error:
        raise DependencyError(path, "fsspec is not installed", "pip install 'humo-video[data]'") from error
    try:
        system, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise DependencyError(path, f"needs a package ({error})", "install it, for example pip install s3fs") from error
    except ValueError as error:
        raise MediaError("INPUT", f"{path!r} is no address that can be read ({error})", "give a path") from error
    return system, inner


def remote_info(path: str) -> tuple[int, str]:
    """Return the size of a remote file, and what changes with its contents: a tag, a checksum or a time.

    Raises:
        MediaError: there is no such file, or its store cannot be reached.
    """
    with _one_error(path):
        system, inner = file_system(path)
        info = system.info(inner)
    names = ("ETag", "etag", "sha256", "mtime", "LastModified")
    return int(info.get("size") or 0), next((str(info[name]) for name in names if name in info), "")


def list_files(address: str) -> list[str]:
    """Return the addresses of all files below a folder, or of those that a pattern with ``*`` fits.

    Raises:
        MediaError: it cannot be listed.
    """
    with _one_error(address):
        system, inner = file_system(address)
        names = system.glob(inner) if "*" in inner else system.find(inner)
    return [system.unstrip_protocol(name) for name in sorted(names)]


@contextmanager
def _one_error(address: str) -> Iterator[None]:
    """Turn whatever the package of a store raises into one kind of error."""
    try:
        yield
    except HuMoError:
        raise
    except FileNotFoundError as error:
        raise MediaError("source", f"there is no file {address!r}", "check the address") from error
    except Exception as error:  # each package of a store has errors of its own
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise MediaError("source", f"{address!r} cannot be read ({text})", "check address, network and key") from error


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Yield a path on this machine with the contents of a source.

    Raises:
        MediaError: the source cannot be read.
    """
    if not is_remote(path):
        yield Path(path)
        return
    identity = repr((path, remote_info(path)))  # a file that changed is copied again
    copy = CACHE / (hashlib.sha256(identity.encode()).hexdigest()[:32] + Path(path).suffix)
    if not copy.is_file():
        _download(path, copy)
    os.utime(copy)
    yield copy


def _download(path: str, copy: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(f".{secrets.token_hex(8)}.part")
    try:
        system, inner = file_system(path)
        with part.open("wb") as local, _one_error(path), system.open(inner, "rb") as remote:
            shutil.copyfileobj(remote, local, 1 << 20)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)
    copies = sorted((each for each in CACHE.iterdir() if each != copy), key=lambda each: each.stat().st_mtime)
    excess = sum(each.stat().st_size for each in copies) + copy.stat().st_size - CACHE_BYTES
    for old in copies:
        if excess <= 0:
            break
        excess -= old.stat().st_size
        with suppress(OSError):
            old.unlink()
