"""Checkpoints of a training run: folders of safetensors and JSON that are written atomically.

    checkpoints/step-00001200/
        weights.safetensors     every weight that the recipe ever trains, float32
        ema.safetensors         their exponential moving averages
        optimizer.safetensors   states of AdamW and Muon
        state.json              stage, step, cursors of the sampler, recipe

There is no random state: every draw is derived from the seed and the step (`humo.training.sampler`).
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

TENSORS = ("weights", "ema", "optimizer")
"""Names of a checkpoint's tensor files."""
STATE = "state.json"
_PARTIAL = ".part-"
"""Prefix of a folder that is being written."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """Progress of a run before a step.

    Args:
        stage, step: index of the next stage and of the next step in it; equal to the stage's number of steps at its
            end.
        global_step: number of steps done in all stages.
        cursors: pool -> number of clips drawn from it (`humo.training.sampler.ShuffledSampler`).
        recipe: the recipe at that time.
    """

    stage: int = 0
    step: int = 0
    global_step: int = 0
    cursors: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]], keep: int) -> Path:
    """Write a checkpoint and delete all but the latest ones.

    Args:
        folder: folder of all checkpoints.
        state: progress of the run.
        tensors: `TENSORS` -> name -> tensor.
        keep: number of finished checkpoints that stay.

    Raises:
        StorageError: the checkpoint cannot be written; the finished checkpoints stay.
    """
    path = folder / f"step-{state.global_step:08}"
    partial = folder / f"{_PARTIAL}{path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(abandoned)  # a run was killed while it wrote this
        partial.mkdir()
        for name in TENSORS:
            write_tensors(partial / f"{name}.safetensors", tensors[name])
        with (partial / STATE).open("w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # an earlier run reached the same step
            shutil.rmtree(path)
        partial.rename(path)
        _sync(folder)
    except (OSError, StorageError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = max((finished_path.name for finished_path in finished_checkpoints(folder)), default="none")
        problem = error.problem if isinstance(error, StorageError) else f"cannot be written ({os_error_text(error)})"
        remedy = f"free some space, then continue with --resume (latest finished checkpoint: {last})"
        raise StorageError("checkpoint", problem, remedy) from error
    for old in finished_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _sync(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finished_checkpoints(folder: Path) -> list[Path]:
    """Return all finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def read_state(path: Path) -> TrainState:
    """Read the progress of a run from a checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    try:
        return TrainState(**json.loads((path / STATE).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(str(path / STATE), f"cannot be read: {error}", f"delete {path}, then --resume") from error


def read_checkpoint(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read the tensors of a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return {name: read_tensors(path / f"{name}.safetensors") for name in TENSORS}
