"""``humo data build``, ``refilter`` and ``check``: datasets from raw videos."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.exit_codes import DONE, SOME_FAILED
from humo.cli.options import Parser, parse_integer
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.data.finish import Finished


def add_options(parser: Parser) -> None:
    """Add the options of these three kinds."""
    group = parser.add_argument_group("build, refilter, check")
    text = "stages and thresholds, a TOML file (default: docs/data.md); refilter: thresholds alone"
    group.add_argument("--recipe", metavar="FILE", help=text)
    group.add_argument("--ray", metavar="ADDRESS", help="build: Ray cluster, HOST:PORT of its head node, or local")
    text = "build: endpoint for captions, such as vLLM's http://localhost:8000/v1"
    group.add_argument("--captions", metavar="URL", help=text)
    group.add_argument("--caption-model", metavar="NAME", help="build: name of the endpoint's model")
    group.add_argument("--retry", action="store_true", help="build: try quarantined items again")
    group.add_argument("--dry-run", action="store_true", help="build: list what would be read, and write nothing")
    text = "build, refilter: print what each decision leaves, too; report.html is always written"
    group.add_argument("--report", action="store_true", help=text)
    group.add_argument("--fast", action="store_true", help="check: compare names and tables; open no video")


def one_path(options: argparse.Namespace) -> Path:
    """Return the one path of a command.

    Raises:
        RequestError: there is none, or there are several.
    """
    if len(options.paths) != 1:
        problem = "is missing" if not options.paths else f"takes one folder, but {len(options.paths)} are given"
        raise RequestError("FOLDER", problem, f"humo data {options.kind} FOLDER")
    return Path(options.paths[0])


def build(options: argparse.Namespace, console: Quiet) -> int:
    """Run ``humo data build``."""
    if len(options.paths) < 2:
        raise RequestError("OUT", "is missing", "give inputs and the output folder: humo data build videos/ dataset/")
    if "://" in options.paths[-1]:
        problem = f"{options.paths[-1]!r} is an address, and datasets are written to folders"
        raise RequestError("OUT", problem, "give a folder, and copy it to the store afterwards")
    if bool(options.captions) != bool(options.caption_model):
        missing = "--caption-model" if options.captions else "--captions"
        raise RequestError(missing, "is missing", "give --captions URL and --caption-model NAME together")
    from humo.data.build import Options, estimate
    from humo.data.build import build as build_dataset

    settings = Options(
        Path(options.paths[-1]),
        tuple(options.paths[:-1]),
        _recipe(options.recipe),
        None if options.workers is None else parse_integer("--workers", options.workers, 1, 4096),
        options.ray,
        (options.captions, options.caption_model) if options.captions else None,
        options.retry,
    )
    if options.dry_run:
        plan = estimate(settings)
        text = f"sources: {plan.sources} ({plan.bytes / 1e6:.3g} MB); rows without a file: {plan.missing_rows}"
        console.result(text, {"sources": plan.sources, "bytes": plan.bytes, "missing_rows": plan.missing_rows})
        return DONE
    return _print(build_dataset(settings, console.step, console.note), console, funnel=options.report)


def refilter(options: argparse.Namespace, console: Quiet) -> int:
    """Run ``humo data refilter``."""
    from humo.data.build import refilter as refilter_dataset

    result = refilter_dataset(one_path(options), _recipe(options.recipe), console.step, console.note)
    return _print(result, console, funnel=options.report)


def check(options: argparse.Namespace, console: Quiet) -> int:
    """Run ``humo data check``."""
    from humo.data.check import check_dataset

    report = check_dataset(one_path(options), open_videos=not options.fast, progress=console.step)
    console.result(report.text(), report.as_dict())
    return DONE if report.is_clean else SOME_FAILED


def _recipe(path: str | None) -> Any:
    from humo.data.build_recipe import read_build_recipe

    return None if path is None else read_build_recipe(Path(path))


def _print(result: Finished, console: Quiet, *, funnel: bool) -> int:
    """Print the result of a run, and its funnel if asked; the exit code says whether something is left to do."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.reasons.items())
    text = f"{result.folder}: {result.accepted} of {result.clips} clips ({_length(result.seconds)})"
    text += f"; rejected: {reasons}" if reasons else ""
    text += f"; quarantined: {result.quarantined}" if result.quarantined else ""
    if funnel:
        report = result.folder / "report.html"
        text = "\n".join([*_funnel(result.funnel), f"report: {report}", text])
    values = {
        "folder": str(result.folder),
        "accepted": result.accepted,
        "clips": result.clips,
        "seconds": result.seconds,
        "reasons": result.reasons,
        "quarantined": result.quarantined,
        "missing_rows": result.missing_rows,
        "waiting": result.waiting,
    }
    console.result(text, values)
    if result.stopped:
        console.error(
            RequestError(
                "--captions",
                f"{result.stopped}; {result.waiting} clips wait for a caption",
                "correct the endpoint, and run the same command again",
            )
        )
        return SOME_FAILED
    if advice := _advice(result):
        console.note(advice)
    return DONE


def _funnel(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each decision: clips that remain, and their length."""
    width = max((len(stage["after"]) for stage in stages), default=0)
    for stage in stages:
        yield f"after {stage['after']:<{width}} {stage['clips']:>8} clips  {_length(stage['seconds'])}"


def _length(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _advice(result: Finished) -> str:
    """Return what a user can do about the clips that were rejected for a reason of the run, not of the video."""
    if result.waiting:
        return f"{result.waiting} clips wait for a caption: add --captions URL --caption-model NAME, or captions.text"
    if count := result.reasons.get("not-written", 0):
        return f"{count} clips pass now and have no file yet: run humo data build again"
    if count := result.reasons.get("not-scored", 0):
        return f"{count} clips have no scores yet: run humo data build again"
    if not result.accepted and (count := result.reasons.get("no-partner", 0)):
        return f'{count} clips have no other shot of their person: reference.mode = "same-clip" takes the clip itself'
    return ""


ACTIONS: dict[str, Callable[[argparse.Namespace, Quiet], int]] = {"build": build, "refilter": refilter, "check": check}
"""Kind -> its action."""
