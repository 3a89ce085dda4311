"""Refuse to read what lies beside the repository: a fresh clone has nothing there.

An audit hook sees every file and folder that Python opens in the process of the tests. Files beside the repository are
refused, except for the environment that runs the tests, temporary folders, and hidden folders such as ``~/.cache``.
"""

from __future__ import annotations

import os
import site
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

EVENTS = frozenset({"open", "os.listdir", "os.scandir", "shutil.copyfile", "shutil.copytree"})
"""Audit events whose first argument is a path that is read."""


def is_beside(path: Path, repository: Path, allowed: Iterable[Path]) -> bool:
    """Return whether an absolute path lies in the parent folder of the repository, and in no allowed folder."""
    parent = repository.parent
    if parent == Path(parent.anchor) or not path.is_relative_to(parent) or path == parent:
        return False  # of the root folder nearly everything is a part of the system
    if path.relative_to(parent).parts[0].startswith("."):
        return False
    return not any(path.is_relative_to(folder) for folder in (repository, *allowed))


def allowed_folders() -> list[Path]:
    """Return the folders of the environment that runs the tests, temporary folders, and folders of golden values."""
    named = [tempfile.gettempdir(), sys.prefix, sys.base_prefix, site.getuserbase(), sys.executable]
    named += [os.environ[name] for name in ("HUMO_GOLDEN", "PLAYWRIGHT_BROWSERS_PATH") if name in os.environ]
    named += [name for name in sys.path if name]
    return [folder for name in named for folder in (Path(os.path.abspath(name)), Path(name).resolve())]


def refuse_reads_beside(repository: Path, allowed: Iterable[Path]) -> None:
    """Fail the test that opens a file beside the repository. The hook stays for the life of the process."""
    folders = [*allowed]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
            path = Path(os.path.abspath(os.fsdecode(arguments[0])))
            if is_beside(path, repository, folders):
                pytest.fail(f"{path} lies beside the repository; a fresh clone has no such file")

    sys.addaudithook(hook)
