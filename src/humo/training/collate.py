"""Batches of encoded clips: caption, segment, conditions, noise level and noise are drawn for each sample.

Shape suffixes: B batch, C latent channels, L latent frames of the sequence, F latent frames of the video, H, W latent
size, h, w token grid, T frames a latent frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from humo.conditioning.audio import audio_windows, null_audio_windows
from humo.conditioning.conditions import Conditions, stack
from humo.geometry import PATCH, TEMPORAL_STRIDE, Geometry
from humo.media.face_identity import EMBEDDING_SIZE
from humo.model.reference import with_references, without_references
from humo.model.seeding import seeded_generator
from humo.presets import ReferenceInjection
from humo.training.auxiliary_heads import MOUTH_VALUES
from humo.training.config import ConditionSet, LossConfig, Stage
from humo.training.flow_matching import draw_noise_level
from humo.training.latent_cache import CachedClip, augmentation_key, load_tensors, self_reference_key
from humo.training.sampler import Bucket, SampleSpec, ShuffledSampler, draw_batch

MAX_PREFIX_FRAMES = 3
"""Largest number of prefix latent frames of a sample: an anchor frame and eight further frames."""

MAX_PREFIX_NOISE_LEVEL = 0.2
"""Largest noise level of prefix latent frames; those of a generated window are not quite clean either."""

SEGMENT_TENSORS = ("latents", "face", "area", "mouth")
"""Tensors that an encoded clip has for each segment."""

STATISTICS_CLIPS = 500
"""Number of clips that `mean_and_std` reads."""

MIN_STD = 1e-3
"""Smallest standard deviation that ground truth is divided by."""


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of a pass.

    Args:
        data: clean video latents (B, C, F, H, W).
        conditions: conditions, with those that were dropped replaced by null conditions.
        noise: (B, C, L, H, W).
        noise_level: 0..1, (B,).
        prefix_frames: number of first latent frames that are given almost without noise and have no loss, (B,).
        prefix_noise_level: noise level of those, (B,).
        face_mask, mouth_mask: fraction of each token on a face and on a mouth, (B, F, h, w); zeros if not known.
        mouth_curve: mouth curve (B, F, T, 3) in standard deviations; NaN if not known or without audio.
        identity: face embedding (B, 128) in standard deviations; NaN if not known or without the reference.
        kept_conditions: letters of the conditions that are not dropped, of each sample.
        guidance: guidance scales (B, 3) of a student's sample.
        eye_mask: as ``mouth_mask``, for a band at the eyes; None if not known.
        pixels: the video (B, 3, 4F - 3, 8 H, 8 W) in [-1, 1]; None if only its latents are stored.
    """

    data: Tensor
    conditions: Conditions
    noise: Tensor
    noise_level: Tensor
    prefix_frames: Tensor
    prefix_noise_level: Tensor
    face_mask: Tensor
    mouth_mask: Tensor
    mouth_curve: Tensor
    identity: Tensor
    kept_conditions: tuple[str, ...]
    guidance: Tensor | None = None
    eye_mask: Tensor | None = None
    pixels: Tensor | None = None

    @property
    def is_prefix(self) -> Tensor:
        """Mask of the video latent frames that belong to the prefix, (B, F)."""
        return torch.arange(self.data.shape[2]) < self.prefix_frames[:, None]

    @property
    def frame_noise_levels(self) -> Tensor:
        """Noise level of each video latent frame, (B, F)."""
        return torch.where(self.is_prefix, self.prefix_noise_level[:, None], self.noise_level[:, None])

    def loss_weights(self, loss: LossConfig) -> Tensor | None:
        """Return the loss weight of each position of the video latents, (B, F, H, W); None if all are equal."""
        if not loss.face and not loss.mouth and not loss.eyes and not self.prefix_frames.any():
            return None
        weight = 1 + loss.face * self.face_mask + loss.mouth * self.mouth_mask
        if self.eye_mask is not None:
            weight = weight + loss.eyes * self.eye_mask
        weight = torch.where(self.is_prefix[:, :, None, None], 0.0, weight)
        return F.interpolate(weight, scale_factor=PATCH[1:], mode="nearest")


@dataclass(frozen=True)
class Collator:
    """Loads and draws the tensors of samples and stacks them to batches.

    Args:
        injection: how the family injects references.
        loss: settings that noise levels are drawn with.
        condition_probs: conditions that are kept together -> probability.
        paraphrase_prob: probability that a sample has a paraphrase as its caption.
        self_reference_prob: probability that the reference is a face cut out of the clip itself.
        continuation_prob: probability that a sample has prefix latent frames.
        null_text: embeddings (1, L, D) of the negative prompt.
        blank_latents: geometry -> latents of a mid-gray video, for ``CHANNEL_CONCAT``.
        audio_shape: number of bands and width of the audio rows.
        mouth_statistics, identity_statistics: means and standard deviations (2, ...) for normalization.
    """

    injection: ReferenceInjection
    loss: LossConfig
    condition_probs: Mapping[ConditionSet, float]
    paraphrase_prob: float
    self_reference_prob: float
    continuation_prob: float
    null_text: Tensor
    blank_latents: Callable[[Geometry], Tensor]
    audio_shape: tuple[int, int]
    mouth_statistics: Tensor
    identity_statistics: Tensor

    def __call__(self, bucket: Bucket, specs: Sequence[SampleSpec], noise_level: float | None = None) -> Batch:
        """Return the batch of some samples.

        Args:
            bucket: their bucket.
            specs: one sample or more.
            noise_level: noise level of all samples, with all conditions, for validation. By default noise levels and
                dropped conditions are drawn.
        """
        geometry = Geometry(*bucket, references=1)
        rows = [self._load_sample(geometry, spec, noise_level) for spec in specs]
        conditions = stack([conditions for conditions, _, _ in rows])
        kept = tuple(kept for _, kept, _ in rows)
        keep = {
            name: torch.tensor([letter in letters for letters in kept])
            for name, letter in (("text", "T"), ("image", "I"), ("audio", "A"))
        }
        tensors = {name: torch.stack([tensors[name] for _, _, tensors in rows]) for name in rows[0][2]}
        return Batch(conditions=conditions.keep(**keep), kept_conditions=kept, **tensors)

    def _load_sample(
        self, geometry: Geometry, spec: SampleSpec, noise_level: float | None
    ) -> tuple[Conditions, str, dict[str, Tensor]]:
        """Return a sample's conditions (a batch of one), those that are kept, and its other tensors.

        The order of the draws decides the random numbers.
        """
        generator, clip, frames = seeded_generator(*spec.key), spec.clip, geometry.video_latent_frames
        chance, which, other = torch.rand(3, generator=generator).tolist()
        segment = int(torch.randint(clip.segments, (), generator=generator))
        caption = 0
        if chance < self.paraphrase_prob and clip.captions > 1:
            caption = 1 + int(other * (clip.captions - 1))
        is_training = noise_level is None
        kept = self.choose_conditions(which) if is_training else "TIA"
        drawn_level = draw_noise_level(self.loss, generator)
        reference = self._draw_reference(clip, generator) if is_training else "reference"
        segment_names = (f"{name}.{segment}" for name in SEGMENT_TENSORS)
        loaded = load_tensors(clip, (reference, "rows", "identity", f"text.{caption}", *segment_names))
        latents = loaded[f"latents.{segment}"][:, :frames]
        noise = torch.randn(geometry.latent_shape(latents.shape[0]), generator=generator)
        prefix_frames, prefix_level = self.draw_prefix(frames, generator) if is_training else (0, 0.0)
        conditions = self._conditions(geometry, spec, segment, reference, loaded)
        tensors = {
            "data": latents,
            "noise": noise,
            "noise_level": torch.tensor(drawn_level if noise_level is None else noise_level),
            "prefix_frames": torch.tensor(prefix_frames),
            "prefix_noise_level": torch.tensor(prefix_level),
        }
        return conditions, kept, tensors | self._ground_truth(geometry, spec, segment, kept, loaded)

    def _conditions(
        self, geometry: Geometry, spec: SampleSpec, segment: int, reference: str, loaded: Mapping[str, Tensor]
    ) -> Conditions:
        """Return all conditions of a sample, a batch of one; ``reference`` names the reference's latents."""
        [text] = (tensor for name, tensor in loaded.items() if name.startswith("text."))
        if spec.has_audio:
            start = spec.clip.starts[segment % len(spec.clip.starts)]
            audio = audio_windows(loaded["rows"][start:], geometry.video_latent_frames, geometry.reference_slots)
        else:
            audio = null_audio_windows(geometry.latent_frames, *self.audio_shape)
        blank = self.blank_latents(geometry) if self.injection is ReferenceInjection.CHANNEL_CONCAT else None
        image = loaded[reference][None]
        return Conditions(
            text=text[None],
            null_text=self.null_text,
            image=with_references(self.injection, image, blank),
            null_image=without_references(self.injection, image, blank),
            audio=audio[None],
        )

    def _ground_truth(
        self, geometry: Geometry, spec: SampleSpec, segment: int, kept: str, loaded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return masks, mouth curve and face embedding of a sample, with defaults where they are not known."""
        frames = geometry.video_latent_frames
        no_mask = torch.zeros(frames, geometry.latent_height // PATCH[1], geometry.latent_width // PATCH[2])
        curve = torch.full((frames, TEMPORAL_STRIDE, MOUTH_VALUES), torch.nan)
        if spec.has_audio and "A" in kept and f"mouth.{segment}" in loaded:
            curve = (loaded[f"mouth.{segment}"][:frames] - self.mouth_statistics[0]) / self.mouth_statistics[1]
        identity = torch.full((EMBEDDING_SIZE,), torch.nan)
        if "I" in kept and "identity" in loaded:
            identity = (loaded["identity"] - self.identity_statistics[0]) / self.identity_statistics[1]
        return {
            "face_mask": loaded.get(f"face.{segment}", no_mask)[:frames],
            "mouth_mask": loaded.get(f"area.{segment}", no_mask)[:frames],
            "mouth_curve": curve,
            "identity": identity,
        }

    def _draw_reference(self, clip: CachedClip, generator: torch.Generator) -> str:
        """Draw the reference of a sample and return the name of its latents."""
        if clip.self_references and float(torch.rand((), generator=generator)) < self.self_reference_prob:
            return self_reference_key(int(torch.randint(clip.self_references, (), generator=generator)))
        if clip.reference_augmentations > 1:
            number = int(torch.randint(clip.reference_augmentations, (), generator=generator))
            return augmentation_key(clip.size, number)
        return "reference"

    def draw_prefix(self, frames: int, generator: torch.Generator) -> tuple[int, float]:
        """Draw the number of prefix latent frames of a sample with ``frames`` latent frames, and their noise level."""
        chance, count, noisy = torch.rand(3, generator=generator).tolist()
        if chance >= self.continuation_prob or frames < 2:
            return 0, 0.0
        return 1 + int(count * min(MAX_PREFIX_FRAMES, frames - 1)), noisy * MAX_PREFIX_NOISE_LEVEL

    def choose_conditions(self, chance: float) -> str:
        """Return the conditions to keep at a position 0..1 in the cumulative probabilities."""
        cumulative = 0.0
        for kept, prob in self.condition_probs.items():
            cumulative += prob
            if chance < cumulative:
                return kept
        return list(self.condition_probs)[-1]  # the probabilities add up to 1 except for rounding


@dataclass(frozen=True)
class ClipSource:
    """Encoded clips as a source of batches.

    Args:
        buckets: clips of the stage.
        collate: collator of the stage.
    """

    buckets: Mapping[Bucket, Sequence[CachedClip]]
    collate: Collator

    def draw(self, sampler: ShuffledSampler, stage: Stage, step: int, *key: object) -> tuple[Bucket, list[SampleSpec]]:
        """Draw the bucket of a step and the samples of its batch, as `draw_batch` does."""
        return draw_batch(self.buckets, sampler, stage, step, *key)

    def __call__(self, bucket: Bucket, specs: Sequence[SampleSpec]) -> Batch:
        """Return the batch of some samples."""
        return self.collate(bucket, specs)


def mean_and_std(clips: Sequence[CachedClip], name: str, width: int) -> Tensor:
    """Return mean and standard deviation (2, ``width``) of a tensor over the first clips; 0 and 1 if none has it.

    Args:
        clips: encoded clips.
        name: name of the tensor.
        width: size of its last axis.
    """
    loaded = [load_tensors(clip, [name]).get(name) for clip in clips[:STATISTICS_CLIPS]]
    rows = torch.cat([*(tensor.view(-1, width) for tensor in loaded if tensor is not None), torch.zeros(0, width)])
    rows = rows[~rows.isnan().any(dim=1)]
    if len(rows) < 2:
        return torch.stack([torch.zeros(width), torch.ones(width)])
    return torch.stack([rows.mean(dim=0), rows.std(dim=0).clamp(min=MIN_STD)])
