"""Read tensors from a safetensors file, of which only the header is held in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from humo.checkpoints.formats.base import (
    CHECK_PATH,
    CHUNK_BYTES,
    DOWNLOAD_AGAIN,
    SUPPORTED_DTYPES,
    StoredTensor,
    check_not_lfs_pointer,
    read_bytes,
    read_chunks,
)
from humo.errors import CheckpointError

QUANT_TYPES_KEY = "humo.blocks"
"""Metadata key of this package's safetensors files for tensors of bytes that are GGUF blocks: {name: [type, shape]}."""

MAX_HEADER_BYTES = 100 * 2**20
"""Longest header that the safetensors format allows."""


class SafetensorsFile:
    """A .safetensors file, of which only the header is in memory.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file does not exist, has another format, is damaged, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.non_tensors: tuple[str, ...] = ()
        self.tensors, self._offsets, self.metadata = _read_header(path)

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`."""
        return read_chunks(self.path, self._offsets[name], self.tensors[name], chunk_bytes)

    def read_bytes(self, name: str, begin: int, length: int) -> bytes:
        """See `WeightFile.read_bytes`."""
        return read_bytes(self.path, self._offsets[name] + begin, length)


def _read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, int], dict[str, str]]:
    """Return the tensors of a safetensors file, their offsets in bytes, and the metadata."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            check_not_lfs_pointer(path, start)
            if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(str(path), "is not a complete safetensors file", DOWNLOAD_AGAIN)
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", None) or {}
            blocks = json.loads(metadata.get(QUANT_TYPES_KEY, "{}"))
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", CHECK_PATH) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(str(path), "has a damaged safetensors header", DOWNLOAD_AGAIN) from error
    tensors: dict[str, StoredTensor] = {}
    offsets: dict[str, int] = {}
    end_of_data = 8 + length
    for name, entry in header.items():
        try:
            dtype, shape = blocks[name] if name in blocks else (entry["dtype"], entry["shape"])
            tensor = StoredTensor(dtype, tuple(int(size) for size in shape))
            begin, end = entry["data_offsets"]
            fits = end - begin == tensor.bytes and begin >= 0
        except (KeyError, TypeError, ValueError) as error:
            problem = f"stores {name!r} in an unknown form ({entry!r:.80})"
            raise CheckpointError(str(path), problem, SUPPORTED_DTYPES) from error
        if not fits:
            raise CheckpointError(str(path), f"gives {name!r} a size that its shape contradicts", DOWNLOAD_AGAIN)
        tensors[name] = tensor
        offsets[name] = 8 + length + begin
        end_of_data = max(end_of_data, 8 + length + end)
    if size < end_of_data:
        problem = f"is truncated: it has {size} of {end_of_data} bytes"
        raise CheckpointError(str(path), problem, DOWNLOAD_AGAIN)
    return tensors, offsets, metadata
