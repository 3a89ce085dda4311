"""The published program's own files: ``generate.yaml`` with ``key=value`` overrides, and ``test_case.json``.

What a configuration sets and this program has is used; every other key is named once, with the reason it has no effect.

**Source:** the published ``main.py`` (overrides first, then ``__inherit__``) and its generate loops.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from humo.config_files import read_config_file
from humo.errors import RequestError
from humo.geometry import FRAMES_PER_SECOND
from humo.presets import HUMO_1_7B, HUMO_17B

SECTIONS = ("dit", "generation", "diffusion")
"""What a published configuration is known by: at least two of these are its sections."""

FIELD_OF_KEY = {
    "generation.mode": "mode",
    "generation.seed": "seed",
    "generation.frames": "frames",
    "generation.height": "height",
    "generation.width": "width",
    "generation.scale_t": "scale_text",
    "generation.scale_a": "scale_audio",
    "generation.scale_i": "scale_image",
    "generation.step_change": "switch_timestep",
    "generation.sample_neg_prompt": "negative_prompt",
    "diffusion.timesteps.sampling.steps": "steps",
    "diffusion.timesteps.sampling.shift": "shift",
    "dit.checkpoint_dir": "model",
}
"""Published key -> field of a request."""

ITEMS_KEY = "generation.positive_prompt"
OUTPUT_FOLDER_KEY = "generation.output.dir"
FRAME_RATE_KEY = "generation.fps"

_UNKNOWN = "not known"
_REASONS = (
    ("the command says what runs", ("__object__", "dit.model.__object__")),
    (
        "the model folder holds all networks and says how they are built",
        ("dit.model", "dit.zero_vae_path", "dit.zero_vae_720p_path", "vae", "text", "audio.wav2vec_model"),
    ),
    (
        "where and how to compute is chosen at run time: device, dtype",
        (
            *("dit.compile", "dit.init_with_meta_device", "dit.gradient_checkpoint", "dit.fsdp", "dit.sp_size"),
            *("generation.sequence_parallel", "generation.batch_size", "text.fsdp"),
        ),
    ),
    (
        "of training, or the one sampler there is",
        ("diffusion.schedule", "diffusion.sampler", "diffusion.timesteps.training", "diffusion.timesteps.sampling"),
    ),
    ("off in the published runs, too; turn it on with vocal_separator", ("audio.vocal_separator",)),
    ("sound is always heard anew", ("generation.extract_audio_feat",)),
)
"""Why a published key has no effect here, and the keys (or beginnings of them) of which that is so."""

_MAX_INHERITANCE = 16


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """A published configuration in this program's words.

    Args:
        fields: fields of a request.
        items: the file of items to make, if it names one.
        output_folder: where to put them.
        family: name of the preset it was written for, if it tells.
        notes: what is worth saying, a line each.
    """

    fields: dict[str, Any]
    items: Path | None
    output_folder: str | None
    family: str | None
    notes: tuple[str, ...]


def is_published(values: object) -> bool:
    """Whether values read from a file are a published configuration, by its sections."""
    if not isinstance(values, Mapping):
        return False
    return "__inherit__" in values or sum(isinstance(values.get(name), Mapping) for name in SECTIONS) >= 2


def read_published_config(values: Mapping[str, Any], path: Path, overrides: Sequence[str] = ()) -> PublishedConfig:
    """What a published configuration asks for.

    Args:
        values: as read from ``path``.
        overrides: ``a.b.c=value`` each, the value in YAML, as the published ``main.py`` takes them.

    Raises:
        RequestError: a value that cannot be followed (another frame rate, an interpolation), an override that is none.
    """
    tree = _resolve_inheritance(_merge(values, parse_overrides(overrides)), path)
    leaves = dict(_leaves(tree))
    for key, value in leaves.items():
        if (
            isinstance(value, str)
            and "${" in value
            and (key in FIELD_OF_KEY or key in (ITEMS_KEY, OUTPUT_FOLDER_KEY, FRAME_RATE_KEY))
        ):
            raise RequestError(key, f"{value!r} in {path.name} refers to another key", "write the value itself")
    rate = leaves.pop(FRAME_RATE_KEY, FRAMES_PER_SECOND)
    if rate != FRAMES_PER_SECOND:
        raise RequestError(
            FRAME_RATE_KEY, f"{rate!r} in {path.name}", f"the model makes {FRAMES_PER_SECOND} frames a second"
        )
    fields = {field: leaves.pop(key) for key, field in FIELD_OF_KEY.items() if key in leaves}
    fields = {field: value for field, value in fields.items() if value is not None}
    items, output_folder = leaves.pop(ITEMS_KEY, None), leaves.pop(OUTPUT_FOLDER_KEY, None)
    if items is not None and not str(items).endswith(".json"):
        raise RequestError(ITEMS_KEY, f"{items!r} in {path.name} is not a .json file of items", "give one, or --prompt")
    notes = []
    if "generation.seed" in dict(_leaves(tree)) and (fields.get("seed") is None or fields["seed"] == -1):
        fields["seed"] = secrets.randbelow(2**31)
        notes.append(f"{path.name} asks for any seed: {fields['seed']} was drawn")
    idle = _unused_keys(leaves)
    if idle:
        notes.append(f"{path.name}: no effect here have {idle}")
    return PublishedConfig(
        fields=fields,
        items=None if items is None else Path(str(items)),
        output_folder=None if output_folder is None else str(output_folder),
        family=_family(dict(_leaves(tree))),
        notes=tuple(notes),
    )


def item_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request from an item of a published ``test_case.json``; fields of our own pass through.

    **Source:** method.md, 7: in the prompt ``_`` becomes a space, then surrounding double quotes go.
    """
    fields = {_ITEM_FIELDS.get(name, name): value for name, value in item.items()}
    if isinstance(fields.get("prompt"), str):
        fields["prompt"] = fields["prompt"].strip().replace("_", " ").strip('"')
    return fields


def is_item(row: object) -> bool:
    """Whether a row is written in the published words."""
    return isinstance(row, Mapping) and not _ITEM_FIELDS.keys().isdisjoint(row)


def item_output(name: str, seed: int) -> str:
    """File name of an item's video."""
    return f"{name}_seed{seed}.mp4"


_ITEM_FIELDS = {"img_paths": "images", "audio_path": "audio"}


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``a.b=value`` words as a tree; values are YAML.

    Raises:
        RequestError: a word without ``=``, or a value that is not YAML.
    """
    tree: dict[str, Any] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key.strip("."):
            raise RequestError(word, "is not key=value", "write it like generation.seed=1")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(word, f"its value is not YAML: {error}", "put it in quotes") from error
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = _merge(tree, value)
    return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with ``above`` laid over it, section by section."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _resolve_inheritance(tree: Mapping[str, Any], path: Path, depth: int = 0) -> dict[str, Any]:
    """The tree with every ``__inherit__`` read and laid under its section.

    The network's own (under ``dit.model``) is not read: the model folder knows the network, and the file is often not
    there.
    """
    if depth > _MAX_INHERITANCE:
        raise RequestError(path.name, "inherits from itself", "take one __inherit__ out")
    result = {key: value for key, value in tree.items() if key != "__inherit__"}
    parent = tree.get("__inherit__")
    if parent:
        near = Path(str(parent))
        parent_path = near if near.exists() else path.parent / near
        values = read_config_file(parent_path)
        if not isinstance(values, Mapping):
            raise RequestError(parent_path.name, "holds no keys", f"{path.name} inherits from it")
        result = _merge(_resolve_inheritance(values, parent_path, depth + 1), result)
    for section, value in result.items():
        if isinstance(value, Mapping) and not (section == "model" and "__inherit__" in value):
            result[section] = _resolve_inheritance(value, path, depth + 1)
    return result


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _unused_keys(leaves: Mapping[str, Any]) -> str:
    """The keys without effect, grouped by reason, in one line."""
    groups: dict[str, list[str]] = {}
    for key in leaves:
        # the longest beginning that is known decides: text.fsdp before text
        beginnings = [
            (len(start), reason) for reason, starts in _REASONS for start in starts if _has_prefix(key, start)
        ]
        groups.setdefault(max(beginnings)[1] if beginnings else _UNKNOWN, []).append(key)
    return "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in groups.items())


def _has_prefix(key: str, start: str) -> bool:
    return key == start or key.startswith(f"{start}.")


def _family(leaves: Mapping[str, Any]) -> str | None:
    """The family a configuration was written for, by the weights it names, else by the program."""
    weights = str(leaves.get("dit.checkpoint_dir") or "")
    for words in (weights, str(leaves.get("__object__.path") or "")):
        if "1.7B" in words or "1_7B" in words or words.endswith(".pth"):
            return HUMO_1_7B.name
        if "17B" in words or words == "humo.generate":
            return HUMO_17B.name
    return None
