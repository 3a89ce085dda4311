"""How a job tells what it is doing: named phases, steps done, a listener that is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Phase = Literal["load", "encode", "denoise", "decode", "write"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Event:
    """``done`` of ``total`` units of a phase are finished; (0, n) opens a phase, (n, n) closes it.

    ``look``, where there is one, gives the picture (H, W, 3) that is taking shape; it may be called while the listener
    is told, and costs some work.
    """

    phase: Phase
    done: int
    total: int
    preview: Callable[[], Any] | None = field(default=None, compare=False, repr=False)


ProgressCallback = Callable[[Event], None]

Progress = Callable[[str, int, int], None]
"""Callback of tasks that are not jobs (training, evaluation, conversion): called with (phase, done, total)."""

Note = Callable[[str], None]
"""Callback that gets a message for the user."""


def never_stop() -> bool:
    """Nothing is enough."""
    return False


def no_progress(_: Event) -> None:
    """A listener that takes no notice."""
