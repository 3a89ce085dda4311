"""Training, the whole story: clips are encoded once, stages follow one another, and a model folder comes out.

    prepare     read the clips, encode them, refuse if too many are bad
    each stage  freeze what it does not train; for each step draw a batch, add noise, compare velocities, step
    between     checkpoints, and clips made with the averaged weights
    export      the averaged weights as a folder that `HuMoPipeline.from_pretrained` reads

Every stage begins as a resumed run does: from the last checkpoint. Shape suffixes as in `objective`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from humo.distributed.fsdp import average_gradients, full_state_dict, set_gradient_sync
from humo.distributed.process_group import ProcessGroup, process_group
from humo.errors import RequestError
from humo.media.face_identity import EMBEDDING_SIZE
from humo.model.reference import network_input
from humo.presets import ReferenceInjection
from humo.training.auxiliary_heads import MOUTH_VALUES, focus_loss, identity_loss, lips_loss
from humo.training.checkpoint import Position, finished, read_checkpoint, read_position, save_checkpoint
from humo.training.collate import Batch, Bucket, Collator, Decks, Samples, audio_share, buckets_of, statistics
from humo.training.config import Recipe, Stage
from humo.training.dataset import Bad, ClipFiles, Folder, no_clips, of_split, refuse_if_bad, scan
from humo.training.distillation import Walks
from humo.training.export import averaged_network, export_lora, export_model
from humo.training.flow_matching import add_noise, timestep_of, velocity_loss
from humo.training.frozen_encoders import Encoders
from humo.training.latent_cache import Cache, Entry, Progress
from humo.training.metrics_log import Journal
from humo.training.optimizer import Average, StageOptimiser, learning_rate
from humo.training.shardsource import (
    ShardFolderReader,
    ShardSource,
    encode_speeches,
    is_shard_folder,
    rendering,
    shard_statistics,
)
from humo.training.stage_model import Trainee, choose_attention, lower, prepare
from humo.training.validation import make_clips, measure_loss

CHECKPOINTS, VALIDATION, MODEL, LORA = "checkpoints", "validation", "model", "lora"
"""Folders of a run."""

SHOWN_BAD = 20  # bad clips named one by one; all of them are in the run's folder

Note = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What all stages share."""

    recipe: Recipe
    here: ProcessGroup
    encoders: Encoders
    collate: Collator
    entries: Sequence[Entry]
    held_out: Sequence[Entry]
    shown: Sequence[ClipFiles]
    walks: Walks | None
    shards: tuple[ShardFolderReader, Tensor] | None
    journal: Journal | None
    progress: Progress

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.recipe.output)

    @property
    def dtype(self) -> torch.dtype:
        """That the blocks compute in."""
        found: torch.dtype = getattr(torch, self.recipe.compute.precision)
        return found


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    progress: Progress = lambda name, done, total: None,
    note: Note = lambda text: None,
) -> Path:
    """Do what a recipe says.

    Args:
        recipe: the whole run.
        resume: go on from the last checkpoint.
        progress: told (phase, done, total).
        note: told what is worth saying.

    Returns:
        the model folder, or the folder of the LoRA.

    Raises:
        HuMoError: the recipe, the data or a checkpoint is at fault, or the disk is full.
    """
    with process_group(recipe.compute.device) as here:
        if not here.is_main:
            progress, note = (lambda name, done, total: None), (lambda text: None)
        position = _begin(recipe, resume, note)
        for stage in recipe.stages:
            here.local_slice(stage.batch // recipe.compute.accumulation)
        encoders = Encoders(recipe.model, getattr(torch, recipe.compute.precision), here.device)
        if is_shard_folder(recipe.data):
            with rendering(recipe.data, here, progress):
                return _train_on_shards(recipe, here, encoders, position, progress)
        entries, held_out, shown, cache = _prepare_data(recipe, here, encoders, progress, note)
        for stage in recipe.stages:
            buckets_of(entries, stage)  # refused now rather than when its turn comes
        mouth, identity = statistics(entries, "mouth.0", MOUTH_VALUES), statistics(entries, "identity", EMBEDDING_SIZE)
        collate = _collator(recipe, encoders, cache, mouth, identity)
        walks = _walk(recipe, entries, collate, encoders, here, progress) if recipe.distill is not None else None
        run = Run(recipe, here, encoders, collate, entries, held_out, shown, walks, None, None, progress)
        return _train_stages(run, position)


def _train_on_shards(
    recipe: Recipe, here: ProcessGroup, encoders: Encoders, position: Position, progress: Progress
) -> Path:
    """As `train`, where the data are shards of rendered people."""
    folder, cache, most = Path(recipe.data.folder), Cache(recipe, encoders), recipe.data.max_speeches
    reader = ShardFolderReader(folder)
    reader.refresh(here)
    for stage in recipe.stages:
        reader.buckets(stage)
    if here.is_main:
        encode_speeches(folder, encoders, cache.folder, progress, most)
        shard_statistics(reader, cache.folder)
    here.barrier()
    rows = encode_speeches(folder, encoders, cache.folder, progress, most)
    collate = _collator(recipe, encoders, cache, *shard_statistics(reader, cache.folder))
    run = Run(recipe, here, encoders, collate, [], [], [], None, (reader, rows), None, progress)
    return _train_stages(run, position)


def _collator(recipe: Recipe, encoders: Encoders, cache: Cache, mouth: Tensor, identity: Tensor) -> Collator:
    """What makes batches of clips, and says how conditions are kept and noise levels drawn."""
    return Collator(
        entry=encoders.preset.reference_injection,
        loss=recipe.loss,
        keep={},
        paraphrases=recipe.data.paraphrases,
        own_faces=recipe.data.own_faces,
        continued=recipe.data.continued,
        no_text=cache.no_text(),
        blank=cache.blank,
        audio=(encoders.audio_bands, encoders.audio_width),
        mouth=mouth,
        identity=identity,
    )


def _train_stages(run: Run, position: Position) -> Path:
    """Train every stage that is left, and write the model."""
    recipe, here, folder = run.recipe, run.here, Path(run.recipe.output)
    journal = Journal(folder, position.total, board=recipe.tensorboard) if here.is_main else None
    run = replace(run, journal=journal)
    try:
        for number in range(position.stage, len(recipe.stages)):
            trainee, average = _train_stage(run, number)
    finally:
        if journal is not None:
            journal.close()
    network = averaged_network(trainee, average, recipe, here)
    made = folder / (MODEL if recipe.lora is None else LORA)
    if network is not None:
        (export_model if recipe.lora is None else export_lora)(run.encoders, network, made)
    here.barrier()
    return made


# -- what a run begins with -------------------------------------------------------------------------------------------


def _begin(recipe: Recipe, resume: bool, note: Note) -> Position:
    """Where the last checkpoint stands, or the beginning."""
    done = finished(Path(recipe.output) / CHECKPOINTS)
    if not done:
        if resume:
            note("there is no checkpoint to resume from; training begins")
        return Position()
    if not resume:
        raise RequestError("output", f"{recipe.output!r} holds a run already", "give --resume, or another folder")
    position = read_position(done[-1])
    now = recipe.model_dump(mode="json")
    changed = [name for name, value in now.items() if position.recipe.get(name) != value]
    if changed:
        note(f"the recipe has changed since {done[-1].name}: {', '.join(changed)}")
    if position.stage >= len(recipe.stages):
        raise RequestError("stages", f"are fewer than the {position.stage} that are done", "resume with the same")
    note(f"goes on from {done[-1].name}: stage {recipe.stages[position.stage].name!r}, step {position.step}")
    return position


def _prepare_data(
    recipe: Recipe, here: ProcessGroup, encoders: Encoders, progress: Progress, note: Note
) -> tuple[list[Entry], list[Entry], Sequence[ClipFiles], Cache]:
    """The encoded clips to train on, those held out, and the files of those to be shown."""
    folder = scan(recipe.data)
    clips = of_split(folder, recipe.data.split)[: recipe.data.clips]
    total = len(clips) + len(folder.bad)
    refuse_if_bad(folder.bad, total, recipe.data.bad_share)
    others = _held_out(recipe, folder, clips)
    cache = Cache(recipe, encoders)
    mine, broken = cache.fill(clips[here.rank :: here.size], progress)
    entries = [entry for part in here.gather(mine) for entry in part]
    bad = [*folder.bad, *(one for part in here.gather(broken) for one in part)]
    _tell_bad(Path(recipe.output), bad, note, here)
    refuse_if_bad(bad, total, recipe.data.bad_share)
    if not entries:
        raise no_clips(recipe.data)
    kept = others[: recipe.validation.loss_clips] if recipe.validation.steps else ()
    held_out, _ = cache.fill(kept, lambda name, done, total: None) if here.is_main else ([], [])
    return sorted(entries, key=lambda entry: entry.name), held_out, others[: recipe.validation.clips], cache


def _walk(
    recipe: Recipe,
    entries: Sequence[Entry],
    collate: Collator,
    encoders: Encoders,
    here: ProcessGroup,
    progress: Progress,
) -> Walks:
    """The teacher's walks, all of them taken."""
    walks = Walks(recipe, entries, collate, encoders)
    teacher = encoders.network(recipe.seed).to(here.device).eval().requires_grad_(False)
    choose_attention(teacher, recipe.compute.attention)
    lower(teacher, encoders.dtype)
    walks.fill(encoders.pipeline(teacher), here, progress)
    return walks


def _held_out(recipe: Recipe, folder: Folder, clips: Sequence[ClipFiles]) -> Sequence[ClipFiles]:
    return folder.clips.get(recipe.validation.split) or clips


def _tell_bad(folder: Path, bad: Sequence[Bad], note: Note, here: ProcessGroup) -> None:
    """Name what is left out: the first on the screen, all in a file."""
    for one in bad[:SHOWN_BAD]:
        note(f"left out: {one.name}: {one.problem}")
    if bad and here.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{one.name}\t{' '.join(one.problem.split())}\n" for one in bad)
        (folder / "bad_clips.tsv").write_text(lines, encoding="utf-8")
    if len(bad) > SHOWN_BAD:
        note(f"left out: {len(bad) - SHOWN_BAD} more, all listed in {folder / 'bad_clips.tsv'}")


# -- a stage ----------------------------------------------------------------------------------------------------------


def _train_stage(run: Run, number: int) -> tuple[Trainee, Average]:
    """Train one stage from the last checkpoint to its end, and leave a checkpoint there."""
    recipe, here, stage = run.recipe, run.here, run.recipe.stages[number]
    done = finished(run.folder / CHECKPOINTS)
    position = read_position(done[-1]) if done else Position()
    saved = read_checkpoint(done[-1]) if done else {}

    trainee = prepare(run.encoders, recipe, stage, saved.get("weights", {}), here)
    average = Average(recipe.optimiser.ema, trainee.masters)
    average.restore(saved.get("average", {}))
    optimiser = StageOptimiser(trainee.trained, trainee.masters, stage, recipe.optimiser, here=here)
    if position.step:
        optimiser.restore(saved["optimiser"])
    del saved
    decks = Decks(recipe.seed, position.drawn)
    source = _source(run, stage)

    def save() -> None:
        now = replace(position, drawn=decks.drawn, recipe=recipe.model_dump(mode="json"))
        if now.step == stage.steps and number + 1 < len(recipe.stages):
            now = replace(now, stage=number + 1, step=0)
        tensors = {
            "weights": full_state_dict(trainee.masters, here),
            "average": full_state_dict(average.weights, here),
            "optimiser": full_state_dict(optimiser.state(), here),
        }
        if here.is_main:
            save_checkpoint(run.folder / CHECKPOINTS, now, tensors, recipe.checkpoints.keep)
        here.barrier()

    last_save = time.monotonic()
    for step in range(position.step, stage.steps):
        run.progress("train", position.total, recipe.steps)
        began = time.monotonic()
        bucket, drawn = source.draw(decks, stage, step, recipe.seed, number)
        figures = torch.zeros(len(FIGURES))
        share = here.local_slice(stage.batch // recipe.compute.accumulation)
        each = stage.batch // recipe.compute.accumulation
        for start in range(0, stage.batch, each):
            batch = source(bucket, drawn[start : start + each][share])
            losses = _losses(run, trainee, stage, batch)
            set_gradient_sync(trainee.learner, last=start + each == stage.batch)
            (losses[0] / recipe.compute.accumulation).backward()
            figures += torch.stack([one.detach().cpu() for one in losses]) / recipe.compute.accumulation
        if not recipe.compute.shard:
            average_gradients(trainee.trained.values(), here)
        norm = optimiser.step(step)
        average.update(trainee.masters, position.total)
        position = replace(position, step=step + 1, total=position.total + 1)
        told = dict(zip(FIGURES, here.all_reduce_mean(figures).tolist(), strict=True))
        if not all(map(_finite, told.values())):
            raise RequestError(f"stage {stage.name!r}", f"the loss is {told['loss']} at step {step}", "lower its rate")
        if run.journal is not None:
            told |= {"gradient": float(norm), "rate": learning_rate(stage, step)}
            told |= {"audio_share": audio_share(stage, step), "seconds": round(time.monotonic() - began, 3)}
            run.journal.write(position.total - 1, {"stage": stage.name, **told})
        if recipe.validation.steps and position.total % recipe.validation.steps == 0:
            _validate(run, trainee, average, stage, position.total)
        if step + 1 < stage.steps and here.broadcast_flag(
            time.monotonic() - last_save >= 60 * recipe.checkpoints.minutes
        ):
            save()
            last_save = time.monotonic()
    run.progress("train", position.total, recipe.steps)
    save()
    return trainee, average


def _source(run: Run, stage: Stage) -> Source:
    """What a stage draws from."""
    if run.walks is not None:
        return run.walks
    collate = replace(run.collate, keep=stage.keep)
    if run.shards is not None:
        reader, rows = run.shards
        return ShardSource(reader, stage, collate, run.encoders, rows, run.recipe.data, run.here)
    return Samples(buckets_of(run.entries, stage), collate)


class Source(Protocol):
    """What a stage draws from and makes batches of."""

    def draw(self, decks: Decks, stage: Stage, step: int, *words: object) -> tuple[Bucket, Sequence[Any]]: ...
    def __call__(self, bucket: Bucket, drawn: Sequence[Any], /) -> Batch: ...


FIGURES = ("loss", "velocity", "focus", "lips", "identity")
"""Of a step: what is minimised, and what it is the sum of, before weighing."""


def _losses(run: Run, trainee: Trainee, stage: Stage, batch: Batch) -> list[Tensor]:
    """The losses of one pass, in the order of `FIGURES`.

    x_s = (1 - s) * data + s * noise;  loss = |v - (noise - data)|^2 on video frames + weighed auxiliary losses
    """
    weights, device = run.recipe.loss, run.here.device
    data, noise, level = (tensor.to(device) for tensor in (batch.data, batch.noise, batch.level))
    entry: ReferenceInjection = run.collate.entry
    told = trainee.learner(
        network_input(entry, add_noise(data, noise, batch.levels.to(device)), batch.conditions.image.to(device)),
        timestep_of(level),
        batch.conditions.text.to(device, run.dtype),
        batch.conditions.audio.to(device),
        data.shape[2],
        None if batch.scales is None else batch.scales.to(device),
    )
    places = batch.weight(weights)
    velocity_term = velocity_loss(told.velocity, data, noise, None if places is None else places.to(device)).mean()
    zero = velocity_term.new_zeros(())
    focus_term = zero if told.focus is None else focus_loss(told.focus, batch.face.to(device)).mean()
    lips_term = zero if told.lips is None else lips_loss(told.lips, batch.mouth.to(device)).mean()
    identity_term = zero if told.identity is None else identity_loss(told.identity, batch.identity.to(device)).mean()
    total = velocity_term + weights.focus * focus_term + weights.lips * lips_term + weights.identity * identity_term
    return [total, velocity_term, focus_term, lips_term, identity_term]


def _finite(value: float) -> bool:
    return value - value == 0


def _validate(run: Run, trainee: Trainee, average: Average, stage: Stage, total: int) -> None:
    """Make the clips and measure the loss with the averaged weights."""
    network = averaged_network(trainee, average, run.recipe, run.here)
    if network is not None and run.journal is not None:
        run.progress("validate", 0, 1)
        network.to(run.here.device)
        if run.walks is None:  # a student's steps lead from none of the states that it is measured at
            figures: Mapping[str, float] = measure_loss(
                network, run.held_out, run.collate, stage, run.recipe.validation.seed, run.dtype
            )
            run.journal.write(total - 1, {f"validation/{name}": value for name, value in figures.items()})
        folder = run.folder / VALIDATION / f"step-{total:08}"
        if run.shown:
            make_clips(run.encoders.pipeline(network), run.shown, run.recipe, stage, folder)
        run.progress("validate", 1, 1)
    run.here.barrier()
