"""A unit of work for one stage, and its outcome. Both are plain values that go to another process as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Values = dict[str, Any]
"""Plain values: what JSON can hold. Items are named by paths; frames and samples never travel."""

Ending = Literal["done", "error", "crash", "timeout", "memory", "lost", "storage", "dependency"]
"""Ending of a try.

``done``: there is a result. ``error``: the item is at fault, and a second try would end the same way. ``crash``,
``timeout``, ``memory``: the process died, took too long, or ran out of memory. ``lost``: the machine is gone.
``storage``, ``dependency``: the output cannot be written, or a package is missing; the whole run stops."""

RETRIED: frozenset[Ending] = frozenset({"crash", "timeout", "memory"})
"""Endings after which an item gets another try."""

STOPPING: frozenset[Ending] = frozenset({"storage", "dependency"})
"""Endings that no other item would escape."""


@dataclass(frozen=True, slots=True)
class Task:
    """A unit of work.

    Args:
        stage: name of the stage, a key of `humo.data.stage_process.STAGES`.
        key: identifies the result: a checksum of the item and of the settings that the stage reads.
        item: name of the item in reports.
        payload: argument of the stage's function.
        seconds: expected CPU time.
    """

    stage: str
    key: str
    item: str
    payload: Values
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a task, or why there is none.

    Args:
        ending: see `Ending`.
        result: values that the stage's function returned.
        reason: why there is no result, in one line.
        last_words: last line that the process printed on stderr before it died.
        tries: number of tries so far.
        cpu_seconds: CPU time of the last try.
    """

    ending: Ending
    result: Values = field(default_factory=dict)
    reason: str = ""
    last_words: str = ""
    tries: int = 1
    cpu_seconds: float = 0.0

    def as_dict(self) -> Values:
        """Return the fields as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one task.

    Args:
        base_seconds: CPU seconds that every task may take.
        seconds_factor: further CPU seconds, in units of the expected ones.
        wall_factor: elapsed seconds that a task may take, in units of its CPU seconds: a process that waits forever
            uses no CPU time, and a busy machine is no reason to give up an item.
        memory_bytes: address space that a task may allocate.
        tries: tries of an item whose process dies.
    """

    base_seconds: float = 30.0
    seconds_factor: float = 4.0
    wall_factor: float = 4.0
    memory_bytes: int = 6 * 2**30
    tries: int = 2

    def cpu_seconds(self, task: Task) -> float:
        """Return the CPU seconds that a task may take."""
        return self.base_seconds + self.seconds_factor * task.seconds

    def wall_seconds(self, task: Task) -> float:
        """Return the elapsed seconds that a task may take."""
        return self.wall_factor * self.cpu_seconds(task)
