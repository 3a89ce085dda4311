"""``humo models``: list, download, verify, remove and import models."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.console import BYTES
from humo.cli.model_loras import (
    NAME_WIDTH,
    get_lora,
    import_comfyui_loras,
    import_lora,
    is_lora,
    list_loras,
    remove_lora,
    verify_lora,
)
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
    parser.usage = (
        "humo models {list, get NAME, verify NAME, remove NAME, import SOURCE [SOURCE ...] --name NAME, "
        "import --comfyui FOLDER}"
    )
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
    parser.add_argument(
        "--keep",
        metavar="DIR",
        help="get: folder for the downloaded files, such as ComfyUI's; files that it has are used, not downloaded",
    )
    parser.add_argument("--name", metavar="NAME", help="import: name of the model (default: its family or file)")
    parser.add_argument(
        "--comfyui", metavar="FOLDER", help="import: use the weights that ComfyUI has there; nothing is copied"
    )
    parser.add_argument(
        "--link", action="store_true", help="import: leave the weights in their files, and point to them"
    )
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
            text = f"{name:{NAME_WIDTH}} remote      {entry.gigabytes:7.1f} GB to download; {entry.requirements}"
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
        return f"{name:{NAME_WIDTH}} BROKEN      {error.problem}; {error.remedy}", {
            **values,
            "state": "broken",
            "problem": str(error),
        }
    text = f"{name:{NAME_WIDTH}} local       {model.bytes / 1e9:7.2f} GB; {model.preset.title}, {folder}"
    return text, {**values, "state": "local", "preset": model.preset.name, "bytes": model.bytes}


def _get(options: argparse.Namespace, console: Quiet) -> int:
    from humo.checkpoints.hubs.catalog import CATALOG, LORAS
    from humo.checkpoints.hubs.download import download_model, plan_download
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
    keep = None if options.keep is None else Path(options.keep).expanduser()
    download = plan_download(name, entry, models_folder(), hub=hub, keep=keep)
    for file in download.files:
        existing = f", exists in {file.path.parent}" if file.exists else ""
        console.note(f"{_gigabytes(file.remote.bytes)}  {file.remote.repository}/{file.remote.name}{existing}")
    place = keep or models_folder()
    free = _gigabytes(shutil.disk_usage(place).free)
    missing = f"{_gigabytes(download.missing_bytes)} of {_gigabytes(download.total_bytes)} are downloaded"
    console.note(f"{missing}; {place} has {free} free")
    download_model(download, hub=hub, progress=_progress(console))
    _report_model(name, models_folder() / name, console)
    return INTACT


def _hub(options: argparse.Namespace, published: tuple[Repository, ...]) -> tuple[tuple[Repository, ...], Hub]:
    """Return the hub to download from, and the repositories as that hub names them."""
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
        hub = ModelScope(options.endpoint or modelscope_endpoint())
        names = [one.modelscope for one in published]
    names[0] = own or names[0]
    repositories = []
    for number, (repository_files, repository) in enumerate(zip(published, names, strict=True)):
        if repository is None:
            problem = f"is missing: no copy of {repository_files.repository} on ModelScope is known here"
            raise RequestError("--repository", problem, "add --repository OWNER/NAME of a copy that you trust")
        files = repository_files.files
        if source == "modelscope":
            files = repository_files.modelscope_files or files
        known = {} if own and number == 0 else repository_files.known  # the user's repository may have other files
        repositories.append(replace(repository_files, repository=repository, files=files, known=known))
    return tuple(repositories), hub


def _import(options: argparse.Namespace, console: Quiet) -> int:
    """Make a model on this machine of weights of any known layout: converted, or read where they are."""
    if options.comfyui is not None:
        return _import_comfyui(options, console)
    if not options.names:
        raise RequestError("SOURCE", "is missing", "humo models import FOLDER [FOLDER ...] --name NAME")
    if len(options.names) == 1 and is_lora(Path(options.names[0])):
        import_lora(Path(options.names[0]), options.name and _check_name(options.name), console)
        return INTACT
    name = options.name or options.family
    if name is None:
        raise RequestError("--name", "is missing", "add --name NAME")
    _import_files(name, [Path(name) for name in options.names], options, console)
    return INTACT


def _import_comfyui(options: argparse.Namespace, console: Quiet) -> int:
    """Import the networks of HuMo in ComfyUI's folders, and LoRAs of presets; those that are imported already stay."""
    from humo.checkpoints.comfyui import find_models
    from humo.environment import models_folder

    if options.names:
        problem = "is not an argument of import --comfyui"
        raise RequestError(options.names[0], problem, "give the folder alone, or the files without --comfyui")
    models = find_models(Path(options.comfyui).expanduser(), options.family)
    if options.name is not None and len(models) > 1:
        networks = ", ".join(model.network.name for model in models)
        problem = f"{options.name!r} is one name, but there are {len(models)} networks: {networks}"
        raise RequestError("--name", problem, "drop --name, or add --family")
    options.link = True
    for model in models:
        name = options.name or _name_of_file(model.network, model.family)
        if options.name is None and _reads(models_folder() / name, model.network):
            _report_model(name, models_folder() / name, console)
            continue
        for file in model.others:
            console.note(
                f"{file.name} is not used: a smaller file fits as well; import the files that you want by name"
            )
        _import_files(name, list(model.files), options, console)
    import_comfyui_loras(Path(options.comfyui).expanduser(), {model.family for model in models}, console)
    return INTACT


def _name_of_file(network: Path, family: str) -> str:
    """Return a name for the model of a network's file: that of the catalog, or the file's."""
    from humo.checkpoints.hubs.catalog import CATALOG

    for name, entry in CATALOG.items():
        patterns = [Path(pattern).name for pattern in entry.repositories[0].files]
        if entry.is_linked and entry.family == family and any(fnmatchcase(network.name, one) for one in patterns):
            return name
    return network.stem.lower()


def _reads(folder: Path, network: Path) -> bool:
    """Return whether a model folder exists and reads its network from that file."""
    from humo.checkpoints.model_folder import NETWORK, mapped_files

    file = mapped_files(folder).get(NETWORK)
    return file is not None and file.resolve() == network.resolve()


def _import_files(name: str, sources: list[Path], options: argparse.Namespace, console: Quiet) -> None:
    """Create the model NAME of weights files or folders."""
    from humo.checkpoints.convert import convert
    from humo.checkpoints.manifest import write_manifest
    from humo.environment import models_folder

    target = models_folder() / _check_name(name)
    if target.exists():
        raise StorageError(name, f"exists already, in {str(target)!r}", f"run `humo models remove {name}` first")
    report = convert(
        sources,
        target,
        family=options.family,
        keep_quantized=options.keep_quantized,
        link=options.link,
        progress=_progress(console),
    )
    for note in report.notes:
        console.note(note)
    write_manifest(target, _progress(console))
    _report_model(name, target, console)


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
    from humo.checkpoints.hubs.download import DOWNLOADS, remove_unused_files
    from humo.checkpoints.lora_store import installed_loras
    from humo.checkpoints.model_folder import mapped_files
    from humo.environment import models_folder

    name = _check_name(_single_name(options))
    if name in installed_loras():
        remove_lora(name, console)
        return INTACT
    folders = [folder for folder in (models_folder() / name, models_folder() / DOWNLOADS / name) if folder.is_dir()]
    if not folders:
        raise RequestError("NAME", f"{name!r} is not a model on this machine", did_you_mean(name, _local_names()))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    for folder in folders:
        shutil.rmtree(folder)
    used = {file.resolve() for _, folder in _local_models() for file in mapped_files(folder).values()}
    size += remove_unused_files(models_folder(), used)
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


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _progress(console: Quiet) -> Callable[[str, int, int], None]:
    return lambda what, done, total: console.step(what, done, total, BYTES)


VERBS: dict[str, Callable[[argparse.Namespace, Quiet], int]] = {
    "list": _list,
    "get": _get,
    "verify": _verify,
    "remove": _remove,
    "import": _import,
}
