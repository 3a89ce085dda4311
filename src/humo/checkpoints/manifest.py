"""Write and compare the checksums of a model folder's files.

A safetensors file with a flipped bit loads without an error; its checksum shows the change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.discovery import read_config
from humo.checkpoints.formats.writer import write_json
from humo.checkpoints.layout import FILES, MANIFEST, MODEL_INDEX
from humo.errors import CheckpointError
from humo.files import hash_file
from humo.progress import Progress

OnBytes = Callable[[int], None]
"""Function that is called with the number of bytes of each chunk."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A file that differs from the manifest.

    Args:
        path: its path in the folder.
        problem: the difference.
    """

    path: str
    problem: str


def write_manifest(
    folder: Path,
    progress: Progress = lambda phase, done, total: None,
    known: Mapping[Path, str] | None = None,
) -> None:
    """Write the checksums of all files of a folder, and of those that it points to.

    Args:
        folder: a model folder.
        progress: called with ``checksums``, bytes done, bytes in total.
        known: resolved path -> checksum, for files that need not be read again.
    """
    paths, known = _model_files(folder), known or {}
    total, done = sum(path.stat().st_size for path in paths.values() if path.resolve() not in known), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress("checksums", done, total)

    files = {
        name: {"bytes": path.stat().st_size, "sha256": known.get(path.resolve()) or hash_file(path, on_bytes)}
        for name, path in paths.items()
    }
    write_json(folder / MANIFEST, {"files": files})


def _model_files(folder: Path) -> dict[str, Path]:
    """Return the path as the manifest names it -> file, for a folder's files and those that its index names."""
    inside = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    linked = read_config(folder / MODEL_INDEX).get(FILES, {})
    paths = [*inside, *(folder / str(path) for path in (linked.values() if isinstance(linked, dict) else ()))]
    return {
        (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix(): path
        for path in paths
        if path.is_file()
    }


def verify_manifest(folder: Path, on_bytes: OnBytes = lambda count: None) -> tuple[list[Mismatch], int]:
    """Compare every file of a folder with its manifest.

    Args:
        folder: a model folder.
        on_bytes: called with the number of bytes of each chunk.

    Returns:
        files that are missing, unknown or changed; and the number of files that were compared.

    Raises:
        CheckpointError: there is no manifest, or it cannot be read.
    """
    recorded = read_manifest(folder)
    existing = _model_files(folder)
    mismatches = [Mismatch(name, "is not in the manifest") for name in sorted(existing.keys() - recorded.keys())]
    for name, one in sorted(recorded.items()):
        path = folder / name
        if name not in existing:
            mismatches.append(Mismatch(name, "is missing"))
        elif (size := path.stat().st_size) != one["bytes"]:
            mismatches.append(Mismatch(name, f"has {size} bytes, not {one['bytes']}"))
        elif hash_file(path, on_bytes) != one["sha256"]:
            mismatches.append(Mismatch(name, "has another checksum than the manifest"))
    return mismatches, len(recorded)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return path in the folder -> bytes and checksum.

    Raises:
        CheckpointError: there is no manifest, or it has another form.
    """
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        return {str(name): {"bytes": int(one["bytes"]), "sha256": str(one["sha256"])} for name, one in files.items()}
    except FileNotFoundError:
        remedy = "import the model again with `humo models import`, which writes one"
        raise CheckpointError(str(folder), f"has no {MANIFEST} to compare with", remedy) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(str(folder / MANIFEST), f"cannot be read: {error}", "import the model again") from error
