"""Write safetensors files from a stream of chunks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.formats.base import DTYPE_BYTES, StoredTensor
from humo.checkpoints.formats.safetensors_file import QUANT_TYPES_KEY
from humo.quantization.formats import GGML_TYPES

SHARD_BYTES = 5 * 10**9
"""Largest weights file in bytes; larger components are split into shards."""


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor to write.

    Args:
        name: its name.
        tensor: its element type and shape.
        chunks: returns an iterator of its bytes, in order.
    """

    name: str
    tensor: StoredTensor
    chunks: Callable[[], Iterator[memoryview]]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file.

    Args:
        path: the file.
        value: its contents.
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
        folder: is created if it does not exist.
        stem: the files' name without suffix.
        outputs: the tensors.
        shard_bytes: largest file; a single larger tensor has a file of its own. None: one file.
        on_bytes: called with the number of bytes after each chunk.

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
    """Yield consecutive tensors that fit into a shard."""
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
    """Write one safetensors file: length of the header, header, data; wide elements first, so that all are aligned.

    GGUF blocks, which the format does not know, are written as bytes; the metadata names their types.
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
                raise AssertionError(f"{output.name}: {count} bytes were written instead of {output.tensor.bytes}")
        os.fsync(file.fileno())


def _write_all(descriptor: int, data: memoryview) -> None:
    while data.nbytes:
        data = data[os.write(descriptor, data) :]
