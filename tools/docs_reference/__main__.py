"""``python -m tools.docs_reference FOLDER``: write the pages."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.docs_reference import commands, errors, python, service

PAGES = {"commands": commands.page, "http": service.page, "python": python.page, "errors": errors.page}
"""Name of the file, without its ending -> what makes it."""


def write(folder: Path) -> list[Path]:
    """Write all pages, and remove what an earlier version wrote.

    Args:
        folder: theirs alone; made if it is not there.
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
