"""Muon: momentum whose every matrix is made orthogonal before it is a step.

torch has one (since 2.9) that iterates in bfloat16 wherever it is; on processors without bfloat16 arithmetic that takes
sixty times as long as float32. This one takes float32 on CPUs, and is torch's own to the bit in bfloat16.

**Source:** K. Jordan and others, "Muon" (2024): the iteration, its coefficients; J. Liu and others, "Muon is scalable
for LLM training" (2025): the length of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
LEAST_LENGTH = 1e-7
AS_LONG_AS_ADAM = 0.2
"""Root mean square of an AdamW step, in learning rates, as it is found in practice."""


def orthogonal(matrix: Tensor, precision: torch.dtype) -> Tensor:
    """A matrix (M, N) with its singular values all brought near 1.

    Args:
        matrix: any.
        precision: of the iteration, and of what it gives.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(precision)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=LEAST_LENGTH)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """On matrices; its steps are as long as AdamW's would be.

    Args:
        weights: (M, N) each.
        lr: learning rate.
        weight_decay: share of a weight that a step takes away, in learning rates.
        precision: of the iteration; by default bfloat16 on GPUs and float32 on CPUs.
    """

    def __init__(
        self, weights: Sequence[Tensor], lr: float, weight_decay: float, precision: torch.dtype | None = None
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step with the gradients that are there; no closure."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM)
                precision = self._precision or (torch.float32 if weight.device.type == "cpu" else torch.bfloat16)
                length = AS_LONG_AS_ADAM * max(weight.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(ahead, precision), alpha=-group["lr"] * length)
