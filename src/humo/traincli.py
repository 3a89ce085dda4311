"""``humo train``: its options, what it says before it begins, and what it ends with."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.console import Quiet
from humo.options import Parser

if TYPE_CHECKING:
    from humo.training.config import Recipe

SUMMARY = "train a network by a recipe"


def add_options(parser: Parser) -> None:
    """The options of ``humo train``."""
    parser.usage = "humo train RECIPE.toml [--resume] [--dry-run] [table.field=value ...]"
    parser.add_argument("recipe", metavar="RECIPE.toml", help="what to train, on what, how long; see recipes/")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--dry-run", action="store_true", help="check recipe, data and model, and train nothing")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Train, or say what would be trained."""
    from humo.training.config import read_recipe

    recipe = read_recipe(Path(options.recipe), rest)
    if options.dry_run:
        console.result(*describe(recipe), kind="plan")
        return 0
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from humo.training.train import train

    for library in (diffusers_logging, transformers_logging):  # their bars would run into ours
        library.disable_progress_bar()
        library.set_verbosity_error()
    made = train(recipe, resume=options.resume, progress=console.step, note=console.note)
    if os.environ.get("RANK", "0") == "0":  # of several processes under torchrun, one tells
        console.result(
            f"{'model' if recipe.lora is None else 'LoRA'}: {made}", {"path": str(made), "steps": recipe.steps}
        )
    return 0


def describe(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """What a recipe would do: for people, and as values.

    Raises:
        HumoError: data or model are at fault.
    """
    from humo.console import table
    from humo.training.dataset import of_split, refuse_if_bad, scan
    from humo.training.encoders import Encoders
    from humo.training.learner import Learner
    from humo.training.parts import matches

    folder = scan(recipe.data)
    clips = of_split(folder, recipe.data.split)[: recipe.data.clips]
    refuse_if_bad(folder.bad, len(clips) + len(folder.bad), recipe.data.bad_share)
    encoders = Encoders(recipe.model)
    sizes = {name: weight.numel() for name, weight in Learner(encoders.network(recipe.seed)).named_parameters()}
    stages: list[dict[str, Any]] = [
        {
            "name": stage.name,
            "steps": stage.steps,
            "samples": stage.steps * stage.batch,
            "trained": sum(size for name, size in sizes.items() if matches(name, stage.train)),
        }
        for stage in recipe.stages
    ]
    network = sum(size for name, size in sizes.items() if name.startswith("transformer."))
    values: dict[str, Any] = {
        "output": recipe.output,
        "family": encoders.preset.name,
        "weights": network,
        "clips": len(clips),
        "bad": [{"name": one.name, "problem": one.problem} for one in folder.bad],
        "stages": stages,
    }
    rows: dict[str, object] = {
        "output": recipe.output,
        "model": f"{encoders.preset.title}, {network / 1e6:.2f} M weights",
        "data": f"{len(clips)} clips in {recipe.data.folder}, {len(folder.bad)} left out",
    }
    for number, stage in enumerate(stages):
        words = f"{stage['name']}: {stage['steps']} steps, {stage['samples']} samples, "
        low_rank = "low-rank additions to " if recipe.lora is not None else ""
        rows[f"stage {number}"] = f"{words}trains {low_rank}{stage['trained'] / 1e6:.2f} M weights"
    return table(rows), values
