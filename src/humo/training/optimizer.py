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
from humo.training.config import Optimiser
from humo.training.muon import Muon

MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")
"""States of a weight: AdamW's (the first three) and Muon's."""

SHARE = "share"
"""Key of a parameter group: factor of its learning rate."""

HIDDEN = re.compile(r"\.blocks?\.(?!.*bias)")
"""Pattern in the names of weights that Muon may update: matrices of the blocks, but no bias tables."""


class Pace(Protocol):
    """Settings of a learning rate schedule: a `Stage` or the recipe of a component."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def schedule(self) -> str: ...
    @property
    def decay_from(self) -> float: ...


def learning_rate(stage: Pace, step: int) -> float:
    """Return the learning rate of a step: a linear warmup, then constant, then a decay to zero at the last step.

    Args:
        stage: the schedule.
        step: index of the step in the stage, from 0.
    """
    rise = min(1.0, (step + 1) / stage.warmup) if stage.warmup else 1.0
    share = (step / stage.steps - stage.decay_from) / (1 - stage.decay_from)
    if stage.schedule == "constant" or share <= 0:
        return stage.learning_rate * rise
    fall = 1 - share if stage.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
    return stage.learning_rate * min(rise, fall)


class StageOptimiser:
    """Updates the weights of a stage.

    Args:
        weights: name -> weight to train, as the network computes with it.
        masters: name -> the same in float32; the same tensor if the network computes in float32.
        stage: learning rate schedule.
        settings: optimizer settings of the recipe.
        share: name -> factor of the learning rate.
        here: processes with replicated weights; each runs Muon on a part of the matrices.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        masters: Mapping[str, Tensor],
        stage: Pace,
        settings: Optimiser,
        share: Callable[[str], float] = lambda name: 1.0,
        here: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._stage, self._settings, self._here = stage, settings, here
        self._weights = weights
        self.masters = {name: masters[name] for name in weights}
        hidden = {
            name: weight
            for name, weight in self.masters.items()
            if settings.muon and HIDDEN.search(name) and weight.ndim == 2
        }
        by_settings: dict[tuple[float, float], list[Tensor]] = {}
        for name, weight in self.masters.items():
            if name not in hidden:
                decay = settings.weight_decay if weight.ndim > 1 else 0.0
                by_settings.setdefault((decay, share(name)), []).append(weight)
        groups = [
            {"params": params, "weight_decay": decay, SHARE: scale} for (decay, scale), params in by_settings.items()
        ]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=stage.learning_rate, betas=settings.betas)
        ]
        self._divided = divide(hidden, here.size)
        if matrices := [hidden[name] for name in self._divided[here.rank]]:
            dtype = None if settings.muon_precision is None else getattr(torch, settings.muon_precision)
            self._optimizers.append(Muon(matrices, stage.learning_rate, settings.weight_decay, dtype))

    def step(self, number: int) -> Tensor:
        """Clip the gradients, update the weights and clear the gradients.

        Args:
            number: index of the step in the stage, from 0.

        Returns:
            norm of the gradients before clipping.
        """
        for name, weight in self._weights.items():
            if self.masters[name] is not weight and weight.grad is not None:
                self.masters[name].grad, weight.grad = weight.grad.float(), None
        norm = full_tensor(nn.utils.clip_grad_norm_(self.masters.values(), self._settings.clip))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self._stage, number) * group.get(SHARE, 1.0)
            optimizer.step()
        for weight in self.masters.values():
            weight.grad = None
        with torch.no_grad():
            for rank, names in enumerate(self._divided):
                broadcast_weights([self.masters[name] for name in names], rank, self._here)
            for name, weight in self._weights.items():
                if self.masters[name] is not weight:
                    weight.copy_(self.masters[name])
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return ``NAME:STATE`` -> tensor of all weights; every process must call it."""
        local = {
            f"{name}:{moment}": tensor
            for name, weight in self.masters.items()
            for optimizer in self._optimizers
            for moment, tensor in optimizer.state.get(weight, {}).items()
        }
        if not any(self._divided):
            return local
        return {key: tensor for states in self._here.gather(local) for key, tensor in states.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned in an earlier run.

        Raises:
            CheckpointError: a tensor has another shape.
        """
        for name, weight in self.masters.items():
            saved = {moment: state[key] for moment in MOMENTS if (key := f"{name}:{moment}") in state}
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


def divide(matrices: Mapping[str, Tensor], ranks: int) -> list[list[str]]:
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


class Average:
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

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Load the averages of an earlier run."""
        for name, tensor in saved.items():
            if name in self.weights:
                self.weights[name] = distribute_like(tensor, self.weights[name])
