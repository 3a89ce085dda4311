"""Where and how precisely to compute, decided here and only here; and loading a pipeline so."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from humo.errors import DependencyError

if TYPE_CHECKING:
    pass


@contextmanager
def gc_paused() -> Iterator[None]:
    """Python looks for no unreachable objects meanwhile: libraries make many when they are imported, and all stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def choose_device(device: str) -> str:
    """``cuda``, ``mps`` or ``cpu``: what was asked for, or the fastest there is.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        DependencyError: what was asked for is not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, available in there.items() if available)
    if not there[device]:
        found = ", ".join(name for name, available in there.items() if available)
        raise DependencyError("device", f"{device!r} is not available here", f"there is {found}; or leave it at auto")
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """Precision of the network: what was asked for, or bfloat16 (as published) on a GPU and float32 on the CPU.

    Args:
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device: as chosen by `choose_device`.
    """
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


def available_memory(device: str) -> tuple[int, int]:
    """Bytes that are free on a device and in the host's memory.

    Args:
        device: as chosen by `choose_device`; where it is no GPU, its memory is the host's.
    """
    import psutil
    import torch

    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
    return free, int(psutil.virtual_memory().available)
