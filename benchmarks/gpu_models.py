"""Models of random weights and inputs for `gpu.py`, at the published sizes and at tiny ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from diffusers import UniPCMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel, WhisperConfig

from humo import HuMoPipeline, HuMoTransformer3DModel, SpeechEncoder
from humo.checkpoints.architecture import Architecture
from humo.checkpoints.conversion_plan import quant_types_for
from humo.checkpoints.hubs.catalog import RELEASED_ARCHITECTURES
from humo.checkpoints.layout import scheduler_config
from humo.checkpoints.model_folder import BUILTIN_MODEL
from humo.conditioning.image import decode_video, encode_blank
from humo.geometry import Geometry
from humo.inference.decoding import SegmentDecoder
from humo.inference.inputs import GenerationInputs
from humo.inference.lora_file import LoraFile, read_lora
from humo.model.transformer import FLOAT32_PARTS, CrossAttentionKV
from humo.plan import resolve
from humo.presets import find_preset
from humo.quantization.formats import FP8_TYPES
from humo.quantization.linear import replace_with_quantized_linear
from humo.request import QuantizeName, parse_request
from humo.runtime.allocation_tracker import track_allocations
from humo.runtime.block_streaming import WeightStreams
from humo.runtime.host_blocks import HostBlocks, PackedBlock, copies_to
from humo.runtime.loading import load_pipeline
from humo.runtime.memory_estimate import MEL_FRAMES, MemoryEstimate, autoencoder_on_meta, estimate_memory
from humo.runtime.offload import BLOCK_LISTS, move_outside, pack
from humo.runtime.placement import QUANT_TYPE_OF

WEIGHT_STD = 0.02
"""Standard deviation of random weights; norms are one."""

MAX_ROWS = 65_536
"""Rows of a weight that are random; only the token embedding has more."""

FP8_CODES = 0x58
"""Random fp8 weights have codes below this number, all of which are numbers up to 16."""


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of the models and of the clip.

    Args:
        preset: the family.
        architectures: component -> its architecture.
        width, height, frames: of the clip.
        tile_frames: frames of the clip that is decoded in tiles.
        tiles: sides of the tiles, 0 for whole frames first.
        prompt_tokens: length of the prompt.
    """

    preset: str
    architectures: Mapping[str, Architecture]
    width: int
    height: int
    frames: int
    tile_frames: int
    tiles: tuple[int, ...]
    prompt_tokens: int


def _tiny(preset: str) -> dict[str, Architecture]:
    """Return the architectures of a preset with narrow layers, and two blocks of each kind."""
    full: Mapping[str, Any] = RELEASED_ARCHITECTURES[preset]
    network = replace(
        full["transformer"],
        num_attention_heads=2,
        attention_head_dim=24,
        ffn_dim=64,
        num_layers=4,
        freq_dim=32,
        text_dim=32,
        audio_width=32,
        audio_hidden_dim=16,
        audio_tokens=4,
        audio_token_dim=32,
    )
    text = replace(full["text_encoder"], vocab_size=64, d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2)
    audio = replace(full["audio_encoder"], d_model=32, encoder_layers=4, encoder_attention_heads=2, encoder_ffn_dim=32)
    return {
        "transformer": network,
        "vae": replace(full["vae"], base_dim=4, num_res_blocks=1),
        "text_encoder": text,
        "audio_encoder": audio,
    }


SIZES = {
    "full": Size("humo-1.7b", RELEASED_ARCHITECTURES["humo-1.7b"], 832, 480, 97, 33, (0, 512, 384, 256), 512),
    "tiny": Size("humo-1.7b", _tiny("humo-1.7b"), 160, 144, 9, 9, (0, 144), 32),
}
"""Value of ``--size`` -> sizes."""

LARGE = {
    "full": replace(SIZES["full"], preset="humo-17b", architectures=RELEASED_ARCHITECTURES["humo-17b"]),
    "tiny": replace(SIZES["tiny"], preset="humo-17b", architectures=_tiny("humo-17b")),
}
"""Value of ``--size`` -> sizes of the larger network."""


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the blocks of a network as they are when it is loaded."""
    for name, weight in network.named_parameters():
        weight.data = weight.data.to(torch.float32 if FLOAT32_PARTS & set(name.split(".")) else dtype)
    return network


@dataclass
class Peak:
    """Peak memory of a block of code, in bytes, set when it ends."""

    bytes: int = 0


@dataclass
class Clip:
    """Random inputs of one pass, of the encoders and of the autoencoder.

    Args:
        geometry: of the clip.
        latents, timestep, text, audio: inputs of the network.
        ids, spectra: inputs of the text encoder and of the audio encoder.
        video: latents to decode.
    """

    geometry: Geometry
    latents: Tensor
    timestep: Tensor
    text: Tensor
    audio: Tensor
    ids: Tensor
    spectra: Tensor
    video: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Clip:
        """Return the clip on a device, with text in a precision, which is that of the blocks."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Clip(**{**vars(self), **moved, "text": self.text.to(device, dtype)})

    def cross_attention_kv(self, network: HuMoTransformer3DModel) -> CrossAttentionKV:
        """Return keys and values of text and audio."""
        return network.cross_attention_kv(self.text, self.audio)

    @torch.no_grad()
    def one_pass(self, network: Any, kv: CrossAttentionKV | None = None) -> Tensor:
        """Run the network once."""
        context = {"cross_attention_kv": kv} if kv is not None else self._contexts
        output: Tensor = network(self.latents, self.timestep, **context, return_dict=False)[0]
        return output

    @property
    def _contexts(self) -> dict[str, Any]:
        return {"encoder_hidden_states": self.text, "audio_hidden_states": self.audio}

    @torch.no_grad()
    def decode(self, vae: Any) -> Tensor:
        """Decode the clip."""
        return decode_video(self.video, vae)

    def encode_blank(self, vae: Any) -> Tensor:
        """Encode what a generation encodes: of HuMo-17B a video, of HuMo-1.7B an image."""
        frames = 1 if self.latents.shape[1] == self.video.shape[1] else self.geometry.latent_frames
        return encode_blank(frames, self.geometry.latent_height, self.geometry.latent_width, vae, self.video.device)

    def phases(self, pipeline: HuMoPipeline) -> dict[str, Callable[[], Tensor]]:
        """Return a function for each phase of a generation, in their order."""

        @torch.no_grad()
        def text() -> Tensor:
            hidden: Tensor = pipeline.text_encoder(self.ids).last_hidden_state
            return hidden

        @torch.no_grad()
        def audio() -> Tensor:
            assert pipeline.audio_encoder is not None
            hidden: Tensor = pipeline.audio_encoder(self.spectra, output_hidden_states=True).last_hidden_state
            return hidden

        decode = SegmentDecoder(pipeline.vae, pipeline._release_weights)
        return {
            "text": text,
            "audio": audio,
            "image": lambda: self.encode_blank(pipeline.vae),
            "denoise": lambda: self.one_pass(pipeline.transformer),
            "decode": lambda: decode(self.video, is_last=True),
        }


def fill(module: Any, device: torch.device, blocks: str | None = None) -> Any:
    """Move a module from the meta device to another, with random weights.

    Args:
        module: the module.
        device: its new device.
        blocks: path of a list of blocks, all of which get the weights of the first one, which is faster.
    """
    if blocks is not None:
        parent, _, name = f".{blocks}".rpartition(".")
        owner, block_list = module.get_submodule(parent.lstrip(".")), module.get_submodule(blocks)
        setattr(owner, name, nn.ModuleList())
        fill(module, device)
        setattr(owner, name, block_list)
        weights = fill(block_list[0], device).state_dict()
        for block in list(block_list)[1:]:
            block.load_state_dict({name: one.clone() for name, one in weights.items()}, assign=True)
        return module
    module.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.dtype == torch.int8:
            weight.data.random_(0, FP8_CODES, generator=generator)
        elif "norm" in name or name.endswith("gamma"):
            weight.data.fill_(1)
        elif name.endswith("weight_scale"):
            weight.data.fill_(WEIGHT_STD / 8)
        else:
            rows = weight.data[:MAX_ROWS]  # of a token embedding, the rows of the prompt
            weight.data.zero_()
            rows.normal_(0, WEIGHT_STD, generator=generator)
    for buffer in module.buffers():
        buffer.zero_()
    return module


class Bench:
    """Models and meters on one device.

    Args:
        size: key of `SIZES`.
        device: ``cuda`` or ``cpu``, whose memory is counted by tracking tensors.
        sizes: table of sizes.
    """

    def __init__(self, size: str, device: str, sizes: Mapping[str, Size] = SIZES) -> None:
        self._name, self.size, self.device = size, sizes[size], torch.device(device)
        self.dtype = torch.bfloat16
        self.preset = find_preset(self.size.preset)
        self.compiler = "inductor" if self.is_cuda else "eager"

    @property
    def is_cuda(self) -> bool:
        """Return whether the device is an NVIDIA GPU."""
        return self.device.type == "cuda"

    # -- models and inputs -------------------------------------------------------------------------------------------

    def network(
        self, *, layers: int | None = None, dtype: torch.dtype | None = None, quantize: QuantizeName = "none"
    ) -> Callable[[torch.device], HuMoTransformer3DModel]:
        """Return a function that creates a network on a device.

        Args:
            layers: number of blocks; default: all.
            dtype: precision of the blocks; default: bfloat16.
            quantize: quantization of the blocks.
        """
        architecture, precision = self.size.architectures["transformer"], dtype or self.dtype
        config = architecture.config() | ({} if layers is None else {"num_layers": layers})
        with torch.device("meta"):
            network = HuMoTransformer3DModel.from_config(config).eval().requires_grad_(False)
        cast(network, precision)
        if quantize != "none":
            quant_type = QUANT_TYPE_OF[quantize]
            quant_types = quant_types_for(architecture, quant_type, scales=int(quant_type in FP8_TYPES))
            replace_with_quantized_linear(network, quant_types)
        return partial(fill, network, blocks="blocks")

    def pipeline(self, device: torch.device) -> HuMoPipeline:
        """Return a pipeline on a device."""
        architectures = self.size.architectures
        text_config = UMT5Config(**architectures["text_encoder"].config())
        audio_config = WhisperConfig(**architectures["audio_encoder"].config())
        with torch.device("meta"):
            text_encoder = UMT5EncoderModel(text_config).to(self.dtype).eval().requires_grad_(False)
            audio_encoder = SpeechEncoder(audio_config).eval().requires_grad_(False)
        return HuMoPipeline(
            transformer=self.network()(device),
            vae=self.vae(device),
            text_encoder=fill(text_encoder, device, BLOCK_LISTS["text_encoder"]),
            tokenizer=None,
            audio_encoder=fill(audio_encoder, device, BLOCK_LISTS["audio_encoder"]),
            feature_extractor=None,
            scheduler=UniPCMultistepScheduler.from_config(scheduler_config()),
            preset=self.size.preset,
        )

    def vae(self, device: torch.device) -> Any:
        """Return an autoencoder on a device."""
        return fill(autoencoder_on_meta(self.size.architectures["vae"]), device)

    def clip(self, frames: int | None = None, *, size: tuple[int, int] | None = None) -> Clip:
        """Return random inputs on the device.

        Args:
            frames: of the clip.
            size: width and height.
        """
        width, height = size or (self.size.width, self.size.height)
        geometry = Geometry(width, height, frames or self.size.frames, references=1)
        config: Any = self.size.architectures["transformer"]
        audio: Any = self.size.architectures["audio_encoder"]
        random = torch.Generator().manual_seed(1)
        shape = geometry.latent_shape(config.in_channels)
        window = (config.audio_window, config.audio_bands, config.audio_width)
        clip = Clip(
            geometry=geometry,
            latents=torch.randn(1, *shape, generator=random),
            timestep=torch.tensor([700.0]),
            text=torch.randn(1, config.text_length, config.text_dim, generator=random),
            audio=torch.randn(1, geometry.latent_frames, *window, generator=random),
            ids=torch.randint(2, 60, (1, self.size.prompt_tokens), generator=random),
            spectra=torch.randn(1, audio.num_mel_bins, MEL_FRAMES, generator=random),
            video=torch.randn(1, 16, geometry.video_latent_frames, *shape[2:], generator=random),
        )
        return clip.to(self.device, self.dtype)

    def estimate(self, clip: Clip, quant_type: str | None = None) -> MemoryEstimate:
        """Return what `humo plan` estimates for a clip."""
        architectures = self.size.architectures
        quant_types = {}
        if quant_type is not None:
            scales = int(quant_type in FP8_TYPES)
            quant_types["transformer"] = quant_types_for(architectures["transformer"], quant_type, scales=scales)
        injection = self.preset.reference_injection
        return estimate_memory(architectures, clip.geometry, injection, self.dtype, 3, quant_types=quant_types)

    def large(self) -> Bench | None:
        """Return a bench of HuMo-17B, if its blocks in fp8 fit into the host's memory."""
        large = Bench(self._name, self.device.type, LARGE)
        weights = large.estimate(large.clip(5, size=(160, 144)), "F8_E4M3").weights["transformer"].total
        return large if psutil.virtual_memory().available > 1.3 * weights else None

    def built_in_clip(self, device: str) -> tuple[list[NDArray[np.uint8]], float]:
        """Return the frames of a second of video by the built-in model, and the seconds it took, the second time."""
        pipeline = load_pipeline(BUILTIN_MODEL, device=device, dtype="float32")
        plan = resolve(parse_request({"prompt": "A woman talks.", "frames": 25, "seed": 1}), pipeline.preset)
        for _ in range(2):
            self.synchronize()
            start = time.perf_counter()
            frames = list(pipeline.generate_frames(GenerationInputs(plan)))
        return frames, time.perf_counter() - start

    # -- meters ------------------------------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def empty_cache(self) -> None:
        """Give memory that torch keeps back to the device."""
        if self.is_cuda:
            torch.cuda.empty_cache()

    @contextmanager
    def activations(self) -> Iterator[Peak]:
        """Measure the peak of what is allocated on the device inside the ``with`` block."""
        peak = Peak()
        if not self.is_cuda:
            with track_allocations() as stats:
                yield peak
            peak.bytes = stats.peak
            return
        self.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        self.synchronize()
        peak.bytes = torch.cuda.max_memory_allocated() - before

    @contextmanager
    def device_memory(self, *modules: nn.Module) -> Iterator[Peak]:
        """Measure the peak of all tensors on the device: of modules, and of what is allocated in the ``with`` block."""
        weights = sum(one.nbytes for module in modules for one in module.parameters() if one.device == self.device)
        with self.activations() as peak:
            yield peak
        peak.bytes = torch.cuda.max_memory_allocated() if self.is_cuda else peak.bytes + weights

    def total_device_memory(self) -> int:
        """Return the bytes of the device."""
        return torch.cuda.mem_get_info()[1] if self.is_cuda else psutil.virtual_memory().total

    def free_device_memory(self) -> int:
        """Return the free bytes of the device."""
        self.empty_cache()
        return torch.cuda.mem_get_info()[0] if self.is_cuda else psutil.virtual_memory().available

    def reserved_beside_tensors(self) -> float:
        """Return the gigabytes of the device that neither tensors nor torch's allocator have: CUDA's own."""
        if not self.is_cuda:
            return 0.0
        free, total = torch.cuda.mem_get_info()
        return (total - free - torch.cuda.memory_reserved()) / 1e9

    def link_bandwidth(self) -> float:
        """Return the bytes per second of copies from locked host memory."""
        packed = PackedBlock({"block": torch.zeros(2**28 if self.is_cuda else 2**20, dtype=torch.uint8)})
        copies = copies_to(self.device)
        target = copies.allocate(packed.buffer.numel())
        times = []
        for _ in range(4):
            self.synchronize()
            start = time.perf_counter()
            copies.wait(copies.copy(target, packed.buffer, None))
            self.synchronize()
            times.append(time.perf_counter() - start)
        return packed.buffer.numel() / min(times)

    # -- streaming of a network alone --------------------------------------------------------------------------------

    def stream(self, network: HuMoTransformer3DModel) -> WeightStreams:
        """Let the blocks of a network wait on the host."""
        streams, blocks = WeightStreams(), list(network.blocks)
        streams.add(blocks, HostBlocks([pack(one) for one in blocks], copies_to(self.device)), is_network=True)
        move_outside(network, "blocks", self.device)
        return streams


def random_lora(network: nn.Module, architecture: Any, rank: int) -> LoraFile:
    """Return a LoRA of every linear layer of a network's blocks."""
    random = torch.Generator().manual_seed(2)
    state = {}
    for name, layer in network.named_modules():
        if name.startswith("blocks.") and isinstance(layer, nn.Linear):
            down, up = (rank, layer.in_features), (layer.out_features, rank)
            state[f"transformer.{name}.lora_A.weight"] = torch.randn(down, generator=random).bfloat16() * WEIGHT_STD
            state[f"transformer.{name}.lora_B.weight"] = torch.randn(up, generator=random).bfloat16() * WEIGHT_STD
    return read_lora(state, architecture)
