"""Open a model folder: check that it is complete, and read its components and sizes; weights stay on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.architecture import (
    Architecture,
    Shapes,
    TransformerArchitecture,
    infer_autoencoder,
    infer_speech_encoder,
    infer_text_encoder,
    infer_transformer,
)
from humo.checkpoints.conversion_plan import SCALE_SUFFIX, can_stay_quantized
from humo.checkpoints.discovery import FEATURE_FILE
from humo.checkpoints.formats.base import StoredTensor, WeightFile
from humo.checkpoints.formats.open import read_index
from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.checkpoints.hubs.catalog import CATALOG
from humo.checkpoints.keymap import tensor_names
from humo.checkpoints.layout import (
    COMPONENTS,
    DIFFUSERS_LAYOUT,
    FILES,
    HUMO_QUANTIZATION,
    MODEL_INDEX,
    QUANTIZATION_CONFIG,
)
from humo.checkpoints.mapped_file import MappedFile, open_mapped
from humo.checkpoints.signatures import ComponentName
from humo.environment import models_folder
from humo.errors import CheckpointError
from humo.presets import Preset, ReferenceInjection, find_preset, read_distillation
from humo.quantization.formats import QUANT_TYPES

PUBLISHED_FILES = (
    "humo.safetensors.index.json",
    "humo*.safetensors",
    "*HuMo*.safetensors",
    "*.gguf",
    "ema.pth",
    "Wan2.1_VAE.*",
    "models_t5_umt5-xxl-enc-bf16.*",
)
"""Patterns of files that identify the published layout, or a component of it."""

SETTINGS_FILES: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("spiece.model", "tokenizer.json"),
    "feature_extractor": (FEATURE_FILE,),
    "scheduler": ("scheduler_config.json",),
}
"""Component without weights -> files, at least one of which it must have."""

INFER_ARCHITECTURE: Mapping[str, Callable[[Shapes, Mapping[str, Any]], Architecture]] = {
    "transformer": infer_transformer,
    "vae": infer_autoencoder,
    "text_encoder": infer_text_encoder,
    "audio_encoder": infer_speech_encoder,
}
"""Component with weights -> function that infers its architecture."""

TIED_WEIGHTS = frozenset({"encoder.embed_tokens.weight"})
"""Tensors that a file may store a second time under this name."""

BUILTIN_MODEL = Path(__file__).parents[1] / "assets" / "nano"
"""Model folder that is used if none is named."""

BUILTIN_TEACHER = BUILTIN_MODEL.with_name("nano-teacher")
"""Model folder of the guided network that the built-in model was distilled from."""

BUILTIN_MODELS = {"humo-nano": BUILTIN_MODEL, "humo-nano-teacher": BUILTIN_TEACHER}
"""Names of the built-in model folders."""

NETWORK = "transformer"
"""Component that a model folder with a base contains itself."""

QUANTIZABLE = (NETWORK, "text_encoder")
"""Components whose weights may be stored quantized."""

BASE = "base"
"""Key of a model folder's index: relative path of the folder that has its other components."""

_IMPORT_AGAIN = "import the model again with humo models import"

_CONVERT_AGAIN = "convert the released weights of all components again with humo convert"


@dataclass(frozen=True, slots=True)
class Component:
    """A component of a model folder.

    Args:
        folder: its folder.
        library: library of its class.
        class_name: its class.
        config: its ``config.json``; empty for a component without weights.
        files: its weights files.
        tensors: their tensors; empty for a component without weights.
    """

    folder: Path
    library: str
    class_name: str
    config: Mapping[str, Any]
    files: tuple[WeightFile, ...]
    tensors: Mapping[str, StoredTensor]

    @property
    def weights(self) -> tuple[Path, ...]:
        """Paths of its weights files."""
        return tuple(file.path for file in self.files)

    @property
    def is_mapped(self) -> bool:
        """True if the weights are read from a file that is not in the layout of model folders."""
        return any(isinstance(file, MappedFile) for file in self.files)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def quantized(self) -> Mapping[str, StoredTensor]:
        """Weights of the transformer or of the text encoder that are stored quantized."""
        if self.folder.name not in QUANTIZABLE:
            return {}
        return {name: tensor for name, tensor in self.tensors.items() if tensor.dtype in QUANT_TYPES}

    def scale_of(self, weight: str) -> StoredTensor | None:
        """Return the scale beside a quantized weight, if there is one.

        Args:
            weight: its name.
        """
        return self.tensors.get(weight.removesuffix(".weight") + SCALE_SUFFIX)

    @property
    def quant_types(self) -> Mapping[str, tuple[str, int]]:
        """Quantized weight -> its type and number of scales."""
        scales = {name: self.scale_of(name) for name in self.quantized}
        return {
            name: (tensor.dtype, scale.shape[0] if (scale := scales[name]) is not None else 0)
            for name, tensor in self.quantized.items()
        }

    @property
    def shapes(self) -> Shapes:
        """Shapes of all weights after dequantization."""
        scales = {name.removesuffix(".weight") + SCALE_SUFFIX for name in self.quantized}
        return {name: one.shape for name, one in self.tensors.items() if name not in TIED_WEIGHTS | scales}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A complete model folder.

    Args:
        path: the folder.
        preset: its family.
        components: name -> component.
        base: the model folder that has all components but the transformer, if this one has a base.
    """

    path: Path
    preset: Preset
    components: Mapping[str, Component]
    base: Path | None = None

    @property
    def architectures(self) -> Mapping[str, Architecture]:
        """Component with weights -> its architecture."""
        return {
            name: infer(self.components[name].shapes, self.components[name].config)
            for name, infer in INFER_ARCHITECTURE.items()
        }

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return sum(component.bytes for component in self.components.values())


def find_model_folder(model: str | os.PathLike[str] | None) -> Path:
    """Return the folder of a model.

    Args:
        model: a path, the name of a model in `models_folder` or of a built-in model, or None for the built-in model.
    """
    if model is None:
        return BUILTIN_MODEL
    folder = Path(model)
    if folder.parts != (folder.name,) or folder.name.startswith(".") or folder.exists():
        return folder
    named = BUILTIN_MODELS.get(folder.name.lower()) or models_folder() / folder
    if not named.is_dir() and (same := _in_any_case(folder.name)) is not None:
        return same
    return named if named.is_dir() else folder


def _in_any_case(name: str) -> Path | None:
    """Return the installed model of a name that is written in other letters."""
    try:
        return next((path for path in models_folder().iterdir() if path.name.lower() == name.lower()), None)
    except OSError:  # no model is installed
        return None


def open_model_folder(path: str | os.PathLike[str]) -> ModelFolder:
    """Read a model folder's index and check that every component is complete.

    Only headers are read, and torch is not imported. The folders that were opened last are cached while their files
    are unchanged.

    Args:
        path: a model folder, as ``humo convert`` writes it.

    Raises:
        CheckpointError: the folder does not exist, is not converted, or is of an unknown family; or a component is
            missing or damaged.
    """
    folder = Path(path)
    base = base_of(folder)
    stamps = _stamp_files(folder, base)  # before any file is read: one that changes meanwhile is read again
    cached = _OPENED.pop(folder, None)
    opened = cached[1] if cached is not None and cached[0] == stamps else _open(folder, base, str(path))
    _OPENED[folder] = stamps, opened
    for oldest in list(_OPENED)[:-CACHED_FOLDERS]:
        _OPENED.pop(oldest, None)
    return opened


FileStamps = tuple[tuple[str, int, int], ...]
"""Path, modification time and size of files."""

CACHED_FOLDERS = 8
"""Number of opened model folders that are kept."""
_OPENED: dict[Path, tuple[FileStamps, ModelFolder]] = {}
"""The last opened folders, with the stamps of their files."""


def _stamp_files(folder: Path, base: Path | None) -> FileStamps:
    folders = [folder] if base is None else [folder, base]
    stamps = []
    for path in (file for one in folders for file in mapped_files(one).values()):
        with suppress(OSError):
            stamps.append((str(path), (status := path.stat()).st_mtime_ns, status.st_size))
    for directory in (*folders, *(one / name for one in folders for name in COMPONENTS)):
        with suppress(OSError), os.scandir(directory) as entries:
            stamps += [(entry.path, (status := entry.stat()).st_mtime_ns, status.st_size) for entry in entries]
    return tuple(sorted(stamps))


def _open(folder: Path, base: Path | None, model: str) -> ModelFolder:
    if folder == BUILTIN_MODEL and not folder.is_dir():
        problem = "is missing, and this installation has no built-in model"
        raise CheckpointError("model", problem, "add --model NAME_OR_FOLDER")
    if not folder.is_dir():
        remedy = "give a model folder that `humo convert` wrote, or a name that `humo models list` prints"
        if model in CATALOG:
            remedy = f"download it with `humo models get {model}`, or give a model folder that `humo convert` wrote"
        raise CheckpointError("model", f"{model!r} is not a folder or the name of a model", remedy)
    index = _read_index(folder)
    preset = find_preset(str(index.get("preset", "")))
    parents = {name: folder if base is None or name == NETWORK else base for name in COMPONENTS}
    indexes = {parent: index if parent == folder else _read_index(parent) for parent in parents.values()}
    components = {
        name: _open_component(parent / name, *_class_of(parent, indexes[parent], name), mapped_files(parent).get(name))
        for name, parent in parents.items()
    }
    for name, component in components.items():
        if name in INFER_ARCHITECTURE:
            _check_contents(component, INFER_ARCHITECTURE[name], preset)
    return ModelFolder(folder, preset.distilled(read_distillation(components[NETWORK].config)), components, base)


def base_of(path: str | os.PathLike[str]) -> Path | None:
    """Return the model folder that has all components but the transformer, which the index names as ``base``.

    Args:
        path: a model folder; None is returned for another folder.

    Raises:
        CheckpointError: the base is not a complete model folder.
    """
    folder = Path(path)
    if not (folder / MODEL_INDEX).is_file():
        return None
    base_path = _read_index(folder).get(BASE)
    if base_path is None:
        return None
    base = folder / str(base_path)
    if not (base / MODEL_INDEX).is_file() or BASE in _read_index(base):
        problem = f"names the base {base_path!r}, which is not a complete model folder"
        raise CheckpointError(str(folder / MODEL_INDEX), problem, f"set {BASE!r} to the relative path of one")
    return base


def mapped_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return component -> file with its weights, for the components whose files the index names.

    Args:
        path: a model folder; the result is empty for another folder.

    Raises:
        CheckpointError: the index names files in another form.
    """
    folder = Path(path)
    if not (folder / MODEL_INDEX).is_file():
        return {}
    files = _read_index(folder).get(FILES, {})
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        problem = f"has {FILES} = {files!r:.80}, which is not a table of components and paths"
        raise CheckpointError(str(folder / MODEL_INDEX), problem, _IMPORT_AGAIN)
    return {str(name): folder / file for name, file in files.items()}


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_INDEX
    if not path.is_file():
        if any(next(folder.rglob(pattern), None) for pattern in PUBLISHED_FILES):
            remedy = f"run `humo convert {folder} {folder}-converted` and give that folder"
            raise CheckpointError(str(folder), "contains released weights that are not converted yet", remedy)
        remedy = "give a model folder that `humo convert` wrote"
        raise CheckpointError(str(folder), f"is not a model folder: it has no {MODEL_INDEX}", remedy)
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror or error})", _CONVERT_AGAIN) from error
    except ValueError as error:
        raise CheckpointError(str(path), "is not JSON", _CONVERT_AGAIN) from error
    if not isinstance(value, dict):
        raise CheckpointError(str(path), "is not a JSON object", _CONVERT_AGAIN)
    return value


def _class_of(folder: Path, index: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return the library and the class of a component that the index names."""
    entry = index.get(name)
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(one, str) for one in entry):
        raise CheckpointError(str(folder / MODEL_INDEX), f"does not list the {name}", _CONVERT_AGAIN)
    return entry[0], entry[1]


def _open_component(folder: Path, library: str, class_name: str, mapped: Path | None) -> Component:
    if not folder.is_dir():
        raise CheckpointError(str(folder.parent), f"lacks the folder {folder.name}", _CONVERT_AGAIN)
    if files := SETTINGS_FILES.get(folder.name):
        if not any((folder / name).is_file() for name in files):
            raise CheckpointError(str(folder), f"lacks {' or '.join(files)}", _CONVERT_AGAIN)
        settings = {path.name: _read_json(path) for path in folder.glob("*_config.json")}
        if folder.name == "scheduler" and not settings["scheduler_config.json"].get("use_flow_sigmas"):
            problem = "is not a scheduler of flow-matching models: use_flow_sigmas is not set"
            raise CheckpointError(str(folder), problem, _CONVERT_AGAIN)
        return Component(folder, library, class_name, {}, (), {})
    config = _read_json(folder / "config.json")
    if mapped is not None:
        if not mapped.is_file():
            problem = f"reads its weights from {str(mapped.resolve())!r}, which does not exist"
            raise CheckpointError(str(folder), problem, f"restore that file, or {_IMPORT_AGAIN}")
        opened = open_mapped(ComponentName(folder.name), mapped, config)
        return Component(folder, library, class_name, config, (opened,), opened.tensors)
    stem = next(location.stem for location in DIFFUSERS_LAYOUT.values() if location.folder == folder.name)
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if not index.is_file() and not single.is_file():
        if other := next(folder.glob("*.gguf"), None):
            remedy = f"run `humo convert {other} {folder.parent} {folder.parent}-new --keep-quantized` and give that"
            raise CheckpointError(str(other), "is not converted yet", remedy)
        raise CheckpointError(str(folder), f"lacks {single.name}", _CONVERT_AGAIN)
    weights = tuple(SafetensorsFile(path) for path in (read_index(index) if index.is_file() else (single,)))
    tensors = {name: tensor for file in weights for name, tensor in file.tensors.items()}
    return Component(folder, library, class_name, config, weights, tensors)


def _check_contents(
    component: Component, infer: Callable[[Shapes, Mapping[str, Any]], Architecture], preset: Preset
) -> None:
    """Check a component's tensors against its ``config.json``, and the network's family against the preset."""
    if component.config.get(QUANTIZATION_CONFIG, HUMO_QUANTIZATION) != HUMO_QUANTIZATION:  # by a library
        return
    shapes = component.shapes
    architecture = infer(shapes, component.config)
    expected = {name.diffusers: name.shape for name in tensor_names(architecture)}
    for name in sorted(expected.keys() ^ shapes.keys()):
        problem = f"{'lacks' if name in expected else 'has the unknown tensor'} {name}"
        raise CheckpointError(str(component.folder), problem, _CONVERT_AGAIN)
    for name, shape in shapes.items():
        if expected[name] != shape:
            problem = f"has {name} of shape {shape}, not {expected[name]} as its other tensors imply"
            raise CheckpointError(str(component.folder), problem, _CONVERT_AGAIN)
    for name, tensor in component.quantized.items():
        scale = component.scale_of(name)
        sizes = (1, 1) if scale is None else scale.shape
        if not can_stay_quantized(name, tensor.shape, tensor.dtype) or sizes not in ((1, 1), (tensor.shape[0], 1)):
            problem = f"stores {name} as {tensor.dtype} with scales of shape {sizes}, which is not supported"
            raise CheckpointError(str(component.folder), problem, _CONVERT_AGAIN)
    for setting, value in asdict(architecture).items():
        configured = component.config.get(setting, value)
        if (tuple(configured) if isinstance(configured, list) else configured) != value:
            problem = f"sets {setting} = {configured} in config.json, but the weights have {value}"
            raise CheckpointError(str(component.folder), problem, _CONVERT_AGAIN)
    if isinstance(architecture, TransformerArchitecture):
        if bool(architecture.scale_inputs) is not (read_distillation(component.config) is not None):
            problem = "is distilled according to only one of its weights and its config.json"
            raise CheckpointError(str(component.folder), problem, "distill it again with humo train")
        concatenates = architecture.in_channels > architecture.out_channels
        if concatenates is not (preset.reference_injection is ReferenceInjection.CHANNEL_CONCAT):
            problem = f"takes {architecture.in_channels} input channels, which {preset.title} does not"
            raise CheckpointError(str(component.folder), problem, f"set the preset in {MODEL_INDEX} to its family")
