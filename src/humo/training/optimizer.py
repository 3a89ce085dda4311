"""AdamW and Muon over float32 master weights, the learning rate schedule, and the moving average of weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from humo.distributed.fsdp import broadcast_weights, distribute_like, full_tensor
from humo.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from humo.errors import CheckpointError
from humo.training.config import OptimizerConfig
from humo.training.muon import Muon

OPTIMIZER_STATES = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")
"""States of a weight: AdamW's (the first three) and Muon's."""

LR_SCALE = "lr_scale"
"""Key of a parameter group: factor of its learning rate."""

MUON_PATTERN = re.compile(r"\.blocks?\.(?!.*bias)")
"""Pattern in the names of weights that Muon may update: matrices of the blocks, but no bias tables."""


class LRSchedule(Protocol):
    """Settings of a learning rate schedule: a `Stage` or the recipe of a component."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def lr_scheduler(self) -> str: ...
    @property
    def decay_start(self) -> float: ...


def learning_rate(schedule: LRSchedule, step: int) -> float:
    """Return the learning rate of a step: a linear warmup, then constant, then a decay to zero at the last step.

    Args:
        schedule: the schedule.
        step: index of the step in the stage, from 0.
    """
    rise = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    decayed = (step / schedule.steps - schedule.decay_start) / (1 - schedule.decay_start)
    if schedule.lr_scheduler == "constant" or decayed <= 0:
        return schedule.learning_rate * rise
    fall = 1 - decayed if schedule.lr_scheduler == "linear" else (1 + math.cos(math.pi * decayed)) / 2
    return schedule.learning_rate * min(rise, fall)


class StageOptimizer:
    """Updates the weights of a schedule.

    Args:
        weights: name -> weight to train, as the network computes with it.
        master_weights: name -> the same in float32; the same tensor if the network computes in float32.
        schedule: learning rate schedule.
        settings: optimizer settings of the recipe.
        lr_scale: name -> factor of the learning rate.
        group: processes with replicated weights; each runs Muon on a part of the matrices.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        master_weights: Mapping[str, Tensor],
        schedule: LRSchedule,
        settings: OptimizerConfig,
        lr_scale: Callable[[str], float] = lambda name: 1.0,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._schedule, self._settings, self._group = schedule, settings, group
        self._weights = weights
        self.master_weights = {name: master_weights[name] for name in weights}
        muon_matrices = {
            name: weight
            for name, weight in self.master_weights.items()
            if settings.muon and MUON_PATTERN.search(name) and weight.ndim == 2
        }
        by_settings: dict[tuple[float, float], list[Tensor]] = {}
        for name, weight in self.master_weights.items():
            if name not in muon_matrices:
                decay = settings.weight_decay if weight.ndim > 1 else 0.0
                by_settings.setdefault((decay, lr_scale(name)), []).append(weight)
        groups = [
            {"params": params, "weight_decay": decay, LR_SCALE: scale} for (decay, scale), params in by_settings.items()
        ]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=settings.betas)
        ]
        self._names_by_rank = partition(muon_matrices, group.size)
        if matrices := [muon_matrices[name] for name in self._names_by_rank[group.rank]]:
            dtype = None if settings.muon_dtype is None else getattr(torch, settings.muon_dtype)
            self._optimizers.append(Muon(matrices, schedule.learning_rate, settings.weight_decay, dtype))

    def step(self, step: int) -> Tensor:
        """Clip the gradients, update the weights and clear the gradients.

        Args:
            step: index of the step in the stage, from 0.

        Returns:
            norm of the gradients before clipping.
        """
        for name, weight in self._weights.items():
            if self.master_weights[name] is not weight and weight.grad is not None:
                self.master_weights[name].grad, weight.grad = weight.grad.float(), None
        norm = full_tensor(nn.utils.clip_grad_norm_(self.master_weights.values(), self._settings.max_grad_norm))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self._schedule, step) * group.get(LR_SCALE, 1.0)
            optimizer.step()
        for weight in self.master_weights.values():
            weight.grad = None
        with torch.no_grad():
            for rank, names in enumerate(self._names_by_rank):
                broadcast_weights([self.master_weights[name] for name in names], rank, self._group)
            for name, weight in self._weights.items():
                if self.master_weights[name] is not weight:
                    weight.copy_(self.master_weights[name])
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return ``NAME:STATE`` -> tensor of all weights; every process must call it."""
        local = {
            f"{name}:{moment}": tensor
            for name, weight in self.master_weights.items()
            for optimizer in self._optimizers
            for moment, tensor in optimizer.state.get(weight, {}).items()
        }
        if not any(self._names_by_rank):
            return local
        return {key: tensor for states in self._group.gather(local) for key, tensor in states.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned in an earlier run.

        Raises:
            CheckpointError: a tensor has another shape.
        """
        for name, weight in self.master_weights.items():
            saved = {moment: state[key] for moment in OPTIMIZER_STATES if (key := f"{name}:{moment}") in state}
            if not saved:
                continue
            if any(tensor.shape != weight.shape for moment, tensor in saved.items() if moment != "step"):
                problem = f"optimizer state of {name} has another shape than the weight {tuple(weight.shape)}"
                raise CheckpointError("checkpoint", problem, "resume with the model that the run started with")
            for optimizer in self._owners(weight):
                optimizer.state[weight] = {
                    moment: tensor if moment == "step" else distribute_like(tensor, weight)
                    for moment, tensor in saved.items()
                }

    def _owners(self, weight: Tensor) -> list[torch.optim.Optimizer]:
        """Return the optimizer of a weight in this process; none if another process updates it."""
        groups = ((optimizer, group["params"]) for optimizer in self._optimizers for group in optimizer.param_groups)
        return [optimizer for optimizer, params in groups if any(param is weight for param in params)]


def partition(matrices: Mapping[str, Tensor], ranks: int) -> list[list[str]]:
    """Distribute matrices over processes so that each has about the same amount to orthogonalize.

    Args:
        matrices: name -> matrix.
        ranks: number of processes.

    Returns:
        names of each process.
    """
    work = {name: matrix.numel() * min(matrix.shape) for name, matrix in matrices.items()}
    names: list[list[str]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for name in sorted(work, key=lambda name: (-work[name], name)):
        rank = load.index(min(load))
        names[rank].append(name)
        load[rank] += work[name]
    return names


class EMA:
    """Exponential moving average of weights in float32, with a smaller decay during the first steps.

    Args:
        decay: factor of the average at a step; at 0 the average is the latest weights.
        weights: name -> weight to start with.
    """

    def __init__(self, decay: float, weights: Mapping[str, Tensor]) -> None:
        self._decay = decay
        self.weights = {name: weight.detach().float().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Update the averages after a step; ``step`` is counted over the whole run, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self.weights.items():
            mean.lerp_(weights[name].detach().float(), 1 - decay)

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Load the averages of an earlier run."""
        for name, tensor in saved.items():
            if name in self.weights:
                self.weights[name] = distribute_like(tensor, self.weights[name])
