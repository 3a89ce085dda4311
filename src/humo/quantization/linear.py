"""Layers whose weights stay quantized in memory, and become numbers when they are computed with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo.model.attention import Float32Linear
from humo.quantization.dequantize import dequantize
from humo.quantization.formats import row_bytes

QuantTypes = Mapping[str, tuple[str, int]]
"""Name of a quantized weight -> its type (`humo.quantization.formats.QUANTIZED`), and how many scales are beside it."""


def replace_with_quantized_linear(module: nn.Module, quant_types: QuantTypes) -> None:
    """Put layers whose matrices are quantized in the place of others, their weights still to come.

    Args:
        module: with the layers.
        kinds: of the weights; those of which the module has no layer are passed over.
    """
    for place, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and f"{place}.weight" in quant_types:
            module.set_submodule(place, QuantizedLinear(layer, *quant_types[f"{place}.weight"]))


class QuantizedLinear(nn.Linear):
    """A linear layer whose matrix stays quantized; it computes in the precision of what it is given.

    Its ``weight`` holds bytes, so that no cast of the network touches it.

    Args:
        layer: in whose place it stands.
        kind: of `humo.quantization.formats.QUANTIZED`.
        scales: how many scales lie beside the weights: 0, 1, or one a row.
    """

    def __init__(self, layer: nn.Linear, quant_type: str, num_scales: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.quant_type = quant_type
        self.is_float32 = isinstance(layer, Float32Linear)
        device = layer.weight.device
        stored = torch.empty(
            self.out_features, row_bytes(quant_type, self.in_features), dtype=torch.uint8, device=device
        )
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.bias = layer.bias  # before the scale: diffusers takes the first float it finds for a network's precision
        self.weight_scale: nn.Parameter | None = None
        if num_scales:
            self.weight_scale = nn.Parameter(torch.empty(num_scales, 1, device=device), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., out) for (..., in), in float32 if the replaced layer computes in float32."""
        x = input.float() if self.is_float32 else input
        return F.linear(x, self.dequantized_weight(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def dequantized_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix (out, in), unpacked."""
        return dequantize(self.weight, self.quant_type, self.in_features, dtype, self.weight_scale)
