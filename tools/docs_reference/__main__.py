"""Run as ``python -m tools.docs_reference FOLDER`` to write the pages."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.docs_reference import commands, errors, python, service

PAGES = {"commands": commands.page, "http": service.page, "python": python.page, "errors": errors.page}
"""File name without extension -> function that returns the page."""


def write(folder: Path) -> list[Path]:
    """Write all pages and return their paths.

    Args:
        folder: created if it does not exist. Any other Markdown file in it is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    written = []
    for name, page in PAGES.items():
        written.append(folder / f"{name}.md")
        written[-1].write_text(page(), encoding="utf-8")
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.docs_reference FOLDER")
    for path in write(Path(sys.argv[1])):
        print(path)
