"""Generate the page of commands: every option of every command, read from the argument parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from humo.cli.main import COMMANDS, build_parser
from humo.cli.options import Parser
from tools.docs_reference.markdown import code, plain

GENERATE = "generate"
"""The command under which the options of a request are listed; other commands link to it."""

COMMON_OPTION, REQUEST_OPTION = "--json", "--scale-text"
"""Options that identify a group: the options of every command, and those that are a request's fields."""

HEAD = """# Command reference

This page lists what `humo COMMAND --help` prints. [The command line](../command-line.md) explains what the commands do
and their exit codes.

Every command accepts these options:

{common}
"""


def page() -> str:
    """Return the page in Markdown."""
    parsers = {name: build_parser(name) for name in COMMANDS}
    common = next(group for group in _groups(parsers[GENERATE]) if _has(group, COMMON_OPTION))
    sections = [HEAD.format(common=_table(common._group_actions))]
    for name, parser in parsers.items():
        summary = _as_sentence(COMMANDS[name].summary)
        sections.append(f"## humo {name}\n\n{summary}\n\n```text\n{_usage(parser)}\n```\n")
        for group in _groups(parser):
            actions = [action for action in group._group_actions if action.option_strings != ["-h", "--help"]]
            if _has(group, REQUEST_OPTION) and name != GENERATE:
                sections.append(
                    f"This command also accepts the request options of [humo {GENERATE}](#humo-{GENERATE}).\n"
                )
            elif actions and not _has(group, COMMON_OPTION):
                sections.append(f"{_title(group)}{_table(actions)}\n")
    return "\n".join(sections)


def _groups(parser: Parser) -> list[argparse._ArgumentGroup]:
    return parser._action_groups


def _has(group: argparse._ArgumentGroup, option: str) -> bool:
    return any(option in action.option_strings for action in group._group_actions)


def _title(group: argparse._ArgumentGroup) -> str:
    if group.title in ("positional arguments", "options"):
        return ""
    description = f": {plain(group.description)}" if group.description else ""
    return f"*{plain(group.title or '')}*{description}\n\n"


def _usage(parser: Parser) -> str:
    usage = parser.usage or parser.format_usage().removeprefix("usage: ").strip()
    return "\nhumo ".join(line.strip() for line in usage.split(" | humo "))


def _table(actions: Iterable[argparse.Action]) -> str:
    rows = list(actions)
    kind = "option" if rows[0].option_strings else "argument"
    lines = (f"| {_name(action)} | {plain((action.help or '').replace('%%', '%'))} |" for action in rows)
    return f"| {kind} | description |\n|---|---|\n" + "\n".join(lines)


def _name(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else ""
    if not action.option_strings:
        return code(value or action.dest)
    is_flag = action.nargs == 0
    suffix = "" if is_flag else f" {value or action.dest.upper()}"
    return "<br>".join(code(option + suffix) for option in action.option_strings)


def _as_sentence(text: str) -> str:
    return plain(text[0].upper() + text[1:]) + "."
