"""Find the components of a model among files: the published tree, ComfyUI's folders, model folders, or single files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humo.checkpoints.formats.gguf_file import GGUF_SUFFIX
from humo.checkpoints.formats.open import WeightSet, open_weights
from humo.checkpoints.formats.torch_file import TORCH_SUFFIXES
from humo.checkpoints.signatures import ComponentName, recognize
from humo.errors import CheckpointError

TOKENIZER_FILES = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files of a T5 tokenizer."""

FEATURE_FILE = "preprocessor_config.json"
"""File with the settings of Whisper's feature extractor."""

NOT_NEEDED = (
    (r"zero_vae.*\.pt", "latents of an empty video, which the autoencoder computes for any size"),
    (r".*\.onnx", "the vocal separator, which is optional and needs no conversion"),
    (r".*\.(msgpack|h5|ot|tflite)", "the same weights for another library"),
)
"""Files of the published tree that are not converted: name, reason."""


@dataclass(frozen=True, slots=True)
class DiscoveredComponent:
    """A component among the files.

    Args:
        component: its name.
        weights: its tensors.
        config: its own ``config.json`` beside them, or empty.
        named_by_user: the user named this file itself, and not a folder that contains it.
    """

    component: ComponentName
    weights: WeightSet
    config: Mapping[str, Any]
    named_by_user: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file that is not converted.

    Args:
        path: the file.
        reason: why.
    """

    path: Path
    reason: str


@dataclass(slots=True)
class Discovery:
    """Everything that the sources contain.

    Args:
        components: the components, possibly several of one name.
        tokenizer, feature_config: folder of a T5 tokenizer, file of Whisper's feature extractor, if they exist.
        ignored: files that are not converted.
        refused: component -> why a file that resembles it was refused; under None files that cannot be read.
    """

    components: list[DiscoveredComponent] = field(default_factory=list)
    tokenizer: Path | None = None
    feature_config: Path | None = None
    ignored: list[Ignored] = field(default_factory=list)
    refused: dict[ComponentName | None, CheckpointError] = field(default_factory=dict)

    def refuse(self, path: Path, component: ComponentName | None, error: CheckpointError) -> None:
        """Record a file that is not the component it resembles."""
        self.ignored.append(Ignored(path, f"{error.problem}"))
        self.refused.setdefault(component, error)


def discover_components(sources: Iterable[Path], skipped_folder: Path | None = None) -> Discovery:
    """Search files and folders at any depth, and identify each weights file.

    Args:
        sources: files or folders.
        skipped_folder: a folder that is not searched: the destination.

    Raises:
        CheckpointError: a source does not exist, or a file that the user named is no component of HuMo.
    """
    discovery = Discovery()
    for source in sources:
        if source.is_file():
            _examine(source, discovery, named_by_user=True)
            for folder in (source.parent, source.parent / "google" / "umt5-xxl"):
                _examine_companions(folder, {path.name for path in folder.glob("*")}, discovery)
        elif source.is_dir():
            for folder, files in _folders(source, skipped_folder):
                _examine_folder(folder, files, discovery)
        else:
            raise CheckpointError(str(source), "does not exist", "give a file or folder that exists")
    return discovery


def read_config(path: Path) -> dict[str, Any]:
    """Return the contents of a ``config.json``; empty if it does not exist or is not a JSON object.

    Args:
        path: the file.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _folders(top: Path, skipped_folder: Path | None) -> Iterator[tuple[Path, list[Path]]]:
    """Yield folders and their files; links are followed, hidden ones are left out, none occurs twice."""
    visited: set[tuple[int, int]] = set()
    if skipped_folder is not None and skipped_folder.is_dir():
        visited.add((skipped_folder.stat().st_dev, skipped_folder.stat().st_ino))
    for folder, inner, names in os.walk(top, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            inner.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield Path(folder), [Path(folder, name) for name in sorted(names) if not name.startswith(".")]


def _examine_folder(folder: Path, files: list[Path], discovery: Discovery) -> None:
    _examine_companions(folder, {path.name for path in files}, discovery)
    for path in _weights(folder, files, discovery):
        _examine(path, discovery, named_by_user=False)


def _examine_companions(folder: Path, names: set[str], discovery: Discovery) -> None:
    """Record the tokenizer and the feature extractor's settings of a folder, which have no weights."""
    if discovery.tokenizer is None and _is_t5_tokenizer(folder, names):
        discovery.tokenizer = folder
    if discovery.feature_config is None and FEATURE_FILE in names:
        path = folder / FEATURE_FILE
        if read_config(path).get("feature_extractor_type") == "WhisperFeatureExtractor":
            discovery.feature_config = path


def _is_t5_tokenizer(folder: Path, names: set[str]) -> bool:
    tokenizer_class = str(read_config(folder / "tokenizer_config.json").get("tokenizer_class", ""))
    return "spiece.model" in names or ("tokenizer.json" in names and tokenizer_class.startswith("T5"))


def _weights(folder: Path, files: list[Path], discovery: Discovery) -> Iterator[Path]:
    """Yield the weights files of a folder, each model once.

    An index replaces its shards, and safetensors files replace the same weights in ``.bin`` files.
    """
    indexes = [path for path in files if path.name.endswith(".safetensors.index.json")]
    shards = {name for index in indexes for name in _shard_names(index)}
    suffixes = (".safetensors", GGUF_SUFFIX, *TORCH_SUFFIXES)
    weights = [path for path in files if path.suffix in suffixes and path.name not in shards]
    names = {path.name for path in weights}
    for path in files:
        for pattern, reason in NOT_NEEDED:
            if re.fullmatch(pattern, path.name):
                discovery.ignored.append(Ignored(path, reason))
    yield from indexes
    for path in weights:
        if any(re.fullmatch(pattern, path.name) for pattern, _ in NOT_NEEDED):
            continue
        if path.name == "pytorch_model.bin" and (indexes or "model.safetensors" in names):
            discovery.ignored.append(Ignored(path, "the same weights as in the safetensors beside it"))
        elif re.search(r"\.fp32-\d+-of-\d+\.", path.name):
            discovery.ignored.append(Ignored(path, "the same weights in float32"))
        else:
            yield path


def _shard_names(index: Path) -> set[str]:
    table = read_config(index).get("weight_map", {})
    return {Path(str(name)).name for name in table.values()} if isinstance(table, dict) else set()


def _examine(path: Path, discovery: Discovery, named_by_user: bool) -> None:
    """Open a file and record what it is; a file that the user named must be a component."""
    component = None
    try:
        if path.suffix not in (".safetensors", ".json", GGUF_SUFFIX, *TORCH_SUFFIXES):
            raise CheckpointError(str(path), "is not a weights file", "give .safetensors, .gguf or .pth")
        if re.search(r"-\d+-of-(?!0*1\.)\d+\.", path.name):
            raise CheckpointError(str(path), "is one shard of several", "give their folder, with the index in it")
        weights = open_weights(path)
        signature = recognize(weights.tensors)
        if signature is None:
            names = ", ".join(sorted(weights.tensors)[:2])
            remedy = "give HuMo's transformer, Wan2.1's autoencoder, umT5 or Whisper large-v3"
            raise _OtherModelError(str(path), f"is not a component of HuMo (its tensors: {names}, ...)", remedy)
        if signature.component is None or not signature.fits:
            component = signature.component
            raise _OtherModelError(str(path), f"is {signature.title}", signature.remedy)
    except CheckpointError as error:
        if named_by_user:
            raise
        if component is None and isinstance(error, _OtherModelError):
            discovery.ignored.append(Ignored(path, error.problem))
        else:
            discovery.refuse(path, component, error)
        return
    discovery.components.append(
        DiscoveredComponent(signature.component, weights, _own_config(signature.component, path), named_by_user)
    )


class _OtherModelError(CheckpointError):
    """Error for a file that is complete but belongs to another model."""


def _own_config(component: ComponentName, path: Path) -> Mapping[str, Any]:
    """Return the configuration beside the weights, if it describes this component."""
    config = read_config(path.parent / "config.json")
    describes = {
        ComponentName.TRANSFORMER: config.get("_class_name") == "HuMoTransformer3DModel"
        or {"num_heads", "dim"} <= config.keys(),
        ComponentName.AUTOENCODER: config.get("_class_name") == "AutoencoderKLWan",
        ComponentName.TEXT_ENCODER: config.get("model_type") == "umt5",
        ComponentName.AUDIO_ENCODER: config.get("model_type") == "whisper",
    }
    return config if describes[component] else {}
