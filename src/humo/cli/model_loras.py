"""``humo models`` for LoRAs and presets: list them; download, import, verify and remove LoRAs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from humo.errors import CheckpointError, StorageError
from humo.files import SPARE_BYTES

if TYPE_CHECKING:
    from humo.checkpoints.hubs.catalog import LoraEntry, Repository
    from humo.checkpoints.hubs.download import Hub
    from humo.cli.console import Quiet

Progress = Callable[[str, int, int], None]

NAME_WIDTH = 19
"""Width of the column of names that ``humo models list`` prints."""


def list_loras(console: Quiet) -> None:
    """List the LoRAs of this machine, those that can be downloaded, and the presets."""
    from humo.checkpoints.hubs.catalog import LORAS
    from humo.checkpoints.lora_store import installed_loras
    from humo.request_presets import request_presets

    local = installed_loras()
    for name, path in local.items():
        values: dict[str, Any] = {"name": name, "state": "local", "file": str(path), "bytes": path.stat().st_size}
        console.result(f"{name:{NAME_WIDTH}} LoRA        {values['bytes'] / 1e9:7.2f} GB; {path}", values, kind="lora")
    for name, entry in LORAS.items():
        if name not in local:
            text = f"{name:{NAME_WIDTH}} LoRA, remote{entry.bytes / 1e9:7.2f} GB to download"
            text += f"; {entry.title}, for {entry.family}"
            console.result(text, {"name": name, "state": "remote", "bytes": entry.bytes}, kind="lora")
    for name, preset in request_presets().items():
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in preset.fields.items()}
        settings = ", ".join(f"{key} {_value_text(value)}" for key, value in fields.items())
        family = "any model" if preset.family is None else preset.family
        text = f"{name:{NAME_WIDTH}} preset      {family}: {preset.description or 'your own'} ({settings})"
        values = {"name": name, "family": preset.family, "description": preset.description, "fields": fields}
        console.result(text, values, kind="preset")


def _value_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def get_lora(name: str, entry: LoraEntry, repository: Repository, hub: Hub, progress: Progress, console: Quiet) -> None:
    """Download a LoRA of the catalog.

    Args:
        name: its name.
        entry: the LoRA.
        repository: where the file is on the hub.
        hub: where the file comes from.
        progress: is called with the phase, bytes done, bytes in total.
        console: where the result is reported.

    Raises:
        CheckpointError: the hub cannot be reached, lacks the file, or has another one.
        StorageError: the LoRA exists already, or the disk is too small.
    """
    from humo.checkpoints.hubs.download import DOWNLOADS, download_file
    from humo.checkpoints.lora_store import lora_path
    from humo.environment import models_folder

    target = lora_path(name)
    if target.exists():
        raise StorageError(name, f"exists already, in {str(target)!r}", f"run `humo models remove {name}` first")
    console.note(f"{entry.title}: {entry.bytes / 1e9:.2f} GB, for {entry.family}; license: {repository.license}")
    source = repository.repository
    file = next((one for one in hub.files(source) if PurePosixPath(one.name).name == entry.file), None)
    if file is None:
        remedy = "use another --endpoint, or --repository OWNER/NAME of a copy that you trust"
        raise CheckpointError(source, f"has no file {entry.file}", remedy)
    if file.bytes != entry.bytes or file.sha256 not in (None, entry.sha256):
        problem = f"has another {entry.file} than the one that is known"
        raise CheckpointError(source, problem, "download it yourself, and import it with `humo models import FILE`")
    folder = models_folder() / DOWNLOADS / name
    _check_space(models_folder(), file.bytes)
    path = download_file(file, folder, hub, lambda count: progress("download", count, file.bytes))
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    shutil.rmtree(folder, ignore_errors=True)
    _report(name, target, console)


def _check_space(models: Path, needed: int) -> None:
    """Refuse a download that the disk has no room for, before it starts."""
    existing = next(folder for folder in (models, *models.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE_BYTES:
        problem = f"has {free / 1e9:.1f} GB free, and the download needs {needed / 1e9:.1f} GB"
        raise StorageError(str(models), problem, "free some space, or set HUMO_MODELS to another folder")


def import_lora(source: Path, name: str | None, console: Quiet) -> None:
    """Make a LoRA's file one of this machine.

    Args:
        source: the file.
        name: its name; by default that of the catalog, or the file's.
        console: where the result is reported.

    Raises:
        CheckpointError: the file is damaged.
        StorageError: the name is taken, or the disk is full.
    """
    from humo.checkpoints.lora_store import catalog_name, install_lora

    name = name or catalog_name(source) or source.stem
    _report(name, install_lora(source, name), console)


def import_comfyui_loras(folder: Path, families: AbstractSet[str], console: Quiet) -> None:
    """Import the LoRAs of ComfyUI's folder that presets need; the others are counted in a note.

    Args:
        folder: ComfyUI's folder, or its folder of models.
        families: of the networks that were imported; LoRAs for others are not.
        console: where the result is reported.

    Raises:
        StorageError: the disk is full.
    """
    from humo.checkpoints.comfyui import lora_files
    from humo.checkpoints.hubs.catalog import LORAS
    from humo.checkpoints.lora_store import installed_loras

    others = lora_files(folder)
    for name, entry in LORAS.items():
        own = [file for file in others if file.name == entry.file]
        others = [file for file in others if file not in own]
        if own and entry.family in families and name not in installed_loras():
            try:
                import_lora(own[0], name, console)
            except CheckpointError as error:  # the models are imported
                console.note(str(error))
    if others:
        count = "1 other LoRA" if len(others) == 1 else f"{len(others)} other LoRAs"
        console.note(
            f"ComfyUI has {count}: give the file to --lora, or a name with humo models import FILE --name NAME"
        )


def verify_lora(name: str, console: Quiet) -> bool:
    """Check a LoRA of this machine: its header and size, and the checksum of one that the catalog has.

    Returns:
        whether it is intact.
    """
    from humo.checkpoints.hubs.catalog import LORAS
    from humo.checkpoints.lora_store import installed_loras, open_lora
    from humo.files import hash_file

    path = installed_loras()[name]
    try:
        open_lora(path)
    except CheckpointError as error:
        console.error(str(error), path=str(path))
        return False
    entry = LORAS.get(name)
    if entry is not None and path.stat().st_size == entry.bytes and hash_file(path) != entry.sha256:
        console.error(f"{path}: has another checksum than the published file", path=str(path))
        return False
    console.result(f"{path}: is intact", {"name": name, "file": str(path)})
    return True


def remove_lora(name: str, console: Quiet) -> None:
    """Remove a LoRA of this machine; a file that was linked stays in its other place."""
    from humo.checkpoints.lora_store import installed_loras

    path = installed_loras()[name]
    size = path.stat().st_size
    path.unlink()
    console.result(f"{name} removed, {size / 1e9:.2f} GB", {"name": name, "bytes": size})


def is_lora(source: Path) -> bool:
    """Return whether a file holds a LoRA and no network."""
    from humo.checkpoints.lora_store import open_lora
    from humo.inference.lora_keys import has_lora_keys

    return source.suffix == ".safetensors" and source.is_file() and has_lora_keys(open_lora(source).tensors)


def _report(name: str, path: Path, console: Quiet) -> None:
    size = path.stat().st_size
    text = f"{name}: {size / 1e9:.2f} GB in {path}; use it with --lora {name}"
    console.result(text, {"name": name, "file": str(path), "bytes": size})
