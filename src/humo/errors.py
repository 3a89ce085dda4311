"""What can go wrong for a user, each in one line that says what to do.

HuMoError                  what the user gave or has is at fault; exit code 2, never a traceback
├── RequestError           a field of a request: missing, out of range, unknown, contradictory
├── MediaError             a picture, sound or video that cannot be read or is too large
├── CheckpointError        weights or a model folder: missing, damaged, of another model
├── StorageError           a folder that cannot be written, a disk that is full
└── DependencyError        an optional package or a device that is not there
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HuMoError(Exception):
    """Something the user can put right, told in one line.

    Args:
        field: what is at fault, in the user's own word (``width``, ``--audio``, a file's name).
        problem: what is wrong with it, the value included.
        remedy: what is allowed, or what to do; may be empty.
    """

    def __init__(self, field: str, problem: str, remedy: str = "") -> None:
        self.field = field
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{field}: {self.problem}" + (f"; {self.remedy}" if self.remedy else ""))


class RequestError(HuMoError):
    """A field of a request is missing, out of range, unknown or contradicts another."""


class MediaError(HuMoError):
    """A picture, sound or video cannot be read, holds nothing, or is larger than allowed."""


class CheckpointError(HuMoError):
    """Weights or a model folder are missing, damaged, or belong to another model."""


class StorageError(HuMoError):
    """An output cannot be written: no such folder, no permission, no space."""


class DependencyError(HuMoError):
    """An optional package or a device that was asked for is not there."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the nearest of the known words, or the list of them.

    Args:
        word: what was given.
        known: what is allowed.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(choices)}"
