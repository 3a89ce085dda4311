"""Writes safetensors files as a stream of pieces, and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.formats.open import DTYPE_BYTES, QUANT_TYPES_KEY, StoredTensor
from humo.errors import StorageError
from humo.quantization.formats import GGML_TYPES

SHARD_BYTES = 5 * 10**9
"""Largest file in bytes before weights are split: the habit of diffusers and transformers."""

SPARE_BYTES = 64 * 2**20
"""Disk space in bytes asked for beyond the weights: configurations, the tokenizer, the file system's own."""


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """One tensor to write.

    Args:
        name: its name.
        tensor: its element type and shape.
        chunks: gives its bytes, in order, when called.
    """

    name: str
    tensor: StoredTensor
    chunks: Callable[[], Iterator[memoryview]]


def write_json(path: Path, value: Any) -> None:
    """Write a configuration.

    Args:
        path: the file.
        value: what it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(
    folder: Path,
    stem: str,
    outputs: Sequence[TensorToWrite],
    shard_bytes: int | None = SHARD_BYTES,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> tuple[Path, ...]:
    """Write tensors into ``stem.safetensors``, or into numbered shards and an index.

    Args:
        folder: made if need be.
        stem: the files' name without suffix.
        outputs: the tensors.
        shard_bytes: largest file in bytes; a single larger tensor has a file of its own. None: one file.
        written: called with the number of bytes after each piece.

    Returns:
        the files, without the index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_split(outputs, shard_bytes))
    if len(shards) == 1:
        path = folder / f"{stem}.safetensors"
        _write_file(path, shards[0], on_bytes)
        return (path,)
    paths = [folder / f"{stem}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for path, shard in zip(paths, shards, strict=True):
        _write_file(path, shard, on_bytes)
    index = {
        "metadata": {"total_size": sum(output.tensor.bytes for output in outputs)},
        "weight_map": {output.name: path.name for path, shard in zip(paths, shards, strict=True) for output in shard},
    }
    write_json(folder / f"{stem}.safetensors.index.json", index)
    return tuple(paths)


def _split(outputs: Sequence[TensorToWrite], shard_bytes: int | None) -> Iterator[list[TensorToWrite]]:
    """Consecutive runs of tensors that fit into a shard."""
    shard: list[TensorToWrite] = []
    size = 0
    for output in outputs:
        if shard and shard_bytes is not None and size + output.tensor.bytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(output)
        size += output.tensor.bytes
    yield shard


def _write_file(path: Path, outputs: Iterable[TensorToWrite], on_bytes: Callable[[int], None]) -> None:
    """One safetensors file: length of the header, header, data. Wide elements first, so that all lie aligned.

    Blocks, which the format does not know, are bytes in it; the metadata says what they are.
    """
    ordered = sorted(outputs, key=lambda output: -DTYPE_BYTES.get(output.tensor.dtype, 1))
    blocks = {
        output.name: [output.tensor.dtype, list(output.tensor.shape)]
        for output in ordered
        if output.tensor.dtype in GGML_TYPES
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    if blocks:
        header["__metadata__"][QUANT_TYPES_KEY] = json.dumps(blocks, separators=(",", ":"))
    offset = 0
    for output in ordered:
        end = offset + output.tensor.bytes
        dtype, shape = output.tensor.dtype, list(output.tensor.shape)
        if output.name in blocks:
            dtype, shape = "U8", [output.tensor.bytes]
        header[output.name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(len(text).to_bytes(8, "little") + text))
        for output in ordered:
            count = 0
            for chunk in output.chunks():
                _write_all(file.fileno(), chunk)
                count += chunk.nbytes
                on_bytes(chunk.nbytes)
            if count != output.tensor.bytes:
                raise AssertionError(f"{output.name}: {count} bytes came of {output.tensor.bytes}")
        os.fsync(file.fileno())


def _write_all(descriptor: int, data: memoryview) -> None:
    while data.nbytes:
        data = data[os.write(descriptor, data) :]


@contextmanager
def new_folder(destination: Path, needed_bytes: int, overwrite: bool, replaceable: frozenset[str]) -> Iterator[Path]:
    """A folder to fill, which takes its final name when the block ends without an error and vanishes otherwise.

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
        raise StorageError(str(destination), "is there already and is not a folder", "choose another name")
    if not destination.exists():
        return
    held = {path.name for path in destination.iterdir()}
    if held and not overwrite:
        raise StorageError(
            str(destination), "is there already and is not empty", "choose another name or overwrite it (--overwrite)"
        )
    if strange := sorted(held - replaceable):
        problem = f"holds {strange[0]!r}, which no conversion wrote, so it is not replaced"
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
