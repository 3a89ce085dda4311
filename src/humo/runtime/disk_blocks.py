"""Weights in safetensors files, and blocks whose weights are read from them while the block before computes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from humo.checkpoints.formats.base import WeightFile
from humo.errors import CheckpointError
from humo.quantization.formats import row_bytes

DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
"""Name of an element type in the safetensors format -> torch's type."""

Cast = Callable[[str, Tensor], Tensor]
"""Function of a weight's name and its stored tensor that returns the tensor to compute with, on the device."""


class WeightStore:
    """The weights of a module in its files.

    Args:
        files: the files.
        quantized: names of the weights that are read as bytes, (R, bytes of a row) int8.
    """

    def __init__(self, files: Sequence[WeightFile], quantized: Collection[str] = ()) -> None:
        self._quantized = quantized
        self._files = {name: file for file in files for name in file.tensors}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored.

        Raises:
            CheckpointError: no file has it, its element type is not supported, or its file is truncated.
        """
        file, dtype, shape = self._locate(name)
        raw = torch.empty(file.tensors[name].bytes, dtype=torch.uint8)
        done = 0
        for chunk in file.chunks(name):
            raw[done : done + len(chunk)] = torch.frombuffer(chunk, dtype=torch.uint8)
            done += len(chunk)
        return raw.view(dtype).view(shape)

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return some rows of a matrix as they are stored.

        Args:
            name: name of the matrix, (R, C).
            rows: N row numbers.

        Returns:
            (N, C).

        Raises:
            CheckpointError: as `read`.
        """
        file, dtype, (_, width) = self._locate(name)
        size = width * dtype.itemsize
        row_tensors = [
            torch.frombuffer(bytearray(file.read_bytes(name, row * size, size)), dtype=dtype) for row in rows
        ]
        return torch.stack(row_tensors)

    def _locate(self, name: str) -> tuple[WeightFile, torch.dtype, tuple[int, ...]]:
        if name not in self._files:
            raise CheckpointError(name, "is in none of the weights files", "convert the model again with humo convert")
        file = self._files[name]
        stored = file.tensors[name]
        if name in self._quantized:
            rows, columns = stored.shape
            return file, torch.int8, (rows, row_bytes(stored.dtype, columns))
        if stored.dtype not in DTYPES:
            problem = f"stores {name!r} as {stored.dtype}, which cannot be streamed"
            raise CheckpointError(str(file.path), problem, "convert it with humo convert --dtype bf16")
        return file, DTYPES[stored.dtype], stored.shape


class DiskBlocks:
    """Blocks on the disk. A thread reads a block as it is stored; it is cast after the one before it is freed.

    Args:
        store: the weights.
        names: for each block, the names of its weights in the store, after the names in the block.
        cast: converts a stored tensor to the tensor to compute with.
    """

    def __init__(self, store: WeightStore, names: Sequence[Mapping[str, str]], cast: Cast) -> None:
        self._store, self._names, self._cast = store, names, cast
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._reading: dict[int, Future[dict[str, Tensor]]] = {}

    def start(self, number: int, *, keep: bool) -> None:
        """Start to read a block."""
        if number not in self._reading:
            self._reading[number] = self._reader.submit(self._read, number)

    def finish(self, number: int, *, keep: bool) -> dict[str, Tensor]:
        """Return the weights of a block; wait until they are read."""
        self.start(number, keep=keep)
        raw = self._reading.pop(number).result()
        return {name: self._cast(self._names[number][name], raw.pop(name)) for name in list(raw)}

    def free(self, number: int) -> None:
        """Do nothing: the weights are freed with their last reference."""

    def release(self) -> None:
        """Drop what was read ahead."""
        for one in self._reading.values():
            one.cancel()
        self._reading.clear()

    def wait(self) -> None:
        """Wait until reading has finished."""
        for one in self._reading.values():
            one.result()

    def _read(self, number: int) -> dict[str, Tensor]:
        return {name: self._store.read(stored) for name, stored in self._names[number].items()}
