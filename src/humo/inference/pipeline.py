"""The main module of inference: inputs to conditions, noise to latents by guided denoising, latents to video frames.

    frames = pipeline.generate_frames(GenerationInputs(plan, images, audio))    one clip, frames as they are finished
    video = pipeline(prompt=..., images=..., audio=...).frames                      a batch of clips, as in diffusers

Both run `HuMoPipeline.generate_segments`.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), F frames,
H, W size. Pixels are in [-1, 1].
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, DiffusionPipeline
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from humo.checkpoints.hubs.catalog import CATALOG
from humo.checkpoints.model_folder import BUILTIN_MODELS, base_of, find_model_folder, mapped_files
from humo.conditioning.audio import audio_windows, encode_audio, null_audio_windows
from humo.conditioning.conditions import Conditions, stack
from humo.conditioning.image import (
    comfy_blank,
    decode_video,
    encode_blank,
    encode_cropped,
    encode_references,
    encode_video,
    normalized_zeros,
)
from humo.conditioning.text import encode_text
from humo.errors import CheckpointError, did_you_mean
from humo.geometry import Geometry, audio_rows_needed
from humo.guidance import SPEEDS, GuidanceName, Mode, SpeedName
from humo.inference.decoding import SegmentDecoder
from humo.inference.denoise import OnStep, PrefixLatents, Stop, denoise
from humo.inference.execution import Execution
from humo.inference.inputs import (
    GenerationInputs,
    OutputType,
    check_choices,
    check_inputs,
    check_tensors,
    postprocess_video,
    prepare_generators,
    repeat_inputs,
    to_frames,
)
from humo.inference.long_video import Segment, WindowSequence
from humo.inference.lora import HuMoLoraLoaderMixin
from humo.inference.model_card import AUTOMATIC_CARD, model_card
from humo.inference.predictor import VelocityPredictor, batch_guidance_passes, check_execution
from humo.inference.samplers import make_scheduler
from humo.inference.window_cache import NO_WINDOW_CACHE, WindowCache
from humo.known_words import read_prompt
from humo.media.audio import AudioSamples
from humo.model.audio import SpeechEncoder
from humo.model.autoencoder import ShortcutAutoencoder
from humo.model.caches import caching
from humo.model.reference import with_references, without_references
from humo.model.tiling import tiles_of
from humo.model.transformer import HuMoTransformer3DModel
from humo.plan import GenerationPlan
from humo.presets import HUMO_17B, SCALE_NAMES, Preset, ReferenceInjection, find_preset, read_distillation
from humo.progress import Event, ProgressCallback, never_stop, no_progress
from humo.request import CacheName
from humo.schedule import SamplerName, SpacingName

REPOSITORY_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""Name of a repository on Hugging Face: ``owner/name``."""

TEXT_LENGTH = 512
"""Text positions of the released networks, for a pipeline without a network."""

OnWindowStep = Callable[[int, int, Tensor, Tensor, Tensor], Tensor | Stop]
"""Step callback: (window, step, timestep, latents, denoised) -> the latents to continue with, or `Stop`."""


@dataclass
class HuMoPipelineOutput(BaseOutput):
    """Result of a pipeline call.

    Args:
        frames: the videos, in the form that ``output_type`` names.
        plans: the resolved request of each; `humo.save_video` records it.
    """

    frames: Any
    plans: tuple[GenerationPlan, ...] = ()


def guidance_of(plan: GenerationPlan) -> Tensor | None:
    """Return the guidance scales (1, 3) that a distilled network takes as an input; None for other networks."""
    if plan.preset.distillation is None:
        return None
    return torch.tensor([[float(getattr(plan.request, f"scale_{name}")) for name in SCALE_NAMES]])


def _find_model(name: str | os.PathLike[str]) -> str:
    """Return the folder of a model, or the name of a repository.

    Raises:
        CheckpointError: there is neither.
    """
    folder = find_model_folder(name)
    if folder.is_dir():
        return str(folder)
    if isinstance(name, str) and REPOSITORY_NAME.fullmatch(name):
        return name
    if str(name) in CATALOG:
        raise CheckpointError("model", f"{name} is not installed", f"run `humo models get {name}`")
    known = [*BUILTIN_MODELS, *CATALOG]
    problem = f"{os.fspath(name)!r} is neither a model folder nor a known name"
    raise CheckpointError("model", problem, did_you_mean(str(name), known))


class HuMoPipeline(DiffusionPipeline, HuMoLoraLoaderMixin):
    """HuMo as a diffusers pipeline: a prompt, reference images and an audio track in, a video out.

    Args:
        transformer: `HuMoTransformer3DModel`.
        vae: `AutoencoderKLWan`.
        text_encoder, tokenizer: umT5's.
        audio_encoder, feature_extractor: `SpeechEncoder` and Whisper's feature extractor.
        scheduler: `UniPCMultistepScheduler`; each request sets its own shift.
        preset: name of the family (`humo.presets`).
    """

    model_cpu_offload_seq = "text_encoder->audio_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        transformer: HuMoTransformer3DModel | None,
        vae: AutoencoderKLWan | ShortcutAutoencoder | None,  # diffusers' `from_pipe` compares exact classes
        text_encoder: Any,
        tokenizer: Any,
        audio_encoder: SpeechEncoder | None,
        feature_extractor: Any,
        scheduler: Any,
        preset: str = HUMO_17B.name,  # diffusers: an argument with a default is a setting, not a component
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            audio_encoder=audio_encoder,
            feature_extractor=feature_extractor,
            scheduler=scheduler,
        )
        self.register_to_config(preset=preset)
        if text_encoder is not None:
            text_encoder.set_attn_implementation("eager")  # equals the published encoder exactly
        self._blank: tuple[tuple[int, int, int], Tensor] | None = None
        self._interrupt = False
        self._num_timesteps = 0
        self._current_timestep: Tensor | None = None
        self._attention_kwargs: Mapping[str, Any] | None = None
        self.execution = Execution()
        """Default way to run the network, unless a call has its own; a loader that streams weights sets it."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **settings: Any) -> HuMoPipeline:
        """Load a pipeline. A folder whose index names a ``base`` holds only a network; the base has the rest.

        Args:
            pretrained_model_name_or_path: a model folder; a name that ``humo models`` lists; or a repository on
                Hugging Face as ``owner/name``.
            settings: as in diffusers.

        Raises:
            CheckpointError: there is no such folder or model; the base is not a complete model folder; or the index
                names files that only `humo.runtime.loading.load_pipeline` reads.
        """
        path = _find_model(pretrained_model_name_or_path)
        base = base_of(path)
        if missing := sorted(mapped_files(base or path).keys() - settings.keys()):
            problem = f"reads the {missing[0]} from a file that diffusers cannot load"
            raise CheckpointError(os.fspath(path), problem, "use humo.runtime.loading.load_pipeline")
        if base is not None and "transformer" not in settings:
            dtypes = settings.get("dtype", settings.get("torch_dtype"))
            dtype = dtypes.get("transformer", dtypes.get("default")) if isinstance(dtypes, dict) else dtypes
            network = f"{os.fspath(path)}/transformer"
            settings["transformer"] = HuMoTransformer3DModel.from_pretrained(network, torch_dtype=dtype)
        pipeline: HuMoPipeline = super().from_pretrained(base or path, **settings)
        return pipeline

    @property
    def _execution_device(self) -> torch.device:
        """Device that inputs are moved to: the execution's, or as in diffusers."""
        device: torch.device = self.execution.device or super()._execution_device
        return device

    def _upload_folder(self, working_dir: str | os.PathLike[str], *arguments: Any, **settings: Any) -> Any:
        """Write a model card before the folder is uploaded, unless the repository has one of its own."""
        card = Path(working_dir) / "README.md"
        if not card.exists() or AUTOMATIC_CARD in card.read_text(encoding="utf-8"):
            card.write_text(model_card(self.preset), encoding="utf-8")
        return super()._upload_folder(working_dir, *arguments, **settings)

    # -- state of a call, as in diffusers ------------------------------------------------------------------------------

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the last call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the running step; None outside a call."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> Mapping[str, Any] | None:
        """Argument of the last call."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """True if a callback asked to end the denoising."""
        return self._interrupt

    # -- encoding: inputs to conditions -------------------------------------------------------------------------------

    @property
    def preset(self) -> Preset:
        """The family's preset, adapted to the distillation of the network, if there is one."""
        family = find_preset(self.config.preset)
        return family if self.transformer is None else family.distilled(read_distillation(self.transformer.config))

    @property
    def base_preset(self) -> Preset:
        """The preset of the network without its LoRAs, one of which may have brought a distillation."""
        return find_preset(self.config.preset) if self._distilled_by is not None else self.preset

    def prepare_conditions(self, inputs: GenerationInputs, callback: ProgressCallback = no_progress) -> Conditions:
        """Encode the inputs of one clip: its whole audio, and images as long as a window, as a batch of one."""
        plan, geometry = inputs.plan, inputs.plan.geometry
        request, device, dtype = plan.request, self._execution_device, self.transformer.dtype
        callback(Event("encode", 0, 3))
        text, null_text = inputs.prompt_embeds, inputs.negative_prompt_embeds
        text = self.encode_prompt(request.prompt) if text is None else text
        null_text = self.encode_prompt(request.negative_prompt or "") if null_text is None else null_text
        callback(Event("encode", 1, 3))
        rows = inputs.audio_embeds
        if rows is None and inputs.audio is not None:
            rows = self.encode_audio(inputs.audio, geometry)
        callback(Event("encode", 2, 3))
        image, null_image = self.encode_images(inputs.images, plan.window_geometry, plan.preset)
        callback(Event("encode", 3, 3))
        return Conditions(
            text=text.to(device, dtype),
            null_text=null_text.to(device, dtype),
            image=image,
            null_image=null_image,
            audio=self.audio_windows(rows, geometry),
        )

    def encode_prompt(self, prompt: str) -> Tensor:
        """Return text embeddings (1, L, D)."""
        if find_preset(self.config.preset).is_synthetic:
            prompt = read_prompt(prompt).text
        length = TEXT_LENGTH if self.transformer is None else self.transformer.config.text_length
        return encode_text([prompt], self.tokenizer, self.text_encoder, length, self._execution_device)

    def encode_audio(self, audio: AudioSamples, geometry: Geometry) -> Tensor:
        """Return the audio encoder's rows (T, N, D) of 16 kHz audio, as many as a clip of this length uses."""
        bands = self.transformer.config.audio_bands
        rows = audio_rows_needed(geometry.frames)
        return encode_audio(audio, self.feature_extractor, self.audio_encoder, bands, rows)

    def audio_windows(self, rows: Tensor | None, geometry: Geometry) -> Tensor:
        """Return windows (1, L, W, N, D) of encoder rows, zeros where there are none."""
        config = self.transformer.config
        if rows is None:
            windows = null_audio_windows(geometry.latent_frames, config.audio_bands, config.audio_width)
        else:
            windows = audio_windows(rows, geometry.video_latent_frames, geometry.reference_slots)
        return windows[None].to(self._execution_device, torch.float32)

    def encode_images(
        self, images: Sequence[Image.Image], geometry: Geometry, preset: Preset | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the image condition with and without references, each (1, ...), as in `humo.model.reference`.

        Args:
            images: references, in order.
            geometry: of the clip.
            preset: of the plan; by default the pipeline's.
        """
        preset = preset or self.preset
        if preset.guidance_name == "comfy":
            return self._encode_as_comfy(images, geometry, preset.reference_injection)
        injection, device = preset.reference_injection, self._execution_device
        blank = self.blank_video(geometry).to(device) if injection is ReferenceInjection.CHANNEL_CONCAT else None
        if not images:
            size = (geometry.reference_slots, geometry.latent_height, geometry.latent_width)
            slots = torch.zeros(1, self.transformer.config.out_channels, *size, device=device)
            null_image = without_references(injection, slots, blank)
            return null_image, null_image
        references = encode_references(images, self.vae, geometry.width, geometry.height, device).float()
        return with_references(injection, references, blank), without_references(injection, references, blank)

    def _encode_as_comfy(
        self, images: Sequence[Image.Image], geometry: Geometry, injection: ReferenceInjection
    ) -> tuple[Tensor, Tensor]:
        """Return the image condition with and without the reference, as ComfyUI's HuMo node makes them."""
        size, device = (1, geometry.latent_height, geometry.latent_width), self._execution_device
        slot = torch.zeros(1, self.transformer.config.out_channels, *size, device=device)
        null_reference = normalized_zeros(slot, self.vae)
        reference = null_reference
        if images:
            reference = encode_cropped(images[0], self.vae, geometry.width, geometry.height, device).float()
        blank = None
        if injection is not ReferenceInjection.FRAME_REPLACE:
            blank = comfy_blank(geometry.latent_frames, geometry.latent_height, geometry.latent_width, device)
        return with_references(injection, reference, blank), with_references(injection, null_reference, blank)

    def blank_video(self, geometry: Geometry) -> Tensor:
        """Return latents (1, C, L, H, W) of a mid-gray video as long as the sequence; the last result is kept."""
        size = (geometry.latent_frames, geometry.latent_height, geometry.latent_width)
        if self._blank is None or self._blank[0] != size:
            self._blank = size, encode_blank(*size, self.vae, self._execution_device).float().cpu()
        return self._blank[1]

    # -- denoising: noise to latents ----------------------------------------------------------------------------------

    def prepare_latents(
        self, geometry: Geometry, generator: torch.Generator, guidance: GuidanceName = "published"
    ) -> Tensor:
        """Draw initial noise (1, C, L, H, W) on the generator's device; a CPU generator gives the same everywhere.

        ComfyUI draws noise for the video alone; its noise is followed by zeros on the reference slots.
        """
        channels, frames, *size = geometry.latent_shape(self.transformer.config.out_channels)
        drawn = geometry.video_latent_frames if guidance == "comfy" else frames
        shape = (1, channels, drawn, *size)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
        return F.pad(noise, (0, 0, 0, 0, 0, frames - drawn)).to(self._execution_device)

    def denoise(
        self,
        plan: GenerationPlan,
        conditions: Conditions,
        noise: Tensor,
        *,
        prefix: PrefixLatents | None = None,
        on_step: OnStep | None = None,
        execution: Execution | None = None,
    ) -> Tensor:
        """Return the video latents (B, C, k + 1, H, W) of a clip that fits into one window.

        Args:
            plan: of the clip.
            conditions: of the clip.
            noise: (B, C, L, H, W), reference slots included.
            prefix: known first latent frames, or None.
            on_step: as in `humo.inference.denoise.denoise`.
            execution: how the network is run; default: the pipeline's.

        Raises:
            RequestError: the request's step cache cannot be used with ``execution``.
        """
        check_execution(self.transformer, plan.request.cache, execution or self.execution)
        with caching(self.transformer, plan.request.cache):
            result = denoise(
                self._predictor(plan, conditions, noise, execution or self.execution),
                plan.guidance,
                self._scheduler(plan, noise.device),
                noise,
                reuse=SPEEDS[plan.request.speed],
                prefix=prefix,
                on_step=on_step,
            )
        return result.latents[:, :, : noise.shape[2] - plan.geometry.reference_slots]

    def generate_segments(
        self,
        plan: GenerationPlan,
        conditions: Conditions,
        noise: Tensor,
        seeds: Sequence[tuple[int, int]],
        *,
        on_step: OnWindowStep | None = None,
        window_cache: WindowCache = NO_WINDOW_CACHE,
        execution: Execution | None = None,
    ) -> Iterator[Segment]:
        """Generate a clip, or a batch of clips, window by window: the loop that every entry point runs.

        Args:
            plan: of the clips.
            conditions: audio of the whole clips, images as long as a window.
            noise: (B, C, L, H, W) of the first window.
            seeds: seed of further noise, for each clip of the batch.
            on_step: is called after each step; `Stop` makes the window with its latents the last one.
            window_cache: keeps finished windows of a clip that has several; a kept window is not generated again.
            execution: how the network is run; default: the pipeline's.
        """
        execution, last = execution or self.execution, len(plan.windows) - 1
        window_cache = window_cache if last else NO_WINDOW_CACHE
        continuation = self.transformer.config.continuation
        decode = SegmentDecoder(self.vae, self._release_weights, execution.on_out_of_memory_in_decoder)
        anchor = self._encode_anchor
        sequence = WindowSequence(plan, conditions, noise, seeds, decode, anchor, continuation=continuation)
        for number, window in enumerate(plan.windows):
            latents, stopped = window_cache.get(number), False
            if latents is None:
                window_conditions, window_noise = sequence.inputs(window)
                with caching(self.transformer, plan.request.cache):
                    latents, stopped = denoise(
                        self._predictor(plan, window_conditions, window_noise, execution),
                        plan.guidance,
                        self._scheduler(plan, noise.device),
                        window_noise,
                        reuse=SPEEDS[plan.request.speed],
                        prefix=sequence.prefix,
                        on_step=None if on_step is None else partial(on_step, number),
                    )
                latents = sequence.correct_mean(latents[:, :, : window.latent_frames], window)
                if not stopped:
                    window_cache.put(number, latents)
            segment = sequence.finish(number, latents, is_last=stopped or number == last)
            yield segment
            if stopped or number == last:
                return
            sequence.continue_from(segment, plan.windows[number + 1])

    def _predictor(
        self, plan: GenerationPlan, conditions: Conditions, noise: Tensor, execution: Execution
    ) -> VelocityPredictor:
        return VelocityPredictor(
            self.transformer,
            conditions,
            plan.preset.reference_injection,
            guidance=guidance_of(plan),
            execution=execution,
            batch_passes=batch_guidance_passes(self.transformer, plan.request.cache, execution, noise),
        )

    def _scheduler(self, plan: GenerationPlan, device: torch.device) -> Any:
        assert plan.request.sampler is not None
        return make_scheduler(self.scheduler.config, plan.schedule, device, plan.request.sampler)

    # -- decoding: latents to frames ----------------------------------------------------------------------------------

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Return pixels (B, 3, 4k + 1, 8 H, 8 W) in [-1, 1] of video latents (B, C, k + 1, H, W)."""
        return decode_video(latents.to(self.vae.dtype), self.vae).float().clamp(-1, 1)

    def decode_frames(self, latents: Tensor, callback: ProgressCallback = no_progress) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames (H, W, 3) of video latents (1, C, k + 1, H, W), without tiles one latent frame at a time."""
        callback(Event("decode", 0, 1))
        decode = SegmentDecoder(self.vae, self._release_weights)
        is_tiled = len(tiles_of(self.vae, *latents.shape[3:])) > 1
        pieces = latents.split(latents.shape[2] if is_tiled else 1, dim=2)
        for number, piece in enumerate(pieces):
            yield from to_frames(decode(piece, is_last=number == len(pieces) - 1, network_follows=False))
        callback(Event("decode", 1, 1))
        self._free_memory()

    @torch.no_grad()
    def _encode_anchor(self, frame: Tensor) -> Tensor:
        """Return the latent frame (B, C, 1, H, W) of one video frame (B, 3, 1, H, W)."""
        return encode_video(frame.to(self.vae.dtype), self.vae).float()

    def _preview_frame(self, latents: Tensor, plan: GenerationPlan) -> NDArray[np.uint8]:
        """Return the middle frame (H, W, 3) of unfinished latents: its latent frame decoded alone."""
        middle = (latents.shape[2] - plan.geometry.reference_slots) // 2
        return next(to_frames(self.decode_latents(latents[:, :, middle : middle + 1])))

    def _release_weights(self) -> None:
        """Free the device's memory of weights that wait elsewhere between passes."""
        if self.execution.streamed is not None:
            self.execution.streamed.release()

    def _free_memory(self) -> None:
        """Free what a finished clip keeps in memory and the next one does not need."""
        self._release_weights()
        self.maybe_free_model_hooks()

    # -- entry points -------------------------------------------------------------------------------------------------

    def generate_frames(
        self,
        inputs: GenerationInputs,
        *,
        callback: ProgressCallback = no_progress,
        should_stop: Callable[[], bool] = never_stop,
        window_cache: WindowCache = NO_WINDOW_CACHE,
        execution: Execution | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Generate one clip; yield its frames (H, W, 3), those of a long clip as its windows are finished.

        Args:
            inputs: the plan, images and audio.
            callback: is called with the progress of the phases encode, denoise and decode.
            should_stop: is called after each step. True ends the clip with the clean latents predicted by then.
            window_cache: keeps the windows of a long clip, so that an interrupted run can resume.
            execution: how the network is run; default: the pipeline's.
        """
        total = len(inputs.plan.windows)
        segments = self.generate_from_seed(inputs, callback, should_stop, window_cache, execution)
        for number, segment in enumerate(segments):
            callback(Event("decode", number, total))
            pixels = segment.pixels
            callback(Event("decode", number + 1, total))
            yield from to_frames(pixels)
        self._free_memory()

    def generate_latents(
        self,
        inputs: GenerationInputs,
        callback: ProgressCallback = no_progress,
        should_stop: Callable[[], bool] = never_stop,
        execution: Execution | None = None,
    ) -> Tensor:
        """Generate one clip and return its video latents (1, C, k + 1, H, W). Args as `generate_frames`."""
        segments = self.generate_from_seed(inputs, callback, should_stop, execution=execution)
        return torch.cat([segment.latents for segment in segments], dim=2)

    def generate_from_seed(
        self,
        inputs: GenerationInputs,
        callback: ProgressCallback = no_progress,
        should_stop: Callable[[], bool] = never_stop,
        window_cache: WindowCache = NO_WINDOW_CACHE,
        execution: Execution | None = None,
    ) -> Iterator[Segment]:
        """Encode one clip's inputs and start `generate_segments` from the seed. Args as `generate_frames`."""
        plan, seed, execution = inputs.plan, inputs.plan.request.seed, execution or self.execution
        assert seed is not None
        check_execution(self.transformer, plan.request.cache, execution)
        conditions = self.prepare_conditions(inputs, callback)
        noise = self.prepare_latents(
            plan.window_geometry, torch.Generator().manual_seed(seed), plan.preset.guidance_name
        )
        steps = len(plan.timesteps)
        total = steps * len(plan.windows)
        callback(Event("denoise", 0, total))

        def step_end(window: int, step: int, _: Tensor, latents: Tensor, denoised: Tensor) -> Tensor | Stop:
            preview = partial(self._preview_frame, denoised, plan)
            callback(Event("denoise", window * steps + step + 1, total, preview=preview))
            return Stop(denoised) if should_stop() else latents

        return self.generate_segments(
            plan, conditions, noise, [(seed, 0)], on_step=step_end, window_cache=window_cache, execution=execution
        )

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        images: Any = None,
        audio: Any = None,
        *,
        mode: Mode | None = None,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        num_frames: int | None = None,
        window: int | None = None,
        overlap: int | None = None,
        num_inference_steps: int | None = None,
        shift: float | None = None,
        scale_text: float | None = None,
        scale_audio: float | None = None,
        scale_image: float | None = None,
        switch_timestep: float | None = None,
        guidance: GuidanceName | None = None,
        sampler: SamplerName | None = None,
        spacing: SpacingName | None = None,
        sigmas: Sequence[float] | None = None,
        speed: SpeedName | None = None,
        cache: CacheName | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        audio_embeds: Tensor | list[Tensor] | None = None,
        attention_kwargs: Mapping[str, Any] | None = None,
        num_videos_per_prompt: int = 1,
        batch_passes: bool | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:  # HuMoPipelineOutput, or a tuple without return_dict
        """Generate a clip, or a batch of clips of one size and length.

        Args:
            prompt: the scene; for a batch, a list.
            images: a reference image (PIL image, array or path), or several; for a batch, a list of such lists.
            audio: an audio track (path, (samples,) at 16 kHz, or (samples, rate)); for a batch, a list.
            mode: T, TI, TA or TIA; default: the inputs that are given.
            negative_prompt, width, height, num_frames, window, overlap, num_inference_steps, shift, scale_text,
            scale_audio, scale_image, switch_timestep, guidance, sampler, spacing, sigmas, speed, cache: as in
                `GenerateRequest`; default: the preset's published values, and the length of the audio.
            generator: of the initial noise; default: one on the CPU with the preset's seed. For a batch, a list.
            latents: initial noise (B, C, L, H, W) in place of the generator's.
            prompt_embeds, negative_prompt_embeds: (B, L, D) in place of prompts.
            audio_embeds: (T, N, D) encoder rows in place of audio; for a batch, a list.
            attention_kwargs: ``{"scale": x}`` multiplies the strength of every LoRA for this call.
            num_videos_per_prompt: number of videos of each prompt, in a row.
            batch_passes: run the passes of a step as one batch; default: only where a pass has few tokens.
            output_type: ``pil`` lists of images, ``np`` (B, F, H, W, 3) and ``pt`` (B, F, 3, H, W) in [0, 1], or
                ``latent`` (B, C, k + 1, H, W).
            return_dict: return an object with ``frames``, not a tuple.
            callback_on_step_end: is called with (pipeline, step, timestep, tensors); may return other ``latents``.
                Setting ``pipeline._interrupt`` in it ends the denoising.
            callback_on_step_end_tensor_inputs: names of the tensors it is called with (``latents``).

        Raises:
            RequestError, MediaError: an argument, an image or an audio track is wrong.
        """
        options = {
            "mode": mode,
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
            "frames": num_frames,
            "window": window,
            "overlap": overlap,
            "steps": num_inference_steps,
            "shift": shift,
            "scale_text": scale_text,
            "scale_audio": scale_audio,
            "scale_image": scale_image,
            "switch_timestep": switch_timestep,
            "guidance": guidance,
            "sampler": sampler,
            "spacing": spacing,
            "sigmas": sigmas,
            "speed": speed,
            "cache": cache,
        }
        check_choices(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        batch = check_inputs(
            self.preset, prompt, images, audio, prompt_embeds, negative_prompt_embeds, audio_embeds, options
        )
        batch = repeat_inputs(batch, num_videos_per_prompt)
        check_tensors(batch, latents, self.transformer.config)
        plan, execution = batch[0].plan, replace(self.execution, batch_passes=batch_passes)
        check_execution(self.transformer, plan.request.cache, execution)
        conditions = stack([self.prepare_conditions(inputs) for inputs in batch])
        generators = prepare_generators(generator, self.preset.seed, len(batch), num_videos_per_prompt)
        if latents is None:
            geometry, guidance = plan.window_geometry, plan.preset.guidance_name
            latents = torch.cat([self.prepare_latents(geometry, one, guidance) for one in generators])
        # a clip with a generator of its own equals itself generated alone; clips that share one are numbered
        seeds = [(one.initial_seed(), generators[:number].count(one)) for number, one in enumerate(generators)]
        noise = latents.to(self._execution_device)
        self._interrupt = False
        self._attention_kwargs, self._num_timesteps = attention_kwargs, len(plan.timesteps)
        total = len(plan.timesteps) * len(plan.windows)
        with self.scaled_loras(attention_kwargs), self.progress_bar(total=total) as bar:

            def step_end(_: int, step: int, timestep: Tensor, latents: Tensor, __: Tensor) -> Tensor | Stop:
                bar.update()
                self._current_timestep = timestep
                following = latents
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                    following = (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)
                return Stop(latents) if self._interrupt else following

            segments = list(
                self.generate_segments(plan, conditions, noise, seeds, on_step=step_end, execution=execution)
            )
        if output_type == "latent":
            frames: Any = torch.cat([segment.latents for segment in segments], dim=2)
        else:
            frames = postprocess_video(torch.cat([segment.pixels for segment in segments], dim=2), output_type)
        self._free_memory()
        self._current_timestep = None
        plans = tuple(_recorded(inputs.plan, one, self) for inputs, one in zip(batch, generators, strict=True))
        return HuMoPipelineOutput(frames=frames, plans=plans) if return_dict else (frames,)


def _recorded(plan: GenerationPlan, generator: torch.Generator, pipeline: HuMoPipeline) -> GenerationPlan:
    """Return a plan with the seed, the model and the device that a call ran with."""
    folder = pipeline.config.get("_name_or_path") or None
    device, dtype = str(pipeline._execution_device), str(pipeline.transformer.dtype).removeprefix("torch.")
    ran = {"seed": generator.initial_seed(), "model": folder, "device": device, "dtype": dtype}
    return replace(plan, request=plan.request.model_copy(update=ran))
