"""A batch's rows made by workers in a Ray cluster: the same videos as here, by whoever is free.

Each worker is a process with a GPU (or a machine's processor) that keeps its model from row to row. A row whose worker
is lost is made by another; workers that are lost are replaced wherever there is room. Every machine sees the same
folders under the same paths, as this one does: what a worker has made must be found here.

**Source:** Ray's documentation (actors, ``ray.wait``, ``ActorDiedError``).
"""

from __future__ import annotations

import os
import secrets
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import ray

from humo import __version__, errors
from humo.distributed import ray_cluster
from humo.errors import HuMoError, RequestError, StorageError
from humo.files import atomic_write
from humo.jobs.batch import Outcome, PlannedRows, RunRows
from humo.jobs.engine import Engine
from humo.jobs.generate import Result, generate, prepare_job
from humo.jobs.request_files import Row
from humo.request import GenerationPlan, parse_request

MAX_ATTEMPTS = 3
"""Workers that a row may cost; whatever ends them may be the row's own doing."""

WorkerResult = dict[str, Any]


class RayWorker:
    """Makes rows, on whatever machine Ray put it.

    Args:
        version: of humo, where the batch runs.
        folder: that it runs in.
        token: name of a file there.

    Raises:
        RuntimeError: this machine does not see what that one sees.
    """

    def __init__(self, version: str, folder: str, token: str) -> None:
        if version != __version__:
            raise RuntimeError(f"humo is {__version__} there, and {version} here")
        if not (Path(folder) / token).is_file():
            raise RuntimeError(f"{folder!r} is not there, or is another folder: every machine must see the same")
        os.chdir(folder)
        self._engine = Engine()

    def ready(self) -> None:
        """Answered once it is there."""

    def make(self, fields: WorkerResult) -> WorkerResult:
        """The result of a request, or what was wrong with it, as values."""
        try:
            return {"result": generate(prepare_job(parse_request(fields)), engine=self._engine).as_dict()}
        except HuMoError as error:
            return {"error": type(error).__name__, "words": [error.field, error.problem, error.remedy]}
        except Exception as error:  # noqa: BLE001 - whatever fails in one row, the next may succeed
            return {"error": "", "words": [f"{type(error).__name__}: {error}"]}


def run_on_ray(address: str, workers: int | None = None) -> RunRows:
    """Makes rows in a cluster.

    Args:
        address: ``HOST:PORT`` of its head, or ``local``: made here, and gone when the rows are made.
        workers: how many; by default one for each GPU, or one for each machine where there are none.
    """

    def make(work: PlannedRows) -> Iterator[Outcome]:
        if not work:
            return
        with redirect_stdout(sys.stderr):  # Ray tells of lost machines where our own results stand
            yield from there(work)

    def there(work: PlannedRows) -> Iterator[Outcome]:
        ray_cluster.join(address, workers)
        token = Path(f".humo-{secrets.token_hex(8)}")
        try:
            with atomic_write(token, "current folder") as part:
                part.touch()
            _, kind, each = ray_cluster.usable_nodes()
            makers = ray.remote(num_gpus=1 if kind == "GPU" else 0, num_cpus=1)(RayWorker)
            yield from RayPool(makers, (__version__, str(Path.cwd()), token.name)).make(work, workers or each)
        finally:
            with suppress(OSError):
                token.unlink()
            ray.shutdown()

    return make


class RayPool:
    """Workers, those that are not there yet and those that are at a row.

    Args:
        makers: starts one.
        told: what it is told.
    """

    def __init__(self, makers: Any, told: tuple[str, ...]) -> None:
        self._makers, self._told = makers, told
        self._coming: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, tuple[Row, GenerationPlan]]] = {}

    def make(self, work: PlannedRows, count: int) -> Iterator[Outcome]:
        """Make every row.

        Args:
            work: rows with their plans.
            count: workers.

        Raises:
            RequestError: no machine can work.
        """
        waiting, tries = deque(work), dict[int, int]()
        for _ in range(min(count, len(work))):
            self._start()
        while waiting or self._busy:
            (done,), _ = ray.wait([*self._coming, *self._busy], num_returns=1)
            if done in self._coming:
                worker = self._coming.pop(done)
                if not self._is_there(done):
                    continue
            else:
                worker, (row, plan) = self._busy.pop(done)
                try:
                    yield to_outcome(row, plan, ray.get(done))
                except ray.exceptions.RayError:
                    tries[row.number] = tries.get(row.number, 0) + 1
                    self._start()
                    if tries[row.number] < MAX_ATTEMPTS:
                        waiting.appendleft((row, plan))
                    else:
                        yield Outcome(
                            row, "failed", Path(plan.request.output), error=lost_workers_error(tries[row.number])
                        )
                    continue
            if waiting:
                next_one = waiting.popleft()
                self._busy[worker.make.remote(next_one[1].request.model_dump())] = worker, next_one

    def _start(self) -> None:
        worker = self._makers.remote(*self._told)
        self._coming[worker.ready.remote()] = worker

    def _is_there(self, answer: Any) -> bool:
        """Whether a worker has come. Where one has worked, one that does not is only lost time."""
        try:
            ray.get(answer)
        except ray.exceptions.RayError as error:
            if not self._coming and not self._busy:
                cause = getattr(error, "cause", None) or error
                problem = f"no machine can work ({ray_cluster.first_line(cause)})"
                remedy = "install humo on every machine, share the folder, and start the batch in it"
                raise RequestError("--ray", problem, remedy) from error
            return False
        return True


def to_outcome(row: Row, plan: GenerationPlan, told: WorkerResult) -> Outcome:
    """What became of a row, from what its worker says and what is found here."""
    output = Path(plan.request.output)
    if "error" in told:
        kind = getattr(errors, told["error"]) if told["error"] else RuntimeError
        return Outcome(row, "failed", output, error=kind(*told["words"]))
    if not output.is_file():
        problem = f"{str(output)!r} was made on another machine, and is not here"
        remedy = "every machine must see the same folders; share it"
        return Outcome(row, "failed", output, error=StorageError("output", problem, remedy))
    return Outcome(row, "made", output, Result(**{**told["result"], "path": output}))


def lost_workers_error(tries: int) -> HuMoError:
    """What is said of a row that no worker survives."""
    remedy = "see that its machine has the memory, and make the row alone"
    return RequestError("--ray", f"{tries} workers were lost while they made this row", remedy)
