"""How a run is doing: clips with sound made with the averaged weights at fixed seeds, and the loss on other clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from humo.errors import MediaError
from humo.inference.pipeline import HuMoPipeline
from humo.media.audio import load_audio, load_audio_track
from humo.media.image import load_image
from humo.media.video import write_video
from humo.model.reference import network_input
from humo.model.transformer import HuMoTransformer3DModel
from humo.request import parse_request, resolve
from humo.training.collate import Batch, Bucket, Collator, Slot
from humo.training.config import Recipe, Stage
from humo.training.dataset import ClipFiles
from humo.training.fitting import nearest_size
from humo.training.flow_matching import add_noise, timestep_of, velocity_loss
from humo.training.latent_cache import Entry

LEVELS = (0.3, 0.6, 0.85, 0.95)
"""Noise levels at which the loss is measured, each of the same noise at every validation."""

LOSS_BATCH = 8
"""Samples a pass."""


def make_clips(
    pipeline: HuMoPipeline, clips: Sequence[ClipFiles], recipe: Recipe, stage: Stage, folder: Path
) -> list[Path]:
    """Make the clips anew, each from its caption, picture and sound.

    Args:
        pipeline: with the averaged weights.
        clips: to take these from.
        recipe, stage: size, length, steps and seed.
        folder: to write into.

    Returns:
        the videos.
    """
    made = []
    for clip in clips:
        picture = load_image(clip.reference)
        try:
            sound = load_audio(clip.video, field="sound")
        except MediaError:
            sound = None  # a clip without one
        width, height = nearest_size(picture.width, picture.height, recipe.data.sizes)
        fields = {
            "prompt": clip.captions[0],
            "images": (str(clip.reference),),
            "audio": None if sound is None else str(clip.video),
            "width": width,
            "height": height,
            "frames": stage.frames[-1],
            "steps": recipe.validation.inference_steps,
            "seed": recipe.validation.seed,
        }
        request = parse_request(fields)
        plan = resolve(request, pipeline.preset, None if sound is None else len(sound))
        frames = list(pipeline.generate_frames(plan, images=[picture], sound=sound))
        track = None if sound is None else load_audio_track(clip.video, seconds=plan.geometry.seconds)
        path = folder / f"{clip.name}.mp4"
        folder.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, width=width, height=height, metadata={"title": clip.name}, track=track)
        made.append(path)
    return made


@torch.no_grad()
def measure_loss(
    transformer: HuMoTransformer3DModel,
    entries: Sequence[Entry],
    collate: Collator,
    stage: Stage,
    seed: int,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Mean velocity loss over clips and noise levels, with every condition; and of those with sound, with another's.

    The third minus the second is what the network makes of the sound.

    Args:
        transformer: with the averaged weights.
        entries: the clips.
        collate: makes batches of them.
        stage: its longest length that a clip has is measured.
        seed: of the noise.
        dtype: to compute in.

    Returns:
        ``loss`` and, where there are two clips with sound, ``loss_own_sound`` and ``loss_other_sound`` of those.
    """
    sums: dict[str, list[float]] = {"loss": [], "loss_own_sound": [], "loss_other_sound": []}
    buckets: dict[Bucket, list[Entry]] = {}
    for entry in entries:
        frames = max((length for length in stage.frames if length <= entry.frames), default=0)
        if frames:
            buckets.setdefault((*entry.size, frames), []).append(entry)
    for bucket, several in buckets.items():
        for start in range(0, len(several), LOSS_BATCH):
            slots = [
                Slot(one, one.hears, (seed, "validation", one.name)) for one in several[start : start + LOSS_BATCH]
            ]
            for level in LEVELS:
                batch = collate(bucket, slots, level)
                own = _losses(transformer, batch, collate, batch.conditions.audio, dtype)
                sums["loss"] += own
                hearing = [number for number, slot in enumerate(slots) if slot.hears]
                if len(hearing) > 1:
                    audio = batch.conditions.audio.clone()
                    audio[hearing] = audio[hearing].roll(1, dims=0)
                    other = _losses(transformer, batch, collate, audio, dtype)
                    sums["loss_own_sound"] += [own[number] for number in hearing]
                    sums["loss_other_sound"] += [other[number] for number in hearing]
    return {name: sum(values) / len(values) for name, values in sums.items() if values}


def _losses(
    transformer: HuMoTransformer3DModel, batch: Batch, collate: Collator, audio: torch.Tensor, dtype: torch.dtype
) -> list[float]:
    device = transformer.device
    noisy = add_noise(batch.data, batch.noise, batch.levels)
    velocity = transformer(
        hidden_states=network_input(collate.entry, noisy, batch.conditions.image).to(device),
        timestep=timestep_of(batch.level).to(device),
        encoder_hidden_states=batch.conditions.text.to(device, dtype),
        audio_hidden_states=audio.to(device),
        return_dict=False,
    )[0]
    losses: list[float] = velocity_loss(velocity.cpu(), batch.data, batch.noise).tolist()
    return losses
