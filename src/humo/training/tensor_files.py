"""Tensors on the disk, whole or not there at all; digests of files; generators from words."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from humo.errors import CheckpointError, StorageError
from humo.files import atomic_write, os_error_text

_CHUNK = 1 << 20  # bytes read at a time
_META = "humo"  # the entry of a file's header that holds our values


def write_tensors(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
    """Write tensors, and JSON values beside them in the header.

    Raises:
        StorageError: the disk is full or cannot be written; the file is then as it was.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, str(path)) as part:
        try:
            save_file(whole, part, metadata={_META: json.dumps(values or {})})
            with part.open("rb") as file:
                os.fsync(file.fileno())
        except (OSError, SafetensorError) as error:
            problem = f"cannot be written ({os_error_text(error)})"
            raise StorageError(str(path), problem, "free some space or choose another disk") from error


def read_values(path: Path) -> dict[str, Any]:
    """The values in a file's header.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            values: dict[str, Any] = json.loads((file.metadata() or {}).get(_META, "{}"))
            return values
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(str(path), f"cannot be read ({os_error_text(error)})", "remove it") from error


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a file, all or those named (names that are not there are left out).

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            there = list(file.keys())
            return {name: file.get_tensor(name) for name in (there if names is None else names) if name in there}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(path), f"cannot be read ({os_error_text(error)})", "remove it") from error


class Digests:
    """SHA-256 of files, remembered by size and time of change, so that a large folder is read once.

    Args:
        path: the file that they are kept in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        if path.is_file():
            try:
                self._known = dict(json.loads(path.read_bytes()))
            except (OSError, ValueError):
                self._known = {}  # it only saves time

    def of(self, path: Path) -> str:
        """The digest of a file, or of all files of a folder."""
        if path.is_dir():
            return digest(*(f"{one.name}={self.of(one)}" for one in sorted(path.iterdir()) if one.is_file()))
        state = path.stat()
        known = self._known.get(str(path.resolve()))
        if known is not None and known[:2] == [state.st_size, state.st_mtime_ns]:
            return str(known[2])
        hashed = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                hashed.update(block)
        self._known[str(path.resolve())] = [state.st_size, state.st_mtime_ns, hashed.hexdigest()]
        return hashed.hexdigest()

    def save(self) -> None:
        """Keep them for the next run."""
        with atomic_write(self._path, "cache") as part:
            try:
                part.write_text(json.dumps(self._known), encoding="utf-8")
            except OSError as error:
                raise StorageError("cache", f"cannot be written ({os_error_text(error)})", "free some space") from error


def digest(*words: object) -> str:
    """SHA-256 of several words."""
    return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()
