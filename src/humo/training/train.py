"""``humo train``: train a network in stages on encoded clips, and export it.

    prepare     list the clips, encode them, refuse to start if too many are bad
    each stage  freeze what it does not train; for each step draw a batch, add noise, compute losses, update weights
    validation  generate videos and measure losses with the averaged weights
    export      the averaged weights as a folder that `HuMoPipeline.from_pretrained` reads

The steps themselves are in `humo.training.loop`. Every stage starts from the last checkpoint, as a resumed run does.
Shape suffixes as in `humo.training.flow_matching`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from humo.errors import RequestError
from humo.media.face_identity import EMBEDDING_SIZE
from humo.model.reference import network_input
from humo.training.auxiliary_heads import MOUTH_VALUES, focus_loss, identity_loss, lips_loss
from humo.training.collate import Batch, ClipSource, Collator, mean_and_std
from humo.training.config import Recipe, Stage
from humo.training.dataset import (
    BadClip,
    ClipFiles,
    check_bad_fraction,
    clips_of_split,
    no_clips_error,
    scan_corpus,
)
from humo.training.distillation import TrajectoryDataset
from humo.training.export import export_lora, export_model, export_network
from humo.training.flow_matching import add_noise, timestep_of_level, velocity_loss
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.latent_cache import CachedClip, LatentCache
from humo.training.loop import (
    TrainingRun,
    TrainingTask,
    fit,
    ignore_progress,
    training_run,
)
from humo.training.metrics_log import MetricsLogger
from humo.training.optimizer import EMA
from humo.training.sampler import Bucket, ShuffledSampler, audio_prob, group_into_buckets
from humo.training.shard_preparation import encode_speeches, rendering, shard_statistics
from humo.training.shard_source import ShardFolderReader, ShardSource, is_shard_folder
from humo.training.stage_model import StageModel, build_stage_model, cast_blocks, set_attention_backend
from humo.training.validation import generate_videos, measure_loss

VALIDATION, MODEL, LORA = "validation", "model", "lora"
"""Folders in the folder of a run."""

MAX_REPORTED_CLIPS = 20
"""Number of bad clips that are named in messages; all of them are listed in the folder of the run."""

LOSS_NAMES = ("loss", "loss_velocity", "loss_focus", "loss_lips", "loss_identity")
"""Logged losses of a step: the weighted sum that is minimized, and its terms without their weights."""


@dataclass(frozen=True)
class TrainingData:
    """Data and frozen components that all stages share.

    Args:
        encoders: frozen components.
        collate: collator; each stage sets the probabilities of its conditions.
        clips: encoded clips to train on; empty if the data are shards.
        held_out: encoded clips to measure losses on.
        videos: clips to generate videos for at validations.
        trajectories: trajectories of the teacher, if a student is trained.
        shards: reader of shards, and the audio rows of their speeches, if the data are shards.
    """

    encoders: FrozenEncoders
    collate: Collator
    clips: Sequence[CachedClip] = ()
    held_out: Sequence[CachedClip] = ()
    videos: Sequence[ClipFiles] = ()
    trajectories: TrajectoryDataset | None = None
    shards: tuple[ShardFolderReader, Tensor] | None = None


@training_run
def train(run: TrainingRun[Recipe]) -> Path:
    """Train the network of a recipe (`humo.training.loop.TrainingFunction`).

    Returns:
        model folder, or the folder of the LoRA.
    """
    recipe = run.recipe
    if run.state.stage >= len(recipe.stages):
        problem = f"has {len(recipe.stages)} stages, and {run.state.stage} are finished"
        raise RequestError("stages", problem, "resume with the recipe that the run started with")
    for stage in recipe.stages:
        run.group.local_slice(stage.batch_size // recipe.compute.gradient_accumulation_steps)
    encoders = FrozenEncoders(recipe.model, run.dtype, run.group.device)
    if is_shard_folder(recipe.data):
        with rendering(recipe.data, run.group, run.progress):
            return _train_stages(run, prepare_shards(run, encoders))
    return _train_stages(run, _prepare_clips(run, encoders))


def _train_stages(run: TrainingRun[Recipe], data: TrainingData) -> Path:
    """Train all stages that are not finished, and export the averaged weights."""
    recipe = run.recipe
    with run.logger() as logger:
        for number in range(run.state.stage, len(recipe.stages)):
            stage_model, ema = _train_stage(run, data, number, logger)
    network = export_network(stage_model, ema, recipe, run.group)
    folder = run.folder / (MODEL if recipe.lora is None else LORA)
    if network is not None:
        (export_model if recipe.lora is None else export_lora)(data.encoders, network, folder)
    run.group.barrier()
    return folder


# -- data -------------------------------------------------------------------------------------------------------------


def _prepare_clips(run: TrainingRun[Recipe], encoders: FrozenEncoders) -> TrainingData:
    """List and encode the clips; sample the teacher's trajectories if a student is trained."""
    recipe, group = run.recipe, run.group
    corpus = scan_corpus(recipe.data)
    clips = clips_of_split(corpus, recipe.data.split)[: recipe.data.max_clips]
    total = len(clips) + len(corpus.bad)
    check_bad_fraction(corpus.bad, total, recipe.data.max_bad_fraction)
    others = corpus.clips.get(recipe.validation.split) or clips
    cache = LatentCache(recipe, encoders)
    local, local_bad = cache.encode_missing(clips[group.rank :: group.size], run.progress)
    cached = sorted((clip for several in group.gather(local) for clip in several), key=lambda clip: clip.name)
    bad = [*corpus.bad, *(clip for several in group.gather(local_bad) for clip in several)]
    _report_bad_clips(run, bad)
    check_bad_fraction(bad, total, recipe.data.max_bad_fraction)
    if not cached:
        raise no_clips_error(recipe.data)
    to_measure = others[: recipe.validation.loss_clips] if recipe.validation.every_steps else ()
    held_out, _ = cache.encode_missing(to_measure, ignore_progress) if group.is_main else ([], [])
    for stage in recipe.stages:
        group_into_buckets(cached, stage)  # raises before the first stage is trained
    mouth, identity = mean_and_std(cached, "mouth.0", MOUTH_VALUES), mean_and_std(cached, "identity", EMBEDDING_SIZE)
    collate = _build_collator(recipe, encoders, cache, mouth, identity)
    data = TrainingData(encoders, collate, cached, held_out, others[: recipe.validation.num_videos])
    return data if recipe.distill is None else replace(data, trajectories=_sample_trajectories(run, data))


def prepare_shards(run: TrainingRun[Recipe], encoders: FrozenEncoders) -> TrainingData:
    """Open the folder of shards and encode its speeches."""
    recipe, group = run.recipe, run.group
    folder, cache, max_speeches = Path(recipe.data.folder), LatentCache(recipe, encoders), recipe.data.max_speeches
    reader = ShardFolderReader(folder)
    reader.refresh(group)
    for stage in recipe.stages:
        reader.buckets(stage)  # raises before the first stage is trained
    if group.is_main:
        encode_speeches(folder, encoders, cache.folder, run.progress, max_speeches)
        shard_statistics(reader, cache.folder)
    group.barrier()
    rows = encode_speeches(folder, encoders, cache.folder, run.progress, max_speeches)
    collate = _build_collator(recipe, encoders, cache, *shard_statistics(reader, cache.folder))
    return TrainingData(encoders, collate, shards=(reader, rows))


def _build_collator(
    recipe: Recipe, encoders: FrozenEncoders, cache: LatentCache, mouth: Tensor, identity: Tensor
) -> Collator:
    """Build the collator of a run; ``mouth`` and ``identity`` are means and standard deviations of ground truth."""
    return Collator(
        injection=encoders.preset.reference_injection,
        loss=recipe.loss,
        condition_probs={},
        paraphrase_prob=recipe.data.paraphrase_prob,
        self_reference_prob=recipe.data.self_reference_prob,
        continuation_prob=recipe.data.continuation_prob,
        null_text=cache.null_text(),
        blank_latents=cache.blank_latents,
        audio_shape=(encoders.audio_bands, encoders.audio_width),
        mouth_statistics=mouth,
        identity_statistics=identity,
    )


def _sample_trajectories(run: TrainingRun[Recipe], data: TrainingData) -> TrajectoryDataset:
    """Sample all trajectories of the teacher."""
    recipe, encoders = run.recipe, data.encoders
    trajectories = TrajectoryDataset(recipe, data.clips, data.collate, encoders)
    teacher = encoders.build_network(recipe.seed).to(run.group.device).eval().requires_grad_(False)
    set_attention_backend(teacher, recipe.compute.attention_backend)
    cast_blocks(teacher, encoders.dtype)
    trajectories.generate_missing(encoders.build_pipeline(teacher), run.group, run.progress)
    return trajectories


def _report_bad_clips(run: TrainingRun[Recipe], bad: Sequence[BadClip]) -> None:
    """Report bad clips: the first ones as messages, all of them in a file."""
    path = run.folder / "bad_clips.tsv"
    for clip in bad[:MAX_REPORTED_CLIPS]:
        run.note(f"left out: {clip.name}: {clip.problem}")
    if bad and run.group.is_main:
        run.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{clip.name}\t{' '.join(clip.problem.split())}\n" for clip in bad)
        path.write_text(lines, encoding="utf-8")
    if len(bad) > MAX_REPORTED_CLIPS:
        run.note(f"left out: {len(bad) - MAX_REPORTED_CLIPS} more clips, listed in {path}")


# -- a stage ----------------------------------------------------------------------------------------------------------


class BatchSource(Protocol):
    """Source of a stage's batches: `ClipSource`, `TrajectoryDataset` or `ShardSource`."""

    def draw(self, sampler: ShuffledSampler, stage: Stage, step: int, *key: object) -> tuple[Bucket, Sequence[Any]]: ...
    def __call__(self, bucket: Bucket, specs: Sequence[Any], /) -> Batch: ...


def _train_stage(
    run: TrainingRun[Recipe], data: TrainingData, number: int, logger: MetricsLogger | None
) -> tuple[StageModel, EMA]:
    """Train a stage from the last checkpoint to its last step."""
    recipe, stage = run.recipe, run.recipe.stages[number]
    state, saved = run.read_checkpoint()
    stage_model = build_stage_model(data.encoders, recipe, stage, saved.get("weights", {}), run.group)
    source = open_source(run, data, stage)
    task = TrainingTask(
        schedule=stage,
        model=stage_model.model,
        weights=stage_model.trained_weights,
        master_weights=stage_model.master_weights,
        batches=lambda step, sampler: _batches(run, source, number, step, sampler),
        losses=lambda batch: _losses(run, data, stage_model, batch),
        loss_names=LOSS_NAMES,
        validate=lambda ema, step: _validate(run, data, stage_model, ema, stage, step),
        columns=lambda step: {"stage": stage.name, "audio_prob": audio_prob(stage, step)},
        is_sharded=recipe.compute.fsdp,
        accumulation=recipe.compute.gradient_accumulation_steps,
        field=f"stage {stage.name!r}",
        is_last_stage=number + 1 == len(recipe.stages),
        max_minutes=stage.max_minutes or math.inf,
    )
    return stage_model, fit(run, task, state, saved, logger)


def open_source(run: TrainingRun[Recipe], data: TrainingData, stage: Stage) -> BatchSource:
    """Return the source of a stage's batches."""
    collate = replace(data.collate, condition_probs=stage.condition_probs)
    if data.trajectories is not None:
        return data.trajectories
    if data.shards is not None:
        reader, rows = data.shards
        return ShardSource(reader, stage, collate, data.encoders, rows, run.recipe.data, run.group)
    return ClipSource(group_into_buckets(data.clips, stage), collate)


def _batches(
    run: TrainingRun[Recipe], source: BatchSource, number: int, step: int, sampler: ShuffledSampler
) -> Iterator[Batch]:
    """Yield this process's batches of a step, one for each accumulated pass."""
    recipe, stage = run.recipe, run.recipe.stages[number]
    bucket, specs = source.draw(sampler, stage, step, recipe.seed, number)
    size = stage.batch_size // recipe.compute.gradient_accumulation_steps
    local = run.group.local_slice(size)
    for start in range(0, stage.batch_size, size):
        yield source(bucket, specs[start : start + size][local])


def _losses(run: TrainingRun[Recipe], data: TrainingData, stage_model: StageModel, batch: Batch) -> list[Tensor]:
    """Return the losses of a pass in the order of `LOSS_NAMES`.

    x_s = (1 - s) * data + s * noise;  loss = |v - (noise - data)|^2 on video frames + weighted auxiliary losses
    """
    loss, device = run.recipe.loss, run.group.device
    latents, noise, level = (tensor.to(device) for tensor in (batch.data, batch.noise, batch.noise_level))
    noisy = add_noise(latents, noise, batch.frame_noise_levels.to(device))
    output = stage_model.model(
        network_input(data.collate.injection, noisy, batch.conditions.image.to(device)),
        timestep_of_level(level),
        batch.conditions.text.to(device, run.dtype),
        batch.conditions.audio.to(device),
        latents.shape[2],
        None if batch.guidance is None else batch.guidance.to(device),
    )
    weights = batch.loss_weights(loss)
    weights = None if weights is None else weights.to(device)
    velocity_term = velocity_loss(output.velocity, latents, noise, weights).mean()
    focus_term = lips_term = identity_term = velocity_term.new_zeros(())
    if output.focus is not None:
        focus_term = focus_loss(output.focus, batch.face_mask.to(device)).mean()
    if output.lips is not None:
        lips_term = lips_loss(output.lips, batch.mouth_curve.to(device)).mean()
    if output.identity is not None:
        identity_term = identity_loss(output.identity, batch.identity.to(device)).mean()
    total = velocity_term + loss.focus * focus_term + loss.lips * lips_term + loss.identity * identity_term
    return [total, velocity_term, focus_term, lips_term, identity_term]


def _validate(
    run: TrainingRun[Recipe], data: TrainingData, stage_model: StageModel, ema: EMA, stage: Stage, step: int
) -> Mapping[str, float]:
    """Generate videos and measure losses with the averaged weights; every process must call it.

    Losses of a student are not measured: its steps start from states of trajectories, not from noisy clips.
    """
    network, metrics = export_network(stage_model, ema, run.recipe, run.group), {}
    if network is not None:
        run.progress("validate", 0, 1)
        network.to(run.group.device)
        if data.trajectories is None:
            seed = run.recipe.validation.seed
            metrics = measure_loss(network, data.held_out, data.collate, stage, seed, run.dtype)
        if data.videos:
            folder = run.folder / VALIDATION / f"step-{step:08}"
            generate_videos(data.encoders.build_pipeline(network), data.videos, run.recipe, stage, folder)
        run.progress("validate", 1, 1)
    run.group.barrier()
    return metrics
