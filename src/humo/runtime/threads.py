"""Number of threads of a model on the CPU."""

from __future__ import annotations

import os
from functools import cache

from humo.checkpoints.architecture import TransformerArchitecture
from humo.geometry import Geometry

WORK_PER_THREAD = 2**28
"""Multiplications of a layer's largest product for each thread.

Threads wait for each other after every product. Below this size they wait longer than they compute: the built-in model
takes 5 CPU seconds for a video with one thread, and 18 with two (``benchmarks/threads.py``).
"""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which a user chooses the number of threads."""


def set_threads(architecture: TransformerArchitecture, geometry: Geometry) -> None:
    """Let torch use as many threads as the network's products are worth, and at most its own default.

    A number that the user chose by an environment variable stays.

    Args:
        architecture: of the network.
        geometry: of one window.
    """
    import torch

    if any(os.environ.get(name) for name in VARIABLES):
        return
    torch.set_num_threads(choose_threads(architecture, geometry, _default_threads()))


@cache
def _default_threads() -> int:
    """Return torch's own number of threads, before it was changed here."""
    import torch

    return torch.get_num_threads()


def choose_threads(architecture: TransformerArchitecture, geometry: Geometry, most: int) -> int:
    """Return the number of threads for a network and a window; ``most`` is the largest number that is useful here."""
    work = geometry.tokens * architecture.width * architecture.ffn_dim
    return max(1, min(most, work // WORK_PER_THREAD))
