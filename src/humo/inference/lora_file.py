"""Reader of LoRA files: the changes of a network's layers and parameters that the tensors of a file contain.

Nothing is merged here. Factors keep the dtype of the file; fp8 factors are converted to bfloat16, without loss. Alpha
stays a separate number: multiplied into an fp8 matrix it would be rounded. `humo.inference.lora_keys` reads the keys.

**Source:** ``comfy/weight_adapter/`` of ComfyUI (github.com/comfyanonymous/ComfyUI); LyCORIS
(github.com/KohakuBlueleaf/LyCORIS) for LoHa and LoKr; peft (github.com/huggingface/peft) for adapter configurations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.formats.base import torch_dtypes
from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.checkpoints.keymap import tensor_names
from humo.checkpoints.lora_store import DISTILLED_PREFIX
from humo.errors import CheckpointError
from humo.inference.lora_keys import LoraLayout, match_keys


class Delta(Protocol):
    """Change of a weight matrix (out, in), stored as factors."""

    def apply(self, x: Tensor) -> Tensor:
        """Return the product (..., out) of the change with ``x`` (..., in)."""
        ...

    def matrix(self) -> Tensor:
        """Return the full change (out, in), float32."""
        ...

    def to(self, device: torch.device) -> Delta:
        """Return a copy with its factors on a device."""
        ...


@dataclass(frozen=True, eq=False)
class LowRank:
    """``scale * up @ down``; ``down`` (rank, in), ``up`` (out, rank)."""

    down: Tensor
    up: Tensor
    scale: float

    def apply(self, x: Tensor) -> Tensor:
        """See `Delta`."""
        return F.linear(F.linear(x, self.down.to(x.dtype)) * self.scale, self.up.to(x.dtype))

    def matrix(self) -> Tensor:
        """See `Delta`."""
        return self.scale * (self.up.float() @ self.down.float())

    def to(self, device: torch.device) -> LowRank:
        """See `Delta`."""
        return LowRank(self.down.to(device), self.up.to(device), self.scale)


@dataclass(frozen=True, eq=False)
class Dense:
    """``scale * weight``, (out, in): a difference of full weights, or a change without a cheaper form (LoHa)."""

    weight: Tensor
    scale: float = 1.0

    def apply(self, x: Tensor) -> Tensor:
        """See `Delta`."""
        return F.linear(x, self.weight.to(x.dtype)) * self.scale

    def matrix(self) -> Tensor:
        """See `Delta`."""
        return self.scale * self.weight.float()

    def to(self, device: torch.device) -> Dense:
        """See `Delta`."""
        return Dense(self.weight.to(device), self.scale)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """``scale * kron(first, second)``: LoKr; ``first`` (a, b), ``second`` (out / a, in / b)."""

    first: Tensor
    second: Tensor
    scale: float

    def apply(self, x: Tensor) -> Tensor:
        """See `Delta`."""
        grid = x.unflatten(-1, (self.first.shape[1], self.second.shape[1]))
        product = torch.einsum("oi,pj,...ij->...op", self.first.to(x.dtype), self.second.to(x.dtype), grid)
        return product.flatten(-2) * self.scale

    def matrix(self) -> Tensor:
        """See `Delta`."""
        return self.scale * torch.kron(self.first.float(), self.second.float())

    def to(self, device: torch.device) -> Kronecker:
        """See `Delta`."""
        return Kronecker(self.first.to(device), self.second.to(device), self.scale)


@dataclass(frozen=True, eq=False)
class LayerChange:
    """Change of one linear layer.

    Attributes:
        delta: added to the weight matrix.
        magnitude: DoRA's norms of the rows (out, 1) or columns (1, in) of the changed matrix; None without DoRA.
    """

    delta: Delta
    magnitude: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LoraFile:
    """LoRA under the names of the network.

    Attributes:
        layers: name of a linear layer -> change of its weight matrix.
        parameters: name of a parameter (bias, norm, modulation table, convolution) -> tensor to add, float32.
        layout: keys of the file.
    """

    layers: Mapping[str, LayerChange]
    parameters: Mapping[str, Tensor]
    layout: LoraLayout

    def tensors(self) -> list[Tensor]:
        """Return all tensors that a network computes with."""
        of_layers = [one for layer in self.layers.values() for one in (*vars(layer.delta).values(), layer.magnitude)]
        return [one for one in (*of_layers, *self.parameters.values()) if isinstance(one, Tensor)]

    def of_first_blocks(self, blocks: int) -> LoraFile:
        """Return the part for a network with the first blocks only."""

        def is_kept(name: str) -> bool:
            match = re.match(r"blocks\.(\d+)\.", name)
            return match is None or int(match[1]) < blocks

        layers = {name: change for name, change in self.layers.items() if is_kept(name)}
        parameters = {name: change for name, change in self.parameters.items() if is_kept(name)}
        return LoraFile(layers, parameters, self.layout)


def lora_on_meta(file: SafetensorsFile, architecture: TransformerArchitecture) -> LoraFile:
    """Return a LoRA without numbers, on the meta device, to estimate its memory.

    Raises:
        CheckpointError: the file is for another network or another size, or damaged.
    """
    dtypes = torch_dtypes()
    state = {
        name: torch.empty(one.shape, dtype=dtypes[one.dtype], device="meta")
        for name, one in file.tensors.items()
        if not name.startswith(DISTILLED_PREFIX)
    }
    alphas = {name: torch.ones(one.shape) for name, one in state.items() if name.endswith("alpha")}
    return read_lora({**state, **alphas}, architecture, name=file.path.name)


def read_lora(
    state: Mapping[str, Tensor],
    architecture: TransformerArchitecture,
    *,
    name: str = "LoRA",
    config: Mapping[str, Any] | None = None,
) -> LoraFile:
    """Read a LoRA's tensors as changes of a network.

    Args:
        state: tensors of the file by key, in any naming in use for LoRAs of Wan2.1 and HuMo.
        architecture: sizes of the network.
        name: name of the file, for messages.
        config: adapter configuration of the file's header, as diffusers saves it: ``r``, ``lora_alpha``, patterns.

    Raises:
        CheckpointError: the file is for another network or another size, or damaged.
    """
    layout = match_keys({key: tuple(tensor.shape) for key, tensor in state.items()}, architecture, name=name)
    shapes = {tensor.diffusers: tensor.shape for tensor in tensor_names(architecture)}
    scales = {key.removeprefix("transformer."): value for key, value in (config or {}).items()}
    layers: dict[str, LayerChange] = {}
    parameters: dict[str, Tensor] = {}
    for layer, keys in layout.weights.items():
        try:
            tensors = {part: _widen(state[key]) for part, key in keys.items()}
            change = _read_layer(layer, tensors, shapes[f"{layer}.weight"], scales)
        except (RuntimeError, ValueError, KeyError) as error:
            problem = f"the tensors of {layer} do not fit together ({error})"
            raise CheckpointError(name, problem, "download the file again, or give another one") from error
        if isinstance(change, LayerChange):
            layers[layer] = change
        else:
            parameters[f"{layer}.weight"] = change
    for target, keys in layout.parameters.items():
        tensors = {part: _widen(state[key]) for part, key in keys.items()}
        parameters[target] = _read_parameter(target, tensors, scales).reshape(shapes[target])
    return LoraFile(layers, parameters, layout)


def _scale(layer: str, rank: int, alpha: float | None, config: Mapping[str, Any]) -> float:
    """Return alpha / rank, with the alpha of the layer, else of the adapter configuration; 1 without an alpha."""
    if alpha is None and "lora_alpha" in config:
        patterns = config.get("alpha_pattern") or {}
        own = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer)), None)
        alpha = float(config["lora_alpha"] if own is None else own)
        if config.get("use_rslora"):
            return alpha / math.sqrt(rank)
    return 1.0 if alpha is None else alpha / rank


def _read_layer(
    layer: str, tensors: dict[str, Tensor], shape: tuple[int, ...], config: Mapping[str, Any]
) -> LayerChange | Tensor:
    """Return the change of a matrix, or the full tensor to add to the weight of a norm or a convolution."""
    alpha = float(tensors.pop("alpha")) if "alpha" in tensors else None
    magnitude = tensors.pop("magnitude", None)
    deltas = [delta for delta in (_dense(tensors), _factored(layer, tensors, alpha, config)) if delta is not None]
    if len(shape) == 2 and len(deltas) == 1:
        return LayerChange(deltas[0], _magnitude(magnitude, shape))
    total = sum((delta.matrix() for delta in deltas[1:]), deltas[0].matrix())
    return LayerChange(Dense(total), _magnitude(magnitude, shape)) if len(shape) == 2 else total.reshape(shape)


def _read_parameter(target: str, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Tensor:
    """Return the tensor to add to a bias or a modulation table, float32."""
    if "bias_up" in tensors:
        alpha = float(tensors["alpha"]) if "alpha" in tensors else None
        scale = _scale(target.removesuffix(".bias"), tensors["down"].shape[0], alpha, config)
        tensors["bias_up"] = tensors["bias_up"].float() * scale
    changes = [tensors[part].float() for part in ("diff_bias", "bias_up", "diff_modulation") if part in tensors]
    return sum(changes[1:], changes[0])


def _widen(tensor: Tensor) -> Tensor:
    """Convert an fp8 tensor to bfloat16, which represents all its values; return other tensors unchanged."""
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _dense(tensors: dict[str, Tensor]) -> Delta | None:
    """Return a difference of full weights, or None."""
    diff = tensors.pop("diff", None)
    if diff is None:
        return None
    return Dense(diff.reshape(diff.shape[0], -1) if diff.ndim > 1 else diff.reshape(1, -1))


def _factored(layer: str, tensors: dict[str, Tensor], alpha: float | None, config: Mapping[str, Any]) -> Delta | None:
    """Return a low-rank, LoHa or LoKr change, or None."""
    if "down" in tensors or "up" in tensors:
        down, up = tensors["down"], tensors["up"]
        rank = down.shape[0]
        if "mid" in tensors:  # a third factor (rank, rank, 1, 1) between the two, for convolutions
            mid = tensors["mid"].float()
            down = (mid.reshape(mid.shape[0], mid.shape[1], -1).sum(-1) @ down.float().flatten(1)).to(down.dtype)
        return LowRank(down.flatten(1), up.flatten(1), _scale(layer, rank, alpha, config))
    if "hada_w1_a" in tensors:
        return _hadamard(tensors, alpha)
    if any(part.startswith("lokr") for part in tensors):
        return _kronecker(tensors, alpha)
    return None


def _hadamard(tensors: Mapping[str, Tensor], alpha: float | None) -> Delta:
    """Return a LoHa change: the elementwise product of two low-rank matrices."""
    sides = []
    for side in "12":
        first, second = tensors[f"hada_w{side}_a"].float(), tensors[f"hada_w{side}_b"].float()
        core = tensors.get(f"hada_t{side}")
        if core is None:
            sides.append(first @ second)
        else:
            sides.append(torch.einsum("ij...,jr,ip->pr...", core.float(), second, first).flatten(1))
    rank = tensors["hada_w1_b"].shape[0]
    return Dense(sides[0] * sides[1], 1.0 if alpha is None else alpha / rank)


def _kronecker(tensors: Mapping[str, Tensor], alpha: float | None) -> Delta:
    """Return a LoKr change: the Kronecker product of two matrices, each full or low-rank."""
    rank: int | None = None
    sides = []
    for side in "12":
        whole = tensors.get(f"lokr_w{side}")
        if whole is None:
            first, second = tensors[f"lokr_w{side}_a"].float(), tensors[f"lokr_w{side}_b"].float()
            rank = second.shape[0]
            core = tensors.get("lokr_t2") if side == "2" else None
            whole = first @ second if core is None else torch.einsum("ij...,jr,ip->pr...", core.float(), second, first)
        sides.append(whole)
    scale = alpha / rank if alpha is not None and rank is not None else 1.0
    if sides[1].ndim > 2:
        product = torch.kron(sides[0].float()[(...,) + (None,) * (sides[1].ndim - 2)], sides[1].float())
        return Dense(product.flatten(1), scale)
    return Kronecker(sides[0], sides[1], scale)


def _magnitude(magnitude: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """Return DoRA's norms as (out, 1) or (1, in); norms that fit both rows and columns are taken as those of rows."""
    if magnitude is None:
        return None
    out, into = shape
    values = magnitude.float()
    if values.numel() == out and (values.ndim == 1 or values.shape[0] == out):
        return values.reshape(out, 1)
    if values.numel() == into:
        return values.reshape(1, into)
    raise ValueError(f"DoRA magnitudes of shape {tuple(magnitude.shape)} do not fit a layer of {shape}")
