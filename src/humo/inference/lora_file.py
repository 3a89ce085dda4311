"""Reader of LoRA files: translates keys of any naming in use to changes of the network's layers and parameters.

Nothing is merged here. Factors keep the dtype of the file; fp8 factors are converted to bfloat16, without loss. Alpha
stays a separate number: multiplied into an fp8 matrix it would be rounded.

**Source:** meaning of the keys: ComfyUI (github.com/comfyanonymous/ComfyUI), ``comfy/lora.py`` and
``comfy/weight_adapter/``; LyCORIS (github.com/KohakuBlueleaf/LyCORIS) for LoHa and LoKr; peft
(github.com/huggingface/peft) for the names of DoRA's magnitudes and for adapter configurations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.keymap import tensor_names
from humo.errors import CheckpointError

REMEDY = "give a LoRA of HuMo or of Wan2.1, of the same size"

_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "lora_unet__",
    "lora_unet_",
    "pipe.dit.",
    "transformer.",
)
_NOT_OURS = {
    r"(^|[._])(k_img|v_img|norm_k_img|img_emb|add_k_proj|add_v_proj|norm_added_[kq]|image_embedder)([._]|$)": (
        "the image encoder branch, which HuMo does not have"
    ),
    r"^(lora_te\d?_|text_encoder\.|text_encoders\.|te\.)": "a text encoder, which HuMo's LoRAs do not change",
}
_PARTS = {  # suffix of a key -> part of the change
    "lora_A.weight": "down",
    "lora_down.weight": "down",
    "lora.down.weight": "down",
    "lora_linear_layer.down.weight": "down",
    "lora_B.weight": "up",
    "lora_up.weight": "up",
    "lora.up.weight": "up",
    "lora_linear_layer.up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_B.bias": "bias_up",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "diff": "diff",
    "w_norm": "diff",
    "diff_b": "diff_bias",
    "b_norm": "diff_bias",
    "diff_m": "diff_modulation",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: name for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
}
_KEY = re.compile(rf"(.+?)[._]?({'|'.join(sorted(map(re.escape, _PARTS), key=len, reverse=True))})")


class Delta(Protocol):
    """Change of a weight matrix (out, in), stored as factors."""

    def apply(self, x: Tensor) -> Tensor:
        """Return the product (..., out) of the change with ``x`` (..., in)."""
        ...

    def matrix(self) -> Tensor:
        """Return the full change (out, in), float32."""
        ...

    def shape(self) -> tuple[int, int]:
        """Return (out, in)."""
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

    def shape(self) -> tuple[int, int]:
        """See `Delta`."""
        return self.up.shape[0], self.down.shape[1]

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

    def shape(self) -> tuple[int, int]:
        """See `Delta`."""
        return self.weight.shape[0], self.weight.shape[1]

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

    def shape(self) -> tuple[int, int]:
        """See `Delta`."""
        return (
            self.first.shape[0] * self.second.shape[0],
            self.first.shape[1] * self.second.shape[1],
        )

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
        ignored: reason -> keys of the file without effect on this network.
    """

    layers: Mapping[str, LayerChange] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
    names = _Names(architecture)
    parts, ignored = _sort_keys(state, names, name)
    scales = {key.removeprefix("transformer."): value for key, value in (config or {}).items()}
    layers: dict[str, LayerChange] = {}
    parameters: dict[str, Tensor] = {}
    for layer, tensors in parts.items():
        try:
            _read_layer(layer, tensors, names, scales, layers, parameters)
        except _UnfitError as unfit:
            ignored[str(unfit)] = [*ignored.get(str(unfit), []), *(key for key, _ in tensors.values())]
        except _OtherSizeError as error:
            raise CheckpointError(name, f"is for a network of another size ({error})", REMEDY) from error
        except (RuntimeError, ValueError, KeyError) as error:
            problem = f"the tensors of {layer} do not fit together ({error})"
            raise CheckpointError(name, problem, "download the file again, or give another one") from error
    if not layers and not parameters:
        raise CheckpointError(name, "changes no layer of this network", REMEDY)
    return LoraFile(layers, parameters, {reason: tuple(keys) for reason, keys in ignored.items()})


def describe_ignored(lora: LoraFile, name: str) -> list[str]:
    """Return one line for each reason why tensors of a file are ignored, with their number."""
    return [f"{name}: {len(keys)} tensors are ignored: {reason}" for reason, keys in lora.ignored.items()]


class _UnfitError(Exception):
    """Raised for a change whose parameter this network does not have; the change is ignored."""


class _OtherSizeError(Exception):
    """Raised for a matrix whose size differs from the network's: the file is for another network."""


class _Names:
    """Layers and parameters of the network, by each name that a LoRA file may use for them."""

    def __init__(self, architecture: TransformerArchitecture) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.layers: dict[str, str] = {}
        for published, ours, shape in tensor_names(architecture):
            self.shapes[ours] = shape
            for own in (published, ours):
                self.layers.setdefault(_owner(own), _owner(ours))
        self.layers |= {
            name.removesuffix(".0"): layer for name, layer in self.layers.items() if name.endswith("to_out.0")
        }
        self.layers |= {name.replace(".", "_"): layer for name, layer in self.layers.items()}

    def parameter(self, layer: str, kind: str) -> str | None:
        """Return the name of a layer's ``weight``, ``bias`` or ``scale_shift_table``; None if it has none."""
        name = f"{layer}.{kind}" if layer else kind
        return name if name in self.shapes else None


def _owner(parameter: str) -> str:
    """Return the name of the layer that has a parameter; empty for the network itself."""
    layer, _, kind = parameter.rpartition(".")
    assert kind in ("weight", "bias", "modulation", "scale_shift_table"), parameter
    return layer


def _sort_keys(
    state: Mapping[str, Tensor], names: _Names, file: str
) -> tuple[dict[str, dict[str, tuple[str, Tensor]]], dict[str, list[str]]]:
    """Return layer -> part -> (key, tensor), and reason -> keys that are ignored."""
    parts: dict[str, dict[str, tuple[str, Tensor]]] = {}
    ignored: dict[str, list[str]] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        bare = _strip(key)
        reason = next((why for pattern, why in _NOT_OURS.items() if re.search(pattern, bare)), None)
        match = _KEY.fullmatch(bare)
        if reason is not None:
            ignored.setdefault(reason, []).append(key)
        elif match is None or match[1] not in names.layers:
            unknown.append(key)
        else:
            parts.setdefault(names.layers[match[1]], {})[_PARTS[match[2]]] = (key, tensor)
    if unknown:
        raise CheckpointError(file, _describe_unknown(unknown, state), REMEDY)
    return parts, ignored


def _strip(key: str) -> str:
    """Return a key without prefixes, and without peft's adapter name ``default``."""
    bare = key.replace(".default.", ".").removesuffix(".default")
    while prefix := next((prefix for prefix in _PREFIXES if bare.startswith(prefix)), ""):
        bare = bare.removeprefix(prefix)
    return bare


def _describe_unknown(unknown: list[str], state: Mapping[str, Tensor]) -> str:
    """Describe a file of which some keys belong to no layer of the network."""
    blocks = {int(number) for key in state for number in re.findall(r"blocks[._](\d+)", key)}
    beyond = [key for key in unknown if re.search(r"blocks[._]\d+", key)]
    if len(beyond) == len(unknown) and len(unknown) < len(state):
        return f"is for a network of {max(blocks) + 1} blocks, more than this one has"
    return f"{unknown[0]!r} and {len(unknown) - 1} more belong to no layer of this network"


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
    layer: str,
    parts: Mapping[str, tuple[str, Tensor]],
    names: _Names,
    config: Mapping[str, Any],
    layers: dict[str, LayerChange],
    parameters: dict[str, Tensor],
) -> None:
    """Read the tensors of one layer, and add its changes to ``layers`` and ``parameters``."""
    tensors = {part: _widen(tensor) for part, (_, tensor) in parts.items()}
    alpha = float(tensors.pop("alpha")) if "alpha" in tensors else None
    for part, kind in (("diff_bias", "bias"), ("bias_up", "bias"), ("diff_modulation", "scale_shift_table")):
        if part in tensors:
            change = tensors.pop(part).float()
            if part == "bias_up":
                change = change * _scale(layer, tensors["down"].shape[0], alpha, config)
            _add_parameter(layer, kind, change, names, parameters)
    magnitude = tensors.pop("magnitude", None)
    deltas = [delta for delta in (_dense(tensors), _factored(layer, tensors, alpha, config)) if delta is not None]
    if not deltas:
        if magnitude is not None:
            raise ValueError("there are DoRA magnitudes but no factors")
        return
    target = names.parameter(layer, "weight")
    if target is None:
        raise _UnfitError(f"{layer} has no weight in this network")
    shape = names.shapes[target]
    if len(shape) != 2 or len(deltas) > 1:  # norms and convolutions are small: their change is added as a full tensor
        total = sum((delta.matrix() for delta in deltas[1:]), deltas[0].matrix())
        if len(shape) == 2:
            _check_shape(layer, tuple(total.shape), shape)
            layers[layer] = LayerChange(Dense(total), _magnitude(magnitude, shape))
            return
        if total.numel() != math.prod(shape):
            raise _UnfitError(f"{layer} is of another size in this network ({_dims(total.shape)} for {_dims(shape)})")
        _add_parameter(layer, "weight", total.reshape(shape), names, parameters)
        return
    _check_shape(layer, deltas[0].shape(), shape)
    layers[layer] = LayerChange(deltas[0], _magnitude(magnitude, shape))


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
    raise ValueError(f"DoRA magnitudes of shape {_dims(magnitude.shape)} do not fit a layer of {_dims(shape)}")


def _add_parameter(layer: str, kind: str, change: Tensor, names: _Names, parameters: dict[str, Tensor]) -> None:
    """Add a change of a parameter, if the network has the parameter in this size."""
    target = names.parameter(layer, kind)
    if target is None:
        raise _UnfitError(f"{layer} has no {kind} in this network")
    if change.numel() != math.prod(names.shapes[target]):
        sizes = f"{_dims(change.shape)} for {_dims(names.shapes[target])}"
        raise _UnfitError(f"{target} is of another size in this network ({sizes})")
    change = change.float().reshape(names.shapes[target])
    parameters[target] = parameters[target] + change if target in parameters else change


def _check_shape(layer: str, size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if size != tuple(shape):
        raise _OtherSizeError(f"{layer} is {_dims(size)} in the file and {_dims(shape)} in this network")


def _dims(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape))
