"""``humo doctor``: is this installation well, and if not, what to do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from humo.cli.options import Parser
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet

SUMMARY = "look at this installation: what it can do, what is wrong, how to mend it"

WELL, ILL = 0, 1
"""Exit codes."""

MARKS = {"good": "ok     ", "warning": "warning", "error": "ERROR  "}


def add_options(parser: Parser) -> None:
    """The options of ``humo doctor``."""
    parser.usage = "humo doctor [--model FOLDER]"
    parser.add_argument("--model", metavar="FOLDER", help="a model folder to look at, too")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Tell each finding as it comes.

    Returns:
        1 if there is an error among them.
    """
    if rest:
        raise RequestError(rest[0], "is not an option of humo doctor", "see humo doctor --help")
    from humo.cli.checks import Severity, examine

    counts = dict.fromkeys(Severity, 0)
    for one in examine(None if options.model is None else Path(options.model)):
        counts[one.severity] += 1
        line = f"{MARKS[one.severity]}  {one.check:10} {one.text}" + (f" -> {one.remedy}" if one.remedy else "")
        console.result(line, one.as_dict(), kind="finding")
    errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
    text = "this installation is well" if not errors + warnings else f"{errors} errors, {warnings} warnings"
    console.result(text, {"errors": errors, "warnings": warnings})
    return ILL if errors else WELL
