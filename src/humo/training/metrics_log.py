"""Logged metrics of a training run: one JSON line a step in ``log.jsonl``, and the same values for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from humo.errors import DependencyError, StorageError
from humo.files import atomic_write, os_error_text

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
"""Log file and TensorBoard's folder in the folder of a run."""


class MetricsLogger:
    """Appends metrics to the log of a run.

    Args:
        folder: folder of the run.
        first_step: first step to be logged. Rows from this step on, which a killed run wrote after its last checkpoint,
            are removed.
        tensorboard: write an event file for TensorBoard, too.

    Raises:
        DependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_step: int, *, tensorboard: bool) -> None:
        path = folder / LOG
        folder.mkdir(parents=True, exist_ok=True)
        rows = [line for line in path.read_text().splitlines() if _step(line) < first_step] if path.is_file() else []
        with atomic_write(path, LOG) as partial:
            partial.write_text("".join(f"{row}\n" for row in rows))
        self._path, self._writer = path, _open_tensorboard(folder / TENSORBOARD, first_step) if tensorboard else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append the metrics of a step of the whole run.

        Raises:
            StorageError: the log cannot be written.
        """
        try:
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._file.flush()
        except OSError as error:
            problem = f"cannot be written ({os_error_text(error)})"
            raise StorageError(str(self._path), problem, "free some space, then continue with --resume") from error
        if self._writer is not None:
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log, one dictionary a line."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def _step(line: str) -> float:
    """Return the step of a row; infinity if the row was cut short when the run was killed."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _open_tensorboard(folder: Path, first_step: int) -> Any:
    """Open an event file; earlier values of ``first_step`` and later steps are hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        remedy = "pip install 'humo-video[train]', or set tensorboard = false"
        raise DependencyError("tensorboard", "is not installed", remedy) from error
    return SummaryWriter(str(folder), purge_step=first_step)
