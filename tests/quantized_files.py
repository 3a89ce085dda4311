"""Small networks of both families in the quantized files that HuMo is published in, and what their weights are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import save_file
from torch import Tensor

from humo import HuMoTransformer3DModel
from humo.checkpoints.architecture import infer_transformer
from humo.checkpoints.keymap import tensor_names
from humo.quantization.formats import GGML_TYPES
from tests.tiny import tiny_transformer

WIDE = {"num_attention_heads": 2, "attention_head_dim": 128, "ffn_dim": 256, "audio_token_dim": 256, "text_length": 512}
"""Rows of 256, whole blocks of every type; settings that no tensor shows as in the published ones."""

HALVES: Mapping[str, tuple[int, ...]] = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Type -> where its blocks have numbers in half precision; elsewhere any bits are right."""

QuantTypes = Callable[[str], str]
"""Published name -> type."""


def network(preset: str) -> HuMoTransformer3DModel:
    """A tiny one with rows wide enough."""
    return tiny_transformer(preset, **WIDE)


def published(transformer: HuMoTransformer3DModel) -> dict[str, Tensor]:
    """Its weights under the published names."""
    own = transformer.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    architecture = infer_transformer(shapes, transformer.config)
    return {name.published: own[name.diffusers].clone() for name in tensor_names(architecture)}


def ours(transformer: HuMoTransformer3DModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under the names of the class."""
    shapes = {name: tuple(tensor.shape) for name, tensor in transformer.state_dict().items()}
    return {
        name.diffusers: weights[name.published] for name in tensor_names(infer_transformer(shapes, transformer.config))
    }


def is_matrix_of_a_block(name: str, tensor: Tensor) -> bool:
    return name.startswith("blocks.") and tensor.ndim == 2


def blocks_by_hand(kind: str, rows: int, columns: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Any quantized numbers under small scales: python's gguf does not write K-quants."""
    block = GGML_TYPES[kind]
    count = rows * columns // block.block_size
    raw = np.random.default_rng(seed).integers(0, 256, (count, block.type_size), dtype=np.uint8)
    for place in HALVES[kind]:
        raw[:, place : place + 2] = np.frombuffer(struct.pack("<e", 0.0004), dtype=np.uint8)
    return raw.reshape(rows, -1)


def save_gguf(
    path: Path,
    weights: Mapping[str, Tensor],
    quant_types: QuantTypes,
    *,
    architecture: str = "wan",
    loses_ones: bool = False,
    prefix: str = "",
) -> dict[str, Tensor]:
    """A GGUF file, as ComfyUI-GGUF's tools make it; returns the weights that it stands for, by gguf's own numbers.

    Args:
        path: of the file.
        weights: under the published names.
        kinds: the type that each is to have.
        architecture: that it says it is of.
        loses_ones: leading sizes of 1 are lost, as llama.cpp's tool does it.
        prefix: before the names.
    """
    writer = GGUFWriter(path, architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    stands_for: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(weights.items()):
        kind = GGMLQuantizationType[quant_types(name)]
        values = tensor.float().numpy()
        if kind.name in HALVES:
            data = blocks_by_hand(kind.name, tensor.shape[0], tensor.shape[1], seed=number)
        else:
            data = gguf.quants.quantize(values, kind)
        stands_for[name] = torch.from_numpy(gguf.quants.dequantize(data, kind).copy()).reshape(tensor.shape)
        if loses_ones:
            while data.shape[0] == 1 and data.ndim > 1:
                data = data[0]
        writer.add_tensor(prefix + name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


def save_scaled_fp8(path: Path, weights: Mapping[str, Tensor], style: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A file of fp8 weights; returns the weights that it stands for.

    Args:
        path: of the file.
        weights: under the published names.
        style: ``kijai`` (``scale_weight`` and a mark), ``comfy`` (``weight_scale`` and JSON), ``rows`` (the same, a
            scale for each row) or ``plain`` (no scales).
        dtype: of the eight-bit floats.
    """
    saved: dict[str, Tensor] = {}
    stands_for: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        saved[name] = stands_for[name] = tensor.half()
        if not is_matrix_of_a_block(name, tensor):
            continue
        largest = tensor.abs().amax(dim=1, keepdim=True) if style == "rows" else tensor.abs().max()
        scale = torch.ones(()) if style == "plain" else largest / torch.finfo(dtype).max
        saved[name] = (tensor / scale).to(dtype)
        stands_for[name] = saved[name].float() * scale
        layer = name.removesuffix(".weight")
        if style == "kijai":
            saved[f"{layer}.scale_weight"] = scale
        elif style != "plain":
            saved[f"{layer}.weight_scale"] = scale
            form = b'{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}'
            saved[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(form), dtype=torch.uint8)
    if style == "kijai":
        saved["scaled_fp8"] = torch.zeros(2, dtype=dtype)
    save_file(saved, path)
    return {name: tensor.float() for name, tensor in stands_for.items()}
