"""A fresh clone is complete: nothing beside it is read, and every imported package is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY
from tests.outside import is_beside

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OWN = frozenset(
    {"humo", "tests", "tools", "comfy", "comfy_api", "folder_paths"} | {path.stem for path in REPOSITORY.glob("*/*.py")}
)
"""Modules of the repository, and of ComfyUI, which the nodes run in."""
DISTRIBUTIONS = {**packages_distributions(), "dlib": ["dlib-bin"]}
"""Import name -> distributions; the file of dlib-bin is a compiled module that no list names."""


def normalize(name: str) -> str:
    """Return the name of a distribution as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*groups: list[str]) -> set[str]:
    """Return the normalized names of requirements."""
    return {normalize(Requirement(line).name) for group in groups for line in group}


def undeclared(source: str, known: set[str]) -> set[str]:
    """Return the top-level modules that a source imports and that no declared distribution has."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        else:
            continue
        packages |= {name.partition(".")[0] for name in names}
    return {
        name
        for name in packages - OWN - sys.stdlib_module_names
        if known.isdisjoint(normalize(distribution) for distribution in DISTRIBUTIONS.get(name, ()))
    }


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "scripts", "benchmarks", "comfyui"])
def test_every_imported_package_is_declared(folder: str) -> None:
    """Packages of src are in the dependencies or in an extra that users install; the others may be in dev, too."""
    groups = [PROJECT["dependencies"], *(lines for name, lines in EXTRAS.items() if name != "dev" or folder != "src")]
    known = declared(*groups)
    missing = {
        str(path.relative_to(REPOSITORY)): names
        for path in (REPOSITORY / folder).rglob("*.py")
        if (names := undeclared(path.read_text(encoding="utf-8"), known))
    }
    assert not missing


def test_an_undeclared_package_is_found() -> None:
    assert undeclared("import os\nimport numpy.linalg\nfrom grpc import aio\n", {"numpy"}) == {"grpc"}


def test_the_constraints_pin_every_requirement_and_name_no_place() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.]+", line) for line in lines)
    pinned = {normalize(line.partition("==")[0]) for line in lines} | {"torch"}  # which the Makefile pins
    assert declared(PROJECT["dependencies"], *EXTRAS.values()) - {normalize(PROJECT["name"])} <= pinned


def test_a_file_beside_the_repository_is_refused() -> None:
    if REPOSITORY.parent != Path(REPOSITORY.anchor):
        with pytest.raises(pytest.fail.Exception, match="lies beside the repository"):
            (REPOSITORY.parent / "values" / "of-elsewhere.json").read_text()


@pytest.mark.parametrize(
    ("path", "beside"),
    [
        ("/home/me/shared/values.json", True),
        ("/home/me/humo-other/src", True),
        ("/home/me/humo/tests/parity/data/values.json", False),
        ("/home/me/.cache/model.bin", False),
        ("/home/me/envs/humo/lib/x.py", False),
        ("/home/me", False),
        ("/usr/lib/x.so", False),
    ],
)
def test_what_lies_beside_a_repository(path: str, beside: bool) -> None:
    assert is_beside(Path(path), Path("/home/me/humo"), [Path("/home/me/envs")]) == beside
