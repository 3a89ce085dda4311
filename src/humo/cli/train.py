"""``humo train``: train a network from a recipe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.console import Quiet, table
from humo.cli.exit_codes import DONE
from humo.cli.options import Parser
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.report import Report
    from humo.training.component_config import ComponentRecipe
    from humo.training.config import Recipe

SUMMARY = "train a network from a recipe"

PARTS = {
    "vae": "a video autoencoder",
    "decoder": "a convolutional decoder of an autoencoder",
    "text": "a text encoder and its tokenizer",
}
"""Components that can be trained besides the network, by the argument before the recipe."""

DISTILL = "distill"
"""Argument before the recipe of a distillation."""


def add_options(parser: Parser) -> None:
    """Add the options of ``humo train``."""
    parser.usage = (
        "humo train [distill | vae | decoder | text] RECIPE.toml [--resume] [--dry-run] [table.field=value ...]"
    )
    parts = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
    parser.add_argument(
        "recipe",
        metavar="RECIPE.toml",
        nargs="+",
        help=f"recipe file; see recipes/. Before it, {DISTILL} distills a model into one with few steps and without "
        f"guidance; other arguments train another component: {parts}",
    )
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in the output folder")
    parser.add_argument("--dry-run", action="store_true", help="check the recipe, data and model; do not train")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo train``.

    Returns:
        the exit code.
    """
    arguments = [*options.recipe, *rest]
    if arguments[0] in PARTS:
        return _train_part(arguments[0], arguments[1:], options, console)
    is_distillation = arguments[0] == DISTILL
    arguments = arguments[1:] if is_distillation else arguments
    if not arguments:
        raise RequestError("recipe", "is missing", f"humo train {DISTILL} recipes/nano-student.toml")
    from humo.training.recipe_file import read_recipe

    recipe = read_recipe(Path(arguments[0]), arguments[1:])
    if is_distillation is not (recipe.distill is not None):
        problem = "has no [distill] table" if is_distillation else "has a [distill] table"
        command = "humo train" if is_distillation else f"humo train {DISTILL}"
        raise RequestError("recipe", problem, f"run `{command} {arguments[0]}`")
    if options.dry_run:
        console.result(*describe(recipe), kind="plan")
        return DONE
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from humo.training.train import train

    for library in (diffusers_logging, transformers_logging):  # their progress bars would mix with ours
        library.disable_progress_bar()
        library.set_verbosity_error()
    folder = train(recipe, resume=options.resume, progress=console.step, note=console.note)
    _report("model" if recipe.lora is None else "LoRA", folder, recipe.steps, console)
    return DONE


def _train_part(part: str, arguments: list[str], options: argparse.Namespace, console: Quiet) -> int:
    """Train a component besides the network."""
    from humo.training.recipe_file import read_table

    if not arguments:
        raise RequestError("recipe", "is missing", f"humo train {part} recipes/nano-{part}.toml")
    kind, check_data, train = _part(part)
    recipe = read_table(Path(arguments[0]), kind, arguments[1:])
    if options.dry_run:
        console.result(*_describe_part(recipe, check_data(recipe)), kind="plan")
        return DONE
    folder = train(recipe, resume=options.resume, progress=console.step, note=console.note)
    _report(PARTS[part], folder, recipe.steps, console)
    return DONE


def _part(part: str) -> tuple[type[ComponentRecipe], Callable[[Any], Mapping[str, int]], Callable[..., Path]]:
    """Return the class of a component's recipes, the function that checks its data, and the one that trains it."""
    from humo.training import component_config as recipes

    if part == "vae":
        from humo.training import train_autoencoder as autoencoder

        return recipes.AutoencoderRecipe, autoencoder.check_data, autoencoder.train_autoencoder
    if part == "decoder":
        from humo.training import train_decoder as decoder

        return recipes.DecoderRecipe, decoder.check_data, decoder.train_decoder
    from humo.training import train_text_encoder as text_encoder

    return recipes.TextEncoderRecipe, text_encoder.check_data, text_encoder.train_text_encoder


def _describe_part(recipe: ComponentRecipe, counts: Mapping[str, int]) -> Report:
    """Return what the recipe of a component would train, as a table and as values."""
    rows = {
        "output": recipe.output,
        "data": ", ".join(f"{count} {name}" for name, count in counts.items()) + f" in {recipe.data.folder}",
        "steps": f"{recipe.steps} of {recipe.batch_size} samples",
    }
    return table(rows), {**counts, **recipe.model_dump(mode="json")}


def _report(kind: str, folder: Path, steps: int, console: Quiet) -> None:
    """Report a finished training; under torchrun, the main rank alone does."""
    if os.environ.get("RANK", "0") == "0":
        console.result(f"{kind}: {folder}", {"path": str(folder), "steps": steps})


def _describe_data(recipe: Recipe) -> tuple[dict[str, Any], list[dict[str, str]], str]:
    """Return counts of the training data, the bad clips, and a line that says both."""
    from humo.training.dataset import check_bad_fraction, clips_of_split, scan_corpus
    from humo.training.shard_preparation import check_shards
    from humo.training.shard_source import is_shard_folder

    if is_shard_folder(recipe.data):
        counts = check_shards(recipe.data, recipe.stages)
        more = "" if recipe.data.render is None else ", more are rendered during training"
        return counts, [], f"{counts['shards']} shards in {recipe.data.folder}{more}"
    corpus = scan_corpus(recipe.data)
    clips = clips_of_split(corpus, recipe.data.split)[: recipe.data.max_clips]
    check_bad_fraction(corpus.bad, len(clips) + len(corpus.bad), recipe.data.max_bad_fraction)
    bad = [{"name": clip.name, "problem": clip.problem} for clip in corpus.bad]
    return {"clips": len(clips)}, bad, f"{len(clips)} clips in {recipe.data.folder}, {len(bad)} left out"


def describe(recipe: Recipe) -> Report:
    """Return what a recipe would train, as a table and as values.

    Raises:
        HuMoError: the data or the model are wrong.
    """
    from humo.training.frozen_encoders import FrozenEncoders
    from humo.training.trainable import in_groups
    from humo.training.training_model import TrainingModel

    data, bad, summary = _describe_data(recipe)
    encoders = FrozenEncoders(recipe.model)
    sizes = {
        name: weight.numel() for name, weight in TrainingModel(encoders.build_network(recipe.seed)).named_parameters()
    }
    stages: list[dict[str, Any]] = [
        {
            "name": stage.name,
            "steps": stage.steps,
            "samples": stage.steps * stage.batch_size,
            "trained": sum(size for name, size in sizes.items() if in_groups(name, stage.train)),
        }
        for stage in recipe.stages
    ]
    network = sum(size for name, size in sizes.items() if name.startswith("transformer."))
    values: dict[str, Any] = {
        "output": recipe.output,
        "family": encoders.preset.name,
        "weights": network,
        **data,
        "bad": bad,
        "stages": stages,
    }
    rows: dict[str, object] = {
        "output": recipe.output,
        "model": f"{encoders.preset.title}, {network / 1e6:.2f} M weights",
        "data": summary,
    }
    for number, stage in enumerate(stages):
        lora = "LoRA on " if recipe.lora is not None else ""
        rows[f"stage {number}"] = (
            f"{stage['name']}: {stage['steps']} steps, {stage['samples']} samples, "
            f"trains {lora}{stage['trained'] / 1e6:.2f} M weights"
        )
    return table(rows), values
