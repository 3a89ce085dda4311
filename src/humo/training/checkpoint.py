"""Checkpoints: a run's whole state in a folder of safetensors and JSON that is finished or not there at all.

    checkpoints/step-00001200/
        weights.safetensors     every weight that the recipe ever trains, float32
        average.safetensors     their moving averages
        optimiser.safetensors   AdamW's memory
        state.json              where the run stands: stage, step, decks

No random state is among it: every draw follows from the seed and the step (`batches`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from humo.errors import CheckpointError, StorageError
from humo.files import os_error_text
from humo.training.tensor_files import read_tensors, write_tensors

TENSORS = ("weights", "average", "optimiser")
STATE = "state.json"
_PART = ".part-"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands, before a step.

    Args:
        stage, step: the next to be done, both from 0 on; a stage's step may be its last + 1.
        total: steps done in all stages.
        drawn: cards drawn from each deck of the stage.
        recipe: as it was then.
    """

    stage: int = 0
    step: int = 0
    total: int = 0
    drawn: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, position: Position, tensors: Mapping[str, Mapping[str, Tensor]], keep: int) -> Path:
    """Write a checkpoint, and remove those that are older than the last few.

    Args:
        folder: of all checkpoints.
        position: of the run.
        tensors: ``weights``, ``average`` and ``optimiser``.
        keep: how many finished ones stay.

    Raises:
        StorageError: the disk is full or cannot be written; the finished checkpoints are as they were.
    """
    path = folder / f"step-{position.total:08}"
    part = folder / f"{_PART}{path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_PART}*"):
            shutil.rmtree(left)  # of a run that was killed
        part.mkdir()
        for name in TENSORS:
            write_tensors(part / f"{name}.safetensors", tensors[name])
        with (part / STATE).open("w", encoding="utf-8") as file:
            json.dump(asdict(position), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # the same step, reached again
            shutil.rmtree(path)
        part.rename(path)
        _sync(folder)
    except (OSError, StorageError) as error:
        shutil.rmtree(part, ignore_errors=True)
        last = max((one.name for one in finished(folder)), default="none")
        why = error.problem if isinstance(error, StorageError) else f"cannot be written ({os_error_text(error)})"
        remedy = f"free some space; the last finished one is {last}, and --resume goes on from it"
        raise StorageError("checkpoint", why, remedy) from error
    for old in finished(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _sync(folder: Path) -> None:
    """Put a rename on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finished(folder: Path) -> list[Path]:
    """All finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def read_position(path: Path) -> Position:
    """Where the run of a checkpoint stands.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return Position(**json.loads((path / STATE).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(str(path / STATE), f"cannot be read: {error}", "remove that checkpoint") from error


def read_checkpoint(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return {name: read_tensors(path / f"{name}.safetensors") for name in TENSORS}
