"""LoRAs of this machine: files by name in the folder of the models, found, installed and removed. No torch."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.checkpoints.hubs.catalog import LORAS
from humo.environment import loras_folder
from humo.errors import CheckpointError, RequestError, StorageError, did_you_mean
from humo.files import atomic_write, hash_file, os_error_text
from humo.presets import SCALE_NAMES, Distillation

SUFFIX = ".safetensors"

DISTILLED_PREFIX = "transformer.guidance_embedder."
"""Prefix of the keys of a distilled LoRA's other tensors."""

DISTILLATION_KEY = "distillation"
"""Key of a tensor (8,) after `DISTILLED_PREFIX`: steps, shift, then the lowest and the highest of each scale."""


def installed_loras() -> dict[str, Path]:
    """Return the name and file of each LoRA of this machine."""
    return {path.stem: path for path in sorted(loras_folder().glob(f"*{SUFFIX}")) if not path.name.startswith(".")}


def lora_path(name: str) -> Path:
    """Return the file of an installed LoRA of that name, whether it exists or not."""
    return loras_folder() / f"{name}{SUFFIX}"


def find_lora(name: str, served: Mapping[str, str] | None = None) -> Path:
    """Return the absolute path of a LoRA's file.

    Args:
        name: a path, or the name of an installed LoRA.
        served: name -> file of the only LoRAs that may be used; ``name`` is then one of these names, never a path.

    Raises:
        RequestError: the name is not served.
        CheckpointError: there is no such file, and no LoRA of that name.
    """
    if served is not None:
        if name not in served:
            choices = did_you_mean(name, served) if served else "this service has none"
            raise RequestError("loras", f"{name[:60]!r} is not served", choices)
        return Path(served[name])
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return path.absolute()
    except (OSError, ValueError) as error:
        raise CheckpointError("loras", f"{name!r} cannot be opened ({os_error_text(error)})", "check it") from error
    loras = installed_loras()
    if name in loras:
        return loras[name].absolute()
    known, colon, strength = name.rpartition(":")
    if colon and (known in loras or Path(known).expanduser().is_file()):
        raise CheckpointError("loras", f"{strength!r} is not a strength of {known}", f"give a number, as {known}:0.8")
    if path.suffix or len(path.parts) != 1:
        raise CheckpointError("loras", f"there is no file {name!r}", "check the path")
    remedy = f"run `humo models get {name}`, or `humo models import FILE --name {name}`"
    if name not in LORAS:
        remedy = did_you_mean(name, loras) if loras else "give a file, or import one with `humo models import FILE`"
    raise CheckpointError("loras", f"{name!r} is neither a file nor a LoRA of this machine", remedy)


def open_lora(path: Path) -> SafetensorsFile:
    """Open a LoRA's file and read its header.

    Raises:
        CheckpointError: it is not a complete safetensors file.
    """
    if path.suffix.lower() in (".pt", ".pth", ".ckpt", ".bin"):
        problem = "is a pickled file, which is not opened"
        raise CheckpointError(path.name, problem, "give its .safetensors version")
    return SafetensorsFile(path)


def install_lora(source: Path, name: str) -> Path:
    """Make a file a LoRA of this machine: a link where the file system has them, otherwise a copy.

    Args:
        source: the file.
        name: its name from then on.

    Returns:
        the installed file.

    Raises:
        CheckpointError: the file is not a safetensors file.
        StorageError: the name is taken, or the file cannot be written.
    """
    open_lora(source)
    target = lora_path(name)
    if target.exists():
        raise StorageError(name, f"exists already, in {str(target)!r}", f"run `humo models remove {name}` first")
    with atomic_write(target, "loras") as part:
        part.unlink()
        try:
            os.link(source.resolve(), part)
        except OSError:  # another file system, or one without links
            try:
                shutil.copyfile(source, part)
            except OSError as error:
                problem = f"cannot be written ({os_error_text(error)})"
                raise StorageError(str(target), problem, "free some space, or set HUMO_MODELS") from error
    return target


def read_lora_distillation(path: Path) -> Distillation | None:
    """Return the settings that a LoRA of `humo train distill` was distilled for; None for other LoRAs.

    Raises:
        CheckpointError: the file is damaged.
    """
    file, name = open_lora(path), DISTILLED_PREFIX + DISTILLATION_KEY
    tensor = file.tensors.get(name)
    if tensor is None:
        return None
    count = 2 + 2 * len(SCALE_NAMES)
    if tensor.dtype != "F32" or tensor.shape != (count,):
        raise CheckpointError(path.name, f"has {name} of another form", "distill it again with humo train")
    steps, shift, *ends = struct.unpack(f"<{count}f", file.read_bytes(name, 0, tensor.bytes))
    return Distillation(int(steps), shift, dict(zip(SCALE_NAMES, zip(ends[::2], ends[1::2], strict=True), strict=True)))


def catalog_name(file: Path) -> str | None:
    """Return the catalog's name of a file, if its size and checksum are those of a LoRA there."""
    size = file.stat().st_size
    return next((name for name, one in LORAS.items() if one.bytes == size and one.sha256 == hash_file(file)), None)
