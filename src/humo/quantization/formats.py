"""The types that quantized weights are stored in: how many weights a block of each has, and how many bytes.

**Source:** ggml's ``docs/gguf.md`` (numbers of the types) and ``ggml-common.h`` (layout of their blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class QuantType(NamedTuple):
    """What is quantized together.

    Args:
        weights: how many.
        bytes: that hold them, their scales included.
    """

    block_size: int
    type_size: int


FP8_TYPES: Mapping[str, QuantType] = {"F8_E4M3": QuantType(1, 1), "F8_E5M2": QuantType(1, 1)}
"""A float each, with a scale beside them or none; in the safetensors format's words."""

GGML_TYPES: Mapping[str, QuantType] = {
    "Q4_0": QuantType(32, 18),
    "Q4_1": QuantType(32, 20),
    "Q5_0": QuantType(32, 22),
    "Q5_1": QuantType(32, 24),
    "Q8_0": QuantType(32, 34),
    "IQ4_NL": QuantType(32, 18),
    "Q2_K": QuantType(256, 84),
    "Q3_K": QuantType(256, 110),
    "Q4_K": QuantType(256, 144),
    "Q5_K": QuantType(256, 176),
    "Q6_K": QuantType(256, 210),
    "IQ4_XS": QuantType(256, 136),
}
"""GGUF's types that are read, by ggml's names."""

QUANT_TYPES: Mapping[str, QuantType] = {**FP8_TYPES, **GGML_TYPES}
"""All types that a network's weights may stay in."""


def row_bytes(quant_type: str, columns: int) -> int:
    """Bytes of a matrix's row.

    Args:
        kind: of `QUANTIZED`.
        columns: a whole number of blocks.
    """
    block = QUANT_TYPES[quant_type]
    return columns // block.block_size * block.type_size
