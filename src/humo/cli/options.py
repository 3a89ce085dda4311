"""Command-line options, derived from the fields of a request."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from humo.errors import DependencyError, RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.jobs.request_files import RequestFile

REPEATABLE = {"images": "image", "loras": "lora"}
"""Fields that hold several values, and the option that adds one."""

SHORT = {"output": ["-o"]}
"""Fields whose option has a short form, too."""

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)
"""A field of a request file with its value, ``key=value``."""

METAVARS = {
    "prompt": "TEXT",
    "negative_prompt": "TEXT",
    "model": "NAME_OR_FOLDER",
    "aspect": "W:H",
    "preset": "NAME",
    "loras": "FILE_OR_NAME[:STRENGTH]",
    "sigmas": "N,N,...",
}
"""Field -> what help shows as its value, if that is not a file, a number or a choice."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a RequestError of one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise an error of argparse as a RequestError."""
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise RequestError(missing, "is missing", f"see {self.prog} --help")
        field, _, problem = message.removeprefix("argument ").partition(": ")
        if not problem:
            field, problem = self.prog, message
        raise RequestError(field, problem, f"see {self.prog} --help")

    def parse_with_rest(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the options and the remaining arguments (``key=value``).

        Raises:
            RequestError: an option is unknown; the error suggests the nearest known one.
        """
        options, rest = self.parse_known_args(argv)
        for name, values in vars(options).items():
            if name in REPEATABLE:  # `--image a.png steps=4`: the second one belongs to --config
                rest += [value for value in values or () if _OVERRIDE.fullmatch(value)]
                setattr(options, name, [value for value in values if not _OVERRIDE.fullmatch(value)])
        for argument in rest:
            if argument.startswith("-"):
                flag = argument.partition("=")[0]
                raise RequestError(flag, f"is not an option of {self.prog}", self._nearest(flag))
        return options, rest

    def _nearest(self, flag: str) -> str:
        hint = did_you_mean(flag, self._option_string_actions)
        return hint if hint.startswith("did you mean") else f"see {self.prog} --help"


class _Help(argparse.HelpFormatter):
    """Help of the same width everywhere, with room for the longest option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=110)


def add_request_options(parser: Parser) -> None:
    """Add an option for each field of a request, with its description, range and published defaults."""
    from humo.request import GenerateRequest, describe_limits

    group = parser.add_argument_group("request", "omitted values are the published defaults of the model")
    for name, field in GenerateRequest.model_fields.items():
        limits = describe_limits(name)
        text = f"{field.description}{_values(name, field.default, limits)}".replace("%", "%%")
        flag = "--" + REPEATABLE.get(name, name).replace("_", "-")
        settings: dict[str, Any] = {"dest": name, "help": text, "default": argparse.SUPPRESS}
        if field.annotation is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **settings)
        elif name in REPEATABLE:
            group.add_argument(flag, action="extend", nargs="+", metavar=_metavar(name, limits), **settings)
        else:
            group.add_argument(*SHORT.get(name, []), flag, metavar=_metavar(name, limits), **settings)


def given_fields(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that were set by options."""
    from humo.request import GenerateRequest

    return {name: value for name, value in vars(options).items() if name in GenerateRequest.model_fields}


def _metavar(name: str, limits: str) -> str:
    if limits.startswith("one of "):
        return "{" + limits.removeprefix("one of ").replace(", ", ",") + "}"
    if name in METAVARS:
        return METAVARS[name]
    return "N" if "number" in limits else "FILE"


def _values(name: str, default: object, limits: str) -> str:
    """Return the range and defaults of a field in brackets, if they are short."""
    from humo.presets import PRESETS

    parts = [limits] if "number" in limits else []
    if isinstance(default, str):
        parts.append(f"default {default}")
    published = {preset.title: _published(name, preset) for preset in PRESETS.values()}
    if None not in published.values():
        values = {f"{value:g}" if isinstance(value, float) else str(value) for value in published.values()}
        each = ", ".join(f"{value:g} ({title})" for title, value in published.items())
        parts.append(f"default {values.pop()}" if len(values) == 1 else f"default {each}")
    return f" ({'; '.join(parts)})" if parts else ""


def _published(name: str, preset: Any) -> float | int | None:
    """Return a preset's value of a field, if it is a number."""
    of_scales = {"switch_timestep": preset.scales.switch_timestep}
    of_scales |= {f"scale_{word}": getattr(preset.scales, word) for word in ("text", "audio", "image")}
    value = of_scales.get(name, getattr(preset, name, None))
    return value if isinstance(value, (int, float)) else None


def parse_integer(field: str, word: str, least: int, most: int) -> int:
    """Parse an option that takes an integer.

    Raises:
        RequestError: it is no integer, or out of range.
    """
    if not word.isascii() or not word.isdecimal() or not least <= int(word) <= most:
        raise RequestError(field, f"{word!r} is not allowed", f"give a whole number from {least} to {most}")
    return int(word)


def parse_number(
    field: str, word: str, least: float, most: float, *, range_phrase: str = "give a number from"
) -> float:
    """Parse an option that takes a number.

    Raises:
        RequestError: it is no number, or out of range; the remedy is ``range_phrase`` and the range.
    """
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise RequestError(field, f"{word!r} is not allowed", f"{range_phrase} {least:g} to {most:g}")
    return value


def check_ray_address(word: str) -> None:
    """Refuse an option that does not name a Ray cluster.

    Raises:
        RequestError: it is neither ``HOST:PORT`` nor ``local``.
    """
    host, _, port = word.rpartition(":")
    if word != "local" and (not host or not port.isdecimal() or "/" in host):
        remedy = "give HOST:PORT of the cluster's head, as `ray start --head` prints it, or local"
        raise RequestError("--ray", f"{word!r} is not an address", remedy)


PACKAGES = {"serve": ("dbos", "fastapi", "uvicorn"), "ray": ("ray",)}
"""Extra of this package -> packages whose absence shows that it is not installed. ``ray`` includes
``serve``."""


def check_installed(*extras: str) -> None:
    """Check that extras of this package are installed.

    Args:
        extras: names in `PACKAGES`.

    Raises:
        DependencyError: a package is not installed; the remedy installs all the extras.
    """
    for name in (package for extra in ("serve", *extras) for package in PACKAGES[extra]):
        if importlib.util.find_spec(name) is None:
            raise DependencyError(name, "is not installed", f"pip install 'humo-video[{','.join(extras)}]'")


def add_config_option(group: Any) -> None:
    """Add ``--config`` to a parser or a group of options."""
    text = "TOML, YAML or JSON file with fields of a request, or a published generate.yaml; key=value replaces entries"
    group.add_argument("--config", metavar="FILE", help=text)


def read_config(path: str | None, overrides: list[str], console: Quiet) -> RequestFile:
    """Return the contents of ``--config`` with its overrides; without the option, an empty file."""
    from humo.jobs.request_files import RequestFile, read_request_file

    if path is None:
        if overrides:
            if not _OVERRIDE.fullmatch(overrides[0]):
                raise RequestError(repr(overrides[0]), "is not an option", "to describe the scene: --prompt 'TEXT'")
            problem = "is not an option, and there is no --config whose entry it could replace"
            raise RequestError(overrides[0], problem, "write --name value, or add --config FILE")
        return RequestFile()
    job = read_request_file(Path(path), overrides)
    for note in job.notes:
        console.note(note)
    return job
