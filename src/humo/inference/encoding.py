"""What a pipeline makes of words, pictures and sounds: the conditions of a clip.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), H, W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from humo.conditioning.audio import audio_windows, encode_audio, null_audio_windows
from humo.conditioning.conditions import Conditions
from humo.conditioning.image import encode_blank, encode_references
from humo.conditioning.text import encode_text
from humo.geometry import Geometry, audio_rows_needed
from humo.inference.inputs import AudioSamples, GenerationInputs
from humo.model.reference import with_references, without_references
from humo.presets import Preset, ReferenceInjection, find_preset, read_distillation
from humo.progress import Event, ProgressCallback, no_progress


class EncodingMixin:
    """The encoders of a pipeline, and the preset that says how pictures enter."""

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    audio_encoder: Any
    feature_extractor: Any
    config: Any
    _execution_device: torch.device
    _blank: tuple[tuple[int, int, int], Tensor] | None

    @property
    def preset(self) -> Preset:
        """The family, and what the network learned if it is a student."""
        family = find_preset(self.config.preset)
        return family if self.transformer is None else family.distilled(read_distillation(self.transformer.config))

    def prepare_conditions(self, clip: GenerationInputs, listener: ProgressCallback = no_progress) -> Conditions:
        """Everything that steers one clip, as a batch of one; of a long clip, all its sound and a window's pictures."""
        plan, geometry = clip.plan, clip.plan.geometry
        request, device = plan.request, self._execution_device
        listener(Event("encode", 0, 3))
        text = self.encode_prompt(request.prompt) if clip.prompt_embeds is None else clip.prompt_embeds
        no_text = (
            self.encode_prompt(request.negative_prompt or "")
            if clip.negative_prompt_embeds is None
            else clip.negative_prompt_embeds
        )
        listener(Event("encode", 1, 3))
        rows = clip.audio_embeds
        if rows is None and clip.audio is not None:
            rows = self.encode_audio(clip.audio, geometry)
        listener(Event("encode", 2, 3))
        image, no_image = self.encode_images(clip.images, plan.window_geometry)
        listener(Event("encode", 3, 3))
        return Conditions(
            text=text.to(device, self.transformer.dtype),
            null_text=no_text.to(device, self.transformer.dtype),
            image=image,
            null_image=no_image,
            audio=self.audio_windows(rows, geometry),
        )

    def encode_prompt(self, prompt: str) -> Tensor:
        """Text embeddings (1, L, D)."""
        length = self.transformer.config.text_length
        return encode_text([prompt], self.tokenizer, self.text_encoder, length, self._execution_device)

    def encode_audio(self, sound: AudioSamples, geometry: Geometry) -> Tensor:
        """The encoder rows (T, N, D) of a 16 kHz sound that a clip of this length can hear."""
        bands = self.transformer.config.audio_bands
        rows = audio_rows_needed(geometry.frames)
        return encode_audio(sound, self.feature_extractor, self.audio_encoder, bands, rows)

    def audio_windows(self, rows: Tensor | None, geometry: Geometry) -> Tensor:
        """Windows (1, L, W, N, D) of encoder rows, or of silence where there are none."""
        config = self.transformer.config
        if rows is None:
            windows = null_audio_windows(geometry.latent_frames, config.audio_bands, config.audio_width)
        else:
            windows = audio_windows(rows, geometry.video_latent_frames, geometry.reference_slots)
        return windows[None].to(self._execution_device, torch.float32)

    def encode_images(self, pictures: Sequence[Image.Image], geometry: Geometry) -> tuple[Tensor, Tensor]:
        """The image condition with and without references, each (1, ...), as `model.reference` has them."""
        entry, device = self.preset.reference_injection, self._execution_device
        blank = self.blank_video(geometry).to(device) if entry is ReferenceInjection.CHANNEL_CONCAT else None
        if not pictures:
            size = (geometry.reference_slots, geometry.latent_height, geometry.latent_width)
            slots = torch.zeros(1, self.transformer.config.out_channels, *size, device=device)
            absent = without_references(entry, slots, blank)
            return absent, absent
        references = encode_references(pictures, self.vae, geometry.width, geometry.height, device).float()
        return with_references(entry, references, blank), without_references(entry, references, blank)

    def blank_video(self, geometry: Geometry) -> Tensor:
        """Latents (1, C, L, H, W) of a mid-grey video as long as the sequence; the last one made is kept."""
        size = (geometry.latent_frames, geometry.latent_height, geometry.latent_width)
        if self._blank is None or self._blank[0] != size:
            self._blank = size, encode_blank(*size, self.vae, self._execution_device).float().cpu()
        return self._blank[1]
