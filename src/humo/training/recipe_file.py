"""Reading and validation of recipe files. An error names the first wrong field, its value and what is allowed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from humo.config_files import read_config_file
from humo.errors import RequestError, did_you_mean
from humo.training.config import Recipe, RecipeTable, Stage

AnyTable = TypeVar("AnyTable", bound=RecipeTable)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate the recipe of a network; arguments as in `read_table`."""
    return read_table(path, Recipe, overrides)


def read_table(path: Path, kind: type[AnyTable], overrides: Sequence[str] = ()) -> AnyTable:
    """Read and validate a recipe.

    Args:
        path: TOML, YAML or JSON file.
        kind: class of the recipe.
        overrides: ``table.field=value`` arguments; ``stages.0.steps=100`` changes the first stage.

    Raises:
        RequestError: a field is wrong; the first such field is named.
    """
    values = read_config_file(path)
    if not isinstance(values, dict):
        problem = f"contains {type(values).__name__} instead of a table of fields"
        raise RequestError(path.name, problem, "start from one of recipes/")
    for argument in overrides:
        _override(values, argument)
    return parse_table(values, kind)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Validate the recipe of a network, given as plain values."""
    return parse_table(values, Recipe)


def parse_table(values: Mapping[str, Any], kind: type[AnyTable]) -> AnyTable:
    """Validate a recipe that is given as plain values.

    Raises:
        RequestError: a field is wrong; the first such field is named.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as failure:
        raise _in_one_line(failure, kind) from None


def _override(values: dict[str, Any], argument: str) -> None:
    """Apply a ``table.field=value`` argument to the values of a recipe."""
    name, equals, text = argument.partition("=")
    if not equals:
        raise RequestError(argument, "is not key=value", "write for example stages.0.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # text needs no quotes here
    *path, last = name.split(".")
    table: Any = values
    for key in path:
        if isinstance(table, list) and key.isdecimal() and int(key) < len(table):
            table = table[int(key)]
        elif isinstance(table, dict):
            table = table.setdefault(key, {})
        else:
            break
    if not isinstance(table, dict):
        remedy = "give TABLE.FIELD=VALUE, or stages.NUMBER.FIELD=VALUE with a number from 0"
        raise RequestError(name, "is not a field of this recipe", remedy)
    table[last] = value


def _in_one_line(failure: ValidationError, kind: type[RecipeTable]) -> RequestError:
    """Convert pydantic's first error."""
    error = failure.errors(include_url=False)[0]
    location = [str(key) for key in error["loc"]]
    field, fault, value = ".".join(location) or "recipe", error["type"], json.dumps(error["input"], default=str)
    if fault == "extra_forbidden":
        known = _fields(kind, location[:-1])
        return RequestError(field, "is not a field of a recipe", did_you_mean(location[-1], known))
    if fault == "missing":
        return RequestError(field, "is missing", f"add it to the recipe, or give {field}=VALUE")
    if fault == "value_error":
        problem, _, remedy = str(error["ctx"]["error"]).partition("; ")
        return RequestError(field, problem, remedy)
    if fault == "literal_error" and isinstance(error["input"], str):
        choices = [choice.strip(" '") for choice in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        return RequestError(field, f"{error['input']!r} is not known", did_you_mean(error["input"], choices))
    return RequestError(field, f"{value[:60]} is not allowed", error["msg"].replace("Input should be", "it should be"))


def _fields(kind: type[RecipeTable], location: Sequence[str]) -> set[str]:
    """Return the field names of the table at a location in a recipe."""
    if location and location[0] == "stages":
        return {*Stage.model_fields, "published_stage"}
    for name in location:
        kind = next(_tables_in(kind.model_fields[name].annotation), kind)
    return set(kind.model_fields)


def _tables_in(annotation: Any) -> Iterator[type[RecipeTable]]:
    """Yield the classes of tables that a field may contain."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, RecipeTable):
            yield candidate
