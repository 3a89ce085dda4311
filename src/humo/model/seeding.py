"""Random numbers that follow from words alone."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(*key: object) -> torch.Generator:
    """A generator on the CPU whose draws follow from the words alone: nothing to save, nothing to restore."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
