"""Tensor files that are written atomically, and digests of files."""

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

_CHUNK_BYTES = 1 << 20
"""Number of bytes that are hashed at a time."""
_META = "humo"
"""Entry of a file's header that holds JSON values."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file.

    Args:
        path: the file.
        tensors: name -> tensor.
        values: JSON values for the file's header.

    Raises:
        StorageError: the file cannot be written; an earlier file at the path stays as it was.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, str(path)) as partial:
        try:
            save_file(on_cpu, partial, metadata={_META: json.dumps(values or {})})
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        except (OSError, SafetensorError) as error:
            problem = f"cannot be written ({os_error_text(error)})"
            raise StorageError(str(path), problem, "free some space or choose another disk") from error


def read_values(path: Path) -> dict[str, Any]:
    """Return the JSON values of a file's header.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            values: dict[str, Any] = json.loads((file.metadata() or {}).get(_META, "{}"))
            return values
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(str(path), f"cannot be read ({os_error_text(error)})", f"delete {path}") from error


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read tensors of a file: all, or those of the names that the file has.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            stored = list(file.keys())
            return {name: file.get_tensor(name) for name in (stored if names is None else names) if name in stored}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(path), f"cannot be read ({os_error_text(error)})", f"delete {path}") from error


class FileDigests:
    """SHA-256 of files, remembered by size and modification time, so that an unchanged file is read once.

    Args:
        path: JSON file that the digests are stored in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        if path.is_file():
            try:
                self._known = dict(json.loads(path.read_bytes()))
            except (OSError, ValueError):
                self._known = {}  # the digests are computed again

    def of(self, path: Path) -> str:
        """Return the digest of a file, or of all files of a folder."""
        if path.is_dir():
            return digest(*(f"{file.name}={self.of(file)}" for file in sorted(path.iterdir()) if file.is_file()))
        state = path.stat()
        known = self._known.get(str(path.resolve()))
        if known is not None and known[:2] == [state.st_size, state.st_mtime_ns]:
            return str(known[2])
        sha256 = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_CHUNK_BYTES):
                sha256.update(block)
        self._known[str(path.resolve())] = [state.st_size, state.st_mtime_ns, sha256.hexdigest()]
        return sha256.hexdigest()

    def save(self) -> None:
        """Write the digests for the next run.

        Raises:
            StorageError: the file cannot be written.
        """
        with atomic_write(self._path, "cache") as partial:
            try:
                partial.write_text(json.dumps(self._known), encoding="utf-8")
            except OSError as error:
                raise StorageError("cache", f"cannot be written ({os_error_text(error)})", "free some space") from error


def digest(*values: object) -> str:
    """Return the SHA-256 of several values, each as text."""
    return hashlib.sha256("\0".join(map(str, values)).encode()).hexdigest()
