"""Workers on the machines of a Ray cluster: actors that each supervise a child process, as threads do locally.

What travels is a task and its outcome, plain values of some kilobytes. A task whose machine is lost is given to another
worker by the engine; lost workers are replaced while any machine is left.

**Source:** Ray's documentation (actors, ``ray.wait``, ``ActorDiedError``).
"""

from __future__ import annotations

import secrets
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from humo import __version__
from humo.data.child_process import ChildProcess
from humo.data.tasks import Limits, Outcome, Task, Values
from humo.distributed import ray_cluster
from humo.errors import RequestError


class Supervisor:
    """Runs tasks on the machine that Ray chose for it, in a child process.

    Args:
        version: version of humo where the run was started.
        token: a file in the output folder.
        limits: limits of a task.

    Raises:
        RuntimeError: this machine does not see that folder, or has another version.
    """

    def __init__(self, version: str, token: str, limits: Values) -> None:
        if version != __version__:
            raise RuntimeError(f"humo is {__version__} there, and {version} here")
        if not Path(token).is_file():
            raise RuntimeError(f"{str(Path(token).parent)!r} is missing there; every machine must see the same folder")
        self._child = ChildProcess(Limits(**limits))

    def ready(self) -> None:
        """Return once the worker has started."""

    def run(self, task: Values) -> Values:
        """Return the outcome of a task."""
        return self._child.run(Task(**task)).as_dict()


class RayPool:
    """Workers in a Ray cluster.

    Args:
        address: ``HOST:PORT`` of the head node, or ``local``: a cluster on this machine that ends with the run.
        workers: their number; by default one for each processor.
        limits: limits of a task.
        folder: the output, under the same path on every machine.

    Raises:
        RequestError: there is no cluster, or no machine in it can run a worker.
    """

    def __init__(self, address: str, workers: int | None, limits: Limits, folder: Path) -> None:
        with redirect_stdout(sys.stderr):
            ray_cluster.join(address, workers)
        nodes, _, _ = ray_cluster.usable_nodes()
        self._size = workers or sum(int(node["Resources"].get("CPU", 0)) for node in nodes)
        self._token = folder.absolute() / f".humo-{secrets.token_hex(8)}"
        self._token.touch()
        self._args = (__version__, str(self._token), asdict(limits))
        self._actor = ray.remote(num_cpus=1)(Supervisor)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._waiting: list[Task] = []
        for _ in range(self._size):
            self._start_worker()

    @property
    def size(self) -> int:
        """Number of workers."""
        return self._size

    def start(self, task: Task) -> None:
        """Give a task to a free worker, or to the next one that is ready."""
        self._waiting.append(task)
        self._assign()

    def collect(self) -> list[tuple[Task, Outcome]]:
        """Wait until at least one task ends; return those that ended."""
        while True:
            (done,), _ = ray.wait([*self._starting, *self._running], num_returns=1)
            if done in self._starting:
                self._welcome(done)
                continue
            worker, task = self._running.pop(done)
            try:
                outcome = Outcome(**ray.get(done))
                self._idle.append(worker)
            except ray.exceptions.RayError as error:
                outcome = Outcome("lost", reason=f"its machine was lost ({ray_cluster.first_line(error)})")
                self._start_worker()
            self._assign()
            return [(task, outcome)]

    def close(self) -> None:
        """End all workers, and leave the cluster."""
        with suppress(OSError):
            self._token.unlink()
        with redirect_stdout(sys.stderr):
            ray.shutdown()

    def _start_worker(self) -> None:
        worker = self._actor.remote(*self._args)
        self._starting[worker.ready.remote()] = worker

    def _welcome(self, ready: Any) -> None:
        """Take a worker that has started. If others work, one that did not start is ignored."""
        worker = self._starting.pop(ready)
        try:
            ray.get(ready)
        except ray.exceptions.RayError as error:
            if not self._starting and not self._running and not self._idle:
                cause = getattr(error, "cause", None) or error
                problem = f"no machine can run a worker ({ray_cluster.first_line(cause)})"
                remedy = "install humo-video[data] on every machine, and share the output folder"
                raise RequestError("--ray", problem, remedy) from error
            return
        self._idle.append(worker)
        self._assign()

    def _assign(self) -> None:
        """Give waiting tasks to idle workers."""
        while self._waiting and self._idle:
            worker, task = self._idle.pop(), self._waiting.pop(0)
            self._running[worker.run.remote(asdict(task))] = worker, task
