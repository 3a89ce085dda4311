"""Text of the code as Markdown."""

from __future__ import annotations

import inspect
import re

SECTIONS = {"Args": "takes", "Returns": "gives", "Raises": "raises", "Yields": "gives", "Note": "note"}
"""Headings in docstrings -> words of the page."""


NOTES = r"method\.md, \d+(?: and \d+)*(?:, last paragraph but one)?"
"""Docstrings name the notes on the published code, which are not on the site, by their chapters."""


def plain(text: str) -> str:
    """Text with nothing in it that Markdown would take for more, but for `code` in backquotes; fit for a table."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        piece.replace("|", "\\|") if piece.startswith("`") else re.sub(r"([\\*_\[\]|<>`{}#])", r"\\\1", piece)
        for piece in pieces
    )


def code(text: str) -> str:
    """Text as code, fit for a table."""
    return "`" + text.replace("|", "\\|") + "`"


def docstring(text: str | None) -> str:
    """A docstring with Google's sections as Markdown."""
    lines = inspect.cleandoc(text or "").replace("``", "`").splitlines()
    made: list[str] = []
    section = ""
    for line in lines:
        heading = line.removesuffix(":")
        if line.endswith(":") and heading in SECTIONS:
            section = SECTIONS[heading]
            made += ["", f"*{section}*", ""]
        elif section and line.startswith("    ") and not line.startswith("     ") and made[-1].endswith(","):
            made[-1] = _entry(f"{made[-1].removeprefix('- ')} {line.strip()}", named=True)  # names of several lines
        elif section and line.startswith("    ") and not line.startswith("     "):
            made.append(_entry(line.strip(), named=section in ("takes", "raises")))
        elif section and line.startswith("     "):
            made[-1] += f" {line.strip()}"
        else:
            section = "" if line and not line.startswith(" ") else section
            made.append(line)
    told = re.sub(NOTES, "the published code", "\n".join(made))
    return re.sub("\n{3,}", "\n\n", told).strip()


def _entry(line: str, *, named: bool) -> str:
    name, colon, rest = line.partition(": ")
    if named and colon and re.fullmatch(r"[\w, .*]+", name):
        return f"- `{name}`: {rest}"
    return f"- {line}"
