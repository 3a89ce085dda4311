"""LoRAs of a request: a file or the name of an installed LoRA, and its strength, as ``NAME[:STRENGTH]``."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_STRENGTH = 100.0
"""Largest strength of a LoRA, up or down; ComfyUI's nodes have the same."""


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """A LoRA to use.

    Args:
        name: path of a file, or name of an installed LoRA.
        strength: multiplies its changes; 1 as trained, negative to subtract them.
    """

    name: str
    strength: float = 1.0

    def __str__(self) -> str:
        return f"{self.name}:{self.strength:.6g}"


def parse_lora(text: str) -> LoraChoice:
    """Read ``NAME[:STRENGTH]``. A colon that no number follows belongs to the name.

    Raises:
        ValueError: the name is empty, or the strength is out of range; the message is problem and remedy.
    """
    name, colon, strength = text.rpartition(":")
    try:
        value = float(strength) if colon else 1.0
    except ValueError:
        colon, value = "", 1.0
    name = name if colon else text
    if not name.strip():
        raise ValueError(f"{text!r} names no LoRA; give FILE, NAME, or one of them with :STRENGTH")
    if not math.isfinite(value) or abs(value) > MAX_STRENGTH:
        raise ValueError(f"{text!r} has a strength out of range; allowed: {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}")
    return LoraChoice(name, value)
