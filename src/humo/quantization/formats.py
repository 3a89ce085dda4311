"""Define the types of quantized weights, with the number of weights and the bytes of a block.

**Source:** ggml (https://github.com/ggml-org/ggml): ``docs/gguf.md`` for the numbers of the types,
``src/ggml-common.h`` for the layout of their blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class QuantType(NamedTuple):
    """Size of a block, the unit of weights that are quantized together.

    Args:
        block_size: number of weights of a block.
        type_size: bytes of a block with its scales.
    """

    block_size: int
    type_size: int


FP8_TYPES: Mapping[str, QuantType] = {"F8_E4M3": QuantType(1, 1), "F8_E5M2": QuantType(1, 1)}
"""Eight-bit floats, stored with or without a scale, under their names in the safetensors format."""

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
"""GGUF types that can be read, under ggml's names."""

QUANT_TYPES: Mapping[str, QuantType] = {**FP8_TYPES, **GGML_TYPES}
"""All types that a network's weights may be stored in."""


def row_bytes(quant_type: str, columns: int) -> int:
    """Return the bytes of a matrix's row.

    Args:
        quant_type: key of `QUANT_TYPES`.
        columns: weights of the row, a multiple of the block size.
    """
    block = QUANT_TYPES[quant_type]
    return columns // block.block_size * block.type_size
