"""Weights and inputs that are computed from a name, so that the golden files hold neither.

Each function is pure: the same name, shape and seed give the same tensor on every machine, because torch's CPU
generator is the same on all platforms. The golden values were computed with these weights: a change here breaks every
parity test.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def fill(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return float32 weights for one checkpoint key.

    Matrices and convolutions are N(0, 1 / fan-in), biases 0.02 N(0, 1), weights of norms 1 + 0.1 N(0, 1), modulation
    tables N(0, 1) / sqrt(width).
    """
    values = _normal(f"{seed}:{name}", shape)
    if name.endswith("modulation"):
        return values / math.sqrt(shape[-1])
    if name.endswith("bias"):
        return 0.02 * values
    if name.endswith("gamma") or len(shape) == 1:
        return 1 + 0.1 * values
    return values / math.sqrt(math.prod(shape[1:]))


def fill_state_dict(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Return the weights of every key of a checkpoint."""
    return {name: fill(name, shape, seed) for name, shape in shapes.items()}


def noise(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return an input tensor, N(0, 1)."""
    return _normal(f"{seed}:input:{name}", shape)


def _normal(key: str, shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
