"""Plan the conversion of a component: give every tensor its new name, or the reason why it is dropped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.architecture import (
    Architecture,
    Shapes,
    SpeechEncoderArchitecture,
    TransformerArchitecture,
    infer_autoencoder,
    infer_speech_encoder,
    infer_text_encoder,
    infer_transformer,
)
from humo.checkpoints.casting import Cast, check_quantization, scale_names
from humo.checkpoints.discovery import DiscoveredComponent
from humo.checkpoints.formats.gguf_file import GGUF_SUFFIX
from humo.checkpoints.formats.open import WeightSet
from humo.checkpoints.formats.writer import TensorToWrite
from humo.checkpoints.keymap import Naming, TensorName, tensor_names
from humo.checkpoints.signatures import ComponentName, drop_reason, find_prefixes, name_other_whisper
from humo.errors import CheckpointError
from humo.presets import HUMO_1_7B, HUMO_17B
from humo.quantization.formats import FP8_TYPES, QUANT_TYPES

FAMILIES = {preset.in_channels: preset for preset in (HUMO_17B, HUMO_1_7B)}
"""Input channels of the transformer -> preset of a released family."""

SCALE_SUFFIX = ".weight_scale"
"""Suffix of the scale of a weight that stays in fp8, in the diffusers layout."""

SAMPLE_OF_NAMES = 3
"""Number of tensors that a message names if it concerns many."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A tensor, or another value of a file, that is not converted.

    Args:
        file: the file.
        name: its name in the file.
        reason: why it is dropped.
    """

    file: Path
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ComponentPlan:
    """A component that is ready to be written.

    Args:
        component: its name.
        weights: the source.
        architecture: its sizes.
        config_hints: its own configuration in the source, or nothing.
        casts: its tensors under the new names.
        dropped: tensors that are not converted.
        unscaled_fp8: number of fp8 weights without a scale.
        kept_quantized: number of weights that stay quantized.
    """

    component: ComponentName
    weights: WeightSet
    architecture: Architecture
    config_hints: Mapping[str, Any]
    casts: Mapping[str, Cast]
    dropped: tuple[Dropped, ...]
    unscaled_fp8: int
    kept_quantized: int

    @property
    def outputs(self) -> tuple[TensorToWrite, ...]:
        """Its tensors, to be written into a file."""
        return tuple(TensorToWrite(name, cast.tensor, cast.chunks) for name, cast in self.casts.items())

    @property
    def bytes(self) -> int:
        """Bytes of the weights under the new names."""
        return sum(cast.tensor.bytes for cast in self.casts.values())

    @property
    def family(self) -> str | None:
        """The preset that a transformer belongs to; None for other components."""
        return family_of(self.architecture) if isinstance(self.architecture, TransformerArchitecture) else None


def family_of(architecture: TransformerArchitecture) -> str:
    """Return the name of a transformer's preset.

    Args:
        architecture: its sizes.

    Raises:
        CheckpointError: it takes another number of channels than either family.
    """
    if architecture.in_channels not in FAMILIES:
        expected = ", ".join(f"{preset.title} takes {channels}" for channels, preset in FAMILIES.items())
        problem = f"takes {architecture.in_channels} input channels, but {expected}"
        raise CheckpointError("transformer", problem, "give the weights of HuMo-17B or HuMo-1.7B")
    return FAMILIES[architecture.in_channels].name


QUANTIZABLE_BLOCKS = ("blocks.", "encoder.block.")
"""Start of the names of weights in a block of the transformer, and of the text encoder."""

POSITION_BIAS = ".relative_attention_bias."
"""Part of the names of the text encoder's position embeddings, which are no linear layers."""


def can_stay_quantized(name: str, shape: tuple[int, ...], quant_type: str) -> bool:
    """Return whether a weight can stay quantized: a linear layer's matrix in a block of the transformer or of the text
    encoder, whose rows are whole quantization blocks.

    Args:
        name: in the diffusers layout.
        shape: of the weight.
        quant_type: the type it is stored in.
    """
    if (
        quant_type not in QUANT_TYPES
        or len(shape) != 2
        or not (name.startswith(QUANTIZABLE_BLOCKS) and name.endswith(".weight"))
        or POSITION_BIAS in name
    ):
        return False
    return shape[1] % QUANT_TYPES[quant_type].block_size == 0


def quant_types_for(architecture: Architecture, quant_type: str, scales: int = 0) -> dict[str, tuple[str, int]]:
    """Return the types of all weights of a component that can be quantized, if they have one type.

    Args:
        architecture: of the transformer or the text encoder.
        quant_type: the type.
        scales: number of scales beside each weight.

    Returns:
        weight -> its type and number of scales.
    """
    return {
        name.diffusers: (quant_type, scales)
        for name in tensor_names(architecture)
        if can_stay_quantized(name.diffusers, name.shape, quant_type)
    }


def plan_component(
    discovered: DiscoveredComponent,
    naming: Naming,
    dtype: str | None,
    head_dim: int | None,
    keep_quantized: bool = False,
) -> ComponentPlan:
    """Match the tensors of a component with those that its architecture implies.

    Args:
        discovered: the component.
        naming: the names to write.
        dtype: element type to write, as the safetensors format names it; None keeps what is stored.
        head_dim: channels of one of the transformer's attention heads, if no configuration gives it.
        keep_quantized: keep the matrices of the blocks of transformer and text encoder in the quantization they are
            stored in.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is unknown.
    """
    component, weights = discovered.component, discovered.weights
    check_quantization(weights)
    originals, dropped = _strip_prefix(component, weights)
    stored = {name: weights.tensors[original].shape for name, original in originals.items()}
    scales = {weight: name for weight, name in scale_names(weights.tensors).items() if weight in weights.tensors}
    scale_tensors = set(scales.values())
    shapes = {name: shape for name, shape in stored.items() if originals[name] not in scale_tensors}
    architecture = _infer_architecture(component, shapes, discovered.config, head_dim, str(weights.path))
    if isinstance(architecture, SpeechEncoderArchitecture) and (
        other := name_other_whisper(architecture, weights.tensors)
    ):
        raise CheckpointError(str(weights.path), f"is {other}", "take whisper-large-v3")
    matched = _match_names(component, weights, originals, shapes, list(tensor_names(architecture)), dropped)
    keep = keep_quantized and component in (ComponentName.TRANSFORMER, ComponentName.TEXT_ENCODER)
    casts = [one for name, original in matched for one in _casts(name, original, weights, scales, dtype, keep)]
    return ComponentPlan(
        component=component,
        weights=weights,
        architecture=architecture,
        config_hints=discovered.config,
        casts={name.diffusers if naming is Naming.DIFFUSERS else name.published: cast for name, cast in casts},
        dropped=tuple(dropped),
        unscaled_fp8=sum(
            weights.tensors[original].dtype in FP8_TYPES and original not in scales for _, original in matched
        ),
        kept_quantized=sum(cast.tensor.dtype in QUANT_TYPES for _, cast in casts),
    )


def _casts(
    name: TensorName, original: str, weights: WeightSet, scales: Mapping[str, str], dtype: str | None, keep: bool
) -> Iterator[tuple[TensorName, Cast]]:
    """Yield a tensor as it is written, and its scale if it stays quantized.

    Where the blocks stay quantized, other quantized weights are written in float32, which represents them exactly.
    """
    stored, scale = weights.tensors[original].dtype, scales.get(original)
    if keep and can_stay_quantized(name.diffusers, name.shape, stored):
        Cast(weights, original, None, scale)  # checks the shape of the scale
        yield name, Cast(weights, original, stored, shape=name.shape)
        if scale is not None:
            count = math.prod(weights.tensors[scale].shape)
            scale_name = name.diffusers.removesuffix(".weight") + SCALE_SUFFIX
            yield TensorName(scale_name, scale_name, (count, 1)), Cast(weights, scale, "F32", shape=(count, 1))
        return
    exact = "F32" if keep and stored in QUANT_TYPES else None
    yield name, Cast(weights, original, dtype or exact, scale, name.shape)


def _strip_prefix(component: ComponentName, weights: WeightSet) -> tuple[dict[str, str], list[Dropped]]:
    """Return names without the file's prefix -> names in the file, and the tensors that do not belong to the model."""
    prefixes = find_prefixes(component, weights.tensors)
    if len(prefixes) > 1 and "ema" not in prefixes[0]:
        problem = f"holds several models, under {', '.join(repr(prefix) for prefix in prefixes)}"
        raise CheckpointError(str(weights.path), problem, "give a file with one of them")
    if not prefixes:
        problem = f"has the tensors of the {component} under an unknown prefix"
        raise CheckpointError(str(weights.path), problem, "take the file as released, or report where it is from")
    chosen, others = prefixes[0], tuple(prefix for prefix in prefixes[1:] if prefix)
    originals: dict[str, str] = {}
    dropped = [Dropped(weights.path, name, "a value, not a tensor") for name in weights.non_tensors]
    unexpected: list[str] = []
    for name in weights.tensors:
        if name.startswith(chosen) and not name.startswith(others):
            originals[name.removeprefix(chosen)] = name
        elif reason := drop_reason(component, name):
            dropped.append(Dropped(weights.path, name, reason))
        elif len(prefixes) > 1 and (name.startswith(others) or "" in prefixes):
            dropped.append(Dropped(weights.path, name, "raw weights beside the averaged ones (EMA)"))
        else:
            unexpected.append(name)
    _refuse_unexpected(weights, unexpected)
    if (
        component is ComponentName.TEXT_ENCODER
        and "shared.weight" not in originals
        and "encoder.embed_tokens.weight" in originals
    ):
        originals["shared.weight"] = originals.pop("encoder.embed_tokens.weight")
    return originals, dropped


def _match_names(
    component: ComponentName,
    weights: WeightSet,
    originals: Mapping[str, str],
    shapes: Shapes,
    names: list[TensorName],
    dropped: list[Dropped],
) -> list[tuple[TensorName, str]]:
    """Return each tensor name of the architecture and the tensor in the file that it comes from."""
    diffusers = {name.diffusers: name for name in names}
    published = {name.published: name for name in names}
    known = diffusers if len(diffusers.keys() & shapes.keys()) >= len(published.keys() & shapes.keys()) else published
    unexpected: list[str] = []
    for name, original in originals.items():
        if name not in shapes:
            continue  # a scale
        if name not in known:
            if reason := drop_reason(component, original):
                dropped.append(Dropped(weights.path, original, reason))
            else:
                unexpected.append(original)
        elif not _fits(shapes[name], known[name].shape, weights):
            problem = f"has {original!r} of shape {shapes[name]}, not {known[name].shape} as its other tensors imply"
            raise CheckpointError(str(weights.path), problem, "take the complete, unchanged file")
    _refuse_unexpected(weights, unexpected)
    if missing := [name for name in known if name not in originals]:
        raise CheckpointError(str(weights.path), f"lacks {_sample(missing)}", "take the complete, unchanged file")
    return [(known[name], originals[name]) for name in known]


def _fits(shape: tuple[int, ...], expected: tuple[int, ...], weights: WeightSet) -> bool:
    """Return whether a shape is the expected one; GGUF files lose leading sizes of 1."""
    if weights.path.suffix == GGUF_SUFFIX:
        return _without_leading_ones(shape) == _without_leading_ones(expected)
    return shape == expected


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[next((axis for axis, size in enumerate(shape) if size != 1), len(shape)) :]


def _refuse_unexpected(weights: WeightSet, names: list[str]) -> None:
    """Raise CheckpointError if a file has tensors that the model does not have."""
    if names:
        problem = f"has tensors that the model does not have: {_sample(names)}"
        raise CheckpointError(str(weights.path), problem, "take the complete, unchanged file")


def _sample(names: list[str]) -> str:
    """Return the first names in alphabetical order, and how many there are beside them."""
    listed = ", ".join(sorted(names)[:SAMPLE_OF_NAMES])
    more = f" and {len(names) - SAMPLE_OF_NAMES} more" if len(names) > SAMPLE_OF_NAMES else ""
    return f"{listed}{more}"


def _infer_architecture(
    component: ComponentName, shapes: Shapes, config_hints: Mapping[str, Any], head_dim: int | None, field: str
) -> Architecture:
    try:
        match component:
            case ComponentName.TRANSFORMER:
                return infer_transformer(shapes, config_hints, head_dim)
            case ComponentName.AUTOENCODER:
                return infer_autoencoder(shapes, config_hints)
            case ComponentName.TEXT_ENCODER:
                return infer_text_encoder(shapes, config_hints)
            case ComponentName.AUDIO_ENCODER:
                return infer_speech_encoder(shapes, config_hints)
    except CheckpointError as error:
        raise CheckpointError(field, f"{error.field} {error.problem}", error.remedy) from error
