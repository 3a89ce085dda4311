"""``humo evaluate``: measure videos, compare models, write reports, and manage the weights of metrics."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.exit_codes import DONE, FAILED, SOME_FAILED
from humo.cli.metric_weights import run_weights
from humo.cli.options import Parser, parse_integer
from humo.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.evaluation.case_sources import CaseSet, Video
    from humo.evaluation.comparison import MetricSummary
    from humo.evaluation.metric import Metric
    from humo.evaluation.runner import RunReport
    from humo.jobs.batch import Outcome

SUMMARY = "measure videos, compare models, write reports"

VERBS_HELP = {
    "run": "measure the videos of a folder, a job file, a corpus or a benchmark",
    "video": "measure one video",
    "compare": "compare two evaluations of the same cases",
    "report": "write evaluations as one HTML page",
    "weights": "list or download the weights of metrics",
    "benchmark": "write the open benchmark: 200 cases that anybody may use",
}
"""Arguments after ``humo evaluate``."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that keep each process to one thread, so that values do not depend on their number."""

ALL_METRICS = "list"
"""Value of ``--metrics`` that lists all metrics."""


def add_options(parser: Parser) -> None:
    """Add the options of ``humo evaluate``."""
    parser.usage = (
        "humo evaluate run SOURCE OUT [options] [field=value ...] | video FILE [--image FILE] | compare OUT_A OUT_B | "
        "report OUT ... | weights [get NAME ...] | benchmark FOLDER"
    )
    parser.epilog = (
        "exit codes: 0 measured; 1 run: no video has a value of any metric, video: no frame has a face; 2 refused; "
        "3 run: some values are invalid or a metric is unavailable"
    )
    verbs = "; ".join(f"{name}: {text}" for name, text in VERBS_HELP.items())
    parser.add_argument("verb", metavar="{" + ",".join(VERBS_HELP) + "}", help=verbs)
    parser.add_argument("paths", metavar="PATH", nargs="*", help="files and folders, see above")
    group = parser.add_argument_group("what is measured")
    group.add_argument("--suite", metavar="NAME", help="set of metrics (default: offline); `--suite list` lists them")
    group.add_argument("--metrics", metavar="A,B", help="these metrics; `--metrics list` lists all")
    text = "run: frames of a clip for metrics that take every frame as published (default: all)"
    group.add_argument("--frames", default="all", metavar="{all,N}", help=text)
    text = "add a structure score by a vision-language model at an OpenAI-compatible endpoint, such as "
    text += "http://127.0.0.1:8000/v1; OPENAI_API_KEY is sent if it is set"
    group.add_argument("--judge", metavar="URL", help=text)
    group.add_argument("--judge-model", metavar="NAME", help="name of the model at that endpoint")
    group.add_argument("--videos", metavar="FOLDER", help="run: folder of the videos, if it is not the source's own")
    group.add_argument("--seeds", metavar="N", help="run: videos of each case (default: all)")
    group.add_argument("--limit", metavar="N", help="run, benchmark: number of cases, in turn from each category")
    group.add_argument("--label", metavar="TEXT", help="run: name of the model in reports (default: that of OUT)")
    group.add_argument("--workers", metavar="N", help="run: processes of one thread each (default: one per core)")
    group.add_argument("--device", default="cpu", metavar="DEVICE", help="device of networks (default: cpu)")
    group = parser.add_argument_group("generating the videos first")
    text = "run: generate missing videos in OUT with this model; field=value sets fields of the requests, as mode=TA"
    group.add_argument("--model", metavar="NAME", help=text)
    text = "run, with --model: encode and decode the true clips instead, an upper bound"
    group.add_argument("--reconstruct", action="store_true", help=text)
    group = parser.add_argument_group("the open benchmark")
    group.add_argument("--truth", metavar="N", help="benchmark: also render true clips of N pixels")
    group.add_argument("--seed", default="0", metavar="N", help="benchmark: another set of cases (default 0)")
    group = parser.add_argument_group("one video")
    group.add_argument("--image", action="append", metavar="FILE", help="video: a reference; repeatable")
    group.add_argument("--audio", metavar="FILE", help="video: the audio, if it is not in the video")
    group.add_argument("--prompt", metavar="TEXT", help="video: the prompt")
    group = parser.add_argument_group("output")
    group.add_argument("--report", metavar="FILE", help="run, compare, report: write a page (HTML)")
    text = "weights get: accept the license of these weights; repeatable"
    group.add_argument("--accept-license", action="append", metavar="NAME", help=text)
    group.add_argument("--endpoint", metavar="URL", help="weights get: a mirror of the hub (default: HF_ENDPOINT)")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo evaluate``.

    Returns:
        the exit code.
    """
    if options.verb not in VERBS:
        raise RequestError("evaluate", f"{options.verb!r} is unknown", did_you_mean(options.verb, VERBS))
    options.overrides = [argument for argument in [*options.paths, *rest] if "=" in argument]
    options.paths = [argument for argument in [*options.paths, *rest] if "=" not in argument]
    if options.overrides and (options.verb != "run" or options.model is None):
        raise RequestError(options.overrides[0], "sets a field of a request", "add run and --model NAME")
    for value, show in ((options.suite, _list_suites), (options.metrics, _list_metrics)):
        if value == ALL_METRICS:
            return show(console)
    return VERBS[options.verb](options, console)


def _list_suites(console: Quiet) -> int:
    from humo.evaluation.registry import SUITES

    for name, suite in SUITES.items():
        values = {"name": name, "summary": suite.summary, "metrics": list(suite.metrics)}
        console.result(f"{name:12} {suite.summary}: {', '.join(suite.metrics)}", values, kind="suite")
    return DONE


def _list_metrics(console: Quiet) -> int:
    from humo.evaluation.registry import METRICS

    for name, metric in METRICS.items():
        needs = f" (needs {', '.join(sorted(metric.needs))})" if metric.needs else ""
        values = {
            "name": name,
            "version": metric.version,
            "summary": metric.summary,
            "better": str(metric.better),
            "needs": sorted(metric.needs),
            "weights": list(metric.weights),
            "protocol": dict(metric.protocol),
        }
        console.result(f"{name:26} {metric.better:8} {metric.summary}{needs}", values, kind="metric")
    return DONE


def _paths(options: argparse.Namespace, names: Sequence[str], *, more: bool = False) -> list[Path]:
    """Return the paths that a verb takes.

    Args:
        names: what they are, for the error.
        more: any further number is allowed.
    """
    count = len(options.paths)
    if count < len(names) or (count > len(names) and not more):
        usage = f"humo evaluate {options.verb} {' '.join(names)}{' ...' if more else ''}"
        raise RequestError(" ".join(names), f"{count} paths are given, not {len(names)}", usage)
    return [Path(path) for path in options.paths]


def _metrics(options: argparse.Namespace) -> list[Metric]:
    from humo.evaluation.registry import DEFAULT_SUITE, select_metrics

    frames = None if options.frames == "all" else parse_integer("--frames", options.frames, 1, 100_000)
    names = [name.strip() for name in (options.metrics or "").split(",") if name.strip()]
    if (options.judge is None) != (options.judge_model is None):
        raise RequestError("--judge", "needs --judge-model, and the other way round", "give both")
    judge = None if options.judge is None else (options.judge, options.judge_model)
    return select_metrics(options.suite or DEFAULT_SUITE, names, frames, judge)


def _optional_integer(options: argparse.Namespace, name: str, most: int) -> int | None:
    value = getattr(options, name)
    return None if value is None else parse_integer(f"--{name}", value, 1, most)


# -- run --------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, console: Quiet) -> int:
    """Measure the videos of a source."""
    for name in ONE_THREAD:
        os.environ[name] = "1"  # read by the libraries of this process and of those it starts
    from humo.evaluation.case_sources import find_videos, read_source
    from humo.evaluation.results import read_evaluation
    from humo.evaluation.runner import check_available, run_evaluation
    from humo.runtime.device import choose_device

    source_path, folder = _paths(options, ("SOURCE", "OUT"))
    sources = (source_path if source_path.is_dir() else source_path.parent, Path(options.videos or source_path))
    if folder.resolve() in [path.resolve() for path in sources]:
        problem = f"{str(folder)!r} is the folder of the cases or videos, which must not be changed"
        raise RequestError("OUT", problem, "give another folder")
    workers = _optional_integer(options, "workers", 256) or os.cpu_count() or 1
    device = choose_device(options.device)
    selection = check_available(_metrics(options))
    source = read_source(source_path, _optional_integer(options, "limit", 1_000_000))
    videos_folder = source.videos if options.videos is None else Path(options.videos)
    if options.model is not None:
        videos_folder = folder / "videos"
        _generate(source, videos_folder, options, console)
    videos, missing = find_videos(source, videos_folder, _optional_integer(options, "seeds", 10_000))
    _announce(source, videos, len(missing), console)
    for name, why in selection.unavailable.items():
        console.note(f"{name} is not measured: {why}")
    report = run_evaluation(
        source,
        videos,
        selection,
        folder,
        label=options.label or folder.name,
        workers=workers,
        device=device,
        progress=lambda done, total: console.step("measure", done, total),
        on_problem=lambda name, text: console.note(f"{name}: {text}"),
    )
    _print_summary(folder, report, console)
    if options.report is not None:
        _write_report([read_evaluation(folder)], Path(options.report), console)
    if not report.valid:
        console.error(f"no video has a value of any metric: {report.reason}")
        return FAILED
    return SOME_FAILED if report.invalid or report.unavailable else DONE


def _generate(source: CaseSet, folder: Path, options: argparse.Namespace, console: Quiet) -> None:
    """Generate the videos of cases, or reconstruct their true clips, with ``--model``."""
    from humo.checkpoints.model_folder import find_model_folder, open_model_folder
    from humo.evaluation.generation import generate_videos, reconstruct_videos
    from humo.jobs.published_files import parse_overrides

    model_folder = find_model_folder(options.model)
    open_model_folder(model_folder)  # an unknown model is one error, not one for each case
    if options.reconstruct:
        from humo.runtime.loading import load_pipeline

        reconstruct_videos(source, folder, load_pipeline(model_folder), console.step)
        return

    def on_outcome(outcome: Outcome) -> None:
        if outcome.error is not None:
            console.note(f"{outcome.row.name} is not generated: {outcome.error}")

    generate_videos(
        source,
        folder,
        {"model": options.model, **parse_overrides(options.overrides)},
        seeds=_optional_integer(options, "seeds", 10_000),
        callback=console.progress,
        on_outcome=on_outcome,
        note=console.note,
    )


def _announce(source: CaseSet, videos: Sequence[Video], missing: int, console: Quiet) -> None:
    text = f"{source.kind}: {_counted(len(source.cases), 'case')}, {_counted(len(videos), 'video')}"
    console.note(text + (f"; cases without a video: {missing}" if missing else ""))


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _print_summary(folder: Path, report: RunReport, console: Quiet) -> None:
    from humo.cli.console import table
    from humo.evaluation.comparison import summarize, summary_values
    from humo.evaluation.results import read_evaluation, write_json

    evaluation = read_evaluation(folder)
    summaries = {name: summarize(evaluation, name) for name in evaluation.metrics}
    write_json(folder / "report.json", summary_values(evaluation))
    rows = {name: _summary_text(summary, evaluation.metrics[name]["unit"]) for name, summary in summaries.items()}
    values = {name: None if one.estimate is None else one.estimate.mean for name, one in summaries.items()}
    counts = {"videos": report.videos, "measured": report.measured, "invalid": report.invalid}
    counts |= {"missing": len(report.missing)}
    text = f"{folder}: {_counted(report.videos, 'video')}, {report.measured} measured now"
    text += f", {_counted(report.invalid, 'invalid value')}"
    console.result(f"{table(rows)}\n{text}", {**counts, "folder": str(folder), "metrics": values})


def _summary_text(summary: MetricSummary, unit: str) -> str:
    from humo.evaluation.metric import value_text

    one = summary.estimate
    invalid = f"; {summary.invalid} invalid" if summary.invalid else ""
    if one is None:
        return f"no value ({next(iter(summary.reasons), 'not measured')}){invalid}"
    return f"{value_text(one.mean, unit, one.interval)}, {_counted(one.cases, 'case')}{invalid}"


# -- video ------------------------------------------------------------------------------------------------------------


def _video(options: argparse.Namespace, console: Quiet) -> int:
    """Measure one video with the metrics of a suite."""
    from humo.cli.console import table
    from humo.evaluation.cases import Case
    from humo.evaluation.context import CaseContext
    from humo.evaluation.metric import Status, value_text
    from humo.evaluation.runner import check_available, measure_one
    from humo.files import check_file
    from humo.media.audio import load_audio
    from humo.media.image import load_image
    from humo.runtime.device import choose_device

    (path,) = _paths(options, ("FILE",))
    check_file(path, "FILE")
    selection = check_available(_metrics(options))
    case = Case(
        id=path.stem or "video",
        prompt=options.prompt or "",
        references=tuple(Path(image) for image in options.image or ()),
        audio=None if options.audio is None else Path(options.audio),
    )
    for image in options.image or ():
        load_image(Path(image), field="--image")
    if options.audio is not None:
        load_audio(Path(options.audio), field="--audio")
    context = CaseContext(case, path, choose_device(options.device))
    _ = context.clip  # an unreadable video is an error here, not a score
    rows: dict[str, object] = {}
    values: dict[str, Any] = {}
    for metric in selection.metrics:
        score = measure_one(metric, context, metric.protocol_hash(selection.checksums))
        if score.status == Status.NOT_APPLICABLE:
            continue
        values[metric.name] = score.value
        rows[metric.name] = score.reason
        if score.value is not None:
            rows[metric.name] = f"{value_text(score.value, metric.unit)} ({metric.summary})"
    for name, why in selection.unavailable.items():
        rows[name] = why
    console.result(table(rows), values)
    if (None in values.values() or values.get("face_detection_rate") == 0) and context.mesh.detection_rate == 0:
        console.error(f"no face is detected in any of {len(context.frames)} frames of {path.name}")
        return FAILED
    return DONE


# -- compare and report -----------------------------------------------------------------------------------------------


def _compare(options: argparse.Namespace, console: Quiet) -> int:
    """Compare two evaluations."""
    from humo.cli.console import table
    from humo.evaluation.comparison import compare
    from humo.evaluation.metric import value_text
    from humo.evaluation.results import read_evaluation

    evaluations = [read_evaluation(path) for path in _paths(options, ("OUT_A", "OUT_B"))]
    comparison = compare(*evaluations)
    for name, why in comparison.refused.items():
        console.note(f"{name}: {why}")
    if comparison.other_inputs:
        console.note(f"{len(comparison.other_inputs)} cases have other inputs and are left out")
    rows: dict[str, object] = {}
    for one in comparison.metrics:
        difference = one.difference
        unit = evaluations[0].metrics[one.metric]["unit"]
        text = value_text(difference.mean, unit, difference.interval, signed=True)
        needed = "" if difference.pairs_needed is None else f", {difference.pairs_needed} pairs would show it"
        wins = f"higher in {100 * difference.wins:.0f} % of {difference.cases} cases"
        rows[one.metric] = f"{text}, {wins}: {one.verdict}{needed}"
    head = f"{comparison.labels[1]} minus {comparison.labels[0]}, {comparison.cases} cases"
    console.result(f"{head}\n{table(rows)}", comparison.as_dict())
    if options.report is not None:
        _write_report(evaluations, Path(options.report), console)
    return DONE


def _report(options: argparse.Namespace, console: Quiet) -> int:
    """Write a page about evaluations."""
    from humo.evaluation.results import read_evaluation

    evaluations = [read_evaluation(path) for path in _paths(options, ("OUT",), more=True)]
    _write_report(evaluations, Path(options.report or Path(options.paths[0]) / "report.html"), console)
    return DONE


def _write_report(evaluations: Sequence[Any], path: Path, console: Quiet) -> None:
    from humo.evaluation.report import write_report

    size = write_report(evaluations, path, lambda done, total: console.step("page", done, total))
    console.result(f"{path}: {size / 1e6:.1f} MB", {"report": str(path), "bytes": size})


# -- the open benchmark -----------------------------------------------------------------------------------------------


def _benchmark(options: argparse.Namespace, console: Quiet) -> int:
    """Write the open benchmark."""
    for name in ONE_THREAD:
        os.environ[name] = "1"
    from humo.evaluation.open_benchmark.write import write_benchmark

    (folder,) = _paths(options, ("FOLDER",))
    side = None if options.truth is None else parse_integer("--truth", options.truth, 32, 1024)
    if side is not None and side % 4:
        raise RequestError("--truth", f"{side} is not a multiple of 4", f"give {side // 4 * 4 + 4}")
    cases = write_benchmark(
        folder,
        seed=parse_integer("--seed", options.seed, 0, 2**31),
        limit=_optional_integer(options, "limit", 200),
        truth_side=side,
        progress=lambda done, total: console.step("cases", done, total),
    )
    commands = f"humo batch {folder}/jobs.json --output-dir {folder}/videos; humo evaluate run {folder} OUT"
    console.result(f"{folder}: {len(cases)} cases; {commands}", {"folder": str(folder), "cases": len(cases)})
    return DONE


VERBS: Mapping[str, Callable[[argparse.Namespace, Quiet], int]] = {
    "run": _run,
    "video": _video,
    "compare": _compare,
    "report": _report,
    "weights": run_weights,
    "benchmark": _benchmark,
}
