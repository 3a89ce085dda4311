"""Weights that come from disk when a block is called, and go when it is done: memory for two blocks is enough.

While one block computes, a thread reads the next one, as it is stored; it is cast once the other is gone. What is not a
block stays: norms and embeddings at both ends are small, but for the text encoder's vocabulary, of which the rows of a
prompt are read alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.errors import CheckpointError
from humo.quantization.formats import row_bytes

DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
"""Element types of weights, by the safetensors format's words."""

Cast = Callable[[str, Tensor], Tensor]
"""(name, tensor as it is stored) -> as it is computed with, on its device."""


class WeightStore:
    """The weights of a module in their files.

    Args:
        paths: safetensors files.
        quantized: weights that are read as their bytes, (R, bytes of a row) uint8.
    """

    def __init__(self, paths: Sequence[Path], quantized: Collection[str] = ()) -> None:
        self._quantized = quantized
        self._files = {name: file for file in map(SafetensorsFile, paths) for name in file.tensors}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """A tensor, as it is stored.

        Raises:
            CheckpointError: it is not there, is of a type that nothing computes with, or its file ends early.
        """
        file, dtype, shape = self._locate(name)
        raw = torch.empty(file.tensors[name].bytes, dtype=torch.uint8)
        done = 0
        for chunk in file.chunks(name):
            raw[done : done + len(chunk)] = torch.frombuffer(chunk, dtype=torch.uint8)
            done += len(chunk)
        return raw.view(dtype).view(shape)

    def read_rows(self, name: str, wanted: Sequence[int]) -> Tensor:
        """Some rows of a matrix, as they are stored.

        Raises:
            CheckpointError: as `read`.
        """
        file, dtype, (_, width) = self._locate(name)
        size = width * dtype.itemsize
        found = [torch.frombuffer(bytearray(file.read_bytes(name, row * size, size)), dtype=dtype) for row in wanted]
        return torch.stack(found)

    def _locate(self, name: str) -> tuple[SafetensorsFile, torch.dtype, tuple[int, ...]]:
        if name not in self._files:
            raise CheckpointError(name, "is in none of the files", "convert the model anew with humo convert")
        file = self._files[name]
        stored = file.tensors[name]
        if name in self._quantized:
            rows, columns = stored.shape
            return file, torch.uint8, (rows, row_bytes(stored.dtype, columns))
        if stored.dtype not in DTYPES:
            raise CheckpointError(
                str(file.path), f"holds {name!r} as {stored.dtype}", "convert it with humo convert --dtype bf16"
            )
        return file, DTYPES[stored.dtype], stored.shape


class BlockStream:
    """Feeds blocks that are called one after another.

    Args:
        blocks: name in the store -> block, in their order; their weights are on the meta device.
        store: of their weights.
        cast: makes of a stored tensor what is computed with.
        around: after the last block the first one is read again, as many passes follow each other.
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
        """Until what is being read ahead is there."""
        for one in self._prefetched.values():
            one.result()

    def cancel_prefetch(self) -> None:
        """Let go of what was read ahead: there is no next pass for now."""
        for one in self._prefetched.values():
            one.cancel()
        self._prefetched.clear()

    def _onload(self, number: int) -> Callable[..., None]:
        def onload(block: nn.Module, _: Any) -> None:
            coming = self._prefetched.pop(number, None) or self._reader.submit(self._read, number)
            raw = coming.result()
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
        store: that has it.
        name: of the matrix.
        cast: as in `Stream`.
    """

    def __init__(self, store: WeightStore, name: str, cast: Cast) -> None:
        super().__init__()
        self._store, self._name, self._cast = store, name, cast

    def forward(self, indices: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        distinct, places = indices.unique(return_inverse=True)
        rows = self._cast(self._name, self._store.read_rows(self._name, distinct.tolist()))
        return rows.to(indices.device)[places]
