"""Start the group of processes that torchrun started for one job, and exchange values among them.

Without torchrun there is a single process, and torch.distributed is not initialized.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from humo.errors import RequestError
from humo.runtime.device import choose_device


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The group of all processes, as this process sees it.

    Args:
        rank: number of this process.
        size: number of processes.
        device: device of this process.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def device_type(self) -> str:
        """``cuda`` or ``cpu``."""
        return self.device.partition(":")[0]

    @property
    def is_main(self) -> bool:
        """True for the process with rank 0, which writes files and prints progress."""
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """Return this process's slice of ``count`` samples.

        Raises:
            RequestError: ``count`` is not a multiple of the number of processes.
        """
        if count % self.size:
            problem = f"{count} samples in a pass cannot be divided among {self.size} processes"
            raise RequestError("batch", problem, f"use a multiple of {self.size}, or start fewer processes")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes; ``values`` is overwritten."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the main process's flag in every process."""
        return bool(self.gather(flag)[0])

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = ProcessGroup()
"""The group of a single process on the CPU."""


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Yield the group of processes; torch.distributed is initialized if torchrun started this process.

    Args:
        device: as in a request or a recipe.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device_name = choose_device(device)
    if size == 1:
        yield ProcessGroup(device=device_name)
        return
    if device_name == "cuda":
        device_name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device_name)
    dist.init_process_group("nccl" if device_name.startswith("cuda") else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), size, device_name)
    finally:
        dist.destroy_process_group()
