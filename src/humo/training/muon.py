"""Muon: an optimizer for matrices whose update is the orthogonalized momentum.

torch (since 2.9) has a Muon that always iterates in bfloat16. On CPUs without bfloat16 arithmetic that takes sixty
times as long as float32. This one iterates in float32 on CPUs; in bfloat16 it equals torch's bit for bit.

**Source:** K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024,
kellerjordan.github.io/posts/muon): the iteration and its coefficients. J. Liu et al., "Muon is scalable for LLM
training" (arXiv 2502.16982): the length of updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration."""
ITERATIONS = 5
"""Number of Newton-Schulz iterations."""
MIN_NORM = 1e-7
"""Smallest norm that a matrix is divided by."""
ADAMW_RMS = 0.2
"""Typical root mean square of an AdamW update, in units of the learning rate; Muon's updates are scaled to it."""


def orthogonalize(matrix: Tensor, precision: torch.dtype) -> Tensor:
    """Return a matrix (M, N) with the same singular vectors and singular values near 1.

    Args:
        matrix: (M, N).
        precision: dtype of the iteration and of the result.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(precision)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=MIN_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with updates as large as AdamW's, so that it takes AdamW's learning rate.

    Args:
        weights: matrices (M, N).
        lr: learning rate.
        weight_decay: decoupled weight decay, as AdamW's.
        precision: dtype of the iteration; by default bfloat16 on GPUs and float32 on CPUs.
    """

    def __init__(
        self, weights: Sequence[Tensor], lr: float, weight_decay: float, precision: torch.dtype | None = None
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient. A closure is not supported."""
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
                nesterov = weight.grad.lerp(momentum, MOMENTUM)
                precision = self._precision or (torch.float32 if weight.device.type == "cpu" else torch.bfloat16)
                length = ADAMW_RMS * max(weight.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonalize(nesterov, precision), alpha=-group["lr"] * length)
