"""Progress of a job: named phases, finished steps, a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Phase = Literal["load", "encode", "denoise", "decode", "write"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Event:
    """Progress within a phase: ``done`` of ``total`` units are finished.

    The first event of a phase is (0, n) and its last one (n, n).

    Args:
        phase: name of the phase.
        done, total: units of the phase, such as denoising steps.
        preview: returns an image (H, W, 3) of the unfinished video; None if there is none. It takes some computation
            and must be called inside the callback.
        fraction: finished share of the whole job, 0 to 1; it never falls. Jobs set it, pipelines leave it at 0.
        seconds_left: estimated seconds until the job is done; None if unknown.
    """

    phase: Phase
    done: int
    total: int
    preview: Callable[[], Any] | None = field(default=None, compare=False, repr=False)
    fraction: float = field(default=0.0, compare=False)
    seconds_left: float | None = field(default=None, compare=False)


ProgressCallback = Callable[[Event], None]

Progress = Callable[[str, int, int], None]
"""Callback of tasks that are not jobs (training, evaluation, conversion): called with (phase, done, total)."""

Note = Callable[[str], None]
"""Callback that gets a message for the user."""


def never_stop() -> bool:
    """Return False: the job runs to its end."""
    return False


def no_progress(_: Event) -> None:
    """Ignore an event."""
