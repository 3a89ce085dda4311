"""Quantized weights: types, packing, unpacking and the layers that keep them packed."""
