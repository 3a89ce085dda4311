"""Read tensors from a torch file that is mapped into memory; pickled objects are never loaded."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.checkpoints.formats.base import (
    CHECK_PATH,
    CHUNK_BYTES,
    DOWNLOAD_AGAIN,
    DTYPE_BYTES,
    GIT_LFS_START,
    SUPPORTED_DTYPES,
    StoredTensor,
    check_not_lfs_pointer,
    torch_dtypes,
)
from humo.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MAPPED_BYTES = 128 * 2**20
"""Bytes that are read from a mapped file before it is mapped again; pages stay resident until then."""

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
"""Suffixes of torch files."""


class TorchFile:
    """A .pth file, memory-mapped, tensors only.

    Nested dictionaries are flattened: ``{"ema": {"a.weight": ...}}`` holds ``ema.a.weight``.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file has another format, is damaged, or holds pickled code.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._mapped: dict[str, torch.Tensor] = {}
        self._read = 0
        self.tensors: dict[str, StoredTensor] = {}
        non_tensors = self._map()
        dtype_names = _dtype_names()
        for name, tensor in self._mapped.items():
            if tensor.dtype not in dtype_names:
                problem = f"stores {name!r} as {tensor.dtype}, which is not supported"
                raise CheckpointError(str(path), problem, SUPPORTED_DTYPES)
            self.tensors[name] = StoredTensor(dtype_names[tensor.dtype], tuple(tensor.shape))
        self.non_tensors = tuple(non_tensors)
        self._mapped = {}

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`."""
        import torch

        stored = self.tensors[name]
        step = max(1, chunk_bytes // DTYPE_BYTES[stored.dtype])
        for begin in range(0, math.prod(stored.shape), step):
            if not self._mapped or self._read >= MAPPED_BYTES:
                self._mapped = {}  # unmap before mapping again
                self._map()
                self._read = 0
            piece = self._mapped[name].detach().reshape(-1)[begin : begin + step]
            self._read += piece.numel() * piece.element_size()
            yield piece.contiguous().view(torch.uint8).numpy().data

    def read_bytes(self, name: str, begin: int, length: int) -> bytes:
        """See `WeightFile.read_bytes`."""
        import torch

        if not self._mapped:
            self._map()
        values = self._mapped[name].detach().reshape(-1).contiguous().view(torch.uint8)
        return values[begin : begin + length].numpy().tobytes()

    def _map(self) -> list[str]:
        """Map the file, and return the names of values that are not tensors."""
        non_tensors: list[str] = []
        self._mapped = dict(_flatten(_torch_load(self.path), "", non_tensors))
        return non_tensors


def _torch_load(path: Path) -> Any:
    """Return the contents of a torch file, mapped; no code is run."""
    import torch

    try:
        with path.open("rb") as file:
            start = file.read(len(GIT_LFS_START))
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", CHECK_PATH) from error
    check_not_lfs_pointer(path, start)
    if not start.startswith(b"PK"):
        raise CheckpointError(str(path), "is not a torch file (damaged, or older than torch 1.6)", DOWNLOAD_AGAIN)
    try:
        return torch.load(str(path), map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        problem = "contains pickled code" + (f" ({named[1]})" if named else "") + ", which is never run"
        raise CheckpointError(str(path), problem, "ask its author for a safetensors file") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(str(path), "is a damaged or truncated torch file", DOWNLOAD_AGAIN) from error


def _flatten(value: Any, name: str, non_tensors: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of nested dictionaries and lists under dotted names."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name or "tensor", value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key), non_tensors)
    elif isinstance(value, list | tuple) and any(isinstance(inner, torch.Tensor | Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{name}.{index}" if name else str(index), non_tensors)
    else:
        non_tensors.append(name or "value")


def _dtype_names() -> dict[torch.dtype, str]:
    return {dtype: name for name, dtype in torch_dtypes().items()}
