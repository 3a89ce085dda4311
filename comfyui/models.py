"""Models that HuMo Load Model offers: built-in ones, those of `humo models`, and files in ComfyUI's own folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import folder_paths

from humo.checkpoints.comfyui import FOLDERS, smallest_companion
from humo.checkpoints.model_folder import BUILTIN_MODELS, find_model_folder, open_model_folder
from humo.checkpoints.signatures import ComponentName
from humo.environment import models_folder
from humo.errors import CheckpointError, HuMoError, did_you_mean
from humo.presets import HUMO_1_7B, HUMO_17B

SUFFIXES = (".safetensors", ".sft", ".gguf")
"""Suffixes of files that are read where they are."""

COMPANIONS = (ComponentName.TEXT_ENCODER, ComponentName.AUDIO_ENCODER, ComponentName.AUTOENCODER)
"""Components that a network's file needs beside it."""

LINKED = ".comfyui"
"""Folder among HuMo's models for the small folders that point to ComfyUI's files."""


def files(component: ComponentName) -> dict[str, Path]:
    """Return name -> path of the weights files in ComfyUI's folders of a component, subfolders included.

    Args:
        component: whose files.
    """
    paths_by_name: dict[str, Path] = {}
    for folder in _folders(component):
        weights = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
        for path in weights:
            paths_by_name.setdefault(path.relative_to(folder).as_posix(), path)
    return paths_by_name


def _folders(component: ComponentName) -> list[Path]:
    """Return ComfyUI's folders of a component; one that an old version does not know is looked for in its place."""
    known = folder_paths.folder_names_and_paths
    folders: list[str] = []
    for name in FOLDERS[component]:
        folders += known[name][0] if name in known else [str(Path(folder_paths.models_dir) / name)]
    return [folder for folder in map(Path, dict.fromkeys(folders)) if folder.is_dir()]


def model_choices() -> list[str]:
    """Return the models to choose from: built-in ones, those of `humo models`, then files, HuMo's first."""
    named = [*BUILTIN_MODELS]
    if models_folder().is_dir():
        folders = sorted(path for path in models_folder().iterdir() if path.is_dir())
        named += [folder.name for folder in folders if not folder.name.startswith(".")]
    networks = sorted(files(ComponentName.TRANSFORMER), key=lambda name: ("humo" not in name.lower(), name))
    return [*named, *networks]


def preset_of(model: str) -> str:
    """Return the name of the sampler's preset for a model; of a file, by its name.

    Args:
        model: one of `model_choices`.
    """
    if model in BUILTIN_MODELS:
        return model
    if model.endswith(SUFFIXES):
        return HUMO_1_7B.name if "1.7b" in model.lower() or "1_7b" in model.lower() else HUMO_17B.name
    try:
        return open_model_folder(find_model_folder(model)).preset.name
    except HuMoError:
        return HUMO_17B.name


def find_model(model: str, companions: dict[ComponentName, str]) -> Path:
    """Return the model folder of a choice; for a file a small folder that points to it and its companions.

    Args:
        model: one of `model_choices`, or the path of a model folder; empty for the built-in model.
        companions: component -> one of its `files`, or ``auto`` for the smallest that fits.

    Raises:
        CheckpointError: the model or a companion does not exist, is damaged, or is another model.
    """
    from humo.checkpoints.convert import convert

    if not model.endswith(SUFFIXES):
        folder = find_model_folder(model or None)
        open_model_folder(folder)
        return folder
    sources = [_file(ComponentName.TRANSFORMER, "model", model)]
    for component in COMPANIONS:
        chosen = companions.get(component, "auto")
        sources.append(
            smallest_companion(component, _folders(component), sources[0])
            if chosen == "auto"
            else _file(component, str(component), chosen)
        )
    stamps = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    folder = models_folder() / LINKED / hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    if not folder.exists():
        convert(sources, folder, link=True)
    open_model_folder(folder)
    return folder


def _file(component: ComponentName, field: str, name: str) -> Path:
    choices = files(component)
    if name not in choices:
        problem = f"{name!r} is not in ComfyUI's folder {FOLDERS[component][0]}"
        raise CheckpointError(field, problem, did_you_mean(name, choices) if choices else "put it there")
    return choices[name]
