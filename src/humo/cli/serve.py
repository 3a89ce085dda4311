"""``humo serve`` and ``humo ui``: the HTTP service and its API keys; the same with a web page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.options import Parser, check_installed, check_ray_address, parse_integer, parse_number
from humo.environment import DEFAULT_HOST, DEFAULT_PORT
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.server.api_keys import ApiKeys
    from humo.server.settings import Settings

SUMMARY = "serve video generation over HTTP"
PAGE_SUMMARY = "generate videos in a web page"

DONE = 0
"""Exit code."""


def add_options(parser: Parser) -> None:
    """Add the options of ``humo serve``."""
    parser.usage = (
        "humo serve [--host ADDRESS] [--port N] [--device DEVICE ...] [--model NAME ...] | humo serve keys ..."
    )
    parser.add_argument("keys", nargs="*", metavar="keys", help="keys add NAME, keys remove NAME, keys list")
    parser.add_argument("--ui", action="store_true", help="serve the web page as well, at /ui")
    _add_settings(parser)


def add_page_options(parser: Parser) -> None:
    """Add the options of ``humo ui``."""
    parser.usage = "humo ui [--host ADDRESS] [--port N] [--device DEVICE ...] [--model NAME ...]"
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    _add_settings(parser)


def _add_settings(parser: Parser) -> None:
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to bind (default: this machine only)")
    parser.add_argument("--port", default=str(DEFAULT_PORT), metavar="N", help=f"port to bind (default {DEFAULT_PORT})")
    parser.add_argument("--data", metavar="FOLDER", help="folder of jobs and videos (default: HUMO_SERVER)")
    parser.add_argument("--database", metavar="URL", help="postgresql://... database of the jobs, instead of a file")
    parser.add_argument(
        "--device",
        action="append",
        metavar="DEVICE",
        help="start a worker for this device (cpu, mps, cuda:0 ...); repeatable",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="start workers in the Ray cluster with its head at HOST:PORT, or in one started here with local",
    )
    parser.add_argument(
        "--replicas", metavar="N", help="number of workers with --ray (default: one per GPU, or one per machine)"
    )
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="a model to serve; repeatable (default: all on this machine)"
    )
    parser.add_argument(
        "--lora",
        action="append",
        metavar="FILE_OR_NAME",
        help="a LoRA that requests may name; repeatable (default: all on this machine)",
    )
    parser.add_argument(
        "--retention-days", default="7", metavar="X", help="days until finished jobs are deleted (default 7)"
    )
    parser.add_argument(
        "--fetch-host", action="append", metavar="HOST", help="host from which input URLs may be fetched; repeatable"
    )
    parser.add_argument(
        "--consent-by-operator",
        action="store_true",
        help="declare for all clients that the people in their images have agreed; stored in each video",
    )
    parser.add_argument(
        "--allowed-host", action="append", metavar="HOST", help="a further host name that requests may use; repeatable"
    )


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo serve``: serve until interrupted, or manage the API keys.

    Raises:
        HuMoError: an option is wrong, or a package is missing.
    """
    if rest:
        raise RequestError(rest[0], "is not an option of humo serve", "see humo serve --help")
    check_installed(_extra(options))
    from humo.server.api_keys import ApiKeys

    settings = _settings(options, page=options.ui)
    keys = ApiKeys(settings.keys_file)
    if options.keys:
        return _keys(options.keys, keys, console)
    return _serve(settings, keys, console, lambda address: None)


def act_page(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo ui``: serve with the web page until interrupted, and open it.

    Raises:
        HuMoError: an option is wrong, or a package is missing.
    """
    if rest:
        raise RequestError(rest[0], "is not an option of humo ui", "see humo ui --help")
    check_installed(_extra(options))
    import webbrowser

    from humo.server.api_keys import ApiKeys

    settings = _settings(options, page=True)
    opened = (lambda address: None) if options.no_browser else webbrowser.open
    return _serve(settings, ApiKeys(settings.keys_file), console, opened)


def _serve(settings: Settings, keys: ApiKeys, console: Quiet, opened: Callable[[str], object]) -> int:
    from humo.server.serve import serve

    if not settings.is_local and not len(keys):
        remedy = "create one with `humo serve keys add NAME`, or use --host 127.0.0.1"
        raise RequestError(
            "--host", f"{settings.host} can be reached from other machines, but there is no API key", remedy
        )

    def report(text: str, values: dict[str, Any]) -> None:
        console.result(text, values, kind="serving")
        opened(values.get("page", values["address"]))

    serve(settings, keys, report)
    return DONE


def _keys(arguments: list[str], keys: ApiKeys, console: Quiet) -> int:
    if arguments[0] != "keys":
        raise RequestError(arguments[0], "is not an argument of humo serve", "see humo serve --help")
    if arguments[1:] == ["list"]:
        for name in keys.names:
            console.result(name, {"name": name}, kind="key")
    elif len(arguments) == 3 and arguments[1] == "add":
        key = keys.add(arguments[2])
        console.result(key, {"name": arguments[2], "key": key}, kind="key")
    elif len(arguments) == 3 and arguments[1] == "remove":
        keys.remove(arguments[2])
        console.result(f"the key of {arguments[2]} is removed", {"name": arguments[2]}, kind="key")
    else:
        raise RequestError(" ".join(arguments), "is unknown", "use keys add NAME, keys remove NAME or keys list")
    return DONE


def _extra(options: argparse.Namespace) -> str:
    """Return the extra of this package that the options need."""
    return "serve" if options.ray is None else "ray"


def _settings(options: argparse.Namespace, *, page: bool) -> Settings:
    from humo.environment import server_folder
    from humo.server.settings import SECONDS_PER_DAY, Settings

    port = parse_number("--port", options.port, 0, 65_535, range_phrase="allowed:")
    days = parse_number("--retention-days", options.retention_days, 0, 36_500, range_phrase="allowed:")
    if port != int(port):
        raise RequestError("--port", f"{options.port!r} is not allowed", "allowed: a whole number, 0 to 65535")
    if options.database is not None and not options.database.startswith("postgresql://"):
        raise RequestError("--database", f"{options.database!r} is not supported", "give postgresql://USER@HOST/NAME")
    replicas = _replicas(options)
    return Settings(
        folder=Path(options.data).expanduser() if options.data else server_folder(),
        database=options.database,
        host=options.host,
        port=int(port),
        devices=tuple(_device(device) for device in options.device or ("auto",)),
        ray_address=options.ray,
        replicas=replicas,
        models=served_models(options.model),
        loras=_loras(options.lora),
        retention_seconds=days * SECONDS_PER_DAY,
        allowed_hosts=tuple(options.allowed_host or ()),
        fetch_hosts=tuple(options.fetch_host or ()),
        consent_by_operator=options.consent_by_operator,
        web_ui=page,
    )


def _replicas(options: argparse.Namespace) -> int | None:
    if options.ray is None:
        if options.replicas is None:
            return None
        raise RequestError("--replicas", "requires --ray", "add --ray ADDRESS, or give --device for each worker")
    check_ray_address(options.ray)
    if options.device:
        raise RequestError("--device", "cannot be combined with --ray", "drop one of them")
    return None if options.replicas is None else parse_integer("--replicas", options.replicas, 1, 10_000)


def _device(name: str) -> str:
    kind, colon, index = name.partition(":")
    if kind not in ("auto", "cpu", "mps", "cuda") or (colon and (kind != "cuda" or not index.isdecimal())):
        raise RequestError("--device", f"{name!r} is unknown", "known are auto, cpu, mps, cuda, cuda:0, cuda:1 ...")
    return name


def served_models(names: list[str] | None) -> dict[str, str | None]:
    """Return the names to serve -> their folders; None for the built-in model."""
    from humo.checkpoints.model_folder import BUILTIN_MODEL, BUILTIN_MODELS, find_model_folder, open_model_folder
    from humo.environment import models_folder

    if names is None:
        local = sorted(path.name for path in models_folder().glob("*") if (path / "model_index.json").is_file())
        names = [*BUILTIN_MODELS, *local]
    folders: dict[str, str | None] = {}
    for name in names:
        folder = find_model_folder(name)
        open_model_folder(folder)
        label = name if name in BUILTIN_MODELS else folder.name
        folders[label] = None if folder == BUILTIN_MODEL else str(folder.absolute())
    return folders


def _loras(names: list[str] | None) -> dict[str, str]:
    """Return the names of the LoRAs to serve -> their files."""
    from humo.checkpoints.lora_store import find_lora, installed_loras, open_lora

    paths = [find_lora(name) for name in names] if names is not None else list(installed_loras().values())
    files: dict[str, str] = {}
    for path in paths:
        open_lora(path)
        if files.setdefault(path.stem, str(path.absolute())) != str(path.absolute()):
            problem = f"{path.stem!r} is the name of two files, {files[path.stem]!r} and {str(path)!r}"
            raise RequestError("--lora", problem, "rename one of them")
    return files
