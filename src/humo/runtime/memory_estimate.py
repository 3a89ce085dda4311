"""Estimate the memory of a clip by component and phase; no weights are needed.

    peak = the largest sum of weights in memory and activations over all phases

Activations are measured by running the code that generates on the meta device (`humo.runtime.allocation_tracker`); the
bytes of weights follow from their shapes.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), H, W size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel, WhisperConfig

from humo.checkpoints.architecture import (
    Architecture,
    AutoencoderArchitecture,
    ShortcutArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
)
from humo.checkpoints.conversion_plan import quant_types_for
from humo.checkpoints.keymap import tensor_names
from humo.conditioning.image import decode_video, encode_blank
from humo.geometry import Geometry
from humo.inference.adapters import LoraAdapters
from humo.inference.lora_file import LoraFile
from humo.model.audio import SpeechEncoder
from humo.model.autoencoder import ShortcutAutoencoder, StreamingDecoder
from humo.model.caches import caching
from humo.model.tiling import TILES_TO_RUN, set_tile, tiles_of
from humo.model.transformer import FLOAT32_PARTS, HuMoTransformer3DModel
from humo.presets import ReferenceInjection
from humo.quantization.formats import FP8_TYPES, row_bytes
from humo.quantization.linear import QuantTypes, replace_with_quantized_linear
from humo.request import CacheName
from humo.runtime.allocation_tracker import track_allocations

BLOCK_PREFIX = re.compile(r"^(blocks|encoder\.block|layers)\.\d+\.")
"""Start of the names of weights that belong to a block."""

TOKEN_EMBEDDING = "shared.weight"
"""Name of the text encoder's token embedding."""

MAX_PROMPT_TOKENS = 512
"""Tokens of the longest prompt."""

MEL_FRAMES = 3000
"""Mel frames of the thirty seconds that the audio encoder processes at a time."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of a component's weights.

    Args:
        outside_blocks: weights outside the blocks.
        block: weights of one block.
        blocks: number of blocks.
        prefetched: one block as it is stored.
        embedding: the part of ``outside_blocks`` that is a token embedding, of which streaming reads single rows.
    """

    outside_blocks: int
    block: int
    blocks: int
    prefetched: int = 0
    embedding: int = 0

    @property
    def total(self) -> int:
        """Bytes of all weights."""
        return self.outside_blocks + self.block * self.blocks

    @property
    def streaming(self) -> int:
        """Bytes in memory while blocks are streamed: the block that computes, and the prefetched one as stored."""
        return self.block + self.prefetched


class NetworkAdditions(NamedTuple):
    """Tensors that a request adds to a network.

    Args:
        cache: as in a request; each pass has a step cache.
        loras: LoRAs, on the meta device.
    """

    cache: CacheName = "none"
    loras: tuple[LoraFile, ...] = ()


NO_ADDITIONS = NetworkAdditions()
"""A network as it is."""


class AutoencoderBytes(NamedTuple):
    """Peak activations of the autoencoder, in bytes.

    Args:
        image: while it encodes the reference images, or the blank video.
        decode: while it decodes a window.
        preview: while it decodes the preview of a step.
        carried: what decoding of the next window continues from, kept while the network runs; 0 for a single window.
    """

    image: int
    decode: int
    preview: int
    carried: int


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Estimated memory of a clip, in bytes.

    Args:
        weights: component -> its weights in the precision they compute in.
        stored: component -> its weights on the disk.
        activations: phase of the encoders and of the network -> peak of activations; ``denoise`` without ``kv_cache``.
        streamed_pass: peak of activations of a pass without ``kv_cache``: blocks compute keys and values themselves.
        autoencoder: function of the side of a tile in pixels, 0 for whole frames.
        kv_cache: cross-attention keys and values of text and audio, computed once for all steps.
        quantized: whether the network is stored quantized, so that no placement quantizes it.
        step_cache: tensors that a step cache (``cache`` of a request) keeps between steps.
        loras: tensors of LoRAs, which stay on the device beside a copy on the host.
    """

    weights: Mapping[str, WeightBytes]
    stored: Mapping[str, int]
    activations: Mapping[str, int]
    streamed_pass: int
    autoencoder: Callable[[int], AutoencoderBytes]
    kv_cache: int
    quantized: bool = False
    step_cache: int = 0
    loras: int = 0

    def phases(self, tile: int = 0, *, streamed: bool = False) -> dict[str, int]:
        """Return the peak of activations in each phase.

        Args:
            tile: side of the autoencoder's tiles in pixels; 0 for whole frames.
            streamed: the network's blocks wait elsewhere, so that there is no ``kv_cache``.
        """
        autoencoder = self.autoencoder(tile)
        one_pass = self.streamed_pass if streamed else self.activations["denoise"] + self.kv_cache
        denoise = max(one_pass, autoencoder.preview) + self.step_cache
        return {**self.activations, "denoise": denoise, "image": autoencoder.image, "decode": autoencoder.decode}


COMPONENT_OF_PHASE = {
    "text": "text_encoder",
    "audio": "audio_encoder",
    "image": "vae",
    "denoise": "transformer",
    "decode": "vae",
}
"""Phase -> the component that computes in it."""

NOT_QUANTIZED: QuantTypes = {}
"""Empty mapping for a component without quantized weights."""

ALL_UNQUANTIZED: Mapping[str, QuantTypes] = {}
"""Empty mapping for components without quantized weights."""

SCALE_BYTES = 4
"""Bytes of a float32 scale."""


def estimate_memory(
    architectures: Mapping[str, Architecture],
    geometry: Geometry,
    injection: ReferenceInjection,
    dtype: torch.dtype,
    num_passes: int,
    additions: NetworkAdditions = NO_ADDITIONS,
    quant_types: Mapping[str, QuantTypes] = ALL_UNQUANTIZED,
    windows: int = 1,
) -> MemoryEstimate:
    """Estimate the memory of a clip, of which the longest window decides.

    Args:
        architectures: component -> its architecture.
        geometry: geometry of the longest window.
        injection: how reference images enter the network.
        dtype: precision of the transformer and the text encoder; the other components are float32.
        num_passes: number of different guidance passes. Text and audio are conditions of a pass together or not at
            all, so that at most two ``kv_cache`` exist.
        additions: step cache and LoRAs.
        quant_types: component -> types of its quantized weights.
        windows: number of windows of the clip.
    """
    dtypes = {"transformer": dtype, "text_encoder": dtype, "vae": torch.float32, "audio_encoder": torch.float32}
    of = {name: quant_types.get(name, NOT_QUANTIZED) for name in architectures}
    network = _denoise(architectures["transformer"], geometry, dtype, additions, of["transformer"])
    return MemoryEstimate(
        weights={
            name: weight_bytes(architecture, dtypes[name], of[name]) for name, architecture in architectures.items()
        },
        stored={
            name: weight_bytes(architecture, stored_dtype(architecture), of[name]).total
            for name, architecture in architectures.items()
        },
        activations={
            "text": _text_encoder(architectures["text_encoder"], dtype, of["text_encoder"]),
            "audio": _audio_encoder(architectures["audio_encoder"]),
            "denoise": network.one_pass,
        },
        streamed_pass=network.streamed_pass,
        autoencoder=lru_cache(partial(_autoencoder, architectures["vae"], geometry, injection, windows)),
        kv_cache=network.kv_cache * min(num_passes, 2),
        quantized=bool(of["transformer"]),
        step_cache=network.step_cache * num_passes,
        loras=sum(tensor.nbytes for lora in additions.loras for tensor in lora.tensors()),
    )


def estimate_quantized(
    estimate: MemoryEstimate,
    architecture: Architecture,
    geometry: Geometry,
    dtype: torch.dtype,
    quant_type: str,
    additions: NetworkAdditions = NO_ADDITIONS,
) -> MemoryEstimate:
    """Return the estimate for a transformer whose blocks are quantized while they are loaded.

    Args:
        estimate: estimate of the clip with a transformer that is stored unquantized.
        architecture: architecture of the transformer.
        geometry, dtype, additions: as in `estimate_memory`.
        quant_type: key of `humo.quantization.formats.QUANT_TYPES`.
    """
    assert isinstance(architecture, TransformerArchitecture)
    quant_types = quant_types_for(architecture, quant_type, scales=int(quant_type in FP8_TYPES))
    network = _denoise(architecture, geometry, dtype, additions, quant_types)
    return replace(
        estimate,
        weights={**estimate.weights, "transformer": weight_bytes(architecture, dtype, quant_types)},
        activations={**estimate.activations, "denoise": network.one_pass},
        streamed_pass=network.streamed_pass,
        quantized=True,
    )


def weight_bytes(
    architecture: Architecture, dtype: torch.dtype, quant_types: QuantTypes = NOT_QUANTIZED
) -> WeightBytes:
    """Return the bytes of a component's weights in a precision, which quantized weights and float32 layers ignore."""
    float32_parts = FLOAT32_PARTS if isinstance(architecture, TransformerArchitecture) else frozenset()
    outside_blocks, embedding = 0, 0
    blocks: dict[str, int] = {}
    for name in tensor_names(architecture):
        element = torch.float32 if float32_parts & set(name.diffusers.split(".")) else dtype
        size = math.prod(name.shape) * element.itemsize
        if name.diffusers in quant_types:
            quant_type, scales = quant_types[name.diffusers]
            size = name.shape[0] * row_bytes(quant_type, name.shape[1]) + scales * SCALE_BYTES
        if block_prefix := BLOCK_PREFIX.match(name.diffusers):
            blocks[block_prefix[0]] = blocks.get(block_prefix[0], 0) + size
        else:
            outside_blocks += size
            embedding += size if name.diffusers == TOKEN_EMBEDDING else 0
    block = max(blocks.values(), default=0)
    prefetched = block if quant_types else block * stored_dtype(architecture).itemsize // dtype.itemsize
    return WeightBytes(outside_blocks, block, len(blocks), prefetched, embedding)


def stored_dtype(architecture: Architecture) -> torch.dtype:
    """Return the precision of a component's weights on the disk.

    The transformer and the text encoder are stored in bfloat16, the other components in float32.
    """
    is_large = isinstance(architecture, TransformerArchitecture | TextEncoderArchitecture)
    return torch.bfloat16 if is_large else torch.float32


def _build_on_meta(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


class _NetworkBytes(NamedTuple):
    """Bytes of activations of a pass, of a pass without `kv_cache`, of its `kv_cache`, and of its step cache."""

    one_pass: int
    streamed_pass: int
    kv_cache: int
    step_cache: int


def _denoise(
    architecture: Architecture,
    geometry: Geometry,
    dtype: torch.dtype,
    additions: NetworkAdditions,
    quant_types: QuantTypes,
) -> _NetworkBytes:
    """Measure passes of the network."""
    assert isinstance(architecture, TransformerArchitecture)
    num_layers = min(2, architecture.num_layers)  # blocks compute one after another: two have the same peak as all
    network = _build_on_meta(
        lambda: HuMoTransformer3DModel.from_config(architecture.config() | {"num_layers": num_layers})
    )
    for name, weight in network.named_parameters():
        if not FLOAT32_PARTS & set(name.split(".")):
            weight.data = weight.data.to(dtype)
    replace_with_quantized_linear(network, quant_types)
    adapters = LoraAdapters(network)
    loras = [lora.of_first_blocks(num_layers) for lora in additions.loras]
    for number, lora in enumerate(loras):
        adapters.add(str(number), lora)
    inputs = torch.empty(1, *geometry.latent_shape(architecture.in_channels), device="meta")
    text = torch.empty(1, architecture.text_length, architecture.text_dim, dtype=dtype, device="meta")
    window = (architecture.audio_window, architecture.audio_bands, architecture.audio_width)
    audio = torch.empty(1, geometry.latent_frames, *window, device="meta")
    timestep = torch.empty(1, device="meta")
    existing = (inputs, text, audio, timestep, *(tensor for lora in loras for tensor in lora.tensors()))
    with track_allocations(network.parameters(), existing) as stats:
        network(inputs, timestep, text, audio, return_dict=False)
        streamed_pass = stats.peak
    with track_allocations(network.parameters(), existing) as stats:
        kv_cache = network.cross_attention_kv(text, audio)
        kv_bytes = stats.live
        stats.peak = kv_bytes
        network(inputs, timestep, cross_attention_kv=kv_cache, return_dict=False)
        activations = stats.peak - kv_bytes
        with caching(network, additions.cache), network.cache_context("any"):
            network(inputs, timestep, cross_attention_kv=kv_cache, return_dict=False)
            step_cache = stats.live - kv_bytes
    kv_bytes = kv_bytes * architecture.num_layers // num_layers
    return _NetworkBytes(activations, streamed_pass, kv_bytes, step_cache)


def _autoencoder(
    architecture: Architecture, geometry: Geometry, injection: ReferenceInjection, windows: int, tile: int
) -> AutoencoderBytes:
    """Return the peak activations of the autoencoder with tiles of a size, 0 for whole frames."""
    vae = autoencoder_on_meta(architecture)
    set_tile(vae, tile)
    channels, size = vae.config.z_dim, (geometry.latent_height, geometry.latent_width)

    def tiles_to_run(latent_frames: int) -> int:
        return 2 if latent_frames == 1 else 1  # from the second tile, or frame, on the result takes memory too

    def encode(latent_frames: int) -> int:
        with _running_tiles(tiles_to_run(latent_frames)), track_allocations(vae.parameters()) as stats:
            encode_blank(latent_frames, *size, vae, torch.device("meta"))
        return stats.peak

    def decode(latent_frames: int) -> int:
        video = torch.empty(1, channels, latent_frames, *size, device="meta")
        with _running_tiles(tiles_to_run(latent_frames)), track_allocations(vae.parameters(), (video,)) as stats:
            decode_video(video, vae)
        return stats.peak

    def kept(latent_frames: int, tiles: int) -> int:
        video = torch.empty(1, channels, latent_frames, *size, device="meta")
        with _running_tiles(tiles), track_allocations(vae.parameters(), (video,)) as stats:
            decoder = StreamingDecoder(vae)
            decoder(video)
            return stats.live

    def carried(latent_frames: int) -> int:
        one = kept(latent_frames, 1)
        tiles = len(tiles_of(vae, *size))
        return one if tiles == 1 else one + (kept(latent_frames, 2) - one) * (tiles - 1)

    encoded_frames = geometry.latent_frames if injection is ReferenceInjection.CHANNEL_CONCAT else 1
    video_frames = geometry.video_latent_frames
    return AutoencoderBytes(
        image=_extrapolate(encode, encoded_frames),
        decode=_extrapolate(decode, video_frames),
        preview=decode(1),
        carried=carried(min(3, video_frames)) if windows > 1 else 0,
    )


@contextmanager
def _running_tiles(tiles: int) -> Iterator[None]:
    before = TILES_TO_RUN.set(tiles)
    try:
        yield
    finally:
        TILES_TO_RUN.reset(before)


def autoencoder_on_meta(architecture: Architecture) -> Any:
    """Return an autoencoder without numbers."""
    assert isinstance(architecture, AutoencoderArchitecture)
    build = ShortcutAutoencoder if isinstance(architecture, ShortcutArchitecture) else AutoencoderKLWan
    return _build_on_meta(lambda: build.from_config({**architecture.config(), "_class_name": build.__name__}))


def _extrapolate(measure: Callable[[int], int], latent_frames: int) -> int:
    """Return ``measure(latent_frames)``, extrapolated from 3 and 5 latent frames, from which on it grows linearly."""
    few, more = 3, 5
    if latent_frames <= more:
        return measure(latent_frames)
    at_few, at_more = measure(few), measure(more)
    return at_few + (at_more - at_few) * (latent_frames - few) // (more - few)


def _text_encoder(architecture: Architecture, dtype: torch.dtype, quant_types: QuantTypes) -> int:
    """Return the peak activations of the text encoder, for the longest prompt."""
    config = UMT5Config(**architecture.config())
    encoder = _build_on_meta(lambda: UMT5EncoderModel(config)).to(dtype)
    replace_with_quantized_linear(encoder, quant_types)
    encoder.set_attn_implementation("eager")
    ids = torch.ones(1, MAX_PROMPT_TOKENS, dtype=torch.long, device="meta")
    with track_allocations(encoder.parameters(), (ids,)) as stats:
        encoder(ids)  # without a mask, whose values would be read: tensors on the meta device have none
    return stats.peak


def _audio_encoder(architecture: Architecture) -> int:
    """Return the peak activations of the audio encoder."""
    config: dict[str, Any] = architecture.config()
    encoder = _build_on_meta(lambda: SpeechEncoder(WhisperConfig(**config)))
    spectra = torch.empty(1, config["num_mel_bins"], MEL_FRAMES, device="meta")
    with track_allocations(encoder.parameters(), (spectra,)) as stats:
        encoder(spectra, output_hidden_states=True)
    return stats.peak
