"""The page of commands: every option of every command, read from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from humo.cli.main import COMMANDS, parser_of
from humo.cli.options import Parser
from tools.docs_reference.markdown import code, plain

EVERYWHERE = "how it is told"
"""The group of options that every command has."""

REQUEST, FIRST = "request", "generate"
"""The group of options that are a request's fields, and the command at which they are told."""

HEAD = """# Every option

What `humo COMMAND --help` says. What the commands do and say, and their exit codes: [the command](../command-line.md).

Every command also takes

{everywhere}
"""


def page() -> str:
    """The page, in Markdown."""
    parsers = {name: parser_of(name) for name in COMMANDS}
    shared = next(group for group in _groups(parsers["generate"]) if group.title == EVERYWHERE)
    parts = [HEAD.format(everywhere=_table(shared._group_actions))]
    for name, parser in parsers.items():
        parts.append(f"## humo {name}\n\n{_sentence(COMMANDS[name].summary)}\n\n```text\n{_usage(parser)}\n```\n")
        for group in _groups(parser):
            actions = [action for action in group._group_actions if action.option_strings != ["-h", "--help"]]
            if group.title == REQUEST and name != FIRST:
                parts.append(f"And the options of a request, as those of [humo {FIRST}](#humo-{FIRST}).\n")
            elif actions and group.title != EVERYWHERE:
                parts.append(f"{_title(group)}{_table(actions)}\n")
    return "\n".join(parts)


def _groups(parser: Parser) -> list[argparse._ArgumentGroup]:
    return parser._action_groups


def _title(group: argparse._ArgumentGroup) -> str:
    if group.title in ("positional arguments", "options"):
        return ""
    about = f": {plain(group.description)}" if group.description else ""
    return f"*{plain(group.title or '')}*{about}\n\n"


def _usage(parser: Parser) -> str:
    told = parser.usage or parser.format_usage().removeprefix("usage: ").strip()
    return "\n".join(part.strip() for part in told.split(" | humo ")).replace("\n", "\nhumo ")


def _table(actions: Iterable[argparse.Action]) -> str:
    told = list(actions)
    rows = (f"| {_name(action)} | {plain((action.help or '').replace('%%', '%'))} |" for action in told)
    kind = "option" if told[0].option_strings else "word"
    return f"| {kind} | means |\n|---|---|\n" + "\n".join(rows)


def _name(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else ""
    if not action.option_strings:
        return code(value or action.dest)
    takes_none = action.nargs == 0
    values = "" if takes_none else f" {value or action.dest.upper()}"
    return "<br>".join(code(flag + values) for flag in action.option_strings)


def _sentence(text: str) -> str:
    return plain(text[0].upper() + text[1:]) + "."
