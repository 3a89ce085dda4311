"""Load the pipeline of a model folder onto a device, whole, quantized, or with its blocks streamed from the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel, WhisperConfig
from transformers.utils import logging as transformers_logging

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.conversion_plan import quant_types_for
from humo.checkpoints.layout import HUMO_QUANTIZATION, QUANTIZATION_CONFIG
from humo.checkpoints.model_folder import Component, ModelFolder, open_model_folder
from humo.errors import CheckpointError
from humo.inference.execution import Execution
from humo.inference.pipeline import HuMoPipeline
from humo.model.audio import SpeechEncoder
from humo.model.transformer import FLOAT32_PARTS, HuMoTransformer3DModel
from humo.quantization.linear import QuantTypes, replace_with_quantized_linear
from humo.quantization.quantize import quantize
from humo.request import OffloadName, QuantizeName
from humo.runtime.block_streaming import BlockStream, Cast, DiskEmbedding, WeightStore
from humo.runtime.device import choose_device, choose_dtype
from humo.runtime.offload import apply_placement
from humo.runtime.placement import Placement, check_placement, check_quantized


def load_pipeline(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offload: OffloadName = "none",
    quantize: QuantizeName = "none",
) -> HuMoPipeline:
    """Load the pipeline of a model folder onto a device.

    The transformer and the text encoder use ``dtype``. The autoencoder and the audio encoder stay in float32, as
    published.

    Args:
        folder: a model folder, as `humo convert` writes it.
        device, dtype: as in a request.
        offload, quantize: as in a request; ``auto`` means ``none``, because there is no clip whose memory could be
            estimated.

    Raises:
        CheckpointError: the folder is incomplete, or its weights do not match its configuration.
        DependencyError: the device is not available.
        RequestError: the device does not support ``offload`` or ``quantize``, or the two cannot be combined; or the
            network's weights are stored quantized, and ``quantize`` would quantize them again.
    """
    model = open_model_folder(folder)
    placement = Placement(
        "none" if offload == "auto" else offload,
        "none" if quantize == "auto" else quantize,
    )
    device = choose_device(device)
    check_quantized(placement.quantize, model)
    check_placement(placement.offload, placement.quantize, device)
    precision = getattr(torch, choose_dtype(dtype, device))
    dtypes: dict[str, Any] = {"transformer": precision, "text_encoder": precision, "default": torch.float32}
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    if placement.offload == "disk":
        return load_streamed(folder, device=device, dtype=precision)
    modules: dict[str, Any] = {}
    for name, component in model.components.items():
        if name == "transformer" and (placement.quant_type or component.quantized or component.is_mapped):
            modules[name] = load_quantized(model, precision, placement.quant_type)
        elif component.is_mapped:
            modules[name] = load_mapped(model, name, dtypes.get(name, torch.float32))
    try:
        pipeline: HuMoPipeline = HuMoPipeline.from_pretrained(
            str(folder), dtype=dtypes, local_files_only=True, **modules
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        remedy = "convert the model again with humo convert"
        raise CheckpointError(str(folder), f"cannot be loaded: {error}", remedy) from error
    apply_placement(pipeline, placement, device, precision)
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
    model = open_model_folder(folder)
    transformer = _build_on_meta(model, "transformer", dtype)
    text_encoder = _build_on_meta(model, "text_encoder", dtype)
    audio_encoder = _build_on_meta(model, "audio_encoder", torch.float32)
    stores = {name: _open_store(model.components[name]) for name in STREAMED_COMPONENTS}
    vocabulary = DiskEmbedding(stores["text_encoder"], _token_embedding(stores["text_encoder"]), cast_to(device, dtype))
    text_encoder.shared = text_encoder.encoder.embed_tokens = vocabulary
    _stream_blocks(text_encoder, "encoder.block", stores["text_encoder"], cast_to(device, dtype))
    _stream_blocks(audio_encoder, "layers", stores["audio_encoder"], cast_to(device, torch.float32))
    network = _stream_blocks(transformer, "blocks", stores["transformer"], cast_network(device, dtype), cyclic=True)
    modules = {"transformer": transformer, "text_encoder": text_encoder, "audio_encoder": audio_encoder}
    if model.components["vae"].is_mapped:
        modules["vae"] = load_mapped(model, "vae", torch.float32)
    pipeline: HuMoPipeline = HuMoPipeline.from_pretrained(str(folder), local_files_only=True, **modules)
    pipeline.vae.to(device)
    pipeline.execution = Execution(release_prefetch=network.cancel_prefetch)
    return pipeline


BUILDERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "transformer": HuMoTransformer3DModel.from_config,
    "vae": AutoencoderKLWan.from_config,
    "text_encoder": lambda config: UMT5EncoderModel(UMT5Config(**config)),
    "audio_encoder": lambda config: SpeechEncoder(WhisperConfig(**config)),
}
"""Component with weights -> function that creates it from its configuration."""

STREAMED_COMPONENTS = ("transformer", "text_encoder", "audio_encoder")
"""Components whose blocks are streamed; the autoencoder is small."""


def cast_to(device: str, dtype: torch.dtype) -> Cast:
    """Return a `Cast` that converts every tensor to one type."""
    return lambda _, stored: stored.to(device, dtype)


def cast_network(device: str, dtype: torch.dtype) -> Cast:
    """Return a `Cast` that converts the transformer's tensors to one type.

    Quantized weights keep their bytes. Scales and the layers in `FLOAT32_PARTS` are converted to float32.
    """

    def cast(name: str, stored: Tensor) -> Tensor:
        if not stored.is_floating_point():
            return stored.to(device)
        return stored.to(device, torch.float32 if (FLOAT32_PARTS | {"weight_scale"}) & set(name.split(".")) else dtype)

    return cast


def load_quantized(model: ModelFolder, dtype: torch.dtype, quant_type: str | None = None) -> HuMoTransformer3DModel:
    """Load the transformer of a model folder into the host's memory, with quantized matrices in its blocks.

    Args:
        model: the model folder.
        dtype: precision of the weights that are not quantized.
        quant_type: as in `humo.quantization.quantize.quantize`, for a transformer that is stored unquantized; None for
            one that is stored quantized.

    Raises:
        CheckpointError: its weights are stored in a type that is not supported.
    """
    component, architecture = model.components["transformer"], model.architectures["transformer"]
    assert isinstance(architecture, TransformerArchitecture)
    quant_types = component.quant_types if quant_type is None else quant_types_for(architecture, quant_type)
    network: HuMoTransformer3DModel = _build_on_meta(model, "transformer", dtype, quant_types)
    store, cast = _open_store(component), cast_network("cpu", dtype)

    def weight(name: str) -> Tensor:
        stored = store.read(name)
        return cast(name, stored) if quant_type is None or name not in quant_types else quantize(stored, quant_type)

    network.load_state_dict({name: weight(name) for name in network.state_dict()}, assign=True)
    return network


def load_mapped(model: ModelFolder, name: str, dtype: torch.dtype) -> Any:
    """Load a component whose weights are in a file of another layout into the host's memory.

    Args:
        model: the model folder.
        name: of the component.
        dtype: precision of its weights.

    Raises:
        CheckpointError: its file is truncated.
    """
    module, store = _build_on_meta(model, name, dtype), _open_store(model.components[name])
    stored = [key for key in module.state_dict() if key in store]
    module.load_state_dict({key: store.read(key).to(dtype) for key in stored}, strict=False, assign=True)
    if name == "text_encoder":  # the file has one of the two names of its embedding
        module.tie_weights()
    return module


def _open_store(component: Component) -> WeightStore:
    return WeightStore(component.files, component.quantized)


def _build_on_meta(
    model: ModelFolder,
    name: str,
    dtype: torch.dtype,
    quant_types: QuantTypes | None = None,
) -> Any:
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


def _stream_blocks(module: Any, blocks: str, store: WeightStore, cast: Cast, *, cyclic: bool = False) -> BlockStream:
    """Load a module's weights outside its blocks, and stream its blocks."""
    block_list = module.get_submodule(blocks)
    outside_blocks = [name for name in module.state_dict() if not name.startswith(f"{blocks}.")]
    module.load_state_dict({name: cast(name, store.read(name)) for name in outside_blocks}, strict=False, assign=True)
    named_blocks = {f"{blocks}.{number}": block for number, block in enumerate(block_list)}
    return BlockStream(named_blocks, store, cast, cyclic=cyclic)


def _token_embedding(store: WeightStore) -> str:
    return next(name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in store)
