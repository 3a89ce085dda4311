"""How much memory a clip takes, part by part and phase by phase, and where its weights had best lie. No weights needed.

    at most = weights that are there + what is computed with, in the phase where that is most

What is computed with is found by going through the very code on the meta device (`meter`); weights follow from shapes.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), H, W size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
from humo.model.audio import SpeechEncoder
from humo.model.autoencoder import ShortcutAutoencoder, StreamingDecoder
from humo.model.caches import caching
from humo.model.transformer import FLOAT32_PARTS, HuMoTransformer3DModel
from humo.presets import ReferenceInjection
from humo.quantization.formats import row_bytes
from humo.quantization.linear import QuantTypes, replace_with_quantized_linear
from humo.request import CacheName
from humo.runtime.allocation_tracker import track_allocations

BLOCK_PREFIX = re.compile(r"^(blocks|encoder\.block|layers)\.\d+\.")
"""In the names of weights: those of a block, of which a part has many alike."""

TOKEN_EMBEDDING = "shared.weight"
MAX_PROMPT_TOKENS = 512
"""The longest prompt."""

MEL_FRAMES = 3000
"""Spectra of the thirty seconds that the speech encoder hears at a time."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of a part's weights.

    Args:
        around: outside the blocks.
        block: of one block.
        blocks: how many there are.
        ahead: of a block, as it is stored.
        rows: of the around, a vocabulary, of which streaming reads single rows.
    """

    outside_blocks: int
    block: int
    blocks: int
    prefetched: int = 0
    embedding: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.outside_blocks + self.block * self.blocks

    @property
    def streaming(self) -> int:
        """That are there while blocks are streamed: the one that computes, and the one that comes, as it is stored."""
        return self.block + self.prefetched


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a clip takes.

    Args:
        weights: part -> its weights, as they are computed with.
        stored: part -> bytes of its weights on the disk.
        working: phase -> bytes that are computed with; ``denoise`` without what text and sound offer once for all.
        offered: bytes of that.
        quantized: the network's blocks are quantized as they are stored, and no placement makes them less.
        cached: bytes that a cache keeps between the passes.
    """

    weights: Mapping[str, WeightBytes]
    stored: Mapping[str, int]
    activations: Mapping[str, int]
    kv_cache: int
    quantized: bool = False
    step_cache: int = 0


COMPONENT_OF_PHASE = {
    "text": "text_encoder",
    "sound": "audio_encoder",
    "pictures": "vae",
    "denoise": "transformer",
    "decode": "vae",
}
"""Phase -> the part that works in it."""


NOT_QUANTIZED: QuantTypes = {}
SCALE_BYTES = 4


def estimate_memory(
    architectures: Mapping[str, Architecture],
    geometry: Geometry,
    injection: ReferenceInjection,
    dtype: torch.dtype,
    num_passes: int,
    cache: CacheName = "none",
    quant_types: QuantTypes = NOT_QUANTIZED,
) -> MemoryEstimate:
    """What a clip (or the longest window of one) takes.

    Args:
        structures: part -> its sizes.
        geometry: of the clip.
        entry: how pictures enter.
        dtype: of the network and the text encoder; the rest is float32.
        branches: different passes; text and sound each are there or not, so what they offer is kept twice at most.
        cache: as in a request; it keeps something for each branch.
        kinds: of the network's weights that are quantized.
    """
    dtypes = {"transformer": dtype, "text_encoder": dtype, "vae": torch.float32, "audio_encoder": torch.float32}
    kinds_of = {"transformer": quant_types}
    denoise, kv_cache, step_cache = _denoise(architectures["transformer"], geometry, dtype, cache, quant_types)
    pictures, decode = _autoencoder(architectures["vae"], geometry, injection)
    return MemoryEstimate(
        weights={
            name: weight_bytes(architecture, dtypes[name], kinds_of.get(name, NOT_QUANTIZED))
            for name, architecture in architectures.items()
        },
        stored={
            name: weight_bytes(architecture, stored_dtype(architecture), kinds_of.get(name, NOT_QUANTIZED)).total
            for name, architecture in architectures.items()
        },
        activations={
            "text": _text_encoder(architectures["text_encoder"], dtype),
            "sound": _audio_encoder(architectures["audio_encoder"]),
            "pictures": pictures,
            "denoise": denoise,
            "decode": decode,
        },
        kv_cache=kv_cache * min(num_passes, 2),
        quantized=bool(quant_types),
        step_cache=step_cache * num_passes,
    )


def estimate_quantized(
    estimate: MemoryEstimate,
    architecture: Architecture,
    geometry: Geometry,
    dtype: torch.dtype,
    quant_type: str,
    cache: CacheName = "none",
) -> MemoryEstimate:
    """The same with the network's blocks quantized when they are loaded.

    Args:
        needs: of the clip, with a network that is not quantized.
        structure: of the network.
        geometry, dtype, cache: as in `needs_of`.
        kind: of `humo.quantization.quantize`.
    """
    assert isinstance(architecture, TransformerArchitecture)
    quant_types = quant_types_for(architecture, quant_type)
    denoise, _, _ = _denoise(architecture, geometry, dtype, cache, quant_types)
    return replace(
        estimate,
        weights={**estimate.weights, "transformer": weight_bytes(architecture, dtype, quant_types)},
        activations={**estimate.activations, "denoise": denoise},
        quantized=True,
    )


def weight_bytes(
    architecture: Architecture, dtype: torch.dtype, quant_types: QuantTypes = NOT_QUANTIZED
) -> WeightBytes:
    """The weights of a part in a precision, the network's small layers in float32, quantized ones as they are."""
    kept = FLOAT32_PARTS if isinstance(architecture, TransformerArchitecture) else frozenset()
    outside_blocks, embedding = 0, 0
    blocks: dict[str, int] = {}
    for name in tensor_names(architecture):
        each = torch.float32 if kept & set(name.diffusers.split(".")) else dtype
        size = math.prod(name.shape) * each.itemsize
        if name.diffusers in quant_types:
            quant_type, scales = quant_types[name.diffusers]
            size = name.shape[0] * row_bytes(quant_type, name.shape[1]) + scales * SCALE_BYTES
        if found := BLOCK_PREFIX.match(name.diffusers):
            blocks[found[0]] = blocks.get(found[0], 0) + size
        else:
            outside_blocks += size
            embedding += size if name.diffusers == TOKEN_EMBEDDING else 0
    block = max(blocks.values(), default=0)
    prefetched = block if quant_types else block * stored_dtype(architecture).itemsize // dtype.itemsize
    return WeightBytes(outside_blocks, block, len(blocks), prefetched, embedding)


def stored_dtype(architecture: Architecture) -> torch.dtype:
    """What a part's weights are stored in: the large parts in bfloat16, the others as they compute."""
    return (
        torch.bfloat16 if isinstance(architecture, TransformerArchitecture | TextEncoderArchitecture) else torch.float32
    )


def _build_on_meta(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


def _denoise(
    architecture: Architecture, geometry: Geometry, dtype: torch.dtype, cache: CacheName, quant_types: QuantTypes
) -> tuple[int, int, int]:
    """What a pass computes with, what text and sound offer to it, and what a cache keeps of it."""
    assert isinstance(architecture, TransformerArchitecture)
    alike = min(2, architecture.num_layers)  # what a pass computes with is that of one block after another
    network = _build_on_meta(lambda: HuMoTransformer3DModel.from_config(architecture.config() | {"num_layers": alike}))
    for name, weight in network.named_parameters():
        if not FLOAT32_PARTS & set(name.split(".")):
            weight.data = weight.data.to(dtype)
    replace_with_quantized_linear(network, quant_types)
    inputs = torch.empty(1, *geometry.latent_shape(architecture.in_channels), device="meta")
    text = torch.empty(1, architecture.text_length, architecture.text_dim, dtype=dtype, device="meta")
    heard = (architecture.audio_window, architecture.audio_bands, architecture.audio_width)
    audio = torch.empty(1, geometry.latent_frames, *heard, device="meta")
    timestep = torch.empty(1, device="meta")
    with track_allocations(network.parameters(), (inputs, text, audio, timestep)) as once:
        kv_cache = network.hear(text, audio)
        kept = once.live
        once.peak = kept
        network(inputs, timestep, heard=kv_cache, return_dict=False)
        needed = once.peak - kept
        with caching(network, cache), network.cache_context("any"):
            network(inputs, timestep, heard=kv_cache, return_dict=False)
            step_cache = once.live - kept
        return needed, kept * architecture.num_layers // alike, step_cache


def _autoencoder(architecture: Architecture, geometry: Geometry, injection: ReferenceInjection) -> tuple[int, int]:
    """What encoding the pictures and decoding the video compute with."""
    assert isinstance(architecture, AutoencoderArchitecture)
    build = ShortcutAutoencoder if isinstance(architecture, ShortcutArchitecture) else AutoencoderKLWan
    vae = _build_on_meta(lambda: build.from_config({**architecture.config(), "_class_name": build.__name__}))
    height, width = geometry.latent_height, geometry.latent_width

    def encode(latents: int) -> int:
        with track_allocations(vae.parameters()) as found:
            encode_blank(latents, height, width, vae, torch.device("meta"))
        return found.peak

    def decode(latents: int) -> int:
        video = torch.empty(1, architecture.z_dim, latents, height, width, device="meta")
        with track_allocations(vae.parameters(), (video,)) as found:
            decode_video(video, vae, StreamingDecoder(vae))
        return found.peak

    encoded = geometry.latent_frames if injection is ReferenceInjection.CHANNEL_CONCAT else 1
    return _extrapolate(encode, encoded), _extrapolate(decode, geometry.video_latent_frames)


def _extrapolate(measure: Callable[[int], int], latents: int) -> int:
    """What grows evenly with the latent frames once there are a few, at any number of them."""
    few, more = 3, 5
    if latents <= more:
        return measure(latents)
    least, then = measure(few), measure(more)
    return least + (then - least) * (latents - few) // (more - few)


def _text_encoder(architecture: Architecture, dtype: torch.dtype) -> int:
    """What the text encoder computes with, at the longest prompt."""
    config = UMT5Config(**architecture.config())
    encoder = _build_on_meta(lambda: UMT5EncoderModel(config)).to(dtype)
    encoder.set_attn_implementation("eager")
    ids = torch.ones(1, MAX_PROMPT_TOKENS, dtype=torch.long, device="meta")
    with track_allocations(encoder.parameters(), (ids,)) as found:
        encoder(ids)  # a mask would be looked into, and there is nothing to see
    return found.peak


def _audio_encoder(architecture: Architecture) -> int:
    """What the speech encoder computes with."""
    config: dict[str, Any] = architecture.config()
    encoder = _build_on_meta(lambda: SpeechEncoder(WhisperConfig(**config)))
    spectra = torch.empty(1, config["num_mel_bins"], MEL_FRAMES, device="meta")
    with track_allocations(encoder.parameters(), (spectra,)) as found:
        encoder(spectra, output_hidden_states=True)
    return found.peak
