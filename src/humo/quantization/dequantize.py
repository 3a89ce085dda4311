"""Makes numbers of quantized weights.

A weight is ``scale * q`` (or ``scale * q - minimum``) with small integers q; GGUF's types pack blocks of them together
with their scales, fp8 files have a float of eight bits each and one scale a tensor or a row.

**Source:** layout of the blocks: ggml's ``ggml-common.h`` and ``ggml-quants.c`` (``dequantize_row_*``), as its Python
package `gguf` re-states it, with which a test compares. Scales of fp8: ComfyUI's ``comfy/quant_ops.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from humo.quantization.formats import FP8_TYPES, GGML_TYPES

WEIGHTS_PER_SLICE = 2**22
"""Weights that are made into numbers at a time: what that takes beside the result is small."""

FP8_DTYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the sixteen numbers of IQ4 stand for."""


def _read_float16(blocks: Tensor, at: int) -> Tensor:
    """The half-precision number at a place of each block, (n, 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """Numbers of a few bits out of bytes, (..., k) -> (..., 8 / bits, k): the lowest bits of all bytes first."""
    mask = (1 << bits) - 1
    return torch.stack([(packed >> shift) & mask for shift in range(0, 8, bits)], dim=-2)


def _q4_0(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * (_unpack_bits(blocks[:, 2:], 4).flatten(1).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * _unpack_bits(blocks[:, 4:], 4).flatten(1).float() + _read_float16(blocks, 2)


def _unpack_five_bits(low: Tensor, fifth: Tensor) -> Tensor:
    """Numbers of which one half of a byte has four bits and a bit in order the fifth, (n, 32)."""
    return (_unpack_bits(low, 4).flatten(1) | (_unpack_bits(fifth, 1).transpose(1, 2).flatten(1) << 4)).float()


def _q5_0(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * (_unpack_five_bits(blocks[:, 6:], blocks[:, 2:6]) - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * _unpack_five_bits(blocks[:, 8:], blocks[:, 4:8]) + _read_float16(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _unpack_iq4(packed: Tensor) -> Tensor:
    """(..., k) bytes -> (..., 2, k) values."""
    table = torch.tensor(IQ4_VALUES, dtype=torch.float32, device=packed.device)
    values: Tensor = table[_unpack_bits(packed, 4).int()]
    return values


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * _unpack_iq4(blocks[:, 2:]).flatten(1)


def _iq4_xs(blocks: Tensor) -> Tensor:
    high = _unpack_bits(blocks[:, 2:4], 2).transpose(1, 2).flatten(1)
    low = _unpack_bits(blocks[:, 4:8], 4).transpose(1, 2).flatten(1)
    scale = _read_float16(blocks, 0) * ((low | (high << 4)).float() - 32)
    return (scale.unsqueeze(2) * _unpack_iq4(blocks[:, 8:].unflatten(1, (8, 16))).flatten(2)).flatten(1)


def _q2_k(blocks: Tensor) -> Tensor:
    scale = (_read_float16(blocks, 80) * (blocks[:, :16] & 15).float()).unsqueeze(2)
    minimum = (_read_float16(blocks, 82) * (blocks[:, :16] >> 4).float()).unsqueeze(2)
    q = _unpack_bits(blocks[:, 16:80].unflatten(1, (2, 32)), 2).reshape(-1, 16, 16).float()
    return (scale * q - minimum).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    packed = blocks[:, 96:108]
    low = _unpack_bits(packed[:, :8], 4).flatten(1)
    high = _unpack_bits(packed[:, 8:], 2).flatten(1)
    scale = (_read_float16(blocks, 108) * ((low | (high << 4)).float() - 32)).unsqueeze(2)
    q = _unpack_bits(blocks[:, 32:96].unflatten(1, (2, 32)), 2).flatten(1) | (
        _unpack_bits(blocks[:, :32], 1).flatten(1) << 2
    )
    return (scale * (q.float() - 4).view(-1, 16, 16)).flatten(1)


def _scales_and_minima(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and eight minima of six bits in a block's twelve bytes, (n, 8, 1) each."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], dim=1)
    minima = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], dim=1)
    scale, minimum = _read_float16(blocks, 0) * scales.float(), _read_float16(blocks, 2) * minima.float()
    return scale.unsqueeze(2), minimum.unsqueeze(2)


def _q4_k(blocks: Tensor) -> Tensor:
    scale, minimum = _scales_and_minima(blocks)
    q = _unpack_bits(blocks[:, 16:].unflatten(1, (4, 32)), 4).reshape(-1, 8, 32)
    return (scale * q.float() - minimum).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    scale, minimum = _scales_and_minima(blocks)
    low = _unpack_bits(blocks[:, 48:].unflatten(1, (4, 32)), 4).reshape(-1, 8, 32)
    q = low | (_unpack_bits(blocks[:, 16:48], 1) << 4)
    return (scale * q.float() - minimum).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    scale = (_read_float16(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()).unsqueeze(2)
    low = _unpack_bits(blocks[:, :128].unflatten(1, (2, 64)), 4).flatten(1)
    high = _unpack_bits(blocks[:, 128:192].unflatten(1, (2, 32)), 2).flatten(1)
    return (scale * ((low | (high << 4)).float() - 32).view(-1, 16, 16)).flatten(1)


UNPACKERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "IQ4_NL": _iq4_nl,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_XS": _iq4_xs,
}
"""Type of GGUF -> (n, bytes of a block) to (n, weights of a block), float32."""


def unpack(stored: Tensor, quant_type: str) -> Tensor:
    """The numbers that bytes stand for, one after another.

    Args:
        stored: uint8, a whole number of blocks.
        kind: of `humo.quantization.formats.QUANTIZED`.

    Returns:
        float32, flat.
    """
    if quant_type in FP8_TYPES:
        return stored.reshape(-1).view(FP8_DTYPES[quant_type]).float()
    return UNPACKERS[quant_type](stored.reshape(-1, GGML_TYPES[quant_type].type_size)).flatten()


def dequantize(
    stored: Tensor, quant_type: str, columns: int, dtype: torch.dtype, scale: Tensor | None = None
) -> Tensor:
    """A quantized matrix as numbers, worked out in float32 and then rounded.

    Args:
        stored: (R, bytes of a row) uint8.
        kind: of `humo.quantization.formats.QUANTIZED`.
        columns: C of the matrix.
        dtype: to round to.
        scale: one number, or (R, 1); float32.

    Returns:
        (R, C).
    """
    rows = stored.shape[0]
    matrix = torch.empty(rows, columns, dtype=dtype, device=stored.device)
    step = max(1, WEIGHTS_PER_SLICE // columns)
    for begin in range(0, rows, step):
        numbers = unpack(stored[begin : begin + step], quant_type).view(-1, columns)
        if scale is not None:
            numbers *= scale if scale.numel() == 1 else scale.view(-1, 1)[begin : begin + step]
        matrix[begin : begin + step] = numbers
    return matrix
