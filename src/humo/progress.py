"""How a job tells what it is doing: named phases, steps done, a listener that is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Phase = Literal["load", "encode", "denoise", "decode", "write"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Event:
    """``done`` of ``total`` units of a phase are finished; (0, n) opens a phase, (n, n) closes it."""

    phase: Phase
    done: int
    total: int


Listener = Callable[[Event], None]


def deaf(_: Event) -> None:
    """A listener that takes no notice."""
