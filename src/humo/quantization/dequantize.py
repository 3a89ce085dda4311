"""Dequantize weights that are stored as GGUF blocks or fp8.

A weight is ``scale * q`` or ``scale * q - minimum`` with small integers q. GGUF types pack blocks of q together with
their scales. fp8 files hold an eight-bit float per weight, and one scale for each tensor or row.

**Source:** ggml (https://github.com/ggml-org/ggml), ``src/ggml-common.h`` and ``src/ggml-quants.c``
(``dequantize_row_*``), as restated in its Python package ``gguf``, against which a test compares. fp8 scales: ComfyUI
(https://github.com/comfyanonymous/ComfyUI), ``comfy/quant_ops.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from humo.quantization.formats import FP8_TYPES, GGML_TYPES

WEIGHTS_PER_SLICE = 2**22
"""Weights that are dequantized at a time, which bounds the temporary memory."""

FP8_DTYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
"""Name of an fp8 type in the safetensors format -> torch's type."""

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""Values of the sixteen codes of IQ4 (ggml's ``kvalues_iq4nl``)."""


def _read_float16(blocks: Tensor, offset: int) -> Tensor:
    """Return the float16 at a byte offset of each block as float32, (n, 1)."""
    return blocks[:, offset : offset + 2].contiguous().view(torch.float16).float()


def _unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """Unpack numbers of 1, 2 or 4 bits, (..., k) bytes -> (..., 8 / bits, k): the lowest bits of all bytes first."""
    mask = (1 << bits) - 1
    return torch.stack([(packed >> shift) & mask for shift in range(0, 8, bits)], dim=-2)


def _q4_0(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * (_unpack_bits(blocks[:, 2:], 4).flatten(1).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * _unpack_bits(blocks[:, 4:], 4).flatten(1).float() + _read_float16(blocks, 2)


def _unpack_five_bits(low: Tensor, fifth: Tensor) -> Tensor:
    """Join the low four bits of numbers with their fifth bits, (n, 32)."""
    return (_unpack_bits(low, 4).flatten(1) | (_unpack_bits(fifth, 1).transpose(1, 2).flatten(1) << 4)).float()


def _q5_0(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * (_unpack_five_bits(blocks[:, 6:], blocks[:, 2:6]) - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * _unpack_five_bits(blocks[:, 8:], blocks[:, 4:8]) + _read_float16(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _read_float16(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _unpack_iq4(packed: Tensor) -> Tensor:
    """Unpack IQ4 codes and look up their values, (..., k) bytes -> (..., 2, k)."""
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
    """Unpack the eight six-bit scales and eight six-bit minima of a block's twelve bytes, (n, 8, 1) each."""
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
"""GGUF type -> function from blocks (n, bytes of a block) to weights (n, weights of a block), float32."""


def unpack(stored: Tensor, quant_type: str) -> Tensor:
    """Return the weights that bytes represent, in order.

    Args:
        stored: uint8 or int8, a whole number of blocks.
        quant_type: key of `humo.quantization.formats.QUANT_TYPES`.

    Returns:
        float32, one-dimensional.
    """
    packed = stored.view(torch.uint8)
    if quant_type in FP8_TYPES:
        return packed.reshape(-1).view(FP8_DTYPES[quant_type]).float()
    return UNPACKERS[quant_type](packed.reshape(-1, GGML_TYPES[quant_type].type_size)).flatten()


def dequantize(
    stored: Tensor, quant_type: str, columns: int, dtype: torch.dtype, scale: Tensor | None = None
) -> Tensor:
    """Dequantize a matrix in float32, and round it to a type.

    Args:
        stored: (R, bytes of a row) uint8 or int8.
        quant_type: key of `humo.quantization.formats.QUANT_TYPES`.
        columns: C of the matrix.
        dtype: type of the result.
        scale: one number, or (R, 1), in float32; None if the type has no separate scale.

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
