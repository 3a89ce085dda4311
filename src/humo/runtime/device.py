"""Choose the device and the precision, and measure the available memory; importing this module imports no torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from humo.errors import DependencyError


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection in a block or function.

    Importing large libraries creates many objects and frees few of them, so that collection only takes time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def choose_device(device: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``: the requested device, or the fastest one that is available.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        DependencyError: the device is not available.
    """
    import torch

    availability = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, is_available in availability.items() if is_available]
    if device == "auto":
        return available[0]
    if device not in available:
        problem = f"{device!r} is not available on this machine"
        raise DependencyError("device", problem, f"use --device {' or '.join(available)}, or --device auto")
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """Return the precision of the network. ``auto`` is bfloat16 on a GPU, as published, and float32 on a CPU.

    Args:
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device: as chosen by `choose_device`.
    """
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


def available_memory(device: str) -> tuple[int, int]:
    """Return the free bytes of a GPU and of the host's memory.

    Args:
        device: as chosen by `choose_device`; for any but ``cuda`` the first number is 0.
    """
    import psutil
    import torch

    free = 0
    if device == "cuda":
        torch.cuda.empty_cache()  # what torch keeps of freed tensors is free
        free = torch.cuda.mem_get_info()[0]
    return free, int(psutil.virtual_memory().available)
