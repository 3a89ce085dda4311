"""``humo evaluate``: a model's figures beside those of true clips."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.errors import RequestError, did_you_mean
from humo.options import Parser

if TYPE_CHECKING:
    from humo.console import Quiet

SUMMARY = "measure lips, person and words of clips that a model makes"

KINDS = {"nano": "people that `humo data synth` renders: lips against the true jaw, the person, the words"}
"""What can be measured, by the word after ``humo evaluate``."""

CLIPS = 64
"""As published in docs/nano.md."""


def add_options(parser: Parser) -> None:
    """The options of ``humo evaluate``."""
    parser.usage = "humo evaluate nano --data FOLDER [--model FOLDER] [--clips N] [--report FILE]"
    parser.add_argument("kind", metavar="nano", help="; ".join(f"{name}: {does}" for name, does in KINDS.items()))
    parser.add_argument("--data", required=True, metavar="FOLDER", help="of humo data synth, with its test splits")
    parser.add_argument("--model", metavar="FOLDER", help="model folder (default: the one inside the package)")
    parser.add_argument("--clips", default=str(CLIPS), metavar="N", help=f"half of each test split (default {CLIPS})")
    parser.add_argument("--report", metavar="FILE", help="all figures, as JSON")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Measure, and say what was found.

    Returns:
        the exit code.
    """
    from humo.console import table

    if options.kind not in KINDS:
        raise RequestError("evaluate", f"{options.kind!r} is not known", did_you_mean(options.kind, KINDS))
    settings = dict(_setting(word) for word in rest)
    if not options.clips.isdecimal() or int(options.clips) < 2:
        raise RequestError("--clips", f"{options.clips!r} is not allowed", "give a whole number from 2 on")
    from humo.checkpoints.hub import folder_of
    from humo.evaluation.nano import evaluate
    from humo.runtime import load_pipeline

    pipeline = load_pipeline(folder_of(options.model))
    pipeline.set_progress_bar_config(disable=True)
    figures = evaluate(pipeline, options.data, int(options.clips), console.step, **settings)
    if options.report is not None:
        Path(options.report).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    rows = {
        f"{kind}, {group}": ", ".join(f"{name} {value:g}" for name, value in found.items())
        for kind, groups in figures.items()
        for group, found in groups.items()
    }
    console.result(table(rows), figures)
    return 0


SETTINGS: dict[str, type[int] | type[float]] = {
    "num_frames": int,
    "num_inference_steps": int,
    "shift": float,
    "scale_text": float,
    "scale_audio": float,
    "scale_image": float,
}
"""What may be changed by key=value words, to try a model out."""


def _setting(word: str) -> tuple[str, Any]:
    name, _, value = word.partition("=")
    if name not in SETTINGS:
        raise RequestError(name, "is not a setting of humo evaluate", did_you_mean(name, SETTINGS))
    try:
        return name, SETTINGS[name](value)
    except ValueError:
        raise RequestError(name, f"{value!r} is not a number", "write for example shift=3") from None
