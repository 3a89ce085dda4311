"""The ``humo`` command: `main` dispatches to `COMMANDS` and turns errors into exit codes (`humo.cli.exit_codes`).

Heavy libraries are imported by the commands that need them, so that ``--help`` takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from humo import __version__
from humo.cli import batch as batch_command
from humo.cli import convert as convert_command
from humo.cli import data as data_command
from humo.cli import doctor as doctor_command
from humo.cli import evaluate as evaluate_command
from humo.cli import generate as generate_command
from humo.cli import models as models_command
from humo.cli import plan as plan_command
from humo.cli import serve as serve_command
from humo.cli import train as train_command
from humo.cli import verify as verify_command
from humo.cli.console import Quiet, choose_console
from humo.cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE
from humo.cli.options import Parser
from humo.errors import HuMoError, RequestError, did_you_mean


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand of ``humo``.

    Args:
        summary: what it does, in one line.
        add_options: adds its options to a parser.
        act: runs it and returns the exit code.
    """

    summary: str
    add_options: Callable[[Parser], None]
    act: Callable[[argparse.Namespace, list[str], Quiet], int]


def main(argv: Sequence[str]) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name.

    Returns:
        the exit code; an error has been printed in one line.
    """
    is_worker_rank = os.environ.get("RANK", "0") != "0"  # under torchrun, the main rank alone prints
    console = choose_console(as_json="--json" in argv and not is_worker_rank, quiet="--quiet" in argv or is_worker_rank)
    try:
        with _terminable():
            return _dispatch(list(argv), console)
    except HuMoError as error:
        console.error(f"rank {os.environ['RANK']}: {error}" if is_worker_rank else error)
        return USAGE
    except KeyboardInterrupt:
        console.error("interrupted; no unfinished file was left behind")
        return INTERRUPTED
    except SystemExit as done:  # argparse, after --help and --version
        return done.code if isinstance(done.code, int) else DONE
    except BrokenPipeError:  # the reader of the output has exited
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        return FAILED
    except Exception as error:  # noqa: BLE001 - a bug: print one line, and the option that prints more
        console.error(f"failed: {type(error).__name__}: {error} (add --debug to print the traceback)")
        if "--debug" in argv:
            traceback.print_exc()
        return FAILED
    finally:
        console.close()


def build_parser(name: str) -> Parser:
    """Return the parser of a command.

    Args:
        name: one of `COMMANDS`.
    """
    command = COMMANDS[name]
    parser = Parser(prog=f"humo {name}", description=command.summary)
    command.add_options(parser)
    group = parser.add_argument_group("messages")
    group.add_argument("--json", action="store_true", help="print one JSON object per line on stdout")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    group.add_argument("--debug", action="store_true", help="print the traceback of an unexpected error")
    return parser


def _dispatch(argv: list[str], console: Quiet) -> int:
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    name = argv[0] if argv else ""
    if "--help" in argv or "-h" in argv:
        argv = [*[argument for argument in argv if argument not in ("--help", "-h")][:1], "--help"]
    if name in COMMANDS:
        return COMMANDS[name].act(*build_parser(name).parse_with_rest(argv[1:]), console)
    listing = "\n".join(f"  {name:10} {command.summary}" for name, command in COMMANDS.items())
    parser = Parser(prog="humo", usage="humo COMMAND [options]", epilog=f"commands:\n{listing}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"humo {__version__}")
    _, rest = parser.parse_with_rest(argv or ["--help"])
    raise RequestError("command", f"{rest[0]!r} is not known", did_you_mean(rest[0], COMMANDS))


@contextmanager
def _terminable() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C inside the block: no unfinished file is left behind."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may set a signal handler
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


COMMANDS = {
    "generate": Command(generate_command.SUMMARY, generate_command.add_options, generate_command.act),
    "batch": Command(batch_command.SUMMARY, batch_command.add_options, batch_command.act),
    "train": Command(train_command.SUMMARY, train_command.add_options, train_command.act),
    "data": Command(data_command.SUMMARY, data_command.add_options, data_command.act),
    "evaluate": Command(evaluate_command.SUMMARY, evaluate_command.add_options, evaluate_command.act),
    "verify": Command(verify_command.SUMMARY, verify_command.add_options, verify_command.act),
    "models": Command(models_command.SUMMARY, models_command.add_options, models_command.act),
    "serve": Command(serve_command.SUMMARY, serve_command.add_options, serve_command.act),
    "ui": Command(serve_command.PAGE_SUMMARY, serve_command.add_page_options, serve_command.act_page),
    "plan": Command(plan_command.SUMMARY, plan_command.add_options, plan_command.act),
    "doctor": Command(doctor_command.SUMMARY, doctor_command.add_options, doctor_command.act),
    "convert": Command(convert_command.SUMMARY, convert_command.add_options, convert_command.act),
}
