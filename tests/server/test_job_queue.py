"""A job's states follow the diagram in `humo.server.job_queue`, whatever clients and workers do, in any order."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
from dbos import DBOS
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule, run_state_machine_as_test

from humo.errors import StorageError
from humo.server.file_store import FileStore
from humo.server.job_queue import (
    APPLICATION_NAME,
    PAYLOAD_VERSION,
    POLL_SECONDS,
    QUEUE_NAME,
    WORKFLOW_NAME,
    JobQueue,
    JobState,
    JSONObject,
    JSONSerializer,
)
from humo.server.worker import Cancelled, JobReporter, Lost
from tests.server.postgres import postgres, programs
from tests.server.running import wait_for


class ScriptedWorker:
    """A worker that the test controls: it completes a job, fails it, or dies and comes back."""

    def __init__(self, url: str, queue: JobQueue) -> None:
        self._url, self._queue = url, queue
        self.running_jobs: dict[str, threading.Event] = {}
        self.results: dict[str, JSONObject] = {}
        self.start()

    def start(self) -> None:
        DBOS(
            config={
                "name": APPLICATION_NAME,
                "system_database_url": self._url,
                "serializer": JSONSerializer(),
                "executor_id": "scripted",
                "application_version": PAYLOAD_VERSION,
                "log_level": "CRITICAL",
            }
        )

        @DBOS.workflow(name=WORKFLOW_NAME)
        def generate_video(payload: JSONObject) -> JSONObject:
            job_id = str(DBOS.workflow_id)
            event = self.running_jobs[job_id] = threading.Event()
            while not event.wait(POLL_SECONDS):
                job = self._queue.find(job_id)
                if job is None or job.state.has_ended:  # cancelled before the test knew that it ran
                    self.running_jobs.pop(job_id, None)
                    break
            return self.results.get(job_id, {"error": {"code": "cancelled", "message": "the worker died"}})

        DBOS.listen_queues([QUEUE_NAME])
        DBOS.launch()

    def end(self, job_id: str, result: JSONObject) -> None:
        self.results[job_id] = result
        event = self.running_jobs.pop(job_id, None)
        if event is not None:
            event.set()

    def stop(self) -> None:
        for event in self.running_jobs.values():
            event.set()
        self.running_jobs.clear()
        DBOS.destroy(destroy_registry=True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if programs() is None:
        pytest.skip("no PostgreSQL here; .ci/run installs one")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    return f"{request.getfixturevalue('server')}_{os.urandom(4).hex()}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scripted_worker(request: pytest.FixtureRequest) -> Iterator[tuple[ScriptedWorker, JobQueue]]:
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/jobs.sqlite"
        if request.param == "postgresql":
            url = request.getfixturevalue("server")
        queue = JobQueue(url)
        worker = ScriptedWorker(url, queue)
        yield worker, queue
        worker.stop()
        queue.close()


class Jobs(RuleBasedStateMachine):
    """Model of the queue: the state that each job must have."""

    scripted_worker: ClassVar[ScriptedWorker]
    queue: ClassVar[JobQueue]
    number: ClassVar[int] = 0
    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.expected: dict[str, JobState] = {}

    def running(self) -> str | None:
        """Return the job that the worker must be running; it takes one at a time, in order of submission."""
        busy = [name for name, state in self.expected.items() if state is JobState.IN_PROGRESS]
        if not busy:
            waiting = [name for name, state in self.expected.items() if state is JobState.QUEUED]
            if not waiting:
                return None
            busy = [
                wait_for(lambda: next((name for name in waiting if name in self.scripted_worker.running_jobs), None))
            ]
            self.expected[busy[0]] = JobState.IN_PROGRESS
        return busy[0]

    @rule(target=jobs, seed=st.integers(0, 9))
    def submit(self, seed: int) -> str:
        type(self).number += 1
        name = f"video_{self.number:032x}"
        job = self.queue.submit(name, "me", {"seed": seed})
        assert (job.payload, job.owner) == ({"seed": seed}, "me")
        self.expected[name] = JobState.QUEUED
        self.running()
        return name

    @rule(name=jobs)
    def submit_again(self, name: str) -> None:
        if name in self.expected:
            before = self.queue.find(name)
            after = self.queue.submit(name, "me", {"seed": -1})
            assert before is not None
            assert after.payload == before.payload
            assert after.state == before.state

    @rule(name=jobs)
    def cancel(self, name: str) -> None:
        if name in self.expected:
            self.running()
            self.queue.cancel(name)
            if not self.expected[name].has_ended:
                self.expected[name] = JobState.CANCELLED
                if name in self.scripted_worker.running_jobs:
                    self.scripted_worker.end(name, {"video": {"too": "late"}})  # discarded

    @rule(completes=st.booleans())
    def work_ends(self, completes: bool) -> None:
        name = self.running()
        if name is not None:
            result = {"video": {"frames": 5}} if completes else {"error": {"code": "storage", "message": "full"}}
            self.scripted_worker.end(name, result)
            self.expected[name] = JobState.COMPLETED if completes else JobState.FAILED
            job = wait_for(lambda: (current := self.queue.find(name)) and current.state.has_ended and current)
            assert job.result == result

    @rule(name=consumes(jobs))
    def delete(self, name: str) -> None:
        if name in self.expected:
            self.running()
            self.queue.cancel(name)
            self.queue.delete(name)
            if name in self.scripted_worker.running_jobs:
                self.scripted_worker.end(name, {"video": {"for": "nobody"}})
            del self.expected[name]

    def teardown(self) -> None:
        for name, state in getattr(self, "expected", {}).items():
            job = self.queue.find(name)
            assert job is not None
            assert job.state is state or (state is JobState.QUEUED and job.state is JobState.IN_PROGRESS), name
            self.queue.cancel(name)
            if name in self.scripted_worker.running_jobs:
                self.scripted_worker.end(name, {})
            self.queue.delete(name)


def test_a_jobs_state_follows_the_diagram(scripted_worker: tuple[ScriptedWorker, JobQueue]) -> None:
    Jobs.scripted_worker, Jobs.queue = scripted_worker
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            phases=(Phase.explicit, Phase.generate),  # shrinking a failure would take minutes, as every step waits
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_job_of_a_lost_worker_is_requeued_once(
    scripted_worker: tuple[ScriptedWorker, JobQueue], tmp_path: Path
) -> None:
    """The worker is alive but declared lost: its result is discarded, and it receives the job again."""
    worker, queue = scripted_worker
    begun, waiting = names = [f"video_{number:032x}" for number in (2**64, 2**64 + 1)]
    for name in names:
        queue.submit(name, "me", {})
    lost = wait_for(lambda: worker.running_jobs.get(begun))
    reporter = JobReporter(FileStore(tmp_path), queue, begun)
    reporter.raise_if_stopped()
    assert queue.requeue_orphaned(lambda: {"scripted", "another"}) == [], "its worker is alive"
    assert queue.requeue_orphaned(lambda: {"another"}) == [begun], "and not the queued job"
    assert queue.requeue_orphaned(lambda: {"another"}) == [], "only once"
    with pytest.raises(Lost):
        reporter.raise_if_stopped()
    lost.set()
    wait_for(lambda: worker.running_jobs.get(begun) is not lost)
    worker.end(begun, {"video": {"frames": 5}})
    job = wait_for(lambda: (current := queue.find(begun)) and current.state.has_ended and current)
    assert job.result == {"video": {"frames": 5}}, "and not the discarded result"
    wait_for(lambda: waiting in worker.running_jobs)
    reporter = JobReporter(FileStore(tmp_path), queue, waiting)
    queue.cancel(waiting)
    assert queue.requeue_orphaned(set) == [], "a cancelled job is not requeued"
    with pytest.raises(Cancelled):
        reporter.raise_if_stopped()
    worker.end(waiting, {})
    for name in names:
        queue.delete(name)


def test_jobs_of_the_same_millisecond_are_listed_in_pages(database: str) -> None:
    queue = JobQueue(database)
    names = [f"video_{number:032x}" for number in range(30)]
    for name in names:
        queue.submit(name, "me" if int(name[-1], 16) % 2 else "you", {})
    listed, after = [], None
    while page := queue.jobs(limit=4, owner="me", after=after, newest_first=False):
        listed += [job.id for job in page]
        after = page[-1]
    assert listed == [name for name in names if int(name[-1], 16) % 2]
    queue.close()


def test_an_unreachable_database_is_reported() -> None:
    with pytest.raises(StorageError, match="database: cannot be opened") as caught:
        JobQueue("postgresql://nobody:secret@127.0.0.1:1/humo")
    assert "secret" not in str(caught.value)


def test_a_damaged_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StorageError, match="database: cannot be opened"):
        JobQueue(f"sqlite:///{tmp_path}/jobs.sqlite")


def test_nothing_is_pickled(tmp_path: Path) -> None:
    assert POLL_SECONDS > 0
    with suppress(ValueError):
        assert JSONSerializer().deserialize(JSONSerializer().serialize({"error": ValueError("x")})) == {
            "error": "ValueError('x')"
        }
    with pytest.raises(ValueError, match="Expecting value"):
        JSONSerializer().deserialize("gASVBQAAAAAAAABLAS4=")
