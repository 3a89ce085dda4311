"""What a computation would allocate, found by going through it without numbers (on torch's meta device).

The code that is measured is the code that runs, at any size and in seconds; so there is nothing to keep true beside it.
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
    """Bytes of what was made within `metered`.

    Args:
        live: that are there now.
        peak: the most that there were at a time.
    """

    live: int = 0
    peak: int = 0

    def add(self, size: int) -> None:
        """More are there, or fewer."""
        self.live += size
        self.peak = max(self.peak, self.live)


class _AllocationTracker(TorchDispatchMode):
    """Sees every operation, and counts the storages that come of it until they go."""

    def __init__(self, allocated: AllocationStats, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._allocated = allocated
        self._kept = [tensor.untyped_storage() for tensor in known]
        self._known = {id(storage) for storage in self._kept}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._known:
            self._known.add(id(storage))
            self._allocated.add(storage.nbytes())
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._allocated.add(-size)


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps no table of all pairs, as every kernel in use has it; the meta device would make one."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs or {})
            query, value = given["query"], given["value"]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


@contextmanager
def track_allocations(*there: Iterable[Tensor]) -> Iterator[AllocationStats]:
    """Count what is allocated within.

    Args:
        there: tensors that are there already, and do not count: weights, inputs.
    """
    allocated = AllocationStats()
    with (
        torch.no_grad(),
        _FusedAttention(),
        _AllocationTracker(allocated, (tensor for several in there for tensor in several)),
    ):
        yield allocated
