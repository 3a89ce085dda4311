"""Run tasks on a pool of workers: the same loop for local processes and for a Ray cluster.

An item whose process dies gets a second try; then it is left out, with the reason. A full disk or a missing package
stops the run after the tasks in progress.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Protocol

from humo.data.child_process import ChildProcess
from humo.data.tasks import RETRIED, STOPPING, Limits, Outcome, Task
from humo.errors import DependencyError, HuMoError, StorageError

MAX_LOST = 3
"""Workers that an item may lose with their machines."""


class Pool(Protocol):
    """Workers that run tasks, one at a time each."""

    @property
    def size(self) -> int:
        """Number of tasks that can be in progress."""

    def start(self, task: Task) -> None:
        """Give a task to a free worker."""

    def collect(self) -> list[tuple[Task, Outcome]]:
        """Wait until at least one task ends; return those that ended."""

    def close(self) -> None:
        """End all workers."""


def run_tasks(
    tasks: Iterable[Task], pool: Pool, on_end: Callable[[Task, Outcome], None], limits: Limits | None = None
) -> None:
    """Run every task.

    Args:
        tasks: read as workers become free, so that there may be any number.
        pool: the workers; they are left running.
        on_end: called in this process with each task and its final outcome, in the order in which they end.
        limits: the number of tries of an item.

    Raises:
        StorageError: an output could not be written. The other tasks in progress were finished first.
        DependencyError: a package is missing.
    """
    tries_allowed = (limits or Limits()).tries
    pending, repeated = iter(tasks), deque[Task]()
    tries: dict[str, int] = {}
    lost: dict[str, int] = {}
    running = 0
    stop: HuMoError | None = None
    while True:
        while running < pool.size and stop is None:
            task = repeated.popleft() if repeated else next(pending, None)
            if task is None:
                break
            pool.start(task)
            running += 1
        if not running:
            break
        for task, outcome in pool.collect():
            running -= 1
            if outcome.ending in STOPPING:
                stop = stop or _stopping_error(outcome)
                continue
            counts = lost if outcome.ending == "lost" else tries
            counts[task.key] = counts.get(task.key, 0) + 1
            allowed = MAX_LOST if outcome.ending == "lost" else tries_allowed
            if outcome.ending in RETRIED | {"lost"} and counts[task.key] < allowed:
                repeated.append(task)
                continue
            lost.pop(task.key, None)
            on_end(task, replace(outcome, tries=tries.pop(task.key, 0) or allowed))
    if stop is not None:
        raise stop


def _stopping_error(outcome: Outcome) -> HuMoError:
    parts = outcome.result or {"field": "OUT", "problem": f"cannot be written ({outcome.reason})", "remedy": ""}
    if outcome.ending == "dependency":
        return DependencyError(**parts)
    remedy = parts["remedy"] or "free disk space, or check the permissions; then run the same command again"
    return StorageError(parts["field"], parts["problem"], remedy)


class LocalPool:
    """Child processes on this machine, each supervised by a thread.

    Args:
        workers: number of processes.
        limits: limits of a task.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="data-worker")
        self._limits = limits
        self._size = workers
        self._own = threading.local()
        self._children: list[ChildProcess] = []
        self._running: dict[Future[Outcome], Task] = {}

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._size

    def start(self, task: Task) -> None:
        """Give a task to a free process."""
        self._running[self._threads.submit(self._run, task)] = task

    def collect(self) -> list[tuple[Task, Outcome]]:
        """Wait until at least one task ends; return those that ended."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future), future.result()) for future in done]

    def close(self) -> None:
        """End all processes."""
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, task: Task) -> Outcome:
        child: ChildProcess | None = getattr(self._own, "child", None)
        if child is None:
            child = self._own.child = ChildProcess(self._limits)
            self._children.append(child)
        return child.run(task)
