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
