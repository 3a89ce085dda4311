"""Brings a tensor to the element type it is written in, piece by piece, undoing scaled fp8 on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from humo.checkpoints.reading import CHUNK_BYTES, StoredTensor, WeightSet, torch_dtypes
from humo.errors import CheckpointError, RequestError, did_you_mean

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Element types that may be asked for, and the safetensors format's words for them."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Types that are written as they are unless another is asked for."""

EIGHT_BIT_FLOATS = frozenset({"F8_E4M3", "F8_E5M2"})
"""Types that only store: written as bf16 unless another is asked for."""

SCALE_SUFFIXES = (".scale_weight", ".weight_scale")
"""How a layer's fp8 scale is named: in ComfyUI's older files, in its newer ones."""


def dtype_word(dtype: str | None) -> str | None:
    """The format's word for a type that the user asked for.

    Args:
        dtype: ``bf16``, ``fp16``, ``fp32``, or nothing to keep what is stored.

    Raises:
        RequestError: another word.
    """
    if dtype is None:
        return None
    if dtype not in DTYPES:
        raise RequestError("dtype", f"{dtype!r} is not a type to convert to", did_you_mean(dtype, DTYPES))
    return DTYPES[dtype]


def scale_names(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Weight -> its scale, for the layers that have one.

    Args:
        tensors: of a file.
    """
    return {
        name.removesuffix(suffix) + ".weight": name
        for name in tensors
        for suffix in SCALE_SUFFIXES
        if name.endswith(suffix)
    }


@dataclass(frozen=True, slots=True)
class Cast:
    """A tensor of a file on its way to a type.

    Args:
        weights: where it lies.
        name: under which name.
        dtype: the type it is written in; nothing: what is stored, bf16 for fp8.
        scale_name: of the tensor that it is multiplied by, if there is one.

    Raises:
        CheckpointError: it is stored in a type that cannot be converted, or its scale has a form not known here.
    """

    weights: WeightSet
    name: str
    dtype: str | None = None
    scale_name: str | None = None

    def __post_init__(self) -> None:
        stored = self.weights.tensors[self.name]
        if stored.dtype not in FLOATS | EIGHT_BIT_FLOATS:
            problem = f"stores {self.name!r} as {stored.dtype}, a quantisation that is not read here"
            raise CheckpointError(str(self.weights.path), problem, "give bf16, fp16, fp32 or fp8 (scaled) weights")
        if self.scale_name is not None:
            shape = self.weights.tensors[self.scale_name].shape
            if math.prod(shape) != 1 and (not stored.shape or shape not in {stored.shape[:1], (*stored.shape[:1], 1)}):
                problem = f"scales {self.name!r} by {shape}, neither one number nor one a row"
                raise CheckpointError(str(self.weights.path), problem, "give weights scaled by tensor")

    @property
    def tensor(self) -> StoredTensor:
        """As it will be written."""
        stored = self.weights.tensors[self.name]
        dtype = self.dtype or (stored.dtype if stored.dtype in FLOATS else "BF16")
        return StoredTensor(dtype, stored.shape)

    def chunks(self) -> Iterator[memoryview]:
        """Its bytes in the new type; float32 in between, so that a scale is applied before rounding."""
        stored = self.weights.tensors[self.name]
        if stored.dtype == self.tensor.dtype and self.scale_name is None:
            return self.weights.chunks(self.name)
        return self._cast(stored)

    def _cast(self, stored: StoredTensor) -> Iterator[memoryview]:
        import torch

        dtypes = torch_dtypes()
        scale = None if self.scale_name is None else self.weights.load(self.scale_name).float().reshape(-1)
        row = math.prod(stored.shape[1:])  # elements
        done = 0  # elements
        for chunk in self.weights.chunks(self.name, CHUNK_BYTES // 4):
            piece = torch.frombuffer(chunk, dtype=torch.uint8).view(dtypes[stored.dtype]).float()
            if scale is not None and scale.numel() == 1:
                piece *= scale
            elif scale is not None:
                piece *= scale[torch.arange(done, done + piece.numel()) // row]
            done += piece.numel()
            yield piece.to(dtypes[self.tensor.dtype]).view(torch.uint8).numpy().data
