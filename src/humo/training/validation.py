"""Validation of a run with the averaged weights: generated videos at a fixed seed, and the loss on held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from humo.inference.inputs import GenerationInputs
from humo.inference.pipeline import HuMoPipeline
from humo.media.audio import load_audio
from humo.media.image import load_image
from humo.media.video import VideoFormat, write_video
from humo.model.reference import network_input
from humo.model.transformer import HuMoTransformer3DModel
from humo.plan import resolve
from humo.request import parse_request
from humo.training.collate import Batch, Collator
from humo.training.config import Recipe, Stage
from humo.training.dataset import ClipFiles, read_training_clip
from humo.training.flow_matching import add_noise, timestep_of_level, velocity_loss
from humo.training.latent_cache import CachedClip
from humo.training.preprocessing import nearest_size
from humo.training.sampler import Bucket, SampleSpec

NOISE_LEVELS = (0.3, 0.6, 0.85, 0.95)
"""Noise levels at which the loss is measured; the noise is the same at every validation."""

BATCH_SIZE = 8
"""Number of samples in a pass of `measure_loss`."""


def generate_videos(
    pipeline: HuMoPipeline, clips: Sequence[ClipFiles], recipe: Recipe, stage: Stage, folder: Path
) -> list[Path]:
    """Generate a video for each clip from its caption, reference image and audio.

    Args:
        pipeline: model with the averaged weights.
        clips: clips that the conditions are taken from.
        recipe: source of resolution, steps and seed.
        stage: source of the length.
        folder: folder to write into.

    Returns:
        paths of the videos.
    """
    paths = []
    for clip in clips:
        reference = load_image(clip.reference)
        track = read_training_clip(clip).audio
        audio = None if track is None else load_audio((track.samples, track.sample_rate))
        width, height = nearest_size(reference.width, reference.height, recipe.data.resolutions)
        fields = {
            "prompt": clip.captions[0],
            "images": (str(clip.reference),),
            "audio": None if audio is None else str(clip.video),
            "width": width,
            "height": height,
            "frames": stage.frames[-1],
            "steps": recipe.validation.inference_steps,
            "seed": recipe.validation.seed,
        }
        request = parse_request(fields)
        plan = resolve(request, pipeline.preset, None if audio is None else len(audio))
        frames = list(pipeline.generate_frames(GenerationInputs(plan, [reference], audio)))
        track = None if track is None else track.fit(plan.geometry.seconds)
        path = folder / f"{clip.name}.mp4"
        folder.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, VideoFormat(width, height), metadata={"title": clip.name}, track=track)
        paths.append(path)
    return paths


@torch.no_grad()
def measure_loss(
    transformer: HuMoTransformer3DModel,
    clips: Sequence[CachedClip],
    collate: Collator,
    stage: Stage,
    seed: int,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Return the mean velocity loss over clips and noise levels, with all conditions.

    ``loss_mismatched_audio`` minus ``loss_matched_audio`` measures how much the network uses the audio.

    Args:
        transformer: network with the averaged weights.
        clips: encoded clips.
        collate: collator of the run.
        stage: the longest of its lengths that a clip has is measured.
        seed: seed of the noise.
        dtype: data type of the text embeddings.

    Returns:
        ``loss``; and, over the clips with audio if a pass has two of them, ``loss_matched_audio`` and
        ``loss_mismatched_audio`` (with the audio of another clip).
    """
    losses: dict[str, list[float]] = {"loss": [], "loss_matched_audio": [], "loss_mismatched_audio": []}
    buckets: dict[Bucket, list[CachedClip]] = {}
    for clip in clips:
        frames = max((length for length in stage.frames if length <= clip.frames), default=0)
        if frames:
            buckets.setdefault((*clip.size, frames), []).append(clip)
    for bucket, in_bucket in buckets.items():
        for start in range(0, len(in_bucket), BATCH_SIZE):
            several = in_bucket[start : start + BATCH_SIZE]
            specs = [SampleSpec(clip, clip.has_audio, (seed, "validation", clip.name)) for clip in several]
            for level in NOISE_LEVELS:
                batch = collate(bucket, specs, level)
                matched = _losses(transformer, batch, collate, batch.conditions.audio, dtype)
                losses["loss"] += matched
                with_audio = [number for number, spec in enumerate(specs) if spec.has_audio]
                if len(with_audio) > 1:
                    audio = batch.conditions.audio.clone()
                    audio[with_audio] = audio[with_audio].roll(1, dims=0)
                    mismatched = _losses(transformer, batch, collate, audio, dtype)
                    losses["loss_matched_audio"] += [matched[number] for number in with_audio]
                    losses["loss_mismatched_audio"] += [mismatched[number] for number in with_audio]
    return {name: sum(values) / len(values) for name, values in losses.items() if values}


def _losses(
    transformer: HuMoTransformer3DModel, batch: Batch, collate: Collator, audio: torch.Tensor, dtype: torch.dtype
) -> list[float]:
    """Return the velocity loss of each sample of a batch, with given audio windows."""
    device = transformer.device
    noisy = add_noise(batch.data, batch.noise, batch.frame_noise_levels)
    velocity = transformer(
        hidden_states=network_input(collate.injection, noisy, batch.conditions.image).to(device),
        timestep=timestep_of_level(batch.noise_level).to(device),
        encoder_hidden_states=batch.conditions.text.to(device, dtype),
        audio_hidden_states=audio.to(device),
        return_dict=False,
    )[0]
    losses: list[float] = velocity_loss(velocity.cpu(), batch.data, batch.noise).tolist()
    return losses
