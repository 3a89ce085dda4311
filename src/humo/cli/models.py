"""``humo models``: which models there are, and bringing, checking and removing them."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.console import BYTES
from humo.cli.options import Parser
from humo.errors import CheckpointError, RequestError, StorageError, did_you_mean

if TYPE_CHECKING:
    from humo.checkpoints.hubs.catalog import CatalogEntry
    from humo.checkpoints.hubs.download import Hub
    from humo.cli.console import Quiet

SUMMARY = "list, download, verify, remove and import models"

HUBS = ("huggingface", "modelscope")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

INTACT, DAMAGED = 0, 1
"""Exit codes of ``verify``."""


def add_options(parser: Parser) -> None:
    """The options of ``humo models``."""
    parser.usage = "humo models {list, get NAME, verify NAME, remove NAME, import SOURCE [SOURCE ...] --name NAME}"
    parser.add_argument("verb", metavar="{list,get,verify,remove,import}", help="what to do")
    parser.add_argument("words", nargs="*", metavar="NAME", help="a model, or for import the files or folders it is in")
    parser.add_argument(
        "--source", metavar="{huggingface,modelscope}", help="get: the hub (default: HUMO_HUB, or huggingface)"
    )
    parser.add_argument(
        "--endpoint", metavar="URL", help="get: a mirror of the hub (default: HF_ENDPOINT or MODELSCOPE_ENDPOINT)"
    )
    parser.add_argument(
        "--repository", metavar="OWNER/NAME", help="get: where HuMo's own files are, if not where they were published"
    )
    parser.add_argument("--keep", action="store_true", help="get: keep the files as they were downloaded, too")
    parser.add_argument("--name", metavar="NAME", help="import: what it shall be called (default: its family)")
    parser.add_argument(
        "--keep-quantized", action="store_true", help="import: the network's blocks stay quantized (GGUF, fp8)"
    )
    parser.add_argument("--family", metavar="{humo-17b,humo-1.7b}", help="import: which one, if the source holds both")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Do one thing with models.

    Returns:
        the exit code.
    """
    if options.verb not in VERBS:
        raise RequestError("models", f"{options.verb!r} is not known", did_you_mean(options.verb, VERBS))
    if rest:
        raise RequestError(rest[0], "is not an option of humo models", "see humo models --help")
    return VERBS[options.verb](options, console)


def _list(options: argparse.Namespace, console: Quiet) -> int:
    """Those that are here, and those that could be."""
    from humo.checkpoints.hubs.catalog import CATALOG
    from humo.environment import models_folder

    if options.words:
        raise RequestError(options.words[0], "is too much", "humo models list")
    here = dict(_here())
    for name, folder in here.items():
        console.result(*_described(name, folder), kind="model")
    for name, entry in CATALOG.items():
        if name not in here:
            text = f"{name:17} not here    {entry.gigabytes:7.1f} GB to download; {entry.requirements}"
            console.result(text, {"name": name, "state": "not here", "gigabytes": entry.gigabytes}, kind="model")
    models = models_folder()
    there = models if models.is_dir() else models.parent if models.parent.is_dir() else Path.home()
    free = shutil.disk_usage(there).free
    console.result(f"models lie in {models}; {free / 1e9:.1f} GB free", {"folder": str(models), "free_bytes": free})
    return INTACT


def _here() -> Iterator[tuple[str, Path]]:
    """Name and folder of each model on this machine."""
    from humo.checkpoints.model_folder import BUILTIN_MODELS
    from humo.environment import models_folder

    yield from BUILTIN_MODELS.items()
    if models_folder().is_dir():
        for folder in sorted(models_folder().iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                yield folder.name, folder


def _described(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    from humo.checkpoints.model_folder import open_model_folder

    values = {"name": name, "folder": str(folder)}
    try:
        found = open_model_folder(folder)
    except CheckpointError as error:
        return f"{name:17} BROKEN      {error.problem}; {error.remedy}", {
            **values,
            "state": "broken",
            "problem": str(error),
        }
    text = f"{name:17} here        {found.bytes / 1e9:7.2f} GB; {found.preset.title}, {folder}"
    return text, {**values, "state": "here", "preset": found.preset.name, "bytes": found.bytes}


def _get(options: argparse.Namespace, console: Quiet) -> int:
    from humo.checkpoints.hubs.catalog import CATALOG
    from humo.checkpoints.hubs.download import download_model
    from humo.environment import models_folder

    name = _one(options)
    if name not in CATALOG:
        raise RequestError("NAME", f"{name!r} cannot be downloaded", did_you_mean(name, CATALOG))
    entry, hub = _hub(options, CATALOG[name])
    console.note(
        f"{entry.title} needs {entry.requirements}; "
        f"licenses: {', '.join(sorted({one.license for one in entry.repositories}))}"
    )
    download_model(name, entry, models_folder(), hub=hub, keep=options.keep, progress=_bytes(console))
    _made(name, models_folder() / name, console)
    return INTACT


def _hub(options: argparse.Namespace, entry: CatalogEntry) -> tuple[CatalogEntry, Hub]:
    """The hub that is asked, and the model with its repositories as that hub names them."""
    from huggingface_hub import constants

    from humo.checkpoints.hubs.huggingface import HuggingFace
    from humo.checkpoints.hubs.modelscope import ModelScope
    from humo.environment import hub_name, modelscope_endpoint

    own = options.repository
    if own is not None and not _REPOSITORY.fullmatch(own):
        raise RequestError("--repository", f"{own!r} is not a repository", "give OWNER/NAME")
    source = options.source or hub_name()
    if source not in HUBS:
        word = "--source" if options.source else "HUMO_HUB"
        raise RequestError(word, f"{source!r} is not known", did_you_mean(source, HUBS))
    hub: Hub = HuggingFace(options.endpoint)
    names: list[str | None] = [one.repository for one in entry.repositories]
    if source == "modelscope":
        hub = ModelScope(options.endpoint or modelscope_endpoint(), offline=constants.HF_HUB_OFFLINE)
        names = [one.modelscope for one in entry.repositories]
    names[0] = own or names[0]
    repositories = []
    for repository_files, repository in zip(entry.repositories, names, strict=True):
        if repository is None:
            problem = f"is missing: no copy of {repository_files.repository} on ModelScope is known here"
            raise RequestError("--repository", problem, "name one that you trust: OWNER/NAME")
        repositories.append(replace(repository_files, repository=repository))
    return replace(entry, repositories=tuple(repositories)), hub


def _import(options: argparse.Namespace, console: Quiet) -> int:
    """Whatever lies somewhere, in any of the layouts it comes in, becomes a model of a name here."""
    from humo.checkpoints.convert import convert
    from humo.checkpoints.manifest import write_manifest
    from humo.environment import models_folder

    if not options.words:
        raise RequestError("SOURCE", "is missing", "humo models import FOLDER [FOLDER ...] --name NAME")
    name = options.name or options.family
    if name is None:
        raise RequestError("--name", "is missing", "say what the model shall be called")
    target = models_folder() / _checked(name)
    if target.exists():
        raise StorageError(name, f"is there already, in {str(target)!r}", f"`humo models remove {name}` first")
    report = convert(
        [Path(word) for word in options.words],
        target,
        family=options.family,
        keep_quantized=options.keep_quantized,
        progress=_bytes(console),
    )
    for note in report.notes:
        console.note(note)
    write_manifest(target, _bytes(console))
    _made(name, target, console)
    return INTACT


def _verify(options: argparse.Namespace, console: Quiet) -> int:
    from humo.checkpoints.manifest import read_manifest, verify_manifest

    folder = _folder(_one(options))
    total = sum(one["bytes"] for one in read_manifest(folder).values())
    done = 0

    def counted(count: int) -> None:
        nonlocal done
        done += count
        console.step("verify", done, total, BYTES)

    faults, files = verify_manifest(folder, counted)
    for fault in faults:
        console.error(f"{folder / fault.path}: {fault.problem}", path=fault.path)
    text = f"{len(faults)} of {files} files are wrong: get or import the model again" if faults else "is whole"
    console.result(f"{folder}: {text}", {"folder": str(folder), "files": files, "wrong": len(faults)})
    return DAMAGED if faults else INTACT


def _remove(options: argparse.Namespace, console: Quiet) -> int:
    from humo.checkpoints.hubs.download import DOWNLOADS
    from humo.environment import models_folder

    name = _checked(_one(options))
    folders = [folder for folder in (models_folder() / name, models_folder() / DOWNLOADS / name) if folder.is_dir()]
    if not folders:
        raise RequestError("NAME", f"there is no model {name!r} here", did_you_mean(name, dict(_here())))
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    for folder in folders:
        shutil.rmtree(folder)
    console.result(f"{name} removed, {size / 1e9:.2f} GB", {"name": name, "bytes": size})
    return INTACT


def _one(options: argparse.Namespace) -> str:
    if len(options.words) != 1:
        problem = "is missing" if not options.words else f"{' '.join(options.words)!r} are several"
        raise RequestError("NAME", problem, f"humo models {options.verb} NAME")
    return str(options.words[0])


def _checked(name: str) -> str:
    """A name that is one folder's and nothing else."""
    from humo.checkpoints.model_folder import BUILTIN_MODELS

    if Path(name).parts != (name,) or name.startswith(".") or name in BUILTIN_MODELS:
        problem = f"{name!r} is not allowed"
        raise RequestError(
            "NAME", problem, f"a plain name, and none of the package's own ({', '.join(BUILTIN_MODELS)})"
        )
    return name


def _folder(name: str) -> Path:
    from humo.checkpoints.model_folder import find_model_folder

    folder = find_model_folder(name)
    if not folder.is_dir():
        raise RequestError("NAME", f"there is no model {name!r} here", did_you_mean(name, dict(_here())))
    return folder


def _made(name: str, folder: Path, console: Quiet) -> None:
    text, values = _described(name, folder)
    console.result(f"{text}; use it with --model {name}", values)


def _bytes(console: Quiet) -> Callable[[str, int, int], None]:
    return lambda what, done, total: console.step(what, done, total, BYTES)


VERBS: dict[str, Callable[[argparse.Namespace, Quiet], int]] = {
    "list": _list,
    "get": _get,
    "verify": _verify,
    "remove": _remove,
    "import": _import,
}
