"""Errors that a user can correct, each in one line with a remedy.

HuMoError                  the user's input or installation is at fault; exit code 2, no traceback
├── RequestError           a field of a request: missing, out of range, unknown, contradictory
├── MediaError             an image, audio or video file that cannot be read or is too large
├── CheckpointError        weights or a model folder: missing, damaged, of another model
├── StorageError           a folder that is not writable, or a full disk
└── DependencyError        an optional package or a device that is not available
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HuMoError(Exception):
    """An error that the user can correct, as one line.

    Args:
        field: the field at fault as the user wrote it (``width``, ``--audio``, a file name).
        problem: what is wrong with it, including its value.
        remedy: allowed values, or what to do; may be empty.
    """

    def __init__(self, field: str, problem: str, remedy: str = "") -> None:
        self.field = field
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{field}: {self.problem}" + (f"; {self.remedy}" if self.remedy else ""))


class RequestError(HuMoError):
    """A field of a request is missing, out of range, unknown or contradicts another."""


class MediaError(HuMoError):
    """An image, audio or video file cannot be read, is empty, or is larger than allowed."""


class CheckpointError(HuMoError):
    """Weights or a model folder are missing, damaged, or belong to another model."""


class StorageError(HuMoError):
    """An output cannot be written: no such folder, no permission, no space."""


class DependencyError(HuMoError):
    """An optional package or a requested device is not available."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the choice that is most similar to a word, or a list of all choices.

    Args:
        word: the unknown word.
        choices: the known words.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(choices)}"
