"""Turn text and docstrings of the code into Markdown."""

from __future__ import annotations

import inspect
import re

SECTIONS = {"Args": "Arguments", "Returns": "Returns", "Raises": "Raises", "Yields": "Yields", "Note": "Note"}
"""Section names of Google-style docstrings -> headings on the page."""

LISTED_SECTIONS = ("Args", "Raises")
"""Sections whose entries begin with a name."""


def plain(text: str) -> str:
    """Escape Markdown's special characters, except in `code` spans; the result fits into a table cell."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        piece.replace("|", "\\|") if piece.startswith("`") else re.sub(r"([\\*_\[\]|<>`{}#])", r"\\\1", piece)
        for piece in pieces
    )


def code(text: str) -> str:
    """Format text as a code span that fits into a table cell."""
    return "`" + text.replace("|", "\\|") + "`"


def docstring(text: str | None) -> str:
    """Convert a Google-style docstring to Markdown."""
    lines = inspect.cleandoc(text or "").replace("``", "`").splitlines()
    output: list[str] = []
    section = ""
    for line in lines:
        heading = line.removesuffix(":")
        is_entry = section and line.startswith("    ") and not line.startswith("     ")
        if line.endswith(":") and heading in SECTIONS:
            section = heading
            output += ["", f"*{SECTIONS[heading]}*", ""]
        elif is_entry and output[-1].endswith(","):  # a list of names that continues on this line
            output[-1] = _entry(f"{output[-1].removeprefix('- ')} {line.strip()}", named=True)
        elif is_entry:
            output.append(_entry(line.strip(), named=section in LISTED_SECTIONS))
        elif section and line.startswith("     "):
            output[-1] += f" {line.strip()}"
        else:
            section = "" if line and not line.startswith(" ") else section
            output.append(line)
    return collapse_blank_lines("\n".join(output)).strip()


def collapse_blank_lines(text: str) -> str:
    """Replace several blank lines in a row with one."""
    return re.sub("\n{3,}", "\n\n", text)


def _entry(line: str, *, named: bool) -> str:
    name, colon, rest = line.partition(": ")
    if named and colon and re.fullmatch(r"[\w, .*]+", name):
        return f"- `{name}`: {rest}"
    return f"- {line}"
