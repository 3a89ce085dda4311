"""Finds the parts of a model among files: the published tree, ComfyUI's folders, our own folder, or single files."""

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
"""What a T5 tokenizer's folder holds."""

FEATURE_FILE = "preprocessor_config.json"
"""Holds the settings of Whisper's feature extractor."""

NOT_NEEDED = (
    (r"zero_vae.*\.pt", "latents of an empty video: the autoencoder makes them for any size"),
    (r".*\.onnx", "the vocal separator, which is optional and used as it is"),
    (r".*\.(msgpack|h5|ot|tflite)", "the same weights for another library"),
)
"""Files of the published tree that are not converted: name, why."""


@dataclass(frozen=True, slots=True)
class DiscoveredComponent:
    """A part of the model among the files.

    Args:
        part: which.
        weights: its tensors.
        config: the ``config.json`` beside them, if it is this part's own; else nothing.
        named: the user named this file itself, and not a folder that it is in.
    """

    component: ComponentName
    weights: WeightSet
    config: Mapping[str, Any]
    named_by_user: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file that is not converted.

    Args:
        path: which.
        reason: why.
    """

    path: Path
    reason: str


@dataclass(slots=True)
class Discovery:
    """All that lies under the sources.

    Args:
        found: parts, several of one kind perhaps.
        tokenizer, feature_config: a T5 tokenizer's folder, Whisper's feature extractor's settings, if found.
        ignored: files that are not converted.
        refused: why a file that might have been a part is none, by part; under None those that cannot be read.
    """

    components: list[DiscoveredComponent] = field(default_factory=list)
    tokenizer: Path | None = None
    feature_config: Path | None = None
    ignored: list[Ignored] = field(default_factory=list)
    refused: dict[ComponentName | None, CheckpointError] = field(default_factory=dict)

    def refuse(self, path: Path, component: ComponentName | None, error: CheckpointError) -> None:
        """Note that a file is not what it might have been."""
        self.ignored.append(Ignored(path, f"{error.problem}"))
        self.refused.setdefault(component, error)


def discover_components(sources: Iterable[Path], skipped_folder: Path | None = None) -> Discovery:
    """Look through files and folders, however they are nested, and say what each weights file is.

    Args:
        sources: files or folders.
        skipped: a folder that is not looked into: the one to be made.

    Raises:
        CheckpointError: a source is not there, or a file that was named itself is no part of HuMo.
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
            raise CheckpointError(str(source), "is not there", "give a file or folder that exists")
    return discovery


def read_config(path: Path) -> dict[str, Any]:
    """A ``config.json``; empty if it is not there or not one.

    Args:
        path: the file.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _folders(top: Path, skipped_folder: Path | None) -> Iterator[tuple[Path, list[Path]]]:
    """Folders and their files, links followed, hidden ones left out, none twice."""
    seen: set[tuple[int, int]] = set()
    if skipped_folder is not None and skipped_folder.is_dir():
        seen.add((skipped_folder.stat().st_dev, skipped_folder.stat().st_ino))
    for folder, inner, names in os.walk(top, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield Path(folder), [Path(folder, name) for name in sorted(names) if not name.startswith(".")]


def _examine_folder(folder: Path, files: list[Path], discovery: Discovery) -> None:
    _examine_companions(folder, {path.name for path in files}, discovery)
    for path in _weights(folder, files, discovery):
        _examine(path, discovery, named_by_user=False)


def _examine_companions(folder: Path, names: set[str], discovery: Discovery) -> None:
    """The tokenizer and the feature extractor's settings have no weights."""
    if discovery.tokenizer is None and _is_t5_tokenizer(folder, names):
        discovery.tokenizer = folder
    if discovery.feature_config is None and FEATURE_FILE in names:
        path = folder / FEATURE_FILE
        if read_config(path).get("feature_extractor_type") == "WhisperFeatureExtractor":
            discovery.feature_config = path


def _is_t5_tokenizer(folder: Path, names: set[str]) -> bool:
    told = str(read_config(folder / "tokenizer_config.json").get("tokenizer_class", ""))
    return "spiece.model" in names or ("tokenizer.json" in names and told.startswith("T5"))


def _weights(folder: Path, files: list[Path], discovery: Discovery) -> Iterator[Path]:
    """The weights of a folder, each model once: an index stands for its shards, safetensors for the same in .bin."""
    indexes = [path for path in files if path.name.endswith(".safetensors.index.json")]
    shards = {name for index in indexes for name in _shard_names(index)}
    suffixes = (".safetensors", GGUF_SUFFIX, *TORCH_SUFFIXES)
    weights = [path for path in files if path.suffix in suffixes and path.name not in shards]
    whole = {path.name for path in weights}
    for path in files:
        for pattern, reason in NOT_NEEDED:
            if re.fullmatch(pattern, path.name):
                discovery.ignored.append(Ignored(path, reason))
    yield from indexes
    for path in weights:
        if any(re.fullmatch(pattern, path.name) for pattern, _ in NOT_NEEDED):
            continue
        if path.name == "pytorch_model.bin" and (indexes or "model.safetensors" in whole):
            discovery.ignored.append(Ignored(path, "the same weights as in the safetensors beside it"))
        elif re.search(r"\.fp32-\d+-of-\d+\.", path.name):
            discovery.ignored.append(Ignored(path, "the same weights in float32"))
        else:
            yield path


def _shard_names(index: Path) -> set[str]:
    table = read_config(index).get("weight_map", {})
    return {Path(str(name)).name for name in table.values()} if isinstance(table, dict) else set()


def _examine(path: Path, discovery: Discovery, named_by_user: bool) -> None:
    """Open one file and note what it is; a file that the user named must be a part."""
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
            raise _OtherModelError(str(path), f"is not a part of HuMo (its tensors: {names}, ...)", remedy)
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
    """A file that is whole but of another model."""


def _own_config(component: ComponentName, path: Path) -> Mapping[str, Any]:
    """The configuration beside the weights, if it describes this part and not another one in the same folder."""
    config = read_config(path.parent / "config.json")
    own = {
        ComponentName.TRANSFORMER: config.get("_class_name") == "HuMoTransformer3DModel"
        or {"num_heads", "dim"} <= config.keys(),
        ComponentName.AUTOENCODER: config.get("_class_name") == "AutoencoderKLWan",
        ComponentName.TEXT_ENCODER: config.get("model_type") == "umt5",
        ComponentName.AUDIO_ENCODER: config.get("model_type") == "whisper",
    }
    return config if own[component] else {}
