"""Load the pipeline of a model folder onto a device, whole, quantized, or with its blocks streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel, WhisperConfig
from transformers.utils import logging as transformers_logging

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.conversion_plan import SCALE_SUFFIX, quant_types_for
from humo.checkpoints.layout import HUMO_QUANTIZATION, QUANTIZATION_CONFIG
from humo.checkpoints.model_folder import NETWORK, Component, ModelFolder, open_model_folder
from humo.errors import CheckpointError
from humo.inference.execution import Execution
from humo.inference.pipeline import HuMoPipeline
from humo.model.audio import SpeechEncoder
from humo.model.tiling import check_tile
from humo.model.transformer import FLOAT32_PARTS, HuMoTransformer3DModel
from humo.quantization.formats import FP8_TYPES
from humo.quantization.linear import QuantTypes, replace_with_quantized_linear
from humo.quantization.quantize import quantize, quantize_fp8
from humo.request import OffloadName, QuantizeName
from humo.runtime.block_streaming import WeightStreams
from humo.runtime.device import choose_device, choose_dtype
from humo.runtime.disk_blocks import Cast, DiskBlocks, WeightStore
from humo.runtime.memory_estimate import autoencoder_on_meta
from humo.runtime.offload import BLOCK_LISTS, adjust_placement, apply_placement, set_embedding
from humo.runtime.placement import AUTOENCODER, Placement, check_placement, check_quantized


def load_pipeline(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offload: OffloadName = "none",
    quantize: QuantizeName = "none",
    tile: int | None = None,
    resident_blocks: int | None = None,
) -> HuMoPipeline:
    """Load the pipeline of a model folder onto a device.

    The transformer and the text encoder use ``dtype``. The autoencoder and the audio encoder stay in float32, as
    published.

    Args:
        folder: a model folder, as `humo convert` writes it.
        device, dtype: as in a request.
        offload, quantize: as in a request; ``auto`` means ``none``, because there is no clip whose memory could be
            estimated.
        tile, resident_blocks: as in a request; None means whole frames, and no block.

    Raises:
        CheckpointError: the folder is incomplete, or its weights do not match its configuration.
        DependencyError: the device is not available.
        RequestError: the device does not support ``offload``, or it cannot be combined with ``quantize``; the network's
            weights are stored quantized, and ``quantize`` would quantize them again; or tiles are too small.
    """
    model = open_model_folder(folder)
    placement = Placement(
        "none" if offload == "auto" else offload,
        "none" if quantize == "auto" else quantize,
        tile or 0,
        resident_blocks or 0,
    )
    device = choose_device(device)
    check_quantized(placement.quantize, model)
    check_placement(placement.offload, placement.quantize, device)
    check_tile(placement.tile, autoencoder_on_meta(model.architectures[AUTOENCODER]))
    precision = getattr(torch, choose_dtype(dtype, device))
    dtypes: dict[str, Any] = {"transformer": precision, "text_encoder": precision, "default": torch.float32}
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    if placement.offload == "disk":
        pipeline = load_streamed(folder, device=device, dtype=precision)
        adjust_placement(pipeline, placement)
        return pipeline
    modules: dict[str, Any] = {}
    for name, component in model.components.items():
        quant_type = placement.quant_type if name == NETWORK else None
        if quant_type or component.quantized or component.is_mapped:
            modules[name] = load_component(model, name, dtypes.get(name, torch.float32), quant_type)
    try:
        pipeline = HuMoPipeline.from_pretrained(str(folder), dtype=dtypes, local_files_only=True, **modules)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        remedy = "convert the model again with humo convert"
        raise CheckpointError(str(folder), f"cannot be loaded: {error}", remedy) from error
    apply_placement(pipeline, placement, device)
    return pipeline


def load_streamed(folder: Path, *, device: str, dtype: torch.dtype) -> HuMoPipeline:
    """Load the pipeline of a model folder with blocks that stay on the disk until they are called.

    Args:
        folder: a model folder.
        device: device that the pipeline computes on.
        dtype: precision of the transformer and the text encoder; the other components are float32, as published.

    Raises:
        CheckpointError: the folder is incomplete, or stored in a form that cannot be streamed.
    """
    model, streams = open_model_folder(folder), WeightStreams()
    modules = {}
    for name, path in BLOCK_LISTS.items():
        precision = torch.float32 if name == "audio_encoder" else dtype
        modules[name] = component = _build_on_meta(model, name, precision)
        store, cast = _open_store(model.components[name]), cast_to(device, precision)
        if name == "text_encoder":
            embedding = _token_embedding(store)
            set_embedding(component, partial(_cast_rows, store, embedding, cast))
        outside = [name for name in component.state_dict() if not name.startswith(f"{path}.")]
        component.load_state_dict({one: cast(one, store.read(one)) for one in outside}, strict=False, assign=True)
        blocks = component.get_submodule(path)
        names = [{one: f"{path}.{number}.{one}" for one in block.state_dict()} for number, block in enumerate(blocks)]
        streams.add(blocks, DiskBlocks(store, names, cast), is_network=name == NETWORK)
    if model.components[AUTOENCODER].is_mapped:
        modules[AUTOENCODER] = load_component(model, AUTOENCODER, torch.float32)
    pipeline: HuMoPipeline = HuMoPipeline.from_pretrained(str(folder), local_files_only=True, **modules)
    pipeline.vae.to(device)
    pipeline.execution = Execution(device=torch.device(device), streamed=streams)
    return pipeline


def _cast_rows(store: WeightStore, name: str, cast: Cast, rows: Sequence[int]) -> Tensor:
    return cast(name, store.read_rows(name, rows))


def cast_to(device: str, dtype: torch.dtype) -> Cast:
    """Return a `Cast` that converts the tensors of a component to one type.

    Quantized weights keep their bytes. Scales and the layers in `FLOAT32_PARTS` are converted to float32.
    """

    def cast(name: str, stored: Tensor) -> Tensor:
        if not stored.is_floating_point():
            return stored.to(device)
        return stored.to(device, torch.float32 if (FLOAT32_PARTS | {"weight_scale"}) & set(name.split(".")) else dtype)

    return cast


def load_component(model: ModelFolder, name: str, dtype: torch.dtype, quant_type: str | None = None) -> Any:
    """Load a component into the host's memory that is stored quantized, in another layout, or is to be quantized.

    Args:
        model: the model folder.
        name: of the component.
        dtype: precision of the weights that are not quantized.
        quant_type: type to quantize a transformer to that is stored unquantized; None for a component that is stored
            quantized.

    Raises:
        CheckpointError: its weights are stored in a type that is not supported, or a file is truncated.
    """
    component, cast = model.components[name], cast_to("cpu", dtype)
    quant_types = component.quant_types
    if quant_type is not None:
        architecture = model.architectures[name]
        assert isinstance(architecture, TransformerArchitecture)
        quant_types = quant_types_for(architecture, quant_type, scales=int(quant_type in FP8_TYPES))
    module, store = _build_on_meta(model, name, dtype, quant_types), _open_store(component)
    if name == "text_encoder":
        module.encoder.embed_tokens = module.shared  # files have the embedding once, under either name
    weights: dict[str, Tensor] = {}
    for weight in module.state_dict():
        if quant_type is not None and weight in quant_types:
            weights |= _quantized(weight, store.read(weight), quant_type)
        elif weight in store:
            weights[weight] = cast(weight, store.read(weight))
    module.load_state_dict(weights, strict=False, assign=True)
    return module


def _quantized(name: str, weight: Tensor, quant_type: str) -> dict[str, Tensor]:
    """Return the bytes of a quantized weight, and its scale if the type has one."""
    if quant_type not in FP8_TYPES:
        return {name: quantize(weight, quant_type)}
    packed, scale = quantize_fp8(weight, quant_type)
    return {name: packed, name.removesuffix(".weight") + SCALE_SUFFIX: scale}


def _open_store(component: Component) -> WeightStore:
    return WeightStore(component.files, component.quantized)


BUILDERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "transformer": HuMoTransformer3DModel.from_config,
    "vae": AutoencoderKLWan.from_config,
    "text_encoder": lambda config: UMT5EncoderModel(UMT5Config(**config)),
    "audio_encoder": lambda config: SpeechEncoder(WhisperConfig(**config)),
}
"""Component with weights -> function that creates it from its configuration."""


def _build_on_meta(model: ModelFolder, name: str, dtype: torch.dtype, quant_types: QuantTypes | None = None) -> Any:
    """Return a component on the meta device; quantized layers are those of its files, or those of ``quant_types``.

    Raises:
        CheckpointError: another library quantized its weights.
    """
    component = model.components[name]
    if component.config.get(QUANTIZATION_CONFIG, HUMO_QUANTIZATION) != HUMO_QUANTIZATION:
        problem = "has weights that another library quantized, which are not supported"
        raise CheckpointError(str(component.folder), problem, "convert the released weights again with humo convert")
    config = {key: value for key, value in component.config.items() if key != QUANTIZATION_CONFIG}
    with torch.device("meta"):
        module = BUILDERS[name](config).eval().requires_grad_(False)
    for weight in module.parameters():
        weight.data = weight.data.to(dtype)
    replace_with_quantized_linear(module, component.quant_types if quant_types is None else quant_types)
    return module


def _token_embedding(store: WeightStore) -> str:
    return next(name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in store)
