"""Linear layers whose weights stay quantized in memory and are dequantized in each call."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo.model.attention import Float32Linear
from humo.quantization.dequantize import dequantize
from humo.quantization.formats import row_bytes

QuantTypes = Mapping[str, tuple[str, int]]
"""Name of a quantized weight -> its type (key of `humo.quantization.formats.QUANT_TYPES`) and number of scales."""


def replace_with_quantized_linear(module: nn.Module, quant_types: QuantTypes) -> None:
    """Replace linear layers with quantized ones, whose weights are loaded afterwards.

    Args:
        module: parent of the layers.
        quant_types: types of the weights; names without a linear layer are ignored.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and f"{name}.weight" in quant_types:
            module.set_submodule(name, QuantizedLinear(layer, *quant_types[f"{name}.weight"]))


class QuantizedLinear(nn.Linear):
    """A linear layer with a quantized matrix; it computes in the precision of its input.

    ``weight`` has type int8, so that casting the network leaves it unchanged. In transformers' T5 a layer's input is
    cast to the type of any other weight.

    Args:
        layer: the layer to replace.
        quant_type: key of `humo.quantization.formats.QUANT_TYPES`.
        num_scales: number of scales beside the weights: 0, 1, or one for each row.
    """

    def __init__(self, layer: nn.Linear, quant_type: str, num_scales: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.quant_type = quant_type
        self.is_float32 = isinstance(layer, Float32Linear)
        device = layer.weight.device
        stored = torch.empty(
            self.out_features, row_bytes(quant_type, self.in_features), dtype=torch.int8, device=device
        )
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.bias = layer.bias  # before the scale: diffusers takes a network's precision from its first float
        self.weight_scale: nn.Parameter | None = None
        if num_scales:
            self.weight_scale = nn.Parameter(torch.empty(num_scales, 1, device=device), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in float32 if the replaced layer computes in float32."""
        x = input.float() if self.is_float32 else input
        return F.linear(x, self.dequantized_weight(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def dequantized_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantized matrix (out, in)."""
        return dequantize(self.weight, self.quant_type, self.in_features, dtype, self.weight_scale)
