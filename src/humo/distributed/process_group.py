"""Several processes at one job, started by torchrun: who this one is among all, and what they share.

Without torchrun there is one, and torch.distributed is never started.
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
    """This process among all: its number, how many there are, and its device."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def device_type(self) -> str:
        """``cuda`` or ``cpu``."""
        return self.device.partition(":")[0]

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """This process's part of ``count`` things.

        Raises:
            RequestError: they cannot be divided evenly.
        """
        if count % self.size:
            problem = f"{count} samples a pass cannot be divided into {self.size} processes"
            raise RequestError("batch", problem, f"give a multiple of {self.size}, or start fewer")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, mine: Any) -> list[Any]:
        """Every process's value, in order."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def broadcast_flag(self, word: bool) -> bool:
        """The first one's word."""
        return bool(self.gather(word)[0])

    def barrier(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = ProcessGroup()
"""One process, on the CPU."""


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the others, if torchrun started this process.

    Args:
        device: as in a recipe.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = choose_device(device)
    if size == 1:
        yield ProcessGroup(device=place)
        return
    if place == "cuda":
        place = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.startswith("cuda") else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()
