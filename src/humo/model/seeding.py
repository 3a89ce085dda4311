"""Random generators that are derived from a key, as in JAX."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(*key: object) -> torch.Generator:
    """Return a CPU generator whose draws follow from the key alone, so that no state has to be saved."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
