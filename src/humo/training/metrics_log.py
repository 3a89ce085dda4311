"""What a run writes down: a line of figures a step (``log.jsonl``), and the same for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from humo.errors import DependencyError, StorageError
from humo.files import atomic_write, os_error_text

LOG, BOARD = "log.jsonl", "tensorboard"


class Journal:
    """The figures of a run.

    Args:
        folder: of the run.
        total: steps done before; figures after them, of steps that a killed run did, are struck out.
        board: write for TensorBoard, too.

    Raises:
        DependencyError: TensorBoard is not there.
    """

    def __init__(self, folder: Path, total: int, *, board: bool) -> None:
        path = folder / LOG
        folder.mkdir(parents=True, exist_ok=True)
        kept = [line for line in path.read_text().splitlines() if _step(line) < total] if path.is_file() else []
        with atomic_write(path, LOG) as part:
            part.write_text("".join(f"{line}\n" for line in kept))
        self._path, self._board = path, _board(folder / BOARD, total) if board else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Note the figures of a step of the whole run."""
        try:
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
            self._file.flush()
        except OSError as error:
            problem = f"cannot be written ({os_error_text(error)})"
            raise StorageError(str(self._path), problem, "free some space, then --resume") from error
        if self._board is not None:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not yet written."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The figures of a run, a dictionary a line."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def _step(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut short when the run was killed


def _board(folder: Path, total: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        remedy = "pip install humo-video[train], or set tensorboard = false"
        raise DependencyError("tensorboard", "is not installed", remedy) from error
    return SummaryWriter(str(folder), purge_step=total)
