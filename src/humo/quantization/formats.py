"""The types that quantised weights are stored in: how many weights a block of each has, and how many bytes.

**Source:** ggml's ``docs/gguf.md`` (numbers of the types) and ``ggml-common.h`` (layout of their blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Block(NamedTuple):
    """What is quantised together.

    Args:
        weights: how many.
        bytes: that hold them, their scales included.
    """

    weights: int
    bytes: int


EIGHT_BIT_FLOATS: Mapping[str, Block] = {"F8_E4M3": Block(1, 1), "F8_E5M2": Block(1, 1)}
"""A float each, with a scale beside them or none; in the safetensors format's words."""

GGML_BLOCKS: Mapping[str, Block] = {
    "Q4_0": Block(32, 18),
    "Q4_1": Block(32, 20),
    "Q5_0": Block(32, 22),
    "Q5_1": Block(32, 24),
    "Q8_0": Block(32, 34),
    "IQ4_NL": Block(32, 18),
    "Q2_K": Block(256, 84),
    "Q3_K": Block(256, 110),
    "Q4_K": Block(256, 144),
    "Q5_K": Block(256, 176),
    "Q6_K": Block(256, 210),
    "IQ4_XS": Block(256, 136),
}
"""GGUF's types that are read, by ggml's names."""

QUANTISED: Mapping[str, Block] = {**EIGHT_BIT_FLOATS, **GGML_BLOCKS}
"""All types that a network's weights may stay in."""


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of a matrix's row.

    Args:
        kind: of `QUANTISED`.
        columns: a whole number of blocks.
    """
    block = QUANTISED[kind]
    return columns // block.weights * block.bytes
