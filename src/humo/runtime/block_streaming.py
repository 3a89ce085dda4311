"""Stream the weights of a module from disk, one block at a time; memory for two blocks is enough.

While one block computes, a thread reads the next one in its stored precision. The next block is cast after the
previous one is freed. Weights outside the blocks stay in memory. Of a token embedding only the rows of the prompt are
read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

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
        quantized: names of the weights that are read as bytes, (R, bytes of a row) uint8.
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
            return file, torch.uint8, (rows, row_bytes(stored.dtype, columns))
        if stored.dtype not in DTYPES:
            problem = f"stores {name!r} as {stored.dtype}, which cannot be streamed"
            raise CheckpointError(str(file.path), problem, "convert it with humo convert --dtype bf16")
        return file, DTYPES[stored.dtype], stored.shape


class BlockStream:
    """Loads each block before it is called and frees it afterwards; blocks are called in order.

    Args:
        blocks: prefix of a block's names in the store -> block; their weights are on the meta device.
        store: the weights.
        cast: converts a stored tensor to the tensor to compute with.
        cyclic: prefetch the first block after the last one, for modules that run many passes in succession.
    """

    def __init__(self, blocks: Mapping[str, nn.Module], store: WeightStore, cast: Cast, *, cyclic: bool) -> None:
        self._names, self._blocks = list(blocks), list(blocks.values())
        self._store, self._cast, self._cyclic = store, cast, cyclic
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._prefetched: dict[int, Future[dict[str, Tensor]]] = {}
        self._meta_tensors = [dict(block.state_dict()) for block in self._blocks]
        for number, block in enumerate(self._blocks):
            block.register_forward_pre_hook(self._onload(number))
            block.register_forward_hook(self._offload(number), always_call=True)

    def wait(self) -> None:
        """Wait until prefetching has finished."""
        for one in self._prefetched.values():
            one.result()

    def cancel_prefetch(self) -> None:
        """Drop the prefetched block; call this when no pass follows."""
        for one in self._prefetched.values():
            one.cancel()
        self._prefetched.clear()

    def _onload(self, number: int) -> Callable[..., None]:
        def onload(block: nn.Module, _: Any) -> None:
            pending = self._prefetched.pop(number, None) or self._reader.submit(self._read, number)
            raw = pending.result()
            names = list(raw)
            cast = {name: self._cast(f"{self._names[number]}.{name}", raw.pop(name)) for name in names}
            block.load_state_dict(cast, assign=True)
            following = number + 1
            if following == len(self._blocks) and self._cyclic:
                following = 0
            if following < len(self._blocks) and following not in self._prefetched:
                self._prefetched[following] = self._reader.submit(self._read, following)

        return onload

    def _offload(self, number: int) -> Callable[..., None]:
        def offload(block: nn.Module, *_: Any) -> None:
            block.load_state_dict(self._meta_tensors[number], assign=True)

        return offload

    def _read(self, number: int) -> dict[str, Tensor]:
        prefix = f"{self._names[number]}."
        return {name: self._store.read(f"{prefix}{name}") for name in self._meta_tensors[number]}


class DiskEmbedding(nn.Module):
    """An embedding whose matrix stays on the disk.

    Args:
        store: the weights.
        name: name of the matrix in the store, (vocabulary, D).
        cast: as in `BlockStream`.
    """

    def __init__(self, store: WeightStore, name: str, cast: Cast) -> None:
        super().__init__()
        self._store, self._name, self._cast = store, name, cast

    def forward(self, indices: Tensor) -> Tensor:
        """Return the embeddings (..., D) of token numbers (...)."""
        distinct, positions = indices.unique(return_inverse=True)
        rows = self._cast(self._name, self._store.read_rows(self._name, distinct.tolist()))
        return rows.to(indices.device)[positions]
