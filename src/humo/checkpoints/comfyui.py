"""Find weights in ComfyUI's folders of models.

**Source:** ComfyUI (https://github.com/comfyanonymous/ComfyUI), ``folder_paths.py`` (names of the folders, old ones
included) and ``utils/extra_config.py`` (``extra_model_paths.yaml``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from humo.checkpoints.conversion_plan import ComponentPlan, plan_component
from humo.checkpoints.discovery import DiscoveredComponent, Discovery, discover_components
from humo.checkpoints.keymap import Naming
from humo.checkpoints.signatures import ComponentName
from humo.errors import CheckpointError, RequestError, StorageError

FOLDERS: Mapping[ComponentName, tuple[str, ...]] = {
    ComponentName.TRANSFORMER: ("diffusion_models", "unet"),
    ComponentName.AUTOENCODER: ("vae",),
    ComponentName.TEXT_ENCODER: ("text_encoders", "clip"),
    ComponentName.AUDIO_ENCODER: ("audio_encoders",),
}
"""Component -> ComfyUI's folders of such files, today's name first."""

EXTRA_PATHS = "extra_model_paths.yaml"
"""File in ComfyUI's folder that names further folders of models."""


@dataclass(frozen=True, slots=True)
class ComfyModel:
    """A network in ComfyUI's folders, and the companions to use with it.

    Args:
        network: its file.
        family: its preset.
        files: the files of all components, the network's first.
        others: files that would fit as well, and are not used.
    """

    network: Path
    family: str
    files: tuple[Path, ...]
    others: tuple[Path, ...]


def models_folder_in(folder: Path) -> Path:
    """Return the folder of models of a ComfyUI folder; the folder itself if it has no ``models``.

    Args:
        folder: ComfyUI's folder, or its folder of models.
    """
    return folder / "models" if (folder / "models").is_dir() else folder


def find_file(folder: Path, kind: str, name: str, size: int) -> Path | None:
    """Return a file of that name and size where ComfyUI looks for files of a kind; None if there is none.

    Args:
        folder: ComfyUI's folder, or its folder of models.
        kind: name of the subfolder of these files; its older names are searched as well.
        name: of the file.
        size: in bytes.

    Raises:
        CheckpointError: ``extra_model_paths.yaml`` cannot be read.
    """
    for parent in _search_folders(folder, next((names for names in FOLDERS.values() if kind in names), (kind,))):
        for path in sorted(parent.rglob(name)):
            if path.is_file() and path.stat().st_size == size:
                return path
    return None


def lora_files(folder: Path) -> list[Path]:
    """Return the files in ComfyUI's folders of LoRAs, at any depth.

    Args:
        folder: ComfyUI's folder, or its folder of models.

    Raises:
        CheckpointError: ``extra_model_paths.yaml`` cannot be read.
    """
    paths = [path for parent in _search_folders(folder, ("loras",)) for path in parent.rglob("*.safetensors")]
    return sorted(path for path in paths if path.is_file())


def component_folders(folder: Path) -> dict[ComponentName, list[Path]]:
    """Return component -> the existing folders in which ComfyUI looks for it.

    Args:
        folder: ComfyUI's folder, or its folder of models.

    Raises:
        CheckpointError: ``extra_model_paths.yaml`` cannot be read.
    """
    return {component: _search_folders(folder, names) for component, names in FOLDERS.items()}


def _search_folders(folder: Path, names: tuple[str, ...]) -> list[Path]:
    models, extra = models_folder_in(folder), _extra_paths(folder / EXTRA_PATHS)
    paths = [models / name for name in names] + [path for name in names for path in extra.get(name, [])]
    return [path for path in dict.fromkeys(paths) if path.is_dir()]


def _extra_paths(path: Path) -> dict[str, list[Path]]:
    """Return name of a folder -> the paths that ``extra_model_paths.yaml`` has for it."""
    if not path.is_file():
        return {}
    paths: dict[str, list[Path]] = {}
    try:
        sections: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for section in sections.values():
            entries = dict(section or {})
            base = Path(os.path.expandvars(os.path.expanduser(str(entries.pop("base_path", "") or ""))))
            for name, lines in entries.items():
                stripped = [line.strip() for line in str(lines).splitlines() if line.strip()]
                paths.setdefault(str(name), []).extend(path.parent / base / line for line in stripped)
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(str(path), "cannot be read as paths of models", "mend it or move it away") from error
    return paths


def find_models(folder: Path, family: str | None = None) -> list[ComfyModel]:
    """Return all networks of HuMo in ComfyUI's folders, each with companions; of several the smallest is used.

    Args:
        folder: ComfyUI's folder, or its folder of models.
        family: ``humo-17b`` or ``humo-1.7b``; None for both.

    Raises:
        RequestError: there is no such folder.
        StorageError: it has no network of HuMo.
        CheckpointError: a network is damaged, or has no companion of some kind.
    """
    if not folder.is_dir():
        raise RequestError("--comfyui", f"{str(folder)!r} is not a folder", "give the folder of ComfyUI")
    plans = {
        component: sorted(_plans(component, paths), key=_size_and_path)
        for component, paths in component_folders(folder).items()
    }
    networks = [plan for plan in plans[ComponentName.TRANSFORMER] if family in (None, plan.family)]
    if not networks:
        problem = f"has no network of {family or 'HuMo'} in diffusion_models or unet"
        name = "humo-1.7b-fp16" if family == "humo-1.7b" else "humo-17b-q5"
        raise StorageError(str(folder), problem, f"run `humo models get {name} --keep {folder}`")
    return [_with_companions(network, plans, folder) for network in networks]


def _size_and_path(plan: ComponentPlan) -> tuple[int, str]:
    return plan.weights.path.stat().st_size, str(plan.weights.path)


def _plans(component: ComponentName, folders: list[Path]) -> Iterator[ComponentPlan]:
    """Yield the files in these folders that are the component; other models are skipped."""
    discovery = Discovery() if not folders else discover_components(folders)
    for candidate in discovery.components:
        if candidate.component is component and (plan := _plan(candidate)) is not None:
            yield plan
    refused = discovery.refused.get(component) or discovery.refused.get(None)
    if component is ComponentName.TRANSFORMER and not discovery.components and refused is not None:
        raise refused


def _plan(candidate: DiscoveredComponent) -> ComponentPlan | None:
    """Return the plan of a file; None for a companion of another size, such as a small Whisper."""
    try:
        plan = plan_component(candidate, Naming.DIFFUSERS, None, None, keep_quantized=True)
        return plan if plan.family or candidate.component is not ComponentName.TRANSFORMER else None
    except CheckpointError:
        if candidate.component is ComponentName.TRANSFORMER:
            raise
        return None


def _with_companions(
    network: ComponentPlan, plans: Mapping[ComponentName, list[ComponentPlan]], folder: Path
) -> ComfyModel:
    files, others = [network.weights.path], []
    for component, candidates in plans.items():
        if component is ComponentName.TRANSFORMER:
            continue
        if not candidates:
            problem = f"has {network.weights.path.name}, but no {component} in {FOLDERS[component][0]}"
            name = "humo-1.7b-fp16" if network.family == "humo-1.7b" else "humo-17b-q5"
            remedy = f"run `humo models get {name} --keep {folder}`, which downloads only what is missing"
            raise CheckpointError(str(folder), problem, remedy)
        files.append(candidates[0].weights.path)
        others += [plan.weights.path for plan in candidates[1:]]
    return ComfyModel(network.weights.path, network.family or "", tuple(files), tuple(others))


def smallest_companion(component: ComponentName, folders: list[Path], network: Path) -> Path:
    """Return the smallest file in some folders that is a component to use with a network.

    Args:
        component: text encoder, audio encoder or autoencoder.
        folders: where to look, at any depth.
        network: the network's file, for the message.

    Raises:
        CheckpointError: there is none.
    """
    candidates = sorted(_plans(component, folders), key=_size_and_path)
    if not candidates:
        problem = f"is needed beside {network.name}, and ComfyUI's folder {FOLDERS[component][0]} has none"
        remedy = "download one with `humo models get humo-17b-q5 --keep COMFYUI_FOLDER`"
        raise CheckpointError(str(component), problem, remedy)
    return candidates[0].weights.path
