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
    AutoencoderStructure,
    ShortcutStructure,
    Structure,
    TextStructure,
    TransformerStructure,
)
from humo.checkpoints.conversion_plan import quantised_as
from humo.checkpoints.keymap import names_of
from humo.conditioning.image import decode_video, encode_blank
from humo.geometry import Geometry
from humo.model.audio import SpeechEncoder
from humo.model.autoencoder import ShortcutAutoencoder, StreamingDecoder
from humo.model.caches import caching
from humo.model.transformer import FLOAT32_PARTS, HuMoTransformer3DModel
from humo.presets import ReferenceInjection
from humo.quantization.formats import row_bytes
from humo.quantization.linear import Kinds, quantise_layers
from humo.request import CacheName
from humo.runtime.allocation_tracker import metered

BLOCK = re.compile(r"^(blocks|encoder\.block|layers)\.\d+\.")
"""In the names of weights: those of a block, of which a part has many alike."""

VOCABULARY = "shared.weight"
PROMPT_TOKENS = 512
"""The longest prompt."""

SOUND_FRAMES = 3000
"""Spectra of the thirty seconds that the speech encoder hears at a time."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a part's weights.

    Args:
        around: outside the blocks.
        block: of one block.
        blocks: how many there are.
        ahead: of a block, as it is stored.
        rows: of the around, a vocabulary, of which streaming reads single rows.
    """

    around: int
    block: int
    blocks: int
    ahead: int = 0
    rows: int = 0

    @property
    def whole(self) -> int:
        """All of them."""
        return self.around + self.block * self.blocks

    @property
    def two_blocks(self) -> int:
        """That are there while blocks are streamed: the one that computes, and the one that comes, as it is stored."""
        return self.block + self.ahead


@dataclass(frozen=True, slots=True)
class Needs:
    """What a clip takes.

    Args:
        weights: part -> its weights, as they are computed with.
        stored: part -> bytes of its weights on the disk.
        working: phase -> bytes that are computed with; ``denoise`` without what text and sound offer once for all.
        offered: bytes of that.
        quantised: the network's blocks are quantised as they are stored, and no placement makes them less.
        cached: bytes that a cache keeps between the passes.
    """

    weights: Mapping[str, Weights]
    stored: Mapping[str, int]
    working: Mapping[str, int]
    offered: int
    quantised: bool = False
    cached: int = 0


PHASES = {
    "text": "text_encoder",
    "sound": "audio_encoder",
    "pictures": "vae",
    "denoise": "transformer",
    "decode": "vae",
}
"""Phase -> the part that works in it."""


NONE_QUANTISED: Kinds = {}
SCALE_BYTES = 4


def needs_of(
    structures: Mapping[str, Structure],
    geometry: Geometry,
    entry: ReferenceInjection,
    dtype: torch.dtype,
    branches: int,
    cache: CacheName = "none",
    kinds: Kinds = NONE_QUANTISED,
) -> Needs:
    """What a clip (or the longest window of one) takes.

    Args:
        structures: part -> its sizes.
        geometry: of the clip.
        entry: how pictures enter.
        dtype: of the network and the text encoder; the rest is float32.
        branches: different passes; text and sound each are there or not, so what they offer is kept twice at most.
        cache: as in a request; it keeps something for each branch.
        kinds: of the network's weights that are quantised.
    """
    dtypes = {"transformer": dtype, "text_encoder": dtype, "vae": torch.float32, "audio_encoder": torch.float32}
    kinds_of = {"transformer": kinds}
    denoise, offered, cached = _denoise(structures["transformer"], geometry, dtype, cache, kinds)
    pictures, decode = _pixels(structures["vae"], geometry, entry)
    return Needs(
        weights={
            name: weights_of(structure, dtypes[name], kinds_of.get(name, NONE_QUANTISED))
            for name, structure in structures.items()
        },
        stored={
            name: weights_of(structure, stored_as(structure), kinds_of.get(name, NONE_QUANTISED)).whole
            for name, structure in structures.items()
        },
        working={
            "text": _text(structures["text_encoder"], dtype),
            "sound": _sound(structures["audio_encoder"]),
            "pictures": pictures,
            "denoise": denoise,
            "decode": decode,
        },
        offered=offered * min(branches, 2),
        quantised=bool(kinds),
        cached=cached * branches,
    )


def packed_as(
    needs: Needs, structure: Structure, geometry: Geometry, dtype: torch.dtype, kind: str, cache: CacheName = "none"
) -> Needs:
    """The same with the network's blocks quantised when they are loaded.

    Args:
        needs: of the clip, with a network that is not quantised.
        structure: of the network.
        geometry, dtype, cache: as in `needs_of`.
        kind: of `humo.quantization.quantize`.
    """
    assert isinstance(structure, TransformerStructure)
    kinds = quantised_as(structure, kind)
    denoise, _, _ = _denoise(structure, geometry, dtype, cache, kinds)
    return replace(
        needs,
        weights={**needs.weights, "transformer": weights_of(structure, dtype, kinds)},
        working={**needs.working, "denoise": denoise},
        quantised=True,
    )


def weights_of(structure: Structure, dtype: torch.dtype, kinds: Kinds = NONE_QUANTISED) -> Weights:
    """The weights of a part in a precision, the network's small layers in float32, quantised ones as they are."""
    kept = FLOAT32_PARTS if isinstance(structure, TransformerStructure) else frozenset()
    around, rows = 0, 0
    blocks: dict[str, int] = {}
    for name in names_of(structure):
        each = torch.float32 if kept & set(name.ours.split(".")) else dtype
        size = math.prod(name.shape) * each.itemsize
        if name.ours in kinds:
            kind, scales = kinds[name.ours]
            size = name.shape[0] * row_bytes(kind, name.shape[1]) + scales * SCALE_BYTES
        if found := BLOCK.match(name.ours):
            blocks[found[0]] = blocks.get(found[0], 0) + size
        else:
            around += size
            rows += size if name.ours == VOCABULARY else 0
    block = max(blocks.values(), default=0)
    ahead = block if kinds else block * stored_as(structure).itemsize // dtype.itemsize
    return Weights(around, block, len(blocks), ahead, rows)


def stored_as(structure: Structure) -> torch.dtype:
    """What a part's weights are stored in: the large parts in bfloat16, the others as they compute."""
    return torch.bfloat16 if isinstance(structure, TransformerStructure | TextStructure) else torch.float32


def _empty(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


def _denoise(
    structure: Structure, geometry: Geometry, dtype: torch.dtype, cache: CacheName, kinds: Kinds
) -> tuple[int, int, int]:
    """What a pass computes with, what text and sound offer to it, and what a cache keeps of it."""
    assert isinstance(structure, TransformerStructure)
    alike = min(2, structure.num_layers)  # what a pass computes with is that of one block after another
    network = _empty(lambda: HuMoTransformer3DModel.from_config(structure.config() | {"num_layers": alike}))
    for name, weight in network.named_parameters():
        if not FLOAT32_PARTS & set(name.split(".")):
            weight.data = weight.data.to(dtype)
    quantise_layers(network, kinds)
    inputs = torch.empty(1, *geometry.latent_shape(structure.in_channels), device="meta")
    text = torch.empty(1, structure.text_length, structure.text_dim, dtype=dtype, device="meta")
    heard = (structure.audio_window, structure.audio_bands, structure.audio_width)
    audio = torch.empty(1, geometry.latent_frames, *heard, device="meta")
    timestep = torch.empty(1, device="meta")
    with metered(network.parameters(), (inputs, text, audio, timestep)) as once:
        offered = network.hear(text, audio)
        kept = once.live
        once.peak = kept
        network(inputs, timestep, heard=offered, return_dict=False)
        needed = once.peak - kept
        with caching(network, cache), network.cache_context("any"):
            network(inputs, timestep, heard=offered, return_dict=False)
            cached = once.live - kept
        return needed, kept * structure.num_layers // alike, cached


def _pixels(structure: Structure, geometry: Geometry, entry: ReferenceInjection) -> tuple[int, int]:
    """What encoding the pictures and decoding the video compute with."""
    assert isinstance(structure, AutoencoderStructure)
    build = ShortcutAutoencoder if isinstance(structure, ShortcutStructure) else AutoencoderKLWan
    vae = _empty(lambda: build.from_config({**structure.config(), "_class_name": build.__name__}))
    height, width = geometry.latent_height, geometry.latent_width

    def encode(latents: int) -> int:
        with metered(vae.parameters()) as found:
            encode_blank(latents, height, width, vae, torch.device("meta"))
        return found.peak

    def decode(latents: int) -> int:
        video = torch.empty(1, structure.z_dim, latents, height, width, device="meta")
        with metered(vae.parameters(), (video,)) as found:
            decode_video(video, vae, StreamingDecoder(vae))
        return found.peak

    encoded = geometry.latent_frames if entry is ReferenceInjection.CHANNEL_CONCAT else 1
    return _far(encode, encoded), _far(decode, geometry.video_latent_frames)


def _far(measure: Callable[[int], int], latents: int) -> int:
    """What grows evenly with the latent frames once there are a few, at any number of them."""
    few, more = 3, 5
    if latents <= more:
        return measure(latents)
    least, then = measure(few), measure(more)
    return least + (then - least) * (latents - few) // (more - few)


def _text(structure: Structure, dtype: torch.dtype) -> int:
    """What the text encoder computes with, at the longest prompt."""
    config = UMT5Config(**structure.config())
    encoder = _empty(lambda: UMT5EncoderModel(config)).to(dtype)
    encoder.set_attn_implementation("eager")
    ids = torch.ones(1, PROMPT_TOKENS, dtype=torch.long, device="meta")
    with metered(encoder.parameters(), (ids,)) as found:
        encoder(ids)  # a mask would be looked into, and there is nothing to see
    return found.peak


def _sound(structure: Structure) -> int:
    """What the speech encoder computes with."""
    config: dict[str, Any] = structure.config()
    encoder = _empty(lambda: SpeechEncoder(WhisperConfig(**config)))
    spectra = torch.empty(1, config["num_mel_bins"], SOUND_FRAMES, device="meta")
    with metered(encoder.parameters(), (spectra,)) as found:
        encoder(spectra, output_hidden_states=True)
    return found.peak
