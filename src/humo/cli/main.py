"""The ``humo`` command and its words (`COMMANDS`): what is asked for, and what a run ends with.

Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 3 some rows of a batch failed, 130 interrupted.
Nothing heavy is imported until a command needs it: help costs a fraction of a second.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from humo import __version__
from humo.cli import data as data_command
from humo.cli import doctor as doctor_command
from humo.cli import evaluate as evaluate_command
from humo.cli import models as models_command
from humo.cli import plan as plan_command
from humo.cli import serve as serve_command
from humo.cli import train as train_command
from humo.cli import verify as verify_command
from humo.cli.console import BYTES, Quiet, choose_console
from humo.cli.options import (
    Parser,
    add_request_options,
    check_installed,
    check_ray_address,
    given_fields,
    parse_integer,
)
from humo.errors import HuMoError, RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.jobs.batch import RunRows
    from humo.jobs.request_files import RequestFile, Row
    from humo.request import GenerationPlan

DONE, FAILED, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""


@dataclass(frozen=True, slots=True)
class Command:
    """A word after ``humo``: what it does in a line, its options, and the doing."""

    summary: str
    add_options: Callable[[Parser], None]
    act: Callable[[argparse.Namespace, list[str], Quiet], int]


def main(words: Sequence[str]) -> int:
    """Do what the words ask for.

    Args:
        words: the command line without the program's name.

    Returns:
        the exit code; what went wrong has been said in one line.
    """
    helps = os.environ.get("RANK", "0") != "0"  # one of several under torchrun, of which the first one speaks
    console = choose_console(as_json="--json" in words and not helps, quiet="--quiet" in words or helps)
    try:
        with _terminable():
            return _dispatch(list(words), console)
    except HuMoError as error:
        console.error(f"rank {os.environ['RANK']}: {error}" if helps else error)
        return USAGE
    except KeyboardInterrupt:
        console.error("interrupted; nothing unfinished was left")
        return INTERRUPTED
    except SystemExit as done:  # argparse, after --help and --version
        return done.code if isinstance(done.code, int) else DONE
    except BrokenPipeError:  # whoever read the output is gone, and nobody is left to tell
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        return FAILED
    except Exception as error:  # noqa: BLE001 - a fault of ours: one line, and how to see more
        console.error(f"failed: {type(error).__name__}: {error} (add --debug for the traceback)")
        if "--debug" in words:
            traceback.print_exc()
        return FAILED
    finally:
        console.close()


def build_parser(name: str) -> Parser:
    """The parser of the words after ``humo NAME``, one of `COMMANDS`."""
    command = COMMANDS[name]
    parser = Parser(prog=f"humo {name}", description=command.summary)
    command.add_options(parser)
    group = parser.add_argument_group("how it is told")
    group.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    group.add_argument("--quiet", action="store_true", help="nothing but errors")
    group.add_argument("--debug", action="store_true", help="the traceback of an unexpected failure")
    return parser


def _dispatch(words: list[str], console: Quiet) -> int:
    name = words[0] if words else ""
    if name in COMMANDS:
        return COMMANDS[name].act(*build_parser(name).parse_with_rest(words[1:]), console)
    listing = "\n".join(f"  {name:10} {command.summary}" for name, command in COMMANDS.items())
    parser = Parser(prog="humo", usage="humo COMMAND [options]", epilog=f"commands:\n{listing}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"humo {__version__}")
    _, rest = parser.parse_with_rest(words)
    if not rest:
        raise RequestError("command", "is missing", f"known are {', '.join(COMMANDS)}; see humo --help")
    raise RequestError("command", f"{rest[0]!r} is not known", did_you_mean(rest[0], COMMANDS))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: with nothing half-written."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, which alone may do this
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -- generate ---------------------------------------------------------------------------------------------------------


def _generate_options(parser: Parser) -> None:
    parser.usage = "humo generate --model FOLDER --prompt TEXT [options] [--config FILE [key=value ...]]"
    source = parser.add_argument_group("where the request comes from; options outdo both")
    source.add_argument("--from", dest="again", metavar="FILE", help="a video made before, or its .json: make it again")
    _config_option(source)
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and load nothing")
    parser.add_argument("--preview", action="store_true", help="show what is finished of the video while it is made")
    together = parser.add_argument_group("one clip on several GPUs, under torchrun --no-python")
    text = "which passes and places of the frame the processes divide: auto, or numbers of processes, as 2x4"
    together.add_argument("--parallel", metavar="PASSESxPLACES", help=text)
    text = "the weights of the network and the text encoder are divided, too: for those that fit no GPU whole"
    together.add_argument("--shard", action="store_true", help=text)
    add_request_options(parser)


def _config_option(group: Any) -> None:
    text = "a TOML, YAML or JSON file of a request's fields, or a published generate.yaml; key=value words change it"
    group.add_argument("--config", metavar="FILE", help=text)


def _generate(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    from humo.cli.report import describe_plan, describe_result
    from humo.jobs.engine import Engine
    from humo.jobs.generate import build_request, generate, merge_fields, prepare_job, preview_path

    given = given_fields(options)
    if options.again is not None and options.config is not None:
        raise RequestError("--from", "and --config cannot both be given", "give one, and options for the rest")
    job = _read_config(options.config, rest, console)
    if job.items is not None and "prompt" not in given:
        if "output" in given:
            raise RequestError("--output", f"names one video, and {job.items.name} asks for several", "set output.dir")
        return _make_rows(job.items, merge_fields(job.fields, given), job.output_folder, options, console)
    below = dict(job.fields)
    if job.output_folder is not None:
        below["output"] = str(_folder(job.output_folder) / "out.mp4")
    if options.again is not None:
        from humo.jobs.replay import read_request

        below = read_request(Path(options.again), given)
        if "output" not in given:
            console.note(f"the video is written to {below['output']}")
    plan = prepare_job(build_request(merge_fields(below, given)))
    _compare_family(job.family, plan.preset.name, console)
    for note in plan.notes:
        # of what a record repeats, nobody needs to hear again
        if options.again is None or note.split()[0] not in below.keys() - given.keys():
            console.note(note)
    if options.dry_run:
        console.result(*describe_plan(plan), kind="plan")
        return DONE
    if options.preview:
        console.note(f"what is finished can be played from {preview_path(Path(plan.request.output))} while it is made")
    if options.parallel is not None:
        return _generate_together(plan, options, console)
    if options.shard:
        raise RequestError("--shard", "is for several processes", "add --parallel auto, under torchrun")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError("--parallel", "is missing, and there are several processes", "add --parallel auto")
    console.result(
        *describe_result(
            generate(plan, engine=Engine(note=console.note), listener=console.progress, preview=options.preview)
        )
    )
    return DONE


def _generate_together(plan: GenerationPlan, options: argparse.Namespace, console: Quiet) -> int:
    """As one of several ranks; the first one writes the video and tells of it."""
    from humo.cli.report import describe_result
    from humo.distributed.process_group import Crew, ranks
    from humo.jobs.engine import Engine
    from humo.jobs.generate import generate, generate_as_worker_rank

    with ranks(plan.request.device) as here:
        engine = Engine(Crew(here, options.parallel, shard=options.shard), console.note)
        if not here.first:
            generate_as_worker_rank(plan, engine=engine)
            return DONE
        made = generate(plan, engine=engine, listener=console.progress, preview=options.preview)
    console.result(*describe_result(made))
    return DONE


def _read_config(path: str | None, overrides: list[str], console: Quiet) -> RequestFile:
    from humo.jobs.request_files import RequestFile, read_request_file

    if path is None:
        if overrides:
            problem = "is not an option, and there is no --config that it could change"
            raise RequestError(overrides[0], problem, "write --name value, or give --config FILE beside it")
        return RequestFile()
    job = read_request_file(Path(path), overrides)
    for note in job.notes:
        console.note(note)
    return job


def _compare_family(wanted: str | None, found: str, console: Quiet) -> None:
    if wanted not in (None, found):
        console.note(f"the configuration was written for {wanted}, and the model folder holds {found}")


def _folder(name: str) -> Path:
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


# -- batch ------------------------------------------------------------------------------------------------------------


def _batch_options(parser: Parser) -> None:
    parser.usage = "humo batch FILE [--output-dir FOLDER] [options for all rows] [--config FILE [key=value ...]]"
    parser.add_argument("file", metavar="FILE", help="a published test_case.json, or JSON, JSONL, CSV, YAML, TOML")
    parser.add_argument("--output-dir", metavar="FOLDER", help="where videos go; default: the current folder")
    parser.add_argument("--overwrite", action="store_true", help="make every row anew, whatever is there")
    parser.add_argument("--dry-run", action="store_true", help="look at every row, and load nothing")
    text = "workers in the Ray cluster with its head at HOST:PORT, or local: made here; all see the same folders"
    parser.add_argument("--ray", metavar="ADDRESS", help=text)
    text = "with --ray; by default one a GPU, or one a machine where there are none"
    parser.add_argument("--workers", metavar="N", help=text)
    _config_option(parser)
    add_request_options(parser)


def _batch(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
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
    job = _read_config(options.config, rest, console)
    folder = options.output_dir or job.output_folder
    return _make_rows(Path(options.file), merge_fields(job.fields, given), folder, options, console)


def _make_rows(
    path: Path, defaults: Mapping[str, Any], folder: str | None, options: argparse.Namespace, console: Quiet
) -> int:
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
        make = _make_elsewhere(options)
    outcomes = run_batch(
        rows,
        defaults=defaults,
        output_folder=None if folder is None else _folder(folder),
        overwrite=getattr(options, "overwrite", False),
        dry_run=options.dry_run,
        make=make,
        report=tell,
        announce=announce,
    )
    code = exit_code(outcomes)
    console.result(*describe_summary(outcomes, code), kind="summary")
    return code


def _make_elsewhere(options: argparse.Namespace) -> RunRows:
    """By workers in a Ray cluster."""
    check_installed("ray")
    from humo.jobs.ray_batch import run_on_ray

    workers = None if options.workers is None else parse_integer("--workers", options.workers, 1, 10_000)
    return run_on_ray(options.ray, workers)


# -- convert ----------------------------------------------------------------------------------------------------------


def _convert_options(parser: Parser) -> None:
    parser.usage = "humo convert SOURCE [SOURCE ...] DESTINATION [options]"
    text = "downloaded folders or weights files (published, ComfyUI's, or a model folder), then the folder to make"
    parser.add_argument("paths", nargs="+", metavar="SOURCE ... DESTINATION", help=text)
    parser.add_argument("--to", default="ours", metavar="{ours,published}", help="names and tree to write")
    parser.add_argument("--back", dest="to", action="store_const", const="published", help="the same as --to published")
    parser.add_argument("--family", metavar="{humo-17b,humo-1.7b}", help="which one, if the source holds both")
    parser.add_argument("--dtype", metavar="{bf16,fp16,fp32}", help="type of all weights; default: as they are")
    parser.add_argument("--head-width", metavar="N", help="channels of an attention head, where no file tells")
    kept = "the network's blocks stay quantised, in the file and in memory (GGUF, fp8); default: made into bf16"
    parser.add_argument("--keep-quantised", action="store_true", help=kept)
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder that is there")


def _convert(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    from humo.checkpoints.convert import convert
    from humo.cli.report import describe_conversion

    *sources, destination = options.paths + rest
    if not sources:
        raise RequestError("DESTINATION", "is missing", "humo convert SOURCE DESTINATION")
    head_width = options.head_width
    if head_width is not None and not (head_width.isdecimal() and int(head_width) > 0):
        raise RequestError("--head-width", f"{head_width!r} is not a number of channels", "give a whole number")
    report = convert(
        [Path(source) for source in sources],
        Path(destination),
        family=options.family,
        naming=options.to,
        dtype=options.dtype,
        head_width=None if head_width is None else int(head_width),
        keep_quantised=options.keep_quantised,
        overwrite=options.overwrite,
        progress=lambda part, done, total: console.step(part, done, total, BYTES),
    )
    for note in report.notes:
        console.note(note)
    console.result(*describe_conversion(report))
    return DONE


COMMANDS = {
    "generate": Command("make one video from words, pictures and a sound", _generate_options, _generate),
    "batch": Command("make the videos of a file of requests", _batch_options, _batch),
    "train": Command(train_command.SUMMARY, train_command.add_options, train_command.act),
    "data": Command(data_command.SUMMARY, data_command.add_options, data_command.act),
    "evaluate": Command(evaluate_command.SUMMARY, evaluate_command.add_options, evaluate_command.act),
    "verify": Command(verify_command.SUMMARY, verify_command.add_options, verify_command.act),
    "models": Command(models_command.SUMMARY, models_command.add_options, models_command.act),
    "serve": Command(serve_command.SUMMARY, serve_command.add_options, serve_command.act),
    "ui": Command(serve_command.PAGE_SUMMARY, serve_command.add_page_options, serve_command.act_page),
    "plan": Command(plan_command.SUMMARY, plan_command.add_options, plan_command.act),
    "doctor": Command(doctor_command.SUMMARY, doctor_command.add_options, doctor_command.act),
    "convert": Command("make a model folder of downloaded weights, or the reverse", _convert_options, _convert),
}
