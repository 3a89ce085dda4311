"""Read the published program's own files: ``generate.yaml`` with ``key=value`` overrides, and ``test_case.json``.

Entries that this program supports are used. Every other key is listed once, with the reason why it has no effect.

**Source:** ``main.py`` of the published code (overrides first, then ``__inherit__``) and its generate loops.
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
"""Sections of a published configuration; a file with at least two of them is one."""

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

_UNKNOWN = "unknown"
_REASONS = (
    ("the command selects the program", ("__object__", "dit.model.__object__")),
    (
        "the model folder holds all networks and their configuration",
        ("dit.model", "dit.zero_vae_path", "dit.zero_vae_720p_path", "vae", "text", "audio.wav2vec_model"),
    ),
    (
        "chosen at run time with --device and --dtype",
        (
            *("dit.compile", "dit.init_with_meta_device", "dit.gradient_checkpoint", "dit.fsdp", "dit.sp_size"),
            *("generation.sequence_parallel", "generation.batch_size", "text.fsdp"),
        ),
    ),
    (
        "concerns training, or the only sampler",
        ("diffusion.schedule", "diffusion.sampler", "diffusion.timesteps.training", "diffusion.timesteps.sampling"),
    ),
    ("off in the published runs as well; use --vocal-separator", ("audio.vocal_separator",)),
    ("audio is always encoded", ("generation.extract_audio_feat",)),
)
"""Reasons why published keys have no effect here, each with the keys or prefixes of keys that it applies to."""

_MAX_INHERITANCE = 16


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """A published configuration in terms of this program.

    Args:
        fields: fields of a request.
        items: file of items to generate, if it names one.
        output_folder: folder of their videos.
        family: name of the preset it was written for, if known.
        notes: lines to show to the user.
    """

    fields: dict[str, Any]
    items: Path | None
    output_folder: str | None
    family: str | None
    notes: tuple[str, ...]


def is_published(values: object) -> bool:
    """Return whether values read from a file are a published configuration, by its sections."""
    if not isinstance(values, Mapping):
        return False
    return "__inherit__" in values or sum(isinstance(values.get(name), Mapping) for name in SECTIONS) >= 2


def read_published_config(values: Mapping[str, Any], path: Path, overrides: Sequence[str] = ()) -> PublishedConfig:
    """Translate a published configuration.

    Args:
        values: as read from ``path``.
        overrides: ``a.b.c=value`` each, the value in YAML, as the published ``main.py`` takes them.

    Raises:
        RequestError: a value is not supported (another frame rate, an interpolation), or an override is invalid.
    """
    tree = _resolve_inheritance(_merge(values, parse_overrides(overrides)), path)
    leaves = dict(_leaves(tree))
    for key, value in leaves.items():
        if (
            isinstance(value, str)
            and "${" in value
            and (key in FIELD_OF_KEY or key in (ITEMS_KEY, OUTPUT_FOLDER_KEY, FRAME_RATE_KEY))
        ):
            raise RequestError(key, f"{value!r} in {path.name} refers to another key", "replace it with the value")
    rate = leaves.pop(FRAME_RATE_KEY, FRAMES_PER_SECOND)
    if rate != FRAMES_PER_SECOND:
        raise RequestError(
            FRAME_RATE_KEY, f"{rate!r} in {path.name} is not supported", f"set it to {FRAMES_PER_SECOND}"
        )
    fields = {field: leaves.pop(key) for key, field in FIELD_OF_KEY.items() if key in leaves}
    fields = {field: value for field, value in fields.items() if value is not None}
    items, output_folder = leaves.pop(ITEMS_KEY, None), leaves.pop(OUTPUT_FOLDER_KEY, None)
    if items is not None and not str(items).endswith(".json"):
        raise RequestError(
            ITEMS_KEY,
            f"{items!r} in {path.name} is not a .json file of items",
            "set it to a .json file, or add --prompt TEXT",
        )
    notes = []
    if "generation.seed" in dict(_leaves(tree)) and (fields.get("seed") is None or fields["seed"] == -1):
        fields["seed"] = secrets.randbelow(2**31)
        notes.append(f"{path.name} asks for a random seed: {fields['seed']}")
    unused = _unused_keys(leaves)
    if unused:
        notes.append(f"{path.name}: keys without effect: {unused}")
    return PublishedConfig(
        fields=fields,
        items=None if items is None else Path(str(items)),
        output_folder=None if output_folder is None else str(output_folder),
        family=_family(dict(_leaves(tree))),
        notes=tuple(notes),
    )


def item_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request from an item of a published ``test_case.json``; other fields are kept as they are.

    **Source:** ``prepare_json_dataset`` in ``humo/models/utils/utils.py`` of the published code.
    In the prompt ``_`` becomes a space, then surrounding double quotes are removed.
    """
    fields = {_ITEM_FIELDS.get(name, name): value for name, value in item.items()}
    if isinstance(fields.get("prompt"), str):
        fields["prompt"] = fields["prompt"].strip().replace("_", " ").strip('"')
    return fields


def is_item(row: object) -> bool:
    """Return whether a row has published field names."""
    return isinstance(row, Mapping) and not _ITEM_FIELDS.keys().isdisjoint(row)


def item_output(name: str, seed: int) -> str:
    """Return the file name of an item's video."""
    return f"{name}_seed{seed}.mp4"


_ITEM_FIELDS = {"img_paths": "images", "audio_path": "audio"}


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse ``a.b=value`` overrides to a tree; values are YAML.

    Raises:
        RequestError: an override without ``=``, or a value that is not YAML.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip("."):
            raise RequestError(override, "is not key=value", "give it as in generation.seed=1")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(override, f"has a value that is not YAML ({error})", "quote the value") from error
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = _merge(tree, value)
    return tree


def _merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees section by section; ``overrides`` wins."""
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _resolve_inheritance(tree: Mapping[str, Any], path: Path, depth: int = 0) -> dict[str, Any]:
    """Return the tree with every ``__inherit__`` read and merged under its section.

    That of the network (``dit.model``) is not read: the model folder has the network's configuration, and the file is
    often missing.
    """
    if depth > _MAX_INHERITANCE:
        raise RequestError(path.name, "inherits from itself", "remove one __inherit__")
    result = {key: value for key, value in tree.items() if key != "__inherit__"}
    parent = tree.get("__inherit__")
    if parent:
        named = Path(str(parent))
        parent_path = named if named.exists() else path.parent / named
        values = read_config_file(parent_path)
        if not isinstance(values, Mapping):
            raise RequestError(
                parent_path.name, f"has no keys, but {path.name} inherits from it", "remove that __inherit__"
            )
        result = _merge(_resolve_inheritance(values, parent_path, depth + 1), result)
    for section, value in result.items():
        if isinstance(value, Mapping) and not (section == "model" and "__inherit__" in value):
            result[section] = _resolve_inheritance(value, path, depth + 1)
    return result


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf."""
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _unused_keys(leaves: Mapping[str, Any]) -> str:
    """List the keys without effect in one line, grouped by reason."""
    groups: dict[str, list[str]] = {}
    for key in leaves:
        # the longest matching prefix decides: text.fsdp before text
        prefixes = [(len(start), reason) for reason, starts in _REASONS for start in starts if _has_prefix(key, start)]
        groups.setdefault(max(prefixes)[1] if prefixes else _UNKNOWN, []).append(key)
    return "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in groups.items())


def _has_prefix(key: str, start: str) -> bool:
    return key == start or key.startswith(f"{start}.")


def _family(leaves: Mapping[str, Any]) -> str | None:
    """Return the family that a configuration was written for, by the weights it names, else by the program."""
    weights = str(leaves.get("dit.checkpoint_dir") or "")
    for name in (weights, str(leaves.get("__object__.path") or "")):
        if "1.7B" in name or "1_7B" in name or name.endswith(".pth"):
            return HUMO_1_7B.name
        if "17B" in name or name == "humo.generate":
            return HUMO_17B.name
    return None
