"""Several processes at one run: who does what, what is shared, and the network's weights in shards (FSDP2).

Under torchrun each process is a rank; without it there is one, and torch.distributed is never started.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from humo.errors import RequestError
from humo.runtime import choose_device


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all: its number, how many there are, and its device."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
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

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def agree(self, word: bool) -> bool:
        """The first one's word."""
        return bool(self.gather(word)[0])

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()
"""One process, on the CPU."""


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Join the others, if torchrun started this process.

    Args:
        device: as in a recipe.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = choose_device(device)
    if size == 1:
        yield Ranks(device=place)
        return
    if place == "cuda":
        place = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.startswith("cuda") else "gloo")
    try:
        yield Ranks(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()


def shard(learner: Any, precision: torch.dtype) -> None:
    """Divide a learner's weights among all processes, block by block; its blocks compute in a precision.

    Args:
        learner: a `humo.training.learner.Learner` with float32 weights.
        precision: of the blocks; the small layers at both ends compute in float32, gradients are summed in it.
    """
    lowered = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    full = MixedPrecisionPolicy(cast_forward_inputs=False)
    blocks: Any = learner.transformer.blocks
    for block in blocks:
        fully_shard(block, mp_policy=full if precision is torch.float32 else lowered)
    fully_shard(learner, mp_policy=full)


def synchronise(learner: nn.Module, last: bool) -> None:
    """Of several accumulated passes, share the gradients after the last alone."""
    if isinstance(learner, FSDPModule):
        learner.set_requires_gradient_sync(last)


def average_gradients(weights: Iterable[Tensor], here: Ranks) -> None:
    """The mean of all processes' gradients, for a network that each of them holds whole."""
    if here.size > 1:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = here.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def exchange(weights: Sequence[Tensor], rank: int, here: Ranks) -> None:
    """Take over what one process has made of some weights, which all of them hold."""
    if here.size > 1 and weights:
        flat = torch.cat([weight.flatten() for weight in weights])
        dist.broadcast(flat, src=rank)
        for weight, part in zip(weights, flat.split([one.numel() for one in weights]), strict=True):
            weight.copy_(part.view_as(weight))


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be in shards, all of it; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_dict(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """All of them in the first process's memory, and none in the others'; every process must ask."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if ranks.first:
            found[name] = full.to("cpu", copy=True)
    return found


def like(full: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, in shards and on the device as another is."""
    if isinstance(other, DTensor):
        return distribute_tensor(full.to(other.device), other.device_mesh, other.placements)
    return full.to(other.device)
