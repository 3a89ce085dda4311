"""Inference, the whole story: conditions in, a guided walk from noise to latents, a video out.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), F frames,
H, W size. Pixels are in [-1, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from humo.checkpoints.model_folder import base_of
from humo.conditioning.conditions import Conditions, stack
from humo.conditioning.image import decode_video, encode_video
from humo.geometry import Geometry
from humo.guidance import SPEEDS, Mode, SpeedName
from humo.inference.denoise import SINGLE_PROCESS, OnStep, PrefixLatents, denoise, make_scheduler
from humo.inference.inputs import (
    AudioSamples,
    GenerationInputs,
    OutputType,
    check_choices,
    check_inputs,
    check_tensors,
    postprocess_video,
    prepare_generators,
    to_frames,
)
from humo.inference.long_video import NO_WINDOW_CACHE, Segment, WindowCache, generate_windows
from humo.inference.lora import HuMoLoraLoaderMixin
from humo.inference.predictor import VelocityMixin
from humo.model.audio import SpeechEncoder
from humo.model.autoencoder import StreamingDecoder
from humo.model.caches import caching
from humo.model.transformer import HuMoTransformer3DModel
from humo.presets import HUMO_17B, SCALE_NAMES
from humo.progress import Event, ProgressCallback, never_stop, no_progress
from humo.request import CacheName, GenerationPlan


@dataclass
class HuMoPipelineOutput(BaseOutput):
    """``frames``: what was asked for by ``output_type``."""

    frames: Any


def scales_of(plan: GenerationPlan) -> Tensor | None:
    """What a student is told of a request's scales, (1, 3); None where the network is none."""
    if plan.preset.distillation is None:
        return None
    return torch.tensor([[float(getattr(plan.request, f"scale_{name}")) for name in SCALE_NAMES]])


class HuMoPipeline(DiffusionPipeline, VelocityMixin, HuMoLoraLoaderMixin):
    """HuMo as a diffusers pipeline: words, pictures and a sound in, a video out.

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
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        audio_encoder: SpeechEncoder | None,
        feature_extractor: Any,
        scheduler: Any,
        preset: str = HUMO_17B.name,  # a default makes it a setting, for diffusers, and not a component
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
            text_encoder.set_attn_implementation("eager")  # the one that equals the published encoder exactly
        self._blank: tuple[tuple[int, int, int], Tensor] | None = None
        self._interrupt = False
        self.branches = SINGLE_PROCESS
        """Who makes which passes of a step, where several ranks work on one clip."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **settings: Any) -> HuMoPipeline:
        """As every pipeline's; a model folder that leans on another (``base`` in its index) has only its own network.

        Raises:
            CheckpointError: the folder that it leans on is no whole model folder.
        """
        path = pretrained_model_name_or_path
        base = base_of(path)
        if base is not None and "transformer" not in settings:
            kinds = settings.get("dtype", settings.get("torch_dtype"))
            kind = kinds.get("transformer", kinds.get("default")) if isinstance(kinds, dict) else kinds
            network = f"{os.fspath(path)}/transformer"
            settings["transformer"] = HuMoTransformer3DModel.from_pretrained(network, torch_dtype=kind)
        pipeline: HuMoPipeline = super().from_pretrained(base or path, **settings)
        return pipeline

    # -- the three parts ----------------------------------------------------------------------------------------------

    def denoise(
        self,
        plan: GenerationPlan,
        conditions: Conditions,
        noise: Tensor,
        *,
        held: PrefixLatents | None = None,
        batch_passes: bool | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Video latents (B, C, k + 1, H, W) of a clip, or of a window of it, from noise (B, C, L, H, W).

        Reference slots are dropped. `batch_passes` as in `__call__`.

        Raises:
            RequestError: the request's cache does not go with how the network is run here.
        """
        steps, shift, straight = plan.request.steps, plan.request.shift, plan.preset.distillation is not None
        assert steps is not None
        assert shift is not None
        scheduler = make_scheduler(self.scheduler.config, steps, shift, noise.device, euler=straight)
        batch_passes = self.batches(plan.request.cache, batch_passes, noise)
        see = self.ear(scales_of(plan))
        with caching(self.transformer, plan.request.cache):
            latents = denoise(
                self.velocity,
                conditions,
                plan.guidance,
                scheduler,
                noise,
                prepare_conditions=see,
                reuse=SPEEDS[plan.request.speed],
                prefix=held,
                guidance_parallel=self.branches,
                batch_passes=batch_passes,
                on_step=on_step,
            )
        return latents[:, :, : noise.shape[2] - plan.geometry.reference_slots]

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, 4k + 1, 8 H, 8 W) in [-1, 1] of video latents (B, C, k + 1, H, W)."""
        return decode_video(latents.to(self.vae.dtype), self.vae).float().clamp(-1, 1)

    def prepare_latents(self, geometry: Geometry, generator: torch.Generator) -> Tensor:
        """Initial noise (1, C, L, H, W), drawn where the generator lives: on the CPU it is the same everywhere."""
        shape = (1, *geometry.latent_shape(self.transformer.config.out_channels))
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
        return noise.to(self._execution_device)

    # -- doors --------------------------------------------------------------------------------------------------------

    def generate_frames(
        self,
        plan: GenerationPlan,
        *,
        images: Sequence[Image.Image] = (),
        sound: AudioSamples | None = None,
        listener: ProgressCallback = no_progress,
        is_enough: Callable[[], bool] = never_stop,
        shelf: WindowCache = NO_WINDOW_CACHE,
    ) -> Iterator[NDArray[np.uint8]]:
        """Make one clip; its frames, (H, W, 3) each, are given one by one, those of a long clip as they are finished.

        Args:
            plan: what to make.
            images: the pictures, RGB, in the plan's order.
            sound: (samples,) mono, 16 kHz.
            listener: told of the phases encode, denoise and decode.
            is_enough: asked after each step; once it is, the clip is what it has come to by then.
            shelf: keeps the windows of a long clip, so that a run that is stopped can go on.
        """
        total = len(plan.windows)
        for number, stretch in enumerate(
            self.generate_segments(GenerationInputs(plan, images, sound), listener, is_enough, shelf)
        ):
            listener(Event("decode", number, total))
            pixels = stretch.pixels
            listener(Event("decode", number + 1, total))
            yield from to_frames(pixels)
        self._free_memory()

    def generate_segments(
        self,
        clip: GenerationInputs,
        listener: ProgressCallback = no_progress,
        is_enough: Callable[[], bool] = never_stop,
        shelf: WindowCache = NO_WINDOW_CACHE,
    ) -> Iterator[Segment]:
        """A clip's latents, piece by piece as they are finished, from the noise of its seed.

        Args:
            clip: what to make.
            listener: told of encode and denoise.
            is_enough: asked after each step; once it is, the clip is what it has come to by then.
            shelf: keeps the windows of a long clip.
        """
        plan, seed = clip.plan, clip.plan.request.seed
        assert seed is not None
        self.batches(plan.request.cache)
        conditions = self.prepare_conditions(clip, listener)
        noise = self.prepare_latents(plan.window_geometry, torch.Generator().manual_seed(seed))
        steps = len(plan.timesteps)
        total = steps * len(plan.windows)
        listener(Event("denoise", 0, total))

        def make(number: int, conditions: Conditions, noise: Tensor, held: PrefixLatents | None) -> tuple[Tensor, bool]:
            early: list[Tensor] = []

            def tell(step: int, _: Tensor, latents: Tensor, data: Tensor) -> Tensor | None:
                listener(
                    Event("denoise", number * steps + step + 1, total, preview=partial(self._preview_frame, data, plan))
                )
                if is_enough():
                    early.append(data[:, :, : noise.shape[2] - plan.geometry.reference_slots])
                return None if early else latents

            finished = self.denoise(plan, conditions, noise, held=held, on_step=tell)
            return (early[0], True) if early else (finished, False)

        decode, continues = self._decoder(), self.transformer.config.continues
        yield from generate_windows(
            plan, conditions, noise, [(seed, 0)], make, decode, self._encode_anchor, shelf, continues=continues
        )

    def _free_memory(self) -> None:
        """A clip is finished: nothing of it keeps memory that the next one does not need."""
        if self.let_go is not None:
            self.let_go()
        self.maybe_free_model_hooks()

    def generate_latents(
        self,
        clip: GenerationInputs,
        listener: ProgressCallback = no_progress,
        is_enough: Callable[[], bool] = never_stop,
    ) -> Tensor:
        """The video latents (1, C, k + 1, H, W) of `stretches`, together."""
        return torch.cat([one.latents for one in self.generate_segments(clip, listener, is_enough)], dim=2)

    def _decoder(self) -> Callable[[Tensor], Tensor]:
        """Decodes normalised latents as they come, to pixels in [-1, 1]."""
        decoder = StreamingDecoder(self.vae)

        @torch.no_grad()
        def decode(latents: Tensor) -> Tensor:
            return decode_video(latents.to(self.vae.dtype), self.vae, decoder).float()

        return decode

    @torch.no_grad()
    def _encode_anchor(self, frame: Tensor) -> Tensor:
        """The latent frame (B, C, 1, H, W) of one video frame (B, 3, 1, H, W)."""
        return encode_video(frame.to(self.vae.dtype), self.vae).float()

    def _preview_frame(self, latents: Tensor, plan: GenerationPlan) -> NDArray[np.uint8]:
        """The frame (H, W, 3) in the middle, as far as it has come: its latent frame decoded alone."""
        middle = (latents.shape[2] - plan.geometry.reference_slots) // 2
        return next(to_frames(self.decode_latents(latents[:, :, middle : middle + 1])))

    def decode_frames(self, latents: Tensor, listener: ProgressCallback = no_progress) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3), one by one, of video latents (1, C, k + 1, H, W); decoded as they are asked for."""
        listener(Event("decode", 0, 1))
        decode = self._decoder()
        for one in latents.split(1, dim=2):
            yield from to_frames(decode(one))
        listener(Event("decode", 1, 1))
        self._free_memory()

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
        speed: SpeedName | None = None,
        cache: CacheName | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        audio_embeds: Tensor | list[Tensor] | None = None,
        batch_passes: bool | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:  # HuMoPipelineOutput, or a tuple without return_dict
        """Make a clip, or a batch of clips of one size and length.

        Args:
            prompt: the scene; a list of them for a batch.
            images: a picture (PIL image, array or path), or several; for a batch, a list of such lists.
            audio: a sound (path, (samples,) at 16 kHz, or (samples, rate)); for a batch, a list.
            mode: T, TI, TA or TIA; by default what is given.
            negative_prompt, width, height, num_frames, window, overlap, num_inference_steps, shift, scale_text,
            scale_audio, scale_image, switch_timestep, speed, cache: as `GenerateRequest`; by default the preset's
                published values, and as long as the sound.
            generator: of the initial noise; by default one on the CPU with the preset's seed. For a batch, a list.
            latents: initial noise (B, C, L, H, W) instead.
            prompt_embeds, negative_prompt_embeds: (B, L, D) instead of words.
            audio_embeds: (T, N, D) encoder rows instead of a sound; for a batch, a list.
            batch_passes: run the passes of a step as one batch; by default where a pass is short, and so faster in one.
            output_type: ``pil`` lists of images, ``np`` (B, F, H, W, 3) and ``pt`` (B, F, 3, H, W) in [0, 1], or
                ``latent`` (B, C, k + 1, H, W).
            return_dict: give an object with ``frames``, rather than a tuple.
            callback_on_step_end: called with (pipeline, step, timestep, tensors); may give other ``latents``. Setting
                ``pipeline._interrupt`` in it ends the denoising there.
            callback_on_step_end_tensor_inputs: of these tensors (``latents``).

        Raises:
            RequestError, MediaError: an argument, a picture or a sound is at fault.
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
            "speed": speed,
            "cache": cache,
        }
        check_choices(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        clips = check_inputs(
            self.preset, prompt, images, audio, prompt_embeds, negative_prompt_embeds, audio_embeds, options
        )
        check_tensors(clips, latents, self.transformer.config)
        plan = clips[0].plan
        self.batches(plan.request.cache, batch_passes)
        conditions = stack([self.prepare_conditions(clip) for clip in clips])
        generators = prepare_generators(generator, self.preset.seed, len(clips))
        if latents is None:
            latents = torch.cat([self.prepare_latents(plan.window_geometry, one) for one in generators])
        seeds = [(one.initial_seed(), number) for number, one in enumerate(generators)]
        self._interrupt = False
        with self.progress_bar(total=len(plan.timesteps) * len(plan.windows)) as bar:

            def step_end(step: int, timestep: Tensor, latents: Tensor, _: Tensor) -> Tensor | None:
                bar.update()
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                    latents = (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)
                return None if self._interrupt else latents

            def make(
                number: int, conditions: Conditions, noise: Tensor, held: PrefixLatents | None
            ) -> tuple[Tensor, bool]:
                made = self.denoise(plan, conditions, noise, held=held, batch_passes=batch_passes, on_step=step_end)
                return made, self._interrupt

            noise = latents.to(self._execution_device)
            decode, continues = self._decoder(), self.transformer.config.continues
            made = list(
                generate_windows(plan, conditions, noise, seeds, make, decode, self._encode_anchor, continues=continues)
            )
        if output_type == "latent":
            frames: Any = torch.cat([stretch.latents for stretch in made], dim=2)
        else:
            frames = postprocess_video(torch.cat([stretch.pixels for stretch in made], dim=2), output_type)
        self._free_memory()
        return HuMoPipelineOutput(frames=frames) if return_dict else (frames,)
