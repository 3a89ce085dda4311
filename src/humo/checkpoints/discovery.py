"""Finds the parts of a model among files: the published tree, ComfyUI's folders, our own folder, or single files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humo.checkpoints.formats.open import GGUF_SUFFIX, TORCH_SUFFIXES, WeightSet, open_weights
from humo.checkpoints.signatures import Part, recognise
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
class Found:
    """A part of the model among the files.

    Args:
        part: which.
        weights: its tensors.
        config: the ``config.json`` beside them, if it is this part's own; else nothing.
        named: the user named this file itself, and not a folder that it is in.
    """

    part: Part
    weights: WeightSet
    config: Mapping[str, Any]
    named: bool = False


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
class Findings:
    """All that lies under the sources.

    Args:
        found: parts, several of one kind perhaps.
        tokenizer, feature_config: a T5 tokenizer's folder, Whisper's feature extractor's settings, if found.
        ignored: files that are not converted.
        refused: why a file that might have been a part is none, by part; under None those that cannot be read.
    """

    found: list[Found] = field(default_factory=list)
    tokenizer: Path | None = None
    feature_config: Path | None = None
    ignored: list[Ignored] = field(default_factory=list)
    refused: dict[Part | None, CheckpointError] = field(default_factory=dict)

    def refuse(self, path: Path, part: Part | None, error: CheckpointError) -> None:
        """Note that a file is not what it might have been."""
        self.ignored.append(Ignored(path, f"{error.problem}"))
        self.refused.setdefault(part, error)


def find_parts(sources: Iterable[Path], skipped: Path | None = None) -> Findings:
    """Look through files and folders, however they are nested, and say what each weights file is.

    Args:
        sources: files or folders.
        skipped: a folder that is not looked into: the one to be made.

    Raises:
        CheckpointError: a source is not there, or a file that was named itself is no part of HuMo.
    """
    findings = Findings()
    for source in sources:
        if source.is_file():
            _examine(source, findings, named=True)
            for folder in (source.parent, source.parent / "google" / "umt5-xxl"):
                _examine_companions(folder, {path.name for path in folder.glob("*")}, findings)
        elif source.is_dir():
            for folder, files in _folders(source, skipped):
                _examine_folder(folder, files, findings)
        else:
            raise CheckpointError(str(source), "is not there", "give a file or folder that exists")
    return findings


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


def _folders(top: Path, skipped: Path | None) -> Iterator[tuple[Path, list[Path]]]:
    """Folders and their files, links followed, hidden ones left out, none twice."""
    seen: set[tuple[int, int]] = set()
    if skipped is not None and skipped.is_dir():
        seen.add((skipped.stat().st_dev, skipped.stat().st_ino))
    for folder, inner, names in os.walk(top, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield Path(folder), [Path(folder, name) for name in sorted(names) if not name.startswith(".")]


def _examine_folder(folder: Path, files: list[Path], findings: Findings) -> None:
    _examine_companions(folder, {path.name for path in files}, findings)
    for path in _weights(folder, files, findings):
        _examine(path, findings, named=False)


def _examine_companions(folder: Path, names: set[str], findings: Findings) -> None:
    """The tokenizer and the feature extractor's settings have no weights."""
    if findings.tokenizer is None and _is_t5_tokenizer(folder, names):
        findings.tokenizer = folder
    if findings.feature_config is None and FEATURE_FILE in names:
        path = folder / FEATURE_FILE
        if read_config(path).get("feature_extractor_type") == "WhisperFeatureExtractor":
            findings.feature_config = path


def _is_t5_tokenizer(folder: Path, names: set[str]) -> bool:
    told = str(read_config(folder / "tokenizer_config.json").get("tokenizer_class", ""))
    return "spiece.model" in names or ("tokenizer.json" in names and told.startswith("T5"))


def _weights(folder: Path, files: list[Path], findings: Findings) -> Iterator[Path]:
    """The weights of a folder, each model once: an index stands for its shards, safetensors for the same in .bin."""
    indexes = [path for path in files if path.name.endswith(".safetensors.index.json")]
    shards = {name for index in indexes for name in _shard_names(index)}
    suffixes = (".safetensors", GGUF_SUFFIX, *TORCH_SUFFIXES)
    weights = [path for path in files if path.suffix in suffixes and path.name not in shards]
    whole = {path.name for path in weights}
    for path in files:
        for pattern, reason in NOT_NEEDED:
            if re.fullmatch(pattern, path.name):
                findings.ignored.append(Ignored(path, reason))
    yield from indexes
    for path in weights:
        if any(re.fullmatch(pattern, path.name) for pattern, _ in NOT_NEEDED):
            continue
        if path.name == "pytorch_model.bin" and (indexes or "model.safetensors" in whole):
            findings.ignored.append(Ignored(path, "the same weights as in the safetensors beside it"))
        elif re.search(r"\.fp32-\d+-of-\d+\.", path.name):
            findings.ignored.append(Ignored(path, "the same weights in float32"))
        else:
            yield path


def _shard_names(index: Path) -> set[str]:
    table = read_config(index).get("weight_map", {})
    return {Path(str(name)).name for name in table.values()} if isinstance(table, dict) else set()


def _examine(path: Path, findings: Findings, named: bool) -> None:
    """Open one file and note what it is; a file that the user named must be a part."""
    part = None
    try:
        if path.suffix not in (".safetensors", ".json", GGUF_SUFFIX, *TORCH_SUFFIXES):
            raise CheckpointError(str(path), "is not a weights file", "give .safetensors, .gguf or .pth")
        if re.search(r"-\d+-of-(?!0*1\.)\d+\.", path.name):
            raise CheckpointError(str(path), "is one shard of several", "give their folder, with the index in it")
        weights = open_weights(path)
        signature = recognise(weights.tensors)
        if signature is None:
            names = ", ".join(sorted(weights.tensors)[:2])
            remedy = "give HuMo's transformer, Wan2.1's autoencoder, umT5 or Whisper large-v3"
            raise _OtherModelError(str(path), f"is not a part of HuMo (its tensors: {names}, ...)", remedy)
        if signature.part is None or not signature.fits:
            part = signature.part
            raise _OtherModelError(str(path), f"is {signature.title}", signature.remedy)
    except CheckpointError as error:
        if named:
            raise
        if part is None and isinstance(error, _OtherModelError):
            findings.ignored.append(Ignored(path, error.problem))
        else:
            findings.refuse(path, part, error)
        return
    findings.found.append(Found(signature.part, weights, _own_config(signature.part, path), named))


class _OtherModelError(CheckpointError):
    """A file that is whole but of another model."""


def _own_config(part: Part, path: Path) -> Mapping[str, Any]:
    """The configuration beside the weights, if it describes this part and not another one in the same folder."""
    config = read_config(path.parent / "config.json")
    own = {
        Part.TRANSFORMER: config.get("_class_name") == "HuMoTransformer3DModel"
        or {"num_heads", "dim"} <= config.keys(),
        Part.AUTOENCODER: config.get("_class_name") == "AutoencoderKLWan",
        Part.TEXT_ENCODER: config.get("model_type") == "umt5",
        Part.AUDIO_ENCODER: config.get("model_type") == "whisper",
    }
    return config if own[part] else {}
