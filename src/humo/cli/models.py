"""``humo models``: list, download, verify, remove and import models."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.console import BYTES
from humo.cli.model_loras import get_lora, import_lora, is_lora, list_loras, remove_lora, verify_lora
from humo.cli.options import Parser
from humo.environment import LORAS_FOLDER
from humo.errors import CheckpointError, RequestError, StorageError, did_you_mean

if TYPE_CHECKING:
    from humo.checkpoints.hubs.catalog import Repository
    from humo.checkpoints.hubs.download import Hub
    from humo.cli.console import Quiet

SUMMARY = "list, download, verify, remove and import models and LoRAs"

HUBS = ("huggingface", "modelscope")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

INTACT, DAMAGED = 0, 1
"""Exit codes of ``verify``."""


def add_options(parser: Parser) -> None:
    """Add the options of ``humo models``."""
    parser.usage = "humo models {list, get NAME, verify NAME, remove NAME, import SOURCE [SOURCE ...] --name NAME}"
    parser.add_argument("verb", metavar="{list,get,verify,remove,import}", help="what to do")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="name of a model; for import, files or folders with its weights"
    )
    parser.add_argument(
        "--source", metavar="{huggingface,modelscope}", help="get: the hub (default: HUMO_HUB, or huggingface)"
    )
    parser.add_argument(
        "--endpoint", metavar="URL", help="get: a mirror of the hub (default: HF_ENDPOINT or MODELSCOPE_ENDPOINT)"
    )
    parser.add_argument(
        "--repository", metavar="OWNER/NAME", help="get: repository of HuMo's own weights (default: the published one)"
    )
    parser.add_argument("--keep", action="store_true", help="get: keep the downloaded files as well")
    parser.add_argument("--name", metavar="NAME", help="import: name of the model (default: its family)")
    parser.add_argument(
        "--keep-quantized", action="store_true", help="import: keep the transformer blocks quantized (GGUF, fp8)"
    )
    parser.add_argument(
        "--family", metavar="{humo-17b,humo-1.7b}", help="import: model family to import, if the source holds both"
    )


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo models``.

    Returns:
        the exit code.
    """
    if options.verb not in VERBS:
        raise RequestError("models", f"{options.verb!r} is unknown", did_you_mean(options.verb, VERBS))
    if rest:
        raise RequestError(rest[0], "is not an option of humo models", "see humo models --help")
    return VERBS[options.verb](options, console)


def _list(options: argparse.Namespace, console: Quiet) -> int:
    """List the models of this machine, and those that can be downloaded."""
    from humo.checkpoints.hubs.catalog import CATALOG
    from humo.environment import models_folder

    if options.names:
        raise RequestError(options.names[0], "is not an argument of list", "humo models list")
    local = dict(_local_models())
    for name, folder in local.items():
        console.result(*_describe(name, folder), kind="model")
    for name, entry in CATALOG.items():
        if name not in local:
            text = f"{name:17} remote      {entry.gigabytes:7.1f} GB to download; {entry.requirements}"
            console.result(text, {"name": name, "state": "remote", "gigabytes": entry.gigabytes}, kind="model")
    list_loras(console)
    models = models_folder()
    existing = models if models.is_dir() else models.parent if models.parent.is_dir() else Path.home()
    free = shutil.disk_usage(existing).free
    console.result(f"models are in {models}; {free / 1e9:.1f} GB free", {"folder": str(models), "free_bytes": free})
    return INTACT


def _local_models() -> Iterator[tuple[str, Path]]:
    """Yield the name and folder of each model on this machine."""
    from humo.checkpoints.model_folder import BUILTIN_MODELS
    from humo.environment import models_folder

    yield from BUILTIN_MODELS.items()
    if models_folder().is_dir():
        for folder in sorted(models_folder().iterdir()):
            if folder.is_dir() and not folder.name.startswith(".") and folder.name != LORAS_FOLDER:
                yield folder.name, folder


def _local_names() -> list[str]:
    from humo.checkpoints.lora_store import installed_loras

    return [*dict(_local_models()), *installed_loras()]


def _describe(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    from humo.checkpoints.model_folder import open_model_folder

    values = {"name": name, "folder": str(folder)}
    try:
        model = open_model_folder(folder)
    except CheckpointError as error:
        return f"{name:17} BROKEN      {error.problem}; {error.remedy}", {
            **values,
            "state": "broken",
            "problem": str(error),
        }
    text = f"{name:17} local       {model.bytes / 1e9:7.2f} GB; {model.preset.title}, {folder}"
    return text, {**values, "state": "local", "preset": model.preset.name, "bytes": model.bytes}


def _get(options: argparse.Namespace, console: Quiet) -> int:
    from humo.checkpoints.hubs.catalog import CATALOG, LORAS
    from humo.checkpoints.hubs.download import download_model
    from humo.environment import models_folder

    name = _single_name(options)
    if name in LORAS:
        (repository,), hub = _hub(options, (LORAS[name].repository,))
        get_lora(name, LORAS[name], repository, hub, _progress(console), console)
        return INTACT
    if name not in CATALOG:
        raise RequestError("NAME", f"{name!r} cannot be downloaded", did_you_mean(name, [*CATALOG, *LORAS]))
    entry = CATALOG[name]
    repositories, hub = _hub(options, entry.repositories)
    entry = replace(entry, repositories=repositories)
    console.note(
        f"{entry.title} needs {entry.requirements}; "
        f"licenses: {', '.join(sorted({one.license for one in entry.repositories}))}"
    )
    download_model(name, entry, models_folder(), hub=hub, keep=options.keep, progress=_progress(console))
    _report_model(name, models_folder() / name, console)
    return INTACT


def _hub(options: argparse.Namespace, published: tuple[Repository, ...]) -> tuple[tuple[Repository, ...], Hub]:
    """Return the hub to download from, and the repositories as that hub names them."""
    from huggingface_hub import constants

    from humo.checkpoints.hubs.huggingface import HuggingFace
    from humo.checkpoints.hubs.modelscope import ModelScope
    from humo.environment import hub_name, modelscope_endpoint

    own = options.repository
    if own is not None and not _REPOSITORY.fullmatch(own):
        raise RequestError("--repository", f"{own!r} is not a repository", "give OWNER/NAME")
    source = options.source or hub_name()
    if source not in HUBS:
        field = "--source" if options.source else "HUMO_HUB"
        raise RequestError(field, f"{source!r} is unknown", did_you_mean(source, HUBS))
    hub: Hub = HuggingFace(options.endpoint)
    names: list[str | None] = [one.repository for one in published]
    if source == "modelscope":
        hub = ModelScope(options.endpoint or modelscope_endpoint(), offline=constants.HF_HUB_OFFLINE)
        names = [one.modelscope for one in published]
    names[0] = own or names[0]
    repositories = []
    for repository_files, repository in zip(published, names, strict=True):
        if repository is None:
            problem = f"is missing: no copy of {repository_files.repository} on ModelScope is known here"
            raise RequestError("--repository", problem, "add --repository OWNER/NAME of a copy that you trust")
        repositories.append(replace(repository_files, repository=repository))
    return tuple(repositories), hub


def _import(options: argparse.Namespace, console: Quiet) -> int:
    """Convert weights of any known layout to a model on this machine."""
    from humo.checkpoints.convert import convert
    from humo.checkpoints.manifest import write_manifest
    from humo.environment import models_folder

    if not options.names:
        raise RequestError("SOURCE", "is missing", "humo models import FOLDER [FOLDER ...] --name NAME")
    if len(options.names) == 1 and is_lora(Path(options.names[0])):
        import_lora(Path(options.names[0]), options.name and _check_name(options.name), console)
        return INTACT
    name = options.name or options.family
    if name is None:
        raise RequestError("--name", "is missing", "add --name NAME")
    target = models_folder() / _check_name(name)
    if target.exists():
        raise StorageError(name, f"exists already, in {str(target)!r}", f"run `humo models remove {name}` first")
    report = convert(
        [Path(name) for name in options.names],
        target,
        family=options.family,
        keep_quantized=options.keep_quantized,
        progress=_progress(console),
    )
    for note in report.notes:
        console.note(note)
    write_manifest(target, _progress(console))
    _report_model(name, target, console)
    return INTACT


def _verify(options: argparse.Namespace, console: Quiet) -> int:
    from humo.checkpoints.lora_store import installed_loras
    from humo.checkpoints.manifest import read_manifest, verify_manifest

    name = _single_name(options)
    if name in installed_loras():
        return INTACT if verify_lora(name, console) else DAMAGED
    folder = _model_path(name)
    total = sum(one["bytes"] for one in read_manifest(folder).values())
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        console.step("verify", done, total, BYTES)

    faults, files = verify_manifest(folder, on_bytes)
    for fault in faults:
        console.error(f"{folder / fault.path}: {fault.problem}", path=fault.path)
    text = f"{len(faults)} of {files} files are wrong: get or import the model again" if faults else "is intact"
    console.result(f"{folder}: {text}", {"folder": str(folder), "files": files, "wrong": len(faults)})
    return DAMAGED if faults else INTACT


def _remove(options: argparse.Namespace, console: Quiet) -> int:
    from humo.checkpoints.hubs.download import DOWNLOADS
    from humo.checkpoints.lora_store import installed_loras
    from humo.environment import models_folder

    name = _check_name(_single_name(options))
    if name in installed_loras():
        remove_lora(name, console)
        return INTACT
    folders = [folder for folder in (models_folder() / name, models_folder() / DOWNLOADS / name) if folder.is_dir()]
    if not folders:
        raise RequestError("NAME", f"{name!r} is not a model on this machine", did_you_mean(name, _local_names()))
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    for folder in folders:
        shutil.rmtree(folder)
    console.result(f"{name} removed, {size / 1e9:.2f} GB", {"name": name, "bytes": size})
    return INTACT


def _single_name(options: argparse.Namespace) -> str:
    if len(options.names) != 1:
        problem = "is missing" if not options.names else f"{' '.join(options.names)!r} are several names"
        raise RequestError("NAME", problem, f"humo models {options.verb} NAME")
    return str(options.names[0])


def _check_name(name: str) -> str:
    """Return a name that is valid as the name of a folder of models.

    Raises:
        RequestError: it is a path, hidden, or the name of a built-in model.
    """
    from humo.checkpoints.model_folder import BUILTIN_MODELS

    if Path(name).parts != (name,) or name.startswith(".") or name in (*BUILTIN_MODELS, LORAS_FOLDER):
        problem = f"{name!r} is not allowed"
        raise RequestError(
            "NAME", problem, f"give a plain name, other than those of the built-in models ({', '.join(BUILTIN_MODELS)})"
        )
    return name


def _model_path(name: str) -> Path:
    from humo.checkpoints.model_folder import find_model_folder

    folder = find_model_folder(name)
    if not folder.is_dir():
        raise RequestError("NAME", f"{name!r} is not a model on this machine", did_you_mean(name, _local_names()))
    return folder


def _report_model(name: str, folder: Path, console: Quiet) -> None:
    text, values = _describe(name, folder)
    console.result(f"{text}; use it with --model {name}", values)


def _progress(console: Quiet) -> Callable[[str, int, int], None]:
    return lambda what, done, total: console.step(what, done, total, BYTES)


VERBS: dict[str, Callable[[argparse.Namespace, Quiet], int]] = {
    "list": _list,
    "get": _get,
    "verify": _verify,
    "remove": _remove,
    "import": _import,
}
