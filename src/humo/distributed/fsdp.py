"""Train in several processes: shard a model's weights (FSDP2), and average gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from humo.distributed.process_group import ProcessGroup


def shard(model: Any, precision: torch.dtype) -> None:
    """Shard the weights of a model under training among all processes, block by block.

    Args:
        model: module with float32 weights, whose ``transformer`` has ``blocks``.
        precision: type that the blocks compute in. The small layers at both ends compute in float32, and gradients
            are summed in it.
    """
    lowered = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    full = MixedPrecisionPolicy(cast_forward_inputs=False)
    blocks: Any = model.transformer.blocks
    for block in blocks:
        fully_shard(block, mp_policy=full if precision is torch.float32 else lowered)
    fully_shard(model, mp_policy=full)


def set_gradient_sync(model: nn.Module, last: bool) -> None:
    """Exchange the gradients of accumulated passes only after the last one."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)


def average_gradients(weights: Iterable[Tensor], group: ProcessGroup) -> None:
    """Average the gradients of all processes, for a model that each of them holds unsharded."""
    if group.size > 1:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = group.all_reduce_mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def broadcast_weights(weights: Sequence[Tensor], rank: int, group: ProcessGroup) -> None:
    """Overwrite weights that all processes hold unsharded with those of process ``rank``."""
    if group.size > 1 and weights:
        flat = torch.cat([weight.flatten() for weight in weights])
        dist.broadcast(flat, src=rank)
        for weight, part in zip(weights, flat.split([one.numel() for one in weights]), strict=True):
            weight.copy_(part.view_as(weight))


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor unsharded; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(tensors: Mapping[str, Tensor], group: ProcessGroup) -> dict[str, Tensor]:
    """Return all tensors unsharded in the memory of the main process, and nothing in the others.

    Every process must call this.
    """
    full_tensors = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if group.is_main:
            full_tensors[name] = full.to("cpu", copy=True)
    return full_tensors


def distribute_like(full: Tensor, other: Tensor) -> Tensor:
    """Return an unsharded tensor on the device of another one, and sharded like it."""
    if isinstance(other, DTensor):
        return distribute_tensor(full.to(other.device), other.device_mesh, other.placements)
    return full.to(other.device)
