"""Weights that come from disk when a block is called, and go when it is done: memory for two blocks is enough.

While one block computes, a thread reads the next one, as it is stored; it is cast once the other is gone. What is not a
block stays: norms and embeddings at both ends are small, but for the text encoder's vocabulary, of which the rows of a
prompt are read alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel, WhisperConfig

from humo.checkpoints.architecture import TransformerArchitecture
from humo.checkpoints.conversion_plan import quant_types_for
from humo.checkpoints.formats.open import SafetensorsFile
from humo.checkpoints.layout import HUMO_QUANTIZATION, QUANTIZATION_CONFIG
from humo.checkpoints.model_folder import Component, ModelFolder, open_model_folder
from humo.errors import CheckpointError
from humo.inference.pipeline import HuMoPipeline
from humo.model.audio import SpeechEncoder
from humo.model.transformer import FLOAT32_PARTS, HuMoTransformer3DModel
from humo.model.upstream import apply_group_offloading
from humo.quantization.formats import row_bytes
from humo.quantization.linear import QuantTypes, replace_with_quantized_linear
from humo.quantization.quantize import quantize
from humo.request import PlacementName

DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
"""Element types of weights, by the safetensors format's words."""

Cast = Callable[[str, Tensor], Tensor]
"""(name, tensor as it is stored) -> as it is computed with, on its device."""


class WeightStore:
    """The weights of a module in their files.

    Args:
        paths: safetensors files.
        quantized: weights that are read as their bytes, (R, bytes of a row) uint8.
    """

    def __init__(self, paths: Sequence[Path], quantized: Collection[str] = ()) -> None:
        self._quantized = quantized
        self._files = {name: file for file in map(SafetensorsFile, paths) for name in file.tensors}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """A tensor, as it is stored.

        Raises:
            CheckpointError: it is not there, is of a type that nothing computes with, or its file ends early.
        """
        file, dtype, shape = self._locate(name)
        raw = torch.empty(file.tensors[name].bytes, dtype=torch.uint8)
        done = 0
        for chunk in file.chunks(name):
            raw[done : done + len(chunk)] = torch.frombuffer(chunk, dtype=torch.uint8)
            done += len(chunk)
        return raw.view(dtype).view(shape)

    def read_rows(self, name: str, wanted: Sequence[int]) -> Tensor:
        """Some rows of a matrix, as they are stored.

        Raises:
            CheckpointError: as `read`.
        """
        file, dtype, (_, width) = self._locate(name)
        size = width * dtype.itemsize
        found = [torch.frombuffer(bytearray(file.read_bytes(name, row * size, size)), dtype=dtype) for row in wanted]
        return torch.stack(found)

    def _locate(self, name: str) -> tuple[SafetensorsFile, torch.dtype, tuple[int, ...]]:
        if name not in self._files:
            raise CheckpointError(name, "is in none of the files", "convert the model anew with humo convert")
        file = self._files[name]
        stored = file.tensors[name]
        if name in self._quantized:
            rows, columns = stored.shape
            return file, torch.uint8, (rows, row_bytes(stored.dtype, columns))
        if stored.dtype not in DTYPES:
            raise CheckpointError(
                str(file.path), f"holds {name!r} as {stored.dtype}", "convert it with humo convert --dtype bf16"
            )
        return file, DTYPES[stored.dtype], stored.shape


class BlockStream:
    """Feeds blocks that are called one after another.

    Args:
        blocks: name in the store -> block, in their order; their weights are on the meta device.
        store: of their weights.
        cast: makes of a stored tensor what is computed with.
        around: after the last block the first one is read again, as many passes follow each other.
    """

    def __init__(self, blocks: Mapping[str, nn.Module], store: WeightStore, cast: Cast, *, cyclic: bool) -> None:
        self._names, self._blocks = list(blocks), list(blocks.values())
        self._store, self._cast, self._cyclic = store, cast, cyclic
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._prefetched: dict[int, Future[dict[str, Tensor]]] = {}
        self._meta_tensors = [dict(block.state_dict()) for block in self._blocks]
        for number, block in enumerate(self._blocks):
            block.register_forward_pre_hook(self._onload(number))
            block.register_forward_hook(self._offload(number), always_call=True)

    def wait(self) -> None:
        """Until what is being read ahead is there."""
        for one in self._prefetched.values():
            one.result()

    def cancel_prefetch(self) -> None:
        """Let go of what was read ahead: there is no next pass for now."""
        for one in self._prefetched.values():
            one.cancel()
        self._prefetched.clear()

    def _onload(self, number: int) -> Callable[..., None]:
        def onload(block: nn.Module, _: Any) -> None:
            coming = self._prefetched.pop(number, None) or self._reader.submit(self._read, number)
            raw = coming.result()
            names = list(raw)
            cast = {name: self._cast(f"{self._names[number]}.{name}", raw.pop(name)) for name in names}
            block.load_state_dict(cast, assign=True)
            following = number + 1
            if following == len(self._blocks) and self._cyclic:
                following = 0
            if following < len(self._blocks) and following not in self._prefetched:
                self._prefetched[following] = self._reader.submit(self._read, following)

        return onload

    def _offload(self, number: int) -> Callable[..., None]:
        def offload(block: nn.Module, *_: Any) -> None:
            block.load_state_dict(self._meta_tensors[number], assign=True)

        return offload

    def _read(self, number: int) -> dict[str, Tensor]:
        prefix = f"{self._names[number]}."
        return {name: self._store.read(f"{prefix}{name}") for name in self._meta_tensors[number]}


class DiskEmbedding(nn.Module):
    """An embedding whose matrix stays on the disk.

    Args:
        store: that has it.
        name: of the matrix.
        cast: as in `Stream`.
    """

    def __init__(self, store: WeightStore, name: str, cast: Cast) -> None:
        super().__init__()
        self._store, self._name, self._cast = store, name, cast

    def forward(self, indices: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        distinct, places = indices.unique(return_inverse=True)
        rows = self._cast(self._name, self._store.read_rows(self._name, distinct.tolist()))
        return rows.to(indices.device)[places]


def load_streamed(folder: Path, *, device: str, dtype: torch.dtype) -> HuMoPipeline:
    """The pipeline in a model folder whose blocks stay on the disk until they are called.

    Args:
        folder: in our layout.
        device: where it computes.
        dtype: of the network and the text encoder; the rest is float32, as published.

    Raises:
        CheckpointError: the folder is not a whole model, or stored in a form that cannot be streamed.
    """
    model = open_model_folder(folder)
    transformer = _build_on_meta(model, "transformer", HuMoTransformer3DModel.from_config, dtype)
    text_encoder = _build_on_meta(model, "text_encoder", lambda config: UMT5EncoderModel(UMT5Config(**config)), dtype)
    audio_encoder = _build_on_meta(
        model, "audio_encoder", lambda config: SpeechEncoder(WhisperConfig(**config)), torch.float32
    )
    stores = {name: _open_store(model.components[name]) for name in STREAMED_COMPONENTS}
    vocabulary = DiskEmbedding(stores["text_encoder"], _token_embedding(stores["text_encoder"]), cast_to(device, dtype))
    text_encoder.shared = text_encoder.encoder.embed_tokens = vocabulary
    _stream_blocks(text_encoder, "encoder.block", stores["text_encoder"], cast_to(device, dtype))
    _stream_blocks(audio_encoder, "layers", stores["audio_encoder"], cast_to(device, torch.float32))
    network = _stream_blocks(transformer, "blocks", stores["transformer"], cast_network(device, dtype), cyclic=True)
    parts = {"transformer": transformer, "text_encoder": text_encoder, "audio_encoder": audio_encoder}
    pipeline: HuMoPipeline = HuMoPipeline.from_pretrained(str(folder), local_files_only=True, **parts)
    pipeline.vae.to(device)
    pipeline.let_go = network.cancel_prefetch
    return pipeline


STREAMED_COMPONENTS = ("transformer", "text_encoder", "audio_encoder")
"""Components whose blocks are streamed; the autoencoder is small."""


def cast_to(device: str, dtype: torch.dtype) -> Cast:
    """Makes everything of one type."""
    return lambda _, stored: stored.to(device, dtype)


def cast_network(device: str, dtype: torch.dtype) -> Cast:
    """Makes everything of the network of one type, but for what is quantized, scales, and its small layers."""

    def cast(name: str, stored: Tensor) -> Tensor:
        if not stored.is_floating_point():
            return stored.to(device)
        return stored.to(device, torch.float32 if (FLOAT32_PARTS | {"weight_scale"}) & set(name.split(".")) else dtype)

    return cast


def load_quantized(model: ModelFolder, dtype: torch.dtype, quant_type: str | None = None) -> HuMoTransformer3DModel:
    """A model folder's network in the host's memory, its blocks' matrices quantized.

    Args:
        model: the folder.
        dtype: of what is not quantized.
        kind: of `humo.quantization.quantize`, for a network that is not quantized yet; None for one that is.

    Raises:
        CheckpointError: its weights are stored in a form that nothing computes with.
    """
    component, architecture = model.components["transformer"], model.architectures["transformer"]
    assert isinstance(architecture, TransformerArchitecture)
    quant_types = component.quant_types if quant_type is None else quant_types_for(architecture, quant_type)
    network: HuMoTransformer3DModel = _build_on_meta(
        model, "transformer", HuMoTransformer3DModel.from_config, dtype, quant_types
    )
    store, cast = _open_store(component), cast_network("cpu", dtype)

    def weight(name: str) -> Tensor:
        stored = store.read(name)
        return cast(name, stored) if quant_type is None or name not in quant_types else quantize(stored, quant_type)

    network.load_state_dict({name: weight(name) for name in network.state_dict()}, assign=True)
    return network


def _open_store(component: Component) -> WeightStore:
    return WeightStore(component.weights, component.quantized)


def _build_on_meta(
    model: ModelFolder,
    name: str,
    build: Callable[[dict[str, Any]], Any],
    dtype: torch.dtype,
    quant_types: QuantTypes | None = None,
) -> Any:
    """A component without its weights, its layers quantized as those are in the files, or as `kinds` say.

    Raises:
        CheckpointError: its weights are stored otherwise than its class has them.
    """
    component = model.components[name]
    if component.config.get(QUANTIZATION_CONFIG, HUMO_QUANTIZATION) != HUMO_QUANTIZATION:
        problem = "holds weights that a library has quantized, which are not streamed"
        raise CheckpointError(str(component.folder), problem, "convert the released weights again")
    config = {key: value for key, value in component.config.items() if key != QUANTIZATION_CONFIG}
    with torch.device("meta"):
        module = build(config).eval().requires_grad_(False)
    for weight in module.parameters():
        weight.data = weight.data.to(dtype)
    replace_with_quantized_linear(module, component.quant_types if quant_types is None else quant_types)
    return module


def _stream_blocks(module: Any, blocks: str, store: WeightStore, cast: Cast, *, cyclic: bool = False) -> BlockStream:
    """Stream a module's blocks; the rest of its weights is read now."""
    listed = module.get_submodule(blocks)
    cancel_prefetch = [name for name in module.state_dict() if not name.startswith(f"{blocks}.")]
    module.load_state_dict({name: cast(name, store.read(name)) for name in cancel_prefetch}, strict=False, assign=True)
    return BlockStream({f"{blocks}.{number}": block for number, block in enumerate(listed)}, store, cast, cyclic=cyclic)


def _token_embedding(store: WeightStore) -> str:
    return next(name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in store)


def apply_placement(pipeline: HuMoPipeline, placement: PlacementName, device: str, dtype: torch.dtype) -> None:
    """Put a pipeline's weights, all of them in the host's memory, where they are to lie.

    Args:
        pipeline: as loaded.
        placement: any but ``disk``, for which see `load_streaming`.
        device: where it computes.
        dtype: of the network.
    """
    if placement == "resident" or not (device.startswith("cuda") or placement == "host"):
        pipeline.to(device)
    elif placement == "host":
        streams = device.startswith("cuda")
        for part in (pipeline.transformer, pipeline.text_encoder, pipeline.audio_encoder):
            apply_group_offloading(
                part,
                onload_device=torch.device(device),
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=streams,
            )
        pipeline.vae.to(device)
    else:
        if placement == "fp8":
            pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        pipeline.enable_model_cpu_offload(device=device)


FALLBACKS: Mapping[PlacementName, PlacementName] = {"resident": "offload", "offload": "host", "fp8": "host"}
"""Where to go on when the device's memory runs out."""


def fall_back(
    pipeline: HuMoPipeline, placement: PlacementName, device: str, dtype: torch.dtype
) -> PlacementName | None:
    """Put the weights where they take less of the device's memory, in the middle of a clip.

    Args:
        pipeline, device, dtype: as in `place`.
        placement: the present one.

    Returns:
        the new one; None if there is none.
    """
    lower = FALLBACKS.get(placement)
    if lower is None:
        return None
    pipeline.remove_all_hooks()
    pipeline.to("cpu")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    apply_placement(pipeline, lower, device, dtype)
    return lower
