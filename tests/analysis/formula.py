"""Weights and inputs that are computed from a name and an index, the same on every machine.

Integers are multiplied modulo 2^32, so that no library's random generator or sine is involved. The golden values were
computed with these weights: a change here breaks every test of this folder that reads them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniform(name: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return numbers in [-0.5, 0.5) for a name."""
    index = np.arange(math.prod(shape), dtype=np.uint64)
    value = (index * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D)):
        value = ((value ^ (value >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    value ^= value >> np.uint64(16)
    return (value.astype(np.float64) / 2**32 - 0.5).reshape(shape)


def fill(name: str, shape: Sequence[int]) -> Tensor:
    """Return the float32 weights of a parameter: variance 1 / fan-in for matrices, about 1 or 0 for the others."""
    values = uniform(name, shape)
    if name.endswith("running_var"):
        values = 1 + 0.4 * values
    elif name.endswith(("bias", "running_mean")):
        values = 0.2 * values
    elif len(shape) == 1:
        values = 1 + 0.4 * values
    else:
        values = values * math.sqrt(12 / max(1, math.prod(shape[1:])))
    return torch.from_numpy(values).float()


def fill_all(shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights for a state dictionary; counters stay as they are."""
    return {
        name: value if not value.is_floating_point() else fill(name, tuple(value.shape))
        for name, value in shapes.items()
    }


def image(name: str, height: int, width: int) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) with slopes, edges and grain."""
    rows, columns = np.mgrid[0:height, 0:width]
    grain = uniform(name, (height, width, 3))
    slope = (rows * 7 + columns * 5)[..., None] % 256 * np.array([1.0, 0.5, 0.25])
    edges = 60.0 * ((rows // 9 + columns // 11) % 2)[..., None]
    return np.asarray(np.clip(0.6 * slope + edges + 60 * grain + 40, 0, 255), np.uint8)


def project(name: str, values: NDArray[Any], count: int = 16) -> NDArray[np.float64]:
    """Return ``count`` weighted sums of an array, over the root of its size: any difference shows in them."""
    flat = np.asarray(values, np.float64).ravel()
    weights = uniform(name, (count, 64))
    padded = np.pad(flat, (0, -len(flat) % 64)).reshape(-1, 64)
    mixed = padded * uniform(f"{name} rows", (len(padded), 1))
    return np.asarray((weights @ mixed.sum(axis=0)) / math.sqrt(len(flat)))
