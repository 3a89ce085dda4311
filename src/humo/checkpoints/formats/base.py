"""Define what all weight files share: a stored tensor, the protocol of a file, and reading a tensor in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from humo.errors import CheckpointError
from humo.quantization.formats import GGML_TYPES

if TYPE_CHECKING:
    import torch

DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of an element, by the safetensors name of its type."""

CHUNK_BYTES = 32 * 2**20
"""Bytes that are read at a time."""

GIT_LFS_START = b"version https://git-lfs"
"""First bytes of a Git LFS pointer."""

DOWNLOAD_AGAIN = "download it again"
"""Remedy for damaged files."""

CHECK_PATH = "check the path and its permissions"
"""Remedy for files that cannot be opened."""

SUPPORTED_DTYPES = "give bf16, fp16, fp32 or fp8 weights"
"""Remedy for element types that are not supported."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it is stored in a file.

    Args:
        dtype: element type as the safetensors format names it (``BF16``), or a GGUF type (``Q4_K``).
        shape: its sizes.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def unit_bytes(self) -> int:
        """Bytes of an element, or of a block of quantized weights."""
        return GGML_TYPES[self.dtype].type_size if self.dtype in GGML_TYPES else DTYPE_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        elements = math.prod(self.shape)
        return elements // (GGML_TYPES[self.dtype].block_size if self.dtype in GGML_TYPES else 1) * self.unit_bytes


class WeightFile(Protocol):
    """A file of named tensors.

    ``tensors`` lists them; ``non_tensors`` names the other values in the file; ``metadata`` is its text metadata.
    """

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...

    @property
    def non_tensors(self) -> tuple[str, ...]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the raw little-endian bytes of a tensor, a whole number of elements at a time.

        A chunk is valid until the next one is requested.
        """
        ...

    def read_bytes(self, name: str, begin: int, length: int) -> bytes:
        """Return ``length`` bytes of a tensor, from byte ``begin`` of it on.

        Raises:
            CheckpointError: the file ends before them.
        """
        ...


def read_chunks(path: Path, begin: int, tensor: StoredTensor, chunk_bytes: int) -> Iterator[memoryview]:
    """Yield a tensor's bytes, a whole number of elements or blocks at a time.

    Args:
        path: the file.
        begin: offset of the tensor in the file, in bytes.
        tensor: the tensor.
        chunk_bytes: bytes to read at a time.

    Raises:
        CheckpointError: the file ends before the tensor does.
    """
    remaining = tensor.bytes
    chunk_bytes = max(chunk_bytes // tensor.unit_bytes, 1) * tensor.unit_bytes
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        buffer = memoryview(bytearray(min(remaining, chunk_bytes)))
        while remaining:
            read = file.readinto(buffer[: min(remaining, chunk_bytes)]) or 0
            while read % tensor.unit_bytes or not read:  # a short read inside an element, or the end
                more = file.readinto(buffer[read : read + tensor.unit_bytes - read % tensor.unit_bytes]) or 0
                if not more:
                    raise CheckpointError(str(path), "ended while it was being read", DOWNLOAD_AGAIN)
                read += more
            yield buffer[:read]
            remaining -= read


def read_bytes(path: Path, begin: int, length: int) -> bytes:
    """Return ``length`` bytes of a file, from byte ``begin`` on.

    Raises:
        CheckpointError: the file ends before them.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        data = file.read(length)
    if len(data) < length:
        raise CheckpointError(str(path), "ended while it was being read", DOWNLOAD_AGAIN)
    return data


def check_not_lfs_pointer(path: Path, start: bytes) -> None:
    """Raise CheckpointError if a file is a Git LFS pointer, which only names the weights.

    Args:
        path: the file.
        start: its first bytes.
    """
    if start.startswith(GIT_LFS_START[:8]):
        raise CheckpointError(str(path), "is a Git LFS pointer, not the weights", "fetch it with `git lfs pull`")


def torch_dtypes() -> dict[str, torch.dtype]:
    """Return safetensors name of an element type -> torch's."""
    import torch

    return {
        "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
        "F32": torch.float32, "I32": torch.int32, "U32": torch.uint32,
        "F16": torch.float16, "BF16": torch.bfloat16, "I16": torch.int16, "U16": torch.uint16,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
        "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
