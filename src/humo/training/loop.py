"""The training loop of network, autoencoder and text encoder: steps, averages, log, validation, checkpoints.

    training_run      make a training function of one that takes a run: join the other processes, find the checkpoint
    fit               for each step: draw a batch, compute losses, backward, average gradients, update weights and EMA
    train_component   `fit` for a component that every process holds in full, which then receives the averaged weights

A `TrainingTask` says what is trained: a source of batches, a loss function and a validation function. Everything random
is derived from the seed and the step, so a resumed run repeats the losses of an uninterrupted one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from humo.distributed.fsdp import average_gradients, full_state_dict, set_gradient_sync
from humo.distributed.process_group import ProcessGroup, process_group
from humo.errors import RequestError
from humo.progress import Note, Progress
from humo.training.checkpoint import (
    TrainState,
    finished_checkpoints,
    read_checkpoint,
    read_state,
    save_checkpoint,
)
from humo.training.component_config import ComponentRecipe
from humo.training.config import Recipe
from humo.training.metrics_log import MetricsLogger
from humo.training.optimizer import EMA, LRSchedule, StageOptimizer, learning_rate
from humo.training.sampler import ShuffledSampler

CHECKPOINTS = "checkpoints"
"""Folder of checkpoints in the folder of a run."""


BatchT = TypeVar("BatchT")
RecipeT = TypeVar("RecipeT", bound=Recipe | ComponentRecipe)
AnyRecipe = TypeVar("AnyRecipe", bound=Recipe | ComponentRecipe, contravariant=True)
ComponentRecipeT = TypeVar("ComponentRecipeT", bound=ComponentRecipe)

Saved = Mapping[str, Mapping[str, Tensor]]
"""Tensors of a checkpoint: `humo.training.checkpoint.TENSORS` -> name -> tensor; empty without a checkpoint."""


def ignore_progress(phase: str, done: int, total: int) -> None:
    """Ignore progress."""


def ignore_note(text: str) -> None:
    """Ignore a message."""


@dataclass(frozen=True)
class TrainingRun(Generic[RecipeT]):
    """A run that has joined its processes.

    Args:
        recipe: the run.
        group: all processes of the run.
        state: progress at the last checkpoint; the initial state without one.
        progress, note: callbacks; silent in all but the main process.
    """

    recipe: RecipeT
    group: ProcessGroup
    state: TrainState
    progress: Progress
    note: Note

    @property
    def folder(self) -> Path:
        """Output folder."""
        return Path(self.recipe.output)

    @property
    def is_resumed(self) -> bool:
        """True if the run has a checkpoint."""
        return bool(finished_checkpoints(self.folder / CHECKPOINTS))

    @property
    def dtype(self) -> torch.dtype:
        """Data type that the recipe computes in."""
        dtype: torch.dtype = getattr(torch, self.recipe.compute.dtype)
        return dtype

    def read_checkpoint(self) -> tuple[TrainState, Saved]:
        """Read the last checkpoint; the initial state and no tensors if there is none."""
        checkpoints = finished_checkpoints(self.folder / CHECKPOINTS)
        if not checkpoints:
            return TrainState(), {}
        return read_state(checkpoints[-1]), read_checkpoint(checkpoints[-1])

    @contextmanager
    def logger(self) -> Iterator[MetricsLogger | None]:
        """Open the log in the main process; None in the others."""
        if not self.group.is_main:
            yield None
            return
        logger = MetricsLogger(self.folder, self.state.global_step, tensorboard=self.recipe.tensorboard)
        try:
            yield logger
        finally:
            logger.close()


class TrainingFunction(Protocol[AnyRecipe]):
    """Function that trains what a recipe describes."""

    def __call__(
        self,
        recipe: AnyRecipe,
        *,
        resume: bool = False,
        progress: Progress = ignore_progress,
        note: Note = ignore_note,
    ) -> Path:
        """Train.

        Args:
            recipe: the run.
            resume: continue from the last checkpoint.
            progress: called with (phase, done, total), in the main process.
            note: called with messages for the user, in the main process.

        Returns:
            folder of the result.

        Raises:
            RequestError: the recipe or the data is wrong, or the output folder has a checkpoint without ``resume``.
            CheckpointError: the last checkpoint is damaged.
            StorageError: the disk is full.
        """


def training_run(train: Callable[[TrainingRun[RecipeT]], Path]) -> TrainingFunction[RecipeT]:
    """Decorate a function that trains a run, so that it takes a recipe and callbacks.

    Before the function is called, the processes of the run are joined and the last checkpoint is found.
    """

    @wraps(train)
    def train_recipe(
        recipe: RecipeT, *, resume: bool = False, progress: Progress = ignore_progress, note: Note = ignore_note
    ) -> Path:
        with process_group(recipe.compute.device) as group:
            if not group.is_main:
                progress, note = ignore_progress, ignore_note
            return train(TrainingRun(recipe, group, _last_state(recipe, resume, note), progress, note))

    return train_recipe


def _last_state(recipe: Recipe | ComponentRecipe, resume: bool, note: Note) -> TrainState:
    """Return the state of the last checkpoint, or the initial state."""
    checkpoints = finished_checkpoints(Path(recipe.output) / CHECKPOINTS)
    if not checkpoints:
        if resume:
            note("there is no checkpoint to resume from; training starts at step 0")
        return TrainState()
    if not resume:
        problem = f"{recipe.output!r} already has a checkpoint"
        raise RequestError("output", problem, "add --resume, or give output=ANOTHER_FOLDER")
    state = read_state(checkpoints[-1])
    settings = recipe.model_dump(mode="json")
    if changed := [name for name, value in settings.items() if state.recipe.get(name) != value]:
        note(f"the recipe has changed since {checkpoints[-1].name}: {', '.join(changed)}")
    note(f"resuming from {checkpoints[-1].name}")
    return state


@dataclass(frozen=True, kw_only=True)
class TrainingTask(Generic[BatchT]):
    """Task of `fit`: weights, batches, losses and validation.

    Args:
        schedule: number of steps and learning rate.
        model: module whose passes compute the losses.
        weights: name -> weight to train, as the model computes with it.
        master_weights: name -> float32 master weight, of all weights that checkpoints and EMA hold.
        batches: (step, sampler) -> the batches of this process, one a pass; with gradient accumulation there are
            several. All random numbers are derived from the step, and the sampler is advanced.
        losses: batch -> losses in the order of ``loss_names``; the first is minimized.
        loss_names: names in the log.
        validate: EMA -> metrics. Every process calls it; the main process logs what it returns.
        columns: step -> further columns of the log.
        lr_scale: name -> factor of the learning rate.
        is_sharded: whether FSDP averages the gradients.
        accumulation: number of passes a step.
        field: recipe field that an error about the loss names.
        is_last_stage: whether the run ends with the schedule; otherwise the next stage follows.
        max_minutes: the schedule ends after this time, too.
    """

    schedule: LRSchedule
    model: nn.Module
    weights: Mapping[str, Tensor]
    master_weights: Mapping[str, Tensor]
    batches: Callable[[int, ShuffledSampler], Iterable[BatchT]]
    losses: Callable[[BatchT], Sequence[Tensor]]
    loss_names: Sequence[str]
    validate: Callable[[EMA, int], Mapping[str, float]]
    columns: Callable[[int], Mapping[str, Any]] = lambda step: {}
    lr_scale: Callable[[str], float] = lambda name: 1.0
    is_sharded: bool = False
    accumulation: int = 1
    field: str = "learning_rate"
    is_last_stage: bool = True
    max_minutes: float = math.inf


def fit(
    run: TrainingRun[Any],
    task: TrainingTask[Any],
    state: TrainState,
    saved: Saved,
    logger: MetricsLogger | None,
) -> EMA:
    """Train until the schedule's last step or the task's time is over, and write checkpoints.

    Args:
        run: the run.
        task: what to train; its weights are those of the checkpoint already.
        state: progress at the checkpoint.
        saved: tensors of the checkpoint.
        logger: log of the main process.

    Returns:
        moving average of the weights.

    Raises:
        RequestError: a loss is not finite.
        StorageError: a checkpoint or the log cannot be written.
    """
    recipe, steps = run.recipe, task.schedule.steps
    ema = EMA(recipe.optimizer.ema_decay, task.master_weights)
    ema.load(saved.get("ema", {}))
    optimizer = StageOptimizer(
        task.weights, task.master_weights, task.schedule, recipe.optimizer, task.lr_scale, run.group
    )
    if state.step:
        optimizer.load(saved["optimizer"])
    sampler = ShuffledSampler(recipe.seed, state.cursors)
    first = last_save = time.monotonic()
    for step in range(state.step, steps):
        run.progress("train", state.global_step, recipe.steps)
        started = time.monotonic()
        losses = _accumulate_gradients(run, task, step, sampler)
        grad_norm = optimizer.step(step)
        ema.update(task.master_weights, state.global_step)
        state = replace(state, step=step + 1, global_step=state.global_step + 1)
        if logger is not None:
            row = {**task.columns(step), **losses, "grad_norm": float(grad_norm)}
            row |= {"lr": learning_rate(task.schedule, step), "step_time": round(time.monotonic() - started, 3)}
            logger.write(state.global_step - 1, row)
        if recipe.validation.every_steps and state.global_step % recipe.validation.every_steps == 0:
            metrics = task.validate(ema, state.global_step)
            if logger is not None and metrics:
                logger.write(state.global_step - 1, {f"validation/{name}": value for name, value in metrics.items()})
        minutes, unsaved_minutes = ((time.monotonic() - since) / 60 for since in (first, last_save))
        is_last = step + 1 == steps or run.group.broadcast_flag(minutes >= task.max_minutes)
        if is_last or run.group.broadcast_flag(unsaved_minutes >= recipe.checkpoints.every_minutes):
            _save(run, task, replace(state, cursors=sampler.cursors), ema, optimizer, is_last=is_last)
            last_save = time.monotonic()
        if is_last:
            break
    run.progress("train", state.global_step, recipe.steps)
    return ema


def _accumulate_gradients(
    run: TrainingRun[Any], task: TrainingTask[Any], step: int, sampler: ShuffledSampler
) -> dict[str, float]:
    """Compute the gradients of a step and return its losses, averaged over passes and processes."""
    sums = torch.zeros(len(task.loss_names))
    for number, batch in enumerate(task.batches(step, sampler), 1):
        losses = task.losses(batch)
        set_gradient_sync(task.model, last=number == task.accumulation)
        (losses[0] / task.accumulation).backward()
        sums += torch.stack([loss.detach().float().cpu() for loss in losses]) / task.accumulation
    if not task.is_sharded:
        average_gradients(task.weights.values(), run.group)
    means = dict(zip(task.loss_names, run.group.all_reduce_mean(sums).tolist(), strict=True))
    if not all(value - value == 0 for value in means.values()):
        raise RequestError(task.field, f"the loss is {means['loss']} at step {step}", "lower the learning rate")
    return means


def _save(
    run: TrainingRun[Any],
    task: TrainingTask[Any],
    state: TrainState,
    ema: EMA,
    optimizer: StageOptimizer,
    *,
    is_last: bool,
) -> None:
    """Write a checkpoint in the main process; every process must call it. After a last step the next stage follows."""
    if is_last and not task.is_last_stage:
        state = replace(state, stage=state.stage + 1, step=0)
    state = replace(state, recipe=run.recipe.model_dump(mode="json"))
    tensors = {
        "weights": full_state_dict(task.master_weights, run.group),
        "ema": full_state_dict(ema.weights, run.group),
        "optimizer": full_state_dict(optimizer.state(), run.group),
    }
    if run.group.is_main:
        save_checkpoint(run.folder / CHECKPOINTS, state, tensors, run.recipe.checkpoints.keep_last)
    run.group.barrier()


def train_component(
    run: TrainingRun[ComponentRecipeT],
    component: nn.Module,
    batches: Callable[[int, ShuffledSampler], Iterable[BatchT]],
    losses: Callable[[BatchT], Sequence[Tensor]],
    loss_names: Sequence[str],
    measure: Callable[[nn.Module], Mapping[str, float]],
    lr_scale: Callable[[str], float] = lambda name: 1.0,
) -> None:
    """Train a component to the end; afterwards it has the averaged weights and is frozen.

    Args:
        run: the run.
        component: module that every process holds in full.
        batches, losses, loss_names: as in `TrainingTask`.
        measure: (component with averaged weights) -> validation metrics.
        lr_scale: name -> factor of the learning rate; a weight with factor 0 is frozen.
    """
    weights = dict(component.named_parameters())
    for name, weight in weights.items():
        weight.requires_grad_(lr_scale(name) > 0)
    state, saved = run.read_checkpoint()
    if saved:
        load_weights(component, saved["weights"])
    component.train()
    task = TrainingTask(
        schedule=run.recipe,
        model=component,
        weights={name: weight for name, weight in weights.items() if weight.requires_grad},
        master_weights=weights,
        batches=batches,
        losses=losses,
        loss_names=loss_names,
        validate=lambda ema, step: measure(_with_averages(component, ema)) if run.group.is_main else {},
        lr_scale=lr_scale,
    )
    with run.logger() as logger:
        ema = fit(run, task, state, saved, logger)
    load_weights(component, ema.weights)
    component.eval().requires_grad_(False)


def _with_averages(component: nn.Module, ema: EMA) -> nn.Module:
    """Return a copy of a component with the averaged weights."""
    averaged = copy.deepcopy(component)
    load_weights(averaged, ema.weights)
    return averaged.eval().requires_grad_(False)


@torch.no_grad()
def load_weights(component: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a component; a weight that it has under two names is among them once."""
    for name, weight in component.named_parameters():
        weight.copy_(weights[name])
