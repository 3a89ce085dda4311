"""``humo evaluate``: metrics of a model, or of one video."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.exit_codes import DONE
from humo.cli.options import Parser
from humo.errors import RequestError, did_you_mean
from humo.files import atomic_write

if TYPE_CHECKING:
    from humo.cli.console import Quiet

SUMMARY = "measure lip sync, identity and prompt following of a model, or of one video"

KINDS = {
    "benchmark": "a model, on people that `humo data render` renders, beside the ground truth",
    "video": "one video, by its own audio and an image of the person",
}
"""Kinds of evaluation, by the argument after ``humo evaluate``."""

CLIPS = 64
"""Default number of clips, as in docs/nano.md."""


def add_options(parser: Parser) -> None:
    """Add the options of ``humo evaluate``."""
    parser.usage = "humo evaluate benchmark --data FOLDER [options] | humo evaluate video FILE [--image FILE]"
    parser.add_argument(
        "kind", metavar="{benchmark,video}", help="; ".join(f"{name}: {does}" for name, does in KINDS.items())
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="video: the video")
    parser.add_argument("--image", metavar="FILE", help="video: an image of the person")
    parser.add_argument("--data", metavar="FOLDER", help="benchmark: folder of humo data render with its test splits")
    parser.add_argument("--model", metavar="FOLDER", help="benchmark: model folder (default: the built-in model)")
    parser.add_argument(
        "--clips",
        default=str(CLIPS),
        metavar="N",
        help=f"benchmark: number of clips, half of each split (default {CLIPS})",
    )
    parser.add_argument(
        "--seeds", default="1", metavar="N", help="benchmark: seeds per clip, for the standard deviation (default 1)"
    )
    parser.add_argument(
        "--mode", action="append", metavar="{TIA,TA}", help="benchmark: measure this mode only; repeatable"
    )
    parser.add_argument("--report", metavar="FILE", help="write all metrics to a JSON file")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo evaluate``.

    Returns:
        the exit code.
    """
    from humo.cli.console import table

    arguments = [*([options.file] if options.file else []), *rest]
    if options.kind not in KINDS:
        raise RequestError("evaluate", f"{options.kind!r} is unknown", did_you_mean(options.kind, KINDS))
    measure = _measure_clip if options.kind == "video" else _measure_model
    # the report is opened first, so that no measurement is lost to a wrong path
    with nullcontext() if options.report is None else atomic_write(Path(options.report), "--report") as report:
        rows, metrics = measure(options, arguments, console)
        if report is not None:
            report.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    console.result(table(rows), metrics)
    return DONE


def _measure_clip(
    options: argparse.Namespace, paths: list[str], console: Quiet
) -> tuple[dict[str, object], dict[str, Any]]:
    if len(paths) != 1:
        raise RequestError("FILE", f"takes one video, but {len(paths)} are given", "humo evaluate video out.mp4")
    from humo.evaluation.single_video import measure_video

    metrics = measure_video(Path(paths[0]), None if options.image is None else Path(options.image))
    labels: dict[str, tuple[str, str]] = {
        "face_detection_rate": ("face detection rate", "fraction of frames"),
        "mouth_jaw_corr": ("lip sync", "correlation of mouth and predicted jaw, at most 1"),
        "av_offset": ("audio-video offset", "frames; positive: the video is late"),
        "id_distance": ("identity distance", "below 0.4 the same person, above 0.6 another"),
    }
    rows: dict[str, object] = {labels[name][0]: f"{value:g} ({labels[name][1]})" for name, value in metrics.items()}
    if options.image is not None and "id_distance" not in metrics:
        rows[labels["id_distance"][0]] = "not measured: no face was found in the video"
    return rows, dict(metrics)


def _measure_model(
    options: argparse.Namespace, changes: list[str], console: Quiet
) -> tuple[dict[str, object], dict[str, Any]]:
    settings = dict(_parse_setting(change) for change in changes)
    if options.data is None:
        command = (
            "humo data render people --clips 80 --split test --seed 0 --identities 600 --closeup 0.8 --articulation 1.5"
        )
        raise RequestError("--data", "is missing", f"run `{command}`, and again with --split test-seen")
    if not Path(options.data).is_dir():
        raise RequestError("--data", f"{options.data!r} is not a folder", "give a folder of humo data render")
    if not options.clips.isdecimal() or int(options.clips) < 2:
        raise RequestError("--clips", f"{options.clips!r} is not allowed", "give a whole number of at least 2")
    if not options.seeds.isdecimal() or int(options.seeds) < 1:
        raise RequestError("--seeds", f"{options.seeds!r} is not allowed", "give a whole number of at least 1")
    from humo.checkpoints.model_folder import find_model_folder
    from humo.evaluation.benchmark import MODES, evaluate
    from humo.guidance import SPEEDS
    from humo.runtime.loading import load_pipeline

    modes = tuple(options.mode or MODES)
    choices = [("--mode", mode, MODES) for mode in modes] + [("speed", settings.get("speed", "exact"), tuple(SPEEDS))]
    for name, choice, known in choices:
        if choice not in known:
            raise RequestError(name, f"{choice!r} is unknown", did_you_mean(choice, known))
    pipeline = load_pipeline(find_model_folder(options.model))
    pipeline.set_progress_bar_config(disable=True)
    seeds, clips = int(options.seeds), int(options.clips)
    metrics = evaluate(pipeline, options.data, clips, console.step, modes=modes, seeds=seeds, **settings)
    rows: dict[str, object] = {
        f"{kind}, {group}": ", ".join(f"{name} {value:g}" for name, value in values.items())
        for kind, groups in metrics.items()
        for group, values in groups.items()
    }
    return rows, metrics


SETTINGS: dict[str, type[int | float | str]] = {
    "num_frames": int,
    "num_inference_steps": int,
    "shift": float,
    "scale_text": float,
    "scale_audio": float,
    "scale_image": float,
    "speed": str,
}
"""Arguments of the pipeline that key=value sets, and their types."""


def _parse_setting(argument: str) -> tuple[str, Any]:
    name, _, value = argument.partition("=")
    if name not in SETTINGS:
        raise RequestError(name, "is not a setting of humo evaluate", did_you_mean(name, SETTINGS))
    try:
        return name, SETTINGS[name](value)
    except ValueError:
        raise RequestError(name, f"{value!r} is not a number", "give a number, as in shift=3") from None
