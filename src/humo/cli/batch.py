"""``humo batch``: the videos of a file of requests."""

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
    from humo.jobs.batch import RunRows
    from humo.jobs.request_files import Row

SUMMARY = "make the videos of a file of requests"


def add_options(parser: Parser) -> None:
    """Add the options of ``humo batch``."""
    parser.usage = "humo batch FILE [--output-dir FOLDER] [options for all rows] [--config FILE [key=value ...]]"
    parser.add_argument("file", metavar="FILE", help="a published test_case.json, or JSON, JSONL, CSV, YAML, TOML")
    parser.add_argument("--output-dir", metavar="FOLDER", help="where videos go; default: the current folder")
    parser.add_argument("--overwrite", action="store_true", help="make every row anew, whatever is there")
    parser.add_argument("--dry-run", action="store_true", help="look at every row, and load nothing")
    text = "workers in the Ray cluster with its head at HOST:PORT, or local: made here; all see the same folders"
    parser.add_argument("--ray", metavar="ADDRESS", help=text)
    text = "with --ray; by default one a GPU, or one a machine where there are none"
    parser.add_argument("--workers", metavar="N", help=text)
    add_config_option(parser)
    add_request_options(parser)


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo batch``.

    Returns:
        the exit code.
    """
    from humo.jobs.generate import merge_fields

    given = given_fields(options)
    if "output" in given:
        raise RequestError(
            "--output", "names one video, and a batch makes several", "use --output-dir, or field output"
        )
    if options.ray is not None:
        check_ray_address(options.ray)
    elif options.workers is not None:
        raise RequestError("--workers", "is said of a Ray cluster", "give --ray ADDRESS, too")
    job = read_config(options.config, rest, console)
    folder = options.output_dir or job.output_folder
    return run_rows(Path(options.file), merge_fields(job.fields, given), folder, options, console)


def run_rows(
    path: Path, defaults: Mapping[str, Any], folder: str | None, options: argparse.Namespace, console: Quiet
) -> int:
    """Make the rows of a batch file.

    Returns:
        the exit code.
    """
    from humo.cli.report import describe_outcome, describe_summary
    from humo.jobs.batch import Outcome, exit_code, run_batch, run_locally
    from humo.jobs.engine import Engine
    from humo.jobs.request_files import read_rows

    rows = read_rows(path)

    def tell(outcome: Outcome) -> None:
        text, values = describe_outcome(outcome)
        if outcome.error is not None:
            console.error(text, **values)
            if options.debug:
                traceback.print_exception(outcome.error)
        else:
            console.result(text, values, kind="row")

    def announce(row: Row, notes: Sequence[str]) -> None:
        for note in notes:
            console.note(f"row {row.number} ({row.name}): {note}")

    def begin(row: Row) -> None:
        console.start_row(row.number, row.name)

    make = run_locally(Engine(note=console.note), console.progress, begin)
    if getattr(options, "ray", None) is not None and not options.dry_run:
        make = _run_on_ray(options)
    outcomes = run_batch(
        rows,
        defaults=defaults,
        output_folder=None if folder is None else output_folder(folder),
        overwrite=getattr(options, "overwrite", False),
        dry_run=options.dry_run,
        make=make,
        report=tell,
        announce=announce,
    )
    code = exit_code(outcomes)
    console.result(*describe_summary(outcomes, code), kind="summary")
    return code


def _run_on_ray(options: argparse.Namespace) -> RunRows:
    """By workers in a Ray cluster."""
    check_installed("ray")
    from humo.jobs.ray_batch import run_on_ray

    workers = None if options.workers is None else parse_integer("--workers", options.workers, 1, 10_000)
    return run_on_ray(options.ray, workers)


def output_folder(name: str) -> Path:
    """A folder to write into: it is there, or it can be made, which the first file in it does."""
    from humo.errors import StorageError
    from humo.files import create_parents

    folder = Path(name)
    try:
        with create_parents(folder / "a"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError("output folder", f"{name!r} cannot be made: {reason}", "name another") from error
    return folder
