"""Write and compare the checksums of a model folder's files.

A safetensors file with a flipped bit loads without an error; its checksum shows the change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.formats.writer import write_json
from humo.checkpoints.layout import MANIFEST
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


def write_manifest(folder: Path, progress: Progress = lambda phase, done, total: None) -> None:
    """Write the checksums of all files of a folder.

    Args:
        folder: a model folder.
        progress: called with ``checksums``, bytes done, bytes in total.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    total, done = sum(path.stat().st_size for path in paths), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress("checksums", done, total)

    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path, on_bytes)}
        for path in paths
    }
    write_json(folder / MANIFEST, {"files": files})


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
    existing = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    mismatches = [Mismatch(name, "is not in the manifest") for name in sorted(existing - recorded.keys())]
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
