"""How much memory a clip takes, part by part and phase by phase, and where its weights had best lie. No weights needed.

    at most = weights that are there + what is computed with, in the phase where that is most

What is computed with is found by going through the very code on the meta device (`meter`); weights follow from shapes.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), H, W size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel, WhisperConfig

from humo.checkpoints.keymap import names_of
from humo.checkpoints.structure import (
    AutoencoderStructure,
    ShortcutStructure,
    Structure,
    TextStructure,
    TransformerStructure,
)
from humo.conditioning.image import decode_video, encode_blank
from humo.errors import RequestError
from humo.geometry import Geometry
from humo.meter import metered
from humo.model.audio import SpeechEncoder
from humo.model.autoencoder import ShortcutAutoencoder, StreamingDecoder
from humo.model.blocks import row_bytes
from humo.model.caches import caching
from humo.model.quantised import Kinds, quantise_layers
from humo.model.transformer import FLOAT32_PARTS, HuMoTransformer3DModel
from humo.presets import ReferenceEntry
from humo.request import CacheName, PlacementName

BLOCK = re.compile(r"^(blocks|encoder\.block|layers)\.\d+\.")
"""In the names of weights: those of a block, of which a part has many alike."""

VOCABULARY = "shared.weight"
PROMPT_TOKENS = 512
"""The longest prompt."""

SOUND_FRAMES = 3000
"""Spectra of the thirty seconds that the speech encoder hears at a time."""

PROCESS_BYTES = 560 * 2**20
"""Of the interpreter, the libraries and a small video's frames: measured on Linux with torch for CPUs."""

CONTEXT_BYTES = 600 * 2**20
"""What CUDA keeps for itself, about; not measured here."""


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
    entry: ReferenceEntry,
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
    audio = torch.empty(1, geometry.latents, *heard, device="meta")
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


def _pixels(structure: Structure, geometry: Geometry, entry: ReferenceEntry) -> tuple[int, int]:
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

    encoded = geometry.latents if entry is ReferenceEntry.CHANNELS else 1
    return _far(encode, encoded), _far(decode, geometry.video_latents)


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


@dataclass(frozen=True, slots=True)
class Placement:
    """A way of placing weights.

    Args:
        name: in a request.
        title: for people.
        exact: the network computes with the weights as they are.
        whole: all parts are on the device at once; otherwise each comes when its phase does, and goes.
        streams: a part's blocks come one after another while it computes.
        from_disk: what is not on the device is not in the host's memory either.
        network: bytes of the network's blocks, as a share of those of its precision.
    """

    name: PlacementName
    title: str
    exact: bool = True
    whole: bool = False
    streams: bool = False
    from_disk: bool = False
    network: float = 1.0

    def device_bytes(self, needs: Needs) -> dict[str, int]:
        """Phase -> the most that is on the device in it."""
        found = {}
        for phase, part in PHASES.items():
            if self.streams:
                there = sum(one.around - one.rows for one in needs.weights.values()) + needs.weights[part].two_blocks
            else:
                parts = needs.weights if self.whole else (part,)
                there = sum(self._all(name, needs.weights[name]) for name in parts)
            offered = needs.offered if phase == "denoise" and not self.streams else 0
            cached = needs.cached if phase == "denoise" else 0
            found[phase] = there + needs.working[phase] + offered + cached
        return found

    def host_bytes(self, needs: Needs) -> int:
        """What a device of its own leaves in the host's memory."""
        if self.whole:
            return 0
        if self.from_disk:
            return max(one.two_blocks for one in needs.weights.values())
        return sum(self._all(name, one) for name, one in needs.weights.items())

    def _all(self, part: str, weights: Weights) -> int:
        share = self.network if part == "transformer" else 1.0
        return weights.around + round(weights.block * weights.blocks * share)


PLACEMENTS: Mapping[str, Placement] = {
    one.name: one
    for one in (
        Placement("resident", "everything on the device", whole=True),
        Placement("offload", "each part on the device while it computes"),
        Placement("host", "blocks streamed from the host's memory", streams=True),
        Placement("fp8", "each part in turn, the network's blocks stored in eight bits", exact=False, network=0.5),
        Placement("disk", "blocks streamed from the disk", streams=True, from_disk=True),
    )
}
"""From the fastest to the one that takes the least: what is streamed comes while the block before computes."""

ON_A_CPU = ("resident", "disk")
"""Those that are something where the device's memory is the host's."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a placement takes for a clip.

    Args:
        placement: the placement.
        device, host: bytes at most; on a CPU the two are one, and stand in ``host``.
        phase: in which the device holds the most.
        fits: into what there is.
    """

    placement: Placement
    device: int
    host: int
    phase: str
    fits: bool


def offers(needs: Needs, kind: str, device_memory: int, host_memory: int) -> list[Offer]:
    """What each placement takes, from the fastest on.

    Args:
        needs: of the clip.
        kind: of device: ``cuda`` or ``cpu``.
        device_memory, host_memory: bytes there are; on a CPU the latter alone counts.
    """
    found = []
    for name, placement in PLACEMENTS.items():
        if needs.quantised and not placement.exact:
            continue
        phases = placement.device_bytes(needs)
        phase = max(phases, key=lambda one: phases[one])
        if kind == "cpu":
            if name in ON_A_CPU:
                most = PROCESS_BYTES + phases[phase]
                found.append(Offer(placement, 0, most, phase, most <= host_memory))
            continue
        device, host = CONTEXT_BYTES + phases[phase], PROCESS_BYTES + placement.host_bytes(needs)
        found.append(Offer(placement, device, host, phase, device <= device_memory and host <= host_memory))
    return found


def choose(needs: Needs, kind: str, device_memory: int, host_memory: int) -> Offer:
    """The fastest placement that fits.

    Args:
        needs, kind, device_memory, host_memory: as `offers` takes them.

    Raises:
        RequestError: none does.
    """
    found = offers(needs, kind, device_memory, host_memory)
    fitting = [one for one in found if one.fits]
    if not fitting:
        least = min(found, key=lambda one: (one.device, one.host))
        there, wanted = _in_words(kind, device_memory, host_memory), _in_words(kind, least.device, least.host)
        where = "" if kind == "cpu" else " on the GPU and beside it"
        problem = f"{there}{where} are too little: even placement {least.placement.name} takes {wanted}"
        raise RequestError("memory", problem, WHAT_TAKES_LESS)
    return fitting[0]


WHAT_TAKES_LESS = "make a smaller or shorter video, or a long one in shorter windows (--window)"


def _in_words(kind: str, device: int, host: int) -> str:
    host_words = f"{host / 1e9:.1f} GB"
    return host_words if kind == "cpu" else f"{device / 1e9:.1f} and {host_words}"
