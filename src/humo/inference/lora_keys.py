"""Keys of LoRA files: the layers and parameters of a network that they change, whatever their naming. No torch.

**Source:** meaning of the keys: ComfyUI (github.com/comfyanonymous/ComfyUI), ``comfy/lora.py`` and
``comfy/weight_adapter/``; LyCORIS (github.com/KohakuBlueleaf/LyCORIS) for LoHa and LoKr; peft
(github.com/huggingface/peft) for the names of DoRA's magnitudes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from humo.checkpoints.architecture import Shapes, TransformerArchitecture
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
_KINDS = {"diff_bias": "bias", "bias_up": "bias", "diff_modulation": "scale_shift_table"}
"""Part of a change -> kind of the parameter that it changes, if that is not the weight."""


@dataclass(frozen=True)
class LoraLayout:
    """Keys of a LoRA file by what they change.

    Args:
        weights: name of a layer -> part of the change of its weight (``down``, ``alpha``, ...) -> key.
        parameters: name of a parameter -> part (``diff_bias``, ``diff_modulation``, ...) -> key.
        ignored: reason -> keys without effect on this network.
    """

    weights: Mapping[str, Mapping[str, str]]
    parameters: Mapping[str, Mapping[str, str]]
    ignored: Mapping[str, tuple[str, ...]]

    def describe_ignored(self, name: str) -> list[str]:
        """Return one line for each reason why keys of the file ``name`` are ignored, with their number."""
        return [f"{name}: {len(keys)} tensors are ignored: {reason}" for reason, keys in self.ignored.items()]


def match_keys(shapes: Shapes, architecture: TransformerArchitecture, *, name: str = "LoRA") -> LoraLayout:
    """Match the keys of a LoRA file with the layers of a network, and check their sizes.

    Args:
        shapes: key -> shape, in any naming in use for LoRAs of Wan2.1 and HuMo.
        architecture: sizes of the network.
        name: name of the file, for messages.

    Raises:
        CheckpointError: the file is for another network or another size, or damaged.
    """
    names = _Names(architecture)
    layers, ignored = _sort_keys(shapes, names, name)
    weights: dict[str, dict[str, str]] = {}
    parameters: dict[str, dict[str, str]] = {}
    for layer, keys in layers.items():
        for kind, own in _group(keys).items():
            try:
                target = names.parameter(layer, kind)
                if target is None:
                    raise _UnfitError(f"{layer} has no {kind} in this network")
                _check_size(layer, target, kind, {part: shapes[key] for part, key in own.items()}, names)
            except _UnfitError as unfit:
                ignored.setdefault(str(unfit), []).extend(own.values())
            except _OtherSizeError as error:
                raise CheckpointError(name, f"is for a network of another size ({error})", REMEDY) from error
            except (ValueError, KeyError, IndexError) as error:
                problem = f"the tensors of {layer} do not fit together ({_describe(error)})"
                raise CheckpointError(name, problem, "download the file again, or give another one") from error
            else:
                if kind == "weight":
                    weights[layer] = own
                else:
                    parameters[target] = own
    if not weights and not parameters:
        raise CheckpointError(name, "changes no layer of this network", REMEDY)
    return LoraLayout(weights, parameters, {reason: tuple(keys) for reason, keys in ignored.items()})


def has_lora_keys(keys: Iterable[str]) -> bool:
    """Return whether a file with these keys holds changes of a network, rather than a network."""
    return any((match := _KEY.fullmatch(key)) is not None and match[2] != "alpha" for key in keys)


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


def _sort_keys(shapes: Shapes, names: _Names, file: str) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Return layer -> part -> key, and reason -> keys that are ignored."""
    layers: dict[str, dict[str, str]] = {}
    ignored: dict[str, list[str]] = {}
    unknown: list[str] = []
    for key in shapes:
        bare = _strip(key)
        reason = next((why for pattern, why in _NOT_OURS.items() if re.search(pattern, bare)), None)
        match = _KEY.fullmatch(bare)
        if reason is not None:
            ignored.setdefault(reason, []).append(key)
        elif match is None or match[1] not in names.layers:
            unknown.append(key)
        else:
            layers.setdefault(names.layers[match[1]], {})[_PARTS[match[2]]] = key
    if unknown:
        raise CheckpointError(file, _describe_unknown(unknown, shapes), REMEDY)
    return layers, ignored


def _group(keys: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return kind of parameter (``weight``, ``bias``, ``scale_shift_table``) -> part -> key of one layer."""
    groups: dict[str, dict[str, str]] = {}
    for part, key in keys.items():
        groups.setdefault(_KINDS.get(part, "weight"), {})[part] = key
    if "bias_up" in groups.get("bias", {}):  # it is scaled like the weight
        groups["bias"] |= {part: keys[part] for part in ("alpha", "down") if part in keys}
    if groups.get("weight", {}).keys() == {"alpha"}:  # an alpha alone changes nothing
        del groups["weight"]
    return groups


def _check_size(layer: str, target: str, kind: str, shapes: Shapes, names: _Names) -> None:
    """Check that the change of one parameter has its size.

    Raises:
        _UnfitError, _OtherSizeError: it has not.
        ValueError, KeyError, IndexError: parts of the change are missing or have the wrong shape.
    """
    expected = names.shapes[target]
    is_matrix = kind == "weight" and len(expected) == 2
    for size in _change_sizes(shapes):
        if is_matrix and size != expected:
            raise _OtherSizeError(f"{layer} is {_dims(size)} in the file and {_dims(expected)} in this network")
        if math.prod(size) != math.prod(expected):
            subject = layer if kind == "weight" else target
            raise _UnfitError(f"{subject} is of another size in this network ({_dims(size)} for {_dims(expected)})")


def _change_sizes(shapes: Shapes) -> list[tuple[int, ...]]:
    """Return the sizes of the changes of one parameter; of a weight (out, in), with all dimensions after the first."""
    sizes = [shapes[part] for part in ("diff_bias", "bias_up", "diff_modulation") if part in shapes]
    if sizes:
        return sizes
    if "diff" in shapes:
        diff = shapes["diff"]
        sizes.append((diff[0], math.prod(diff[1:])) if len(diff) > 1 else diff)
    if "down" in shapes or "up" in shapes:
        down, up = shapes["down"], shapes["up"]
        if down[0] != up[1]:
            raise ValueError(f"rank {up[1]} of one factor and {down[0]} of the other")
        sizes.append((up[0], math.prod(down[1:])))
    elif "hada_w1_a" in shapes:
        sizes.append(_product_size(shapes, "hada_w1_a", "hada_w1_b", "hada_t1"))
    elif any(part.startswith("lokr") for part in shapes):
        first = _product_size(shapes, "lokr_w1_a", "lokr_w1_b", "", whole="lokr_w1")
        second = _product_size(shapes, "lokr_w2_a", "lokr_w2_b", "lokr_t2", whole="lokr_w2")
        sizes.append((first[0] * second[0], first[1] * second[1]))
    if not sizes:
        raise ValueError(f"{', '.join(shapes)} without factors")
    return sizes


def _product_size(shapes: Shapes, first: str, second: str, core: str, *, whole: str = "") -> tuple[int, int]:
    """Return the size of a matrix that is stored whole, as two factors, or as two factors and a core tensor."""
    if whole in shapes:
        return shapes[whole][0], math.prod(shapes[whole][1:])
    if core in shapes:
        return shapes[first][1], shapes[second][1] * math.prod(shapes[core][2:])
    return shapes[first][0], shapes[second][1]


def _describe(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _strip(key: str) -> str:
    """Return a key without prefixes, and without peft's adapter name ``default``."""
    bare = key.replace(".default.", ".").removesuffix(".default")
    while prefix := next((prefix for prefix in _PREFIXES if bare.startswith(prefix)), ""):
        bare = bare.removeprefix(prefix)
    return bare


def _describe_unknown(unknown: list[str], shapes: Shapes) -> str:
    """Describe a file of which some keys belong to no layer of the network."""
    blocks = {int(number) for key in shapes for number in re.findall(r"blocks[._](\d+)", key)}
    beyond = [key for key in unknown if re.search(r"blocks[._]\d+", key)]
    if len(beyond) == len(unknown) and len(unknown) < len(shapes):
        return f"is for a network of {max(blocks) + 1} blocks, more than this one has"
    return f"{unknown[0]!r} and {len(unknown) - 1} more belong to no layer of this network"
