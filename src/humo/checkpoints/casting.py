"""Cast tensors of a file to the element type they are written in, chunk by chunk, and dequantize them on the way.

GGUF blocks and fp8 with or without scales are supported. A file declares scaled fp8 weights in one of three ways, all
of ComfyUI:

- a tensor ``scaled_fp8``, and scales ``NAME.scale_weight``
- JSON for each layer in ``NAME.comfy_quant``, and ``NAME.weight_scale``
- the same JSON for all layers in the file's metadata

In such a file an fp8 matrix without a scale is an error. Files without any scale are cast as they are.

**Source:** ComfyUI (https://github.com/comfyanonymous/ComfyUI), ``comfy/utils.py`` (``convert_old_quants``) and
``comfy/quant_ops.py``; ComfyUI-WanVideoWrapper (https://github.com/kijai/ComfyUI-WanVideoWrapper),
``nodes_model_loading.py`` (``scaled_fp8`` and ``scale_weight`` of Kijai's files).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from humo.checkpoints.formats.base import CHUNK_BYTES, DOWNLOAD_AGAIN, StoredTensor, torch_dtypes
from humo.checkpoints.formats.open import WeightSet
from humo.errors import CheckpointError, RequestError, did_you_mean
from humo.quantization.formats import FP8_TYPES, GGML_TYPES, QUANT_TYPES

if TYPE_CHECKING:
    import torch

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Element types that can be asked for -> their names in the safetensors format."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Types that are written as they are unless another one is asked for."""

SCALE_SUFFIXES = (".scale_weight", ".weight_scale")
"""Suffixes of a layer's fp8 scale: of ComfyUI's older files, and of its newer files and this package's."""

SCALED_MARKER = re.compile(r"(^|\.)scaled_fp8$")
"""Tensor that marks a file of scaled fp8 weights."""

COMFYUI_FORMAT_SUFFIX = ".comfy_quant"
"""Suffix of the tensors in which ComfyUI's newer files describe a layer's quantization as JSON."""

COMFYUI_METADATA_KEY = "_quantization_metadata"
"""Key of the metadata in which ComfyUI's newer files describe the quantization of all layers as JSON."""

COMFYUI_FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
"""ComfyUI's names of the formats that are supported; its other formats pack, rotate or scale by groups."""

GGML_CHUNK_BYTES = 2**20
"""Bytes of GGUF blocks that are dequantized at a time; the result is up to twelve times as large."""

_SUPPORTED_TYPES = "give bf16, fp16, fp32, fp8 (scaled) or GGUF weights"


def parse_dtype(dtype: str | None) -> str | None:
    """Return the safetensors name of a type that the user asked for.

    Args:
        dtype: ``bf16``, ``fp16``, ``fp32``, or None to keep what is stored.

    Raises:
        RequestError: ``dtype`` is none of these.
    """
    if dtype is None:
        return None
    if dtype not in DTYPES:
        raise RequestError("dtype", f"{dtype!r} is not a type to convert to", did_you_mean(dtype, DTYPES))
    return DTYPES[dtype]


def scale_names(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Return weight -> name of its scale, for the layers that have one.

    Args:
        tensors: of a file.
    """
    return {
        name.removesuffix(suffix) + ".weight": name
        for name in tensors
        for suffix in SCALE_SUFFIXES
        if name.endswith(suffix)
    }


def check_quantization(weights: WeightSet) -> None:
    """Raise CheckpointError unless the quantization that a file declares is supported and all its scales exist.

    Args:
        weights: of one or several files.
    """
    scales = scale_names(weights.tensors)
    declared = _formats(weights)
    for layer, form in declared.items():
        format_name = str(form.get("format"))
        rotated = " with rotated weights" if form.get("convrot") else ""
        if format_name not in COMFYUI_FORMATS or rotated:
            problem = f"stores {layer!r} as {format_name}{rotated}, a quantization that is not supported"
            raise CheckpointError(str(weights.path), problem, _SUPPORTED_TYPES)
    if not (scales or declared or any(SCALED_MARKER.search(name) for name in weights.tensors)):
        return
    for name, tensor in weights.tensors.items():
        if tensor.dtype in FP8_TYPES and len(tensor.shape) == 2 and name not in scales:
            problem = f"has scaled fp8 weights but lacks the scale of {name!r}"
            raise CheckpointError(str(weights.path), problem, "take the complete, unchanged file")


def _formats(weights: WeightSet) -> dict[str, dict[str, Any]]:
    """Return layer -> quantization that the file declares for it."""
    try:
        metadata = json.loads(weights.metadata.get(COMFYUI_METADATA_KEY, "{}"))
        formats = {str(layer): dict(form) for layer, form in dict(metadata.get("layers", {})).items()}
        for name in weights.tensors:
            if name.endswith(COMFYUI_FORMAT_SUFFIX):
                text = b"".join(bytes(chunk) for chunk in weights.chunks(name))
                formats[name.removesuffix(COMFYUI_FORMAT_SUFFIX)] = dict(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        problem = "describes its quantization in an unknown form"
        raise CheckpointError(str(weights.path), problem, DOWNLOAD_AGAIN) from error
    return formats


@dataclass(frozen=True, slots=True)
class Cast:
    """A tensor of a file that is cast to another type.

    Args:
        weights: the files.
        name: of the tensor.
        dtype: the type to write; None keeps the stored type, and writes quantized weights in bf16.
        scale_name: name of the tensor that it is multiplied by, if any.
        shape: the shape to write, where the file stores another one.

    Raises:
        CheckpointError: the stored type or the shape of the scale is not supported.
    """

    weights: WeightSet
    name: str
    dtype: str | None = None
    scale_name: str | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        stored = self.weights.tensors[self.name]
        if stored.dtype not in FLOATS | QUANT_TYPES.keys():
            problem = f"stores {self.name!r} as {stored.dtype}, a type that is not supported"
            raise CheckpointError(str(self.weights.path), problem, _SUPPORTED_TYPES)
        if self.scale_name is not None:
            shape = self.weights.tensors[self.scale_name].shape
            if math.prod(shape) != 1 and (not stored.shape or shape not in {stored.shape[:1], (*stored.shape[:1], 1)}):
                problem = f"has scales of shape {shape} for {self.name!r}, neither one scale nor one for each row"
                raise CheckpointError(str(self.weights.path), problem, "give weights with one scale for each tensor")

    @property
    def tensor(self) -> StoredTensor:
        """Element type and shape that are written."""
        stored = self.weights.tensors[self.name]
        dtype = self.dtype or (stored.dtype if stored.dtype in FLOATS else "BF16")
        return StoredTensor(dtype, self.shape or stored.shape)

    def chunks(self) -> Iterator[memoryview]:
        """Return the bytes in the new type; they are computed in float32, so that a scale is applied before
        rounding."""
        stored = self.weights.tensors[self.name]
        if stored.dtype == self.tensor.dtype and self.scale_name is None:
            return self.weights.chunks(self.name)
        return self._cast(stored)

    def read_bytes(self, begin: int, length: int) -> bytes:
        """Return ``length`` bytes in the new type, from byte ``begin`` on; both are whole elements or blocks."""
        stored = self.weights.tensors[self.name]
        if stored.dtype == self.tensor.dtype and self.scale_name is None:
            return self.weights.read_bytes(self.name, begin, length)
        block = GGML_TYPES[stored.dtype].block_size if stored.dtype in GGML_TYPES else 1
        first, count = begin // self.tensor.unit_bytes, length // self.tensor.unit_bytes  # elements
        units, offset = count // block * stored.unit_bytes, first // block * stored.unit_bytes
        chunk = memoryview(bytearray(self.weights.read_bytes(self.name, offset, units)))
        return bytes(self._convert(chunk, stored, self._load_scale(), first))

    def _cast(self, stored: StoredTensor) -> Iterator[memoryview]:
        scale = self._load_scale()
        done = 0  # elements
        for chunk in self.weights.chunks(
            self.name, GGML_CHUNK_BYTES if stored.dtype in GGML_TYPES else CHUNK_BYTES // 4
        ):
            converted = self._convert(chunk, stored, scale, done)
            done += converted.nbytes // self.tensor.unit_bytes
            yield converted

    def _load_scale(self) -> torch.Tensor | None:
        return None if self.scale_name is None else self.weights.load(self.scale_name).float().reshape(-1)

    def _convert(self, chunk: memoryview, stored: StoredTensor, scale: torch.Tensor | None, first: int) -> memoryview:
        """Return bytes of the stored type in the new type; ``first`` is the number of their first element."""
        import torch

        from humo.quantization.dequantize import unpack  # torch alone, without diffusers

        dtypes = torch_dtypes()
        raw = torch.frombuffer(chunk, dtype=torch.uint8)
        values = unpack(raw, stored.dtype) if stored.dtype in GGML_TYPES else raw.view(dtypes[stored.dtype]).float()
        if scale is not None and scale.numel() == 1:
            values *= scale
        elif scale is not None:
            row = math.prod(stored.shape[1:])  # elements
            values *= scale[torch.arange(first, first + values.numel()) // row]
        converted: memoryview = values.to(dtypes[self.tensor.dtype]).view(torch.uint8).numpy().data
        return converted
