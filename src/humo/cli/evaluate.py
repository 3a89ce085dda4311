"""``humo evaluate``: figures of a model, or of one video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.options import Parser
from humo.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.cli.console import Quiet

SUMMARY = "measure lips, person and words: of a model, or of one video"

KINDS = {
    "benchmark": "a model, by people that `humo data render` renders, beside the true clips",
    "video": "one video, by its own sound and a picture",
}
"""What can be measured, by the word after ``humo evaluate``."""

CLIPS = 64
"""As in docs/nano.md."""


def add_options(parser: Parser) -> None:
    """The options of ``humo evaluate``."""
    parser.usage = "humo evaluate benchmark --data FOLDER [options] | humo evaluate video FILE [--image PICTURE]"
    parser.add_argument(
        "kind", metavar="{benchmark,video}", help="; ".join(f"{name}: {does}" for name, does in KINDS.items())
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="video: the video")
    parser.add_argument("--image", metavar="FILE", help="video: a picture of the person")
    parser.add_argument("--data", metavar="FOLDER", help="benchmark: of humo data render, with its test splits")
    parser.add_argument(
        "--model", metavar="FOLDER", help="benchmark: model folder (default: the one inside the package)"
    )
    parser.add_argument(
        "--clips", default=str(CLIPS), metavar="N", help=f"benchmark: half of each split (default {CLIPS})"
    )
    parser.add_argument("--seeds", default="1", metavar="N", help="benchmark: times each clip is made, for the spread")
    parser.add_argument("--mode", action="append", metavar="{TIA,TA}", help="benchmark: only in this mode, repeatable")
    parser.add_argument("--report", metavar="FILE", help="all figures, as JSON")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Measure, and say what was found.

    Returns:
        the exit code.
    """
    from humo.cli.console import table

    words = [*([options.file] if options.file else []), *rest]
    if options.kind not in KINDS:
        raise RequestError("evaluate", f"{options.kind!r} is not known", did_you_mean(options.kind, KINDS))
    measure = _measure_clip if options.kind == "video" else _measure_model
    rows, figures = measure(options, words, console)
    if options.report is not None:
        Path(options.report).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    console.result(table(rows), figures)
    return 0


def _measure_clip(
    options: argparse.Namespace, words: list[str], console: Quiet
) -> tuple[dict[str, object], dict[str, Any]]:
    if len(words) != 1:
        raise RequestError("FILE", f"is one video, and {len(words)} were given", "write humo evaluate video out.mp4")
    from humo.evaluation.single_video import measure_video

    figures = measure_video(Path(words[0]), None if options.image is None else Path(options.image))
    said: dict[str, tuple[str, str]] = {
        "face_detection_rate": ("face detection rate", "fraction of frames"),
        "mouth_jaw_corr": ("lip sync", "correlation of mouth and predicted jaw, at most 1"),
        "av_offset": ("audio-video offset", "frames; positive: the picture is late"),
        "id_distance": ("identity distance", "below 0.4 the same person, above 0.6 another"),
    }
    rows: dict[str, object] = {said[name][0]: f"{value:g} ({said[name][1]})" for name, value in figures.items()}
    if options.image is not None and "id_distance" not in figures:
        rows[said["id_distance"][0]] = "not measured: no face was recognised in the clip"
    return rows, dict(figures)


def _measure_model(
    options: argparse.Namespace, changes: list[str], console: Quiet
) -> tuple[dict[str, object], dict[str, Any]]:
    settings = dict(_setting(change) for change in changes)
    if options.data is None:
        make = (
            "humo data render people --clips 80 --split test --seed 0 --identities 600 --closeup 0.8 --articulation 1.5"
        )
        raise RequestError("--data", "is missing", f"make the clips first: {make}; then the same with test-seen")
    if not options.clips.isdecimal() or int(options.clips) < 2:
        raise RequestError("--clips", f"{options.clips!r} is not allowed", "give a whole number from 2 on")
    if not options.seeds.isdecimal() or int(options.seeds) < 1:
        raise RequestError("--seeds", f"{options.seeds!r} is not allowed", "give a whole number from 1 on")
    from humo.checkpoints.model_folder import find_model_folder
    from humo.evaluation.benchmark import MODES, evaluate
    from humo.guidance import SPEEDS
    from humo.runtime.loading import load_pipeline

    modes = tuple(options.mode or MODES)
    asked = [("--mode", mode, MODES) for mode in modes] + [("speed", settings.get("speed", "exact"), tuple(SPEEDS))]
    for name, word, known in asked:
        if word not in known:
            raise RequestError(name, f"{word!r} is not known", did_you_mean(word, known))
    pipeline = load_pipeline(find_model_folder(options.model))
    pipeline.set_progress_bar_config(disable=True)
    seeds, clips = int(options.seeds), int(options.clips)
    figures = evaluate(pipeline, options.data, clips, console.step, modes=modes, seeds=seeds, **settings)
    rows: dict[str, object] = {
        f"{kind}, {group}": ", ".join(f"{name} {value:g}" for name, value in found.items())
        for kind, groups in figures.items()
        for group, found in groups.items()
    }
    return rows, figures


SETTINGS: dict[str, type[int | float | str]] = {
    "num_frames": int,
    "num_inference_steps": int,
    "shift": float,
    "scale_text": float,
    "scale_audio": float,
    "scale_image": float,
    "speed": str,
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
