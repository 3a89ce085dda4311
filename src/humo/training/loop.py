"""Trains one part of a model (autoencoder, text encoder) by its recipe: steps, average, checkpoints, journal, resume.

What a part is trained on is the caller's: a function from a step to its losses. The network's own trainer is `train`,
whose stages and shards this has no need of.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from humo.distributed.fsdp import average_gradients
from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.training.checkpoint import Position, finished, read_checkpoint, read_position, save_checkpoint
from humo.training.collate import Decks
from humo.training.component_config import PartRecipe
from humo.training.metrics_log import Journal
from humo.training.optimizer import Average, StageOptimiser, learning_rate

CHECKPOINTS = "checkpoints"
"""In the folder of a run."""

Progress = Callable[[str, int, int], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Lesson:
    """What a part learns.

    Args:
        figures: names of the losses; the first is minimised.
        losses: (step, decks) -> the losses of this process's share of the step's batch, in that order. All that is
            random in it follows from the step and the decks.
        measure: the part, with its averaged weights -> figures to note.
        share: of the learning rate that a weight takes, by its name; 0 leaves it as it is.
    """

    figures: Sequence[str]
    losses: Callable[[int, Decks], Sequence[Tensor]]
    measure: Callable[[nn.Module], Mapping[str, float]]
    share: Callable[[str], float] = lambda name: 1.0


def has_begun(recipe: PartRecipe, resume: bool) -> bool:
    """Whether there is a checkpoint to go on from.

    Raises:
        RequestError: there is one, and it is not to be resumed.
    """
    begun = bool(finished(Path(recipe.output) / CHECKPOINTS))
    if begun and not resume:
        raise RequestError("output", f"{recipe.output!r} holds a run already", "give --resume, or another folder")
    return begun


def train_part(
    recipe: PartRecipe,
    part: nn.Module,
    lesson: Lesson,
    here: ProcessGroup,
    progress: Progress,
    note: Note,
) -> None:
    """Train to the end, from the last checkpoint if there is one; the part then holds the averaged weights.

    Args:
        recipe: of the part; its folder and pace.
        part: to be trained; every process holds it whole.
        lesson: what it learns.
        here: this process.
        progress, note: told of steps, and of what is worth saying.
    """
    folder = Path(recipe.output)
    masters = dict(part.named_parameters())
    for name, weight in masters.items():
        weight.requires_grad_(lesson.share(name) > 0)
    chosen = {name: weight for name, weight in masters.items() if weight.requires_grad}
    average = Average(recipe.optimiser.ema, masters)
    optimiser = StageOptimiser(chosen, masters, recipe, recipe.optimiser, lesson.share, here)
    position, done = Position(), finished(folder / CHECKPOINTS)
    if done:
        position, saved = read_position(done[-1]), read_checkpoint(done[-1])
        put(part, saved["weights"])
        average.restore(saved["average"])
        optimiser.restore(saved["optimiser"])
        note(f"goes on from {done[-1].name}")
    journal = Journal(folder, position.total, board=recipe.tensorboard) if here.is_main else None
    decks = Decks(recipe.seed, position.drawn)
    part.train()
    last_save = time.monotonic()
    try:
        for step in range(position.step, recipe.steps):
            progress("train", step, recipe.steps)
            began = time.monotonic()
            losses = lesson.losses(step, decks)
            losses[0].backward()
            average_gradients(chosen.values(), here)
            norm = optimiser.step(step)
            average.update(masters, step)
            position = replace(position, step=step + 1, total=step + 1)
            means = here.all_reduce_mean(torch.stack(list(losses)).detach().float().cpu()).tolist()
            told = dict(zip(lesson.figures, means, strict=True))
            if not all(value - value == 0 for value in means):
                raise RequestError("learning_rate", f"the loss is {means[0]} at step {step}", "lower it")
            if journal is not None:
                told |= {"gradient_norm": float(norm), "rate": learning_rate(recipe, step)}
                journal.write(step, told | {"seconds": round(time.monotonic() - began, 3)})
                if recipe.validation.steps and (step + 1) % recipe.validation.steps == 0:
                    measured = lesson.measure(_averaged(part, average))
                    journal.write(step, {f"validation/{name}": value for name, value in measured.items()})
            is_last = step + 1 == recipe.steps
            if here.broadcast_flag(is_last or time.monotonic() - last_save >= 60 * recipe.checkpoints.minutes):
                memory = optimiser.state()
                if here.is_main:
                    now = replace(position, drawn=decks.drawn, recipe=recipe.model_dump(mode="json"))
                    tensors: dict[str, Mapping[str, Tensor]] = {
                        "weights": masters,
                        "average": average.weights,
                        "optimiser": memory,
                    }
                    save_checkpoint(folder / CHECKPOINTS, now, tensors, recipe.checkpoints.keep)
                here.barrier()
                last_save = time.monotonic()
    finally:
        if journal is not None:
            journal.close()
    progress("train", recipe.steps, recipe.steps)
    put(part, average.weights)
    part.eval().requires_grad_(False)


def _averaged(part: nn.Module, average: Average) -> nn.Module:
    """A copy with the averaged weights."""
    made = copy.deepcopy(part)
    put(made, average.weights)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def put(part: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a part all its weights; those it holds under two names are among them once."""
    for name, weight in part.named_parameters():
        weight.copy_(weights[name])
