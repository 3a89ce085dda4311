"""``humo batch``: generate the videos of a file of requests."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.options import (
    Parser,
    add_config_option,
    add_request_options,
    check_installed,
    check_ray_address,
    given_fields,
    parse_integer,
    read_config,
)
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.jobs.batch import Outcome, RunRows
    from humo.jobs.request_files import Row

SUMMARY = "generate the videos of a file of requests"


def add_options(parser: Parser) -> None:
    """Add the options of ``humo batch``."""
    parser.usage = "humo batch FILE [--output-dir FOLDER] [options for all rows] [--config FILE [key=value ...]]"
    parser.add_argument("file", metavar="FILE", help="a published test_case.json, or JSON, JSONL, CSV, YAML, TOML")
    parser.add_argument("--output-dir", metavar="FOLDER", help="folder of the videos (default: the current folder)")
    parser.add_argument("--overwrite", action="store_true", help="generate every row, even if its video exists")
    parser.add_argument("--dry-run", action="store_true", help="check every row; load no model")
    text = "use workers in the Ray cluster with its head at HOST:PORT, or start one here with local"
    parser.add_argument("--ray", metavar="ADDRESS", help=text)
    text = "number of workers with --ray (default: one per GPU, or one per machine without GPUs)"
    parser.add_argument("--workers", metavar="N", help=text)
    add_config_option(parser)
    add_request_options(parser)


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo batch``.

    Returns:
        the exit code.
    """
    from humo.jobs.generate import merge_fields

    overrides = given_fields(options)
    if "output" in overrides:
        raise RequestError("--output", "names one video, but a batch writes several", "use --output-dir FOLDER")
    if options.ray is not None:
        check_ray_address(options.ray)
    elif options.workers is not None:
        raise RequestError("--workers", "requires --ray", "add --ray ADDRESS")
    config = read_config(options.config, rest, console)
    folder = options.output_dir or config.output_folder
    return run_rows(Path(options.file), merge_fields(config.fields, overrides), folder, options, console)


def run_rows(
    path: Path, defaults: Mapping[str, Any], folder: str | None, options: argparse.Namespace, console: Quiet
) -> int:
    """Generate the rows of a batch file and report each.

    Args:
        path: the batch file.
        defaults: fields of a request for all rows.
        folder: folder of the videos; by default the current one.
        options: of ``humo batch`` or ``humo generate``.
        console: where outcomes are reported.

    Returns:
        the exit code.
    """
    from humo.cli.report import describe_outcome, describe_summary
    from humo.jobs.batch import exit_code, run_batch
    from humo.jobs.request_files import read_rows

    rows = read_rows(path)

    def on_outcome(outcome: Outcome) -> None:
        text, values = describe_outcome(outcome)
        if outcome.error is None:
            console.result(text, values, kind="row")
            return
        console.error(text, **values)
        if options.debug:
            traceback.print_exception(outcome.error)

    def on_notes(row: Row, notes: Sequence[str]) -> None:
        for note in notes:
            console.note(f"row {row.number} ({row.name}): {note}")

    outcomes = run_batch(
        rows,
        defaults=defaults,
        run_rows=_choose_runner(options, console),
        output_folder=None if folder is None else output_folder(folder),
        overwrite=getattr(options, "overwrite", False),
        dry_run=options.dry_run,
        on_outcome=on_outcome,
        on_notes=on_notes,
    )
    code = exit_code(outcomes)
    console.result(*describe_summary(outcomes, code), kind="summary")
    return code


def _choose_runner(options: argparse.Namespace, console: Quiet) -> RunRows:
    """Return what generates the rows: workers in a Ray cluster with ``--ray``, else this process."""
    if getattr(options, "ray", None) is not None and not options.dry_run:
        check_installed("ray")
        from humo.jobs.ray_batch import run_on_ray

        workers = None if options.workers is None else parse_integer("--workers", options.workers, 1, 10_000)
        return run_on_ray(options.ray, workers)
    from humo.jobs.batch import run_locally
    from humo.jobs.engine import Engine

    engine = Engine(note=console.note)
    return run_locally(engine, console.progress, lambda row: console.start_row(row.number, row.name))


def output_folder(name: str) -> Path:
    """Check that a folder exists or can be created; the first file in it creates it.

    Raises:
        StorageError: it cannot be created.
    """
    from humo.errors import StorageError
    from humo.files import create_parents, os_error_text

    folder = Path(name)
    try:
        with create_parents(folder / "a"):
            pass
    except (OSError, ValueError) as error:
        problem = f"{name!r} cannot be created ({os_error_text(error)})"
        raise StorageError("output folder", problem, "give another --output-dir") from error
    return folder
