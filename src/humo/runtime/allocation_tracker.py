"""Track the memory that a computation would allocate, by running it on torch's meta device.

Tensors on the meta device have shapes and no data, so that any size takes seconds. The tracked code is the code that
generates videos.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class AllocationStats:
    """Bytes of tensors that were allocated within `track_allocations`.

    Args:
        live: bytes that are allocated now.
        peak: the most bytes that were allocated at a time.
    """

    live: int = 0
    peak: int = 0

    def add(self, size: int) -> None:
        """Count an allocation, or a release where ``size`` is negative."""
        self.live += size
        self.peak = max(self.peak, self.live)


class _AllocationTracker(TorchDispatchMode):
    """Dispatch mode that counts the storage of every result until it is freed."""

    def __init__(self, allocated: AllocationStats, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._allocated = allocated
        self.is_paused = False
        self._known_storages = [tensor.untyped_storage() for tensor in known]  # an object's id is unique while it lives
        self._counted = {id(storage) for storage in self._known_storages}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and not self.is_paused:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._counted:
            self._counted.add(id(storage))
            self._allocated.add(storage.nbytes())
            weakref.finalize(storage, self._release, id(storage), storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self._allocated.add(-size)


class _FusedAttention(TorchFunctionMode):
    """Function mode in which attention allocates only its result, as fused kernels do.

    Without it the meta device would also allocate the attention scores.
    """

    def __init__(self, tracker: _AllocationTracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            arguments = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs or {})
            query, value = arguments["query"], arguments["value"]
            result = query.new_empty(*query.shape[:-1], value.shape[-1])
            if not query.is_meta:
                self._tracker.is_paused = True
                result.copy_(func(*args, **(kwargs or {})))
                self._tracker.is_paused = False
            return result
        return func(*args, **(kwargs or {}))


@contextmanager
def track_allocations(*existing: Iterable[Tensor]) -> Iterator[AllocationStats]:
    """Track allocations within the block.

    Args:
        existing: tensors that are not counted, because they exist already: weights, inputs.
    """
    allocated = AllocationStats()
    tracker = _AllocationTracker(allocated, (tensor for tensors in existing for tensor in tensors))
    with torch.no_grad(), _FusedAttention(tracker), tracker:
        yield allocated
