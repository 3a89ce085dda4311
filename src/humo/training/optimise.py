"""AdamW over a stage's weights, kept in float32 whatever they compute in; and the moving average of all weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from humo.errors import CheckpointError
from humo.ranks import ALONE, Ranks
from humo.training.config import Optimiser
from humo.training.muon import Muon
from humo.training.parallel import exchange, like, whole

MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")
"""What AdamW (the first three) and Muon keep for each weight."""

SHARE = "share"
"""Of the learning rate, in a group of weights."""

HIDDEN = re.compile(r"\.blocks?\.(?!.*bias)")
"""In the names of the weights that Muon may take: the matrices of the blocks; biases of distances are tables."""


class Pace(Protocol):
    """How long, and at which learning rate: a `Stage`, or the recipe of a part."""

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
    """Of a step from 0 on: an even rise, then flat, then (if the stage says so) down to zero at its end."""
    rise = min(1.0, (step + 1) / stage.warmup) if stage.warmup else 1.0
    share = (step / stage.steps - stage.decay_from) / (1 - stage.decay_from)
    if stage.schedule == "constant" or share <= 0:
        return stage.learning_rate * rise
    fall = 1 - share if stage.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
    return stage.learning_rate * min(rise, fall)


class StageOptimiser:
    """Trains some weights.

    Args:
        weights: those to train, as the network has them.
        masters: the same in float32; one and the same where the network has them so.
        stage, settings: of the recipe.
        share: of the learning rate that a weight takes, by its name.
        here: this process among all that hold these weights whole; each does Muon's work for a part of them.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        masters: Mapping[str, Tensor],
        stage: Pace,
        settings: Optimiser,
        share: Callable[[str], float] = lambda name: 1.0,
        here: Ranks = ALONE,
    ) -> None:
        self._stage, self._settings, self._here = stage, settings, here
        self._weights = weights
        self.masters = {name: masters[name] for name in weights}
        hidden = {
            name: weight
            for name, weight in self.masters.items()
            if settings.muon and HIDDEN.search(name) and weight.ndim == 2
        }
        rest = {name: weight for name, weight in self.masters.items() if name not in hidden}
        alike: dict[tuple[float, float], list[Tensor]] = {}
        for name, weight in rest.items():
            alike.setdefault((settings.weight_decay if weight.ndim > 1 else 0.0, share(name)), []).append(weight)
        groups = [{"params": several, "weight_decay": decay, SHARE: own} for (decay, own), several in alike.items()]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=stage.learning_rate, betas=settings.betas)
        ]
        self._divided = divide(hidden, here.size)
        if taken := [hidden[name] for name in self._divided[here.rank]]:
            named = settings.muon_precision
            precision = None if named is None else getattr(torch, named)
            self._optimisers.append(Muon(taken, stage.learning_rate, settings.weight_decay, precision))

    def step(self, number: int) -> Tensor:
        """Take a step with the gradients that are there, and clear them.

        Args:
            number: of the step, from 0 on.

        Returns:
            the gradients' length before it was cut.
        """
        for name, weight in self._weights.items():
            if self.masters[name] is not weight and weight.grad is not None:
                self.masters[name].grad, weight.grad = weight.grad.float(), None
        norm = whole(nn.utils.clip_grad_norm_(self.masters.values(), self._settings.clip))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self._stage, number) * group.get(SHARE, 1.0)
            optimiser.step()
        for weight in self.masters.values():
            weight.grad = None
        with torch.no_grad():
            for rank, names in enumerate(self._divided):
                exchange([self.masters[name] for name in names], rank, self._here)
            for name, weight in self._weights.items():
                if self.masters[name] is not weight:
                    weight.copy_(self.masters[name])
        return norm

    def state(self) -> dict[str, Tensor]:
        """Its memory, by the names of the weights; every process must ask."""
        mine = {
            f"{name}:{moment}": tensor
            for name, weight in self.masters.items()
            for optimiser in self._optimisers
            for moment, tensor in optimiser.state.get(weight, {}).items()
        }
        if not any(self._divided):
            return mine
        return {key: tensor for part in self._here.gather(mine) for key, tensor in part.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with a memory.

        Raises:
            CheckpointError: it is that of other weights.
        """
        for name, weight in self.masters.items():
            found = {moment: state[key] for moment in MOMENTS if (key := f"{name}:{moment}") in state}
            if not found:
                continue
            if any(tensor.shape != weight.shape for moment, tensor in found.items() if moment != "step"):
                raise CheckpointError("checkpoint", f"{name} was of another shape", "resume with the same model")
            for owner in self._owners(weight):
                owner.state[weight] = {
                    moment: tensor if moment == "step" else like(tensor, weight) for moment, tensor in found.items()
                }

    def _owners(self, weight: Tensor) -> list[torch.optim.Optimizer]:
        """The one that trains a weight here; none where another process does."""
        every = ((one, group["params"]) for one in self._optimisers for group in one.param_groups)
        return [one for one, weights in every if any(own is weight for own in weights)]


def divide(matrices: Mapping[str, Tensor], ranks: int) -> list[list[str]]:
    """The names for each process, so that all of them have about as much to orthogonalise."""
    work = {name: matrix.numel() * min(matrix.shape) for name, matrix in matrices.items()}
    names: list[list[str]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for name in sorted(work, key=lambda name: (-work[name], name)):
        rank = load.index(min(load))
        names[rank].append(name)
        load[rank] += work[name]
    return names


class Average:
    """The exponential moving average of weights, in float32; young, it forgets faster.

    Args:
        decay: share of the average kept at a step; 0 is the weights themselves.
        weights: name -> weight, to begin with.
    """

    def __init__(self, decay: float, weights: Mapping[str, Tensor]) -> None:
        self._decay = decay
        self.weights = {name: weight.detach().float().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take the weights after a step (of the whole run, from 0 on) in."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self.weights.items():
            mean.lerp_(weights[name].detach().float(), 1 - decay)

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on with averages of an earlier run."""
        for name, tensor in saved.items():
            if name in self.weights:
                self.weights[name] = like(tensor, self.weights[name])
