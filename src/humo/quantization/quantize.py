"""Quantize weights to blocks of small integers with one scale each (the GGUF types Q8_0 and Q4_0), or to scaled fp8.

**Source:** ggml (https://github.com/ggml-org/ggml), ``src/ggml-quants.c`` (``quantize_row_q8_0_ref``,
``quantize_row_q4_0_ref``), as restated in its Python package ``gguf``, against which a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from humo.quantization.dequantize import FP8_DTYPES
from humo.quantization.formats import GGML_TYPES

WEIGHTS_PER_SLICE = 2**22
"""Weights that are quantized at a time, which bounds the temporary memory."""


def _reciprocal_or_zero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), scale.reciprocal())


def _float16_bytes(scale: Tensor) -> Tensor:
    return scale.half().view(torch.uint8)


def _q8_0(blocks: Tensor) -> Tensor:
    scale = blocks.abs().amax(1, keepdim=True) / 127
    quantized_values = blocks * _reciprocal_or_zero(scale)
    away_from_zero = quantized_values.sign() * (quantized_values.abs() + 0.5).floor()
    return torch.cat([_float16_bytes(scale), away_from_zero.to(torch.int8).view(torch.uint8)], dim=1)


def _q4_0(blocks: Tensor) -> Tensor:
    sizes, width = blocks.abs(), blocks.shape[1]
    positions = torch.arange(width, device=blocks.device).expand_as(blocks)
    # the first of the largest values; argmax may return any of them
    first = positions.masked_fill(sizes < sizes.amax(1, keepdim=True), width).amin(1, keepdim=True)
    scale = blocks.gather(1, first) / -8
    quantized_values = (blocks * _reciprocal_or_zero(scale) + 8.5).to(torch.uint8).clamp(0, 15)
    low, high = quantized_values.chunk(2, dim=1)
    return torch.cat([_float16_bytes(scale), low | (high << 4)], dim=1)


_QUANTIZERS: Mapping[str, Callable[[Tensor], Tensor]] = {"Q8_0": _q8_0, "Q4_0": _q4_0}


def quantize(weight: Tensor, quant_type: str) -> Tensor:
    """Quantize a matrix; `humo.quantization.dequantize.dequantize` is the inverse.

    Args:
        weight: (R, C), C a multiple of the block size (32).
        quant_type: ``Q8_0``, eight bits a weight and a scale for every 32 weights, or ``Q4_0``, four bits.

    Returns:
        (R, bytes of a row) int8, on the same device.
    """
    block = GGML_TYPES[quant_type]
    blocks = weight.reshape(-1, block.block_size)
    quantized_slices = [
        _QUANTIZERS[quant_type](one.float()) for one in blocks.split(WEIGHTS_PER_SLICE // block.block_size)
    ]
    return torch.cat(quantized_slices).view(len(weight), -1).view(torch.int8)


def quantize_fp8(weight: Tensor, quant_type: str) -> tuple[Tensor, Tensor]:
    """Quantize a matrix to eight-bit floats whose largest is the largest weight.

    Args:
        weight: (R, C).
        quant_type: key of `humo.quantization.formats.FP8_TYPES`.

    Returns:
        (R, C) int8, and the scale (1, 1) in float32, on the same device.
    """
    dtype = FP8_DTYPES[quant_type]
    largest = weight.abs().amax().float().view(1, 1)
    scale = torch.where(largest == 0, torch.ones_like(largest), largest / torch.finfo(dtype).max)
    rows = max(1, WEIGHTS_PER_SLICE // weight.shape[1])
    slices = [(one.float() / scale).to(dtype).view(torch.int8) for one in weight.split(rows)]
    return torch.cat(slices), scale
