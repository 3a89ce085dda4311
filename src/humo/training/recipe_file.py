"""Recipes read from a file and checked: the first thing at fault is named by field, value and what is allowed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from humo.config_files import read_config_file
from humo.errors import RequestError, did_you_mean
from humo.training.config import Recipe, Stage, Table

AnyTable = TypeVar("AnyTable", bound=Table)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe of a network."""
    return read_table(path, Recipe, overrides)


def read_table(path: Path, kind: type[AnyTable], overrides: Sequence[str] = ()) -> AnyTable:
    """A checked recipe of any kind.

    Args:
        path: a TOML, YAML or JSON file.
        kind: what it is a recipe of.
        overrides: ``table.field=value`` words; ``stages.0.steps=100`` changes the first stage.

    Raises:
        RequestError: the first thing at fault: field, value, what is allowed.
    """
    values = read_config_file(path)
    if not isinstance(values, dict):
        raise RequestError(path.name, "is not a recipe", "write a table of fields; see recipes/ for some")
    for word in overrides:
        _override(values, word)
    return parse_table(values, kind)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """A checked recipe of a network from plain values."""
    return parse_table(values, Recipe)


def parse_table(values: Mapping[str, Any], kind: type[AnyTable]) -> AnyTable:
    """A checked recipe from plain values.

    Raises:
        RequestError: the first field at fault.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as failure:
        raise _in_one_line(failure, kind) from None


def _override(values: dict[str, Any], word: str) -> None:
    name, equals, text = word.partition("=")
    if not equals:
        raise RequestError(word, "is not key=value", "write for example stages.0.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is text
    *path, last = name.split(".")
    place: Any = values
    for step in path:
        if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
            place = place[int(step)]
        elif isinstance(place, dict):
            place = place.setdefault(step, {})
        else:
            break
    if not isinstance(place, dict):
        raise RequestError(
            name, "leads nowhere in this recipe", "name a table's field, or a stage by its number from 0"
        )
    place[last] = value


def _in_one_line(failure: ValidationError, kind: type[Table]) -> RequestError:
    """Pydantic's first error as ours."""
    error = failure.errors(include_url=False)[0]
    location = [str(part) for part in error["loc"]]
    field, fault, shown = ".".join(location) or "recipe", error["type"], json.dumps(error["input"], default=str)
    if fault == "extra_forbidden":
        known = _fields(kind, location[:-1])
        return RequestError(field, "is not a field of a recipe", did_you_mean(location[-1], known))
    if fault == "missing":
        return RequestError(field, "is missing", "give it")
    if fault == "value_error":
        problem, _, remedy = str(error["ctx"]["error"]).partition("; ")
        return RequestError(field, problem, remedy)
    if fault == "literal_error" and isinstance(error["input"], str):
        choices = [word.strip(" '") for word in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        return RequestError(field, f"{error['input']!r} is not known", did_you_mean(error["input"], choices))
    return RequestError(field, f"{shown[:60]} is not allowed", error["msg"].replace("Input should be", "it should be"))


def _fields(kind: type[Table], location: Sequence[str]) -> set[str]:
    """The fields of the table at a place of a recipe."""
    if location and location[0] == "stages":
        return {*Stage.model_fields, "published"}
    for name in location:
        inner = (one for one in _tables_in(kind.model_fields[name].annotation))
        kind = next(inner, kind)
    return set(kind.model_fields)


def _tables_in(annotation: Any) -> Iterator[type[Table]]:
    """The tables that a field may hold."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Table):
            yield one
