"""A job's states: only those of the drawing in `queue`, whatever clients and workers do, in whatever order."""

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


class Puppet:
    """A worker that does what the test tells it: ends a job well, ends it badly, dies over it and comes again."""

    def __init__(self, url: str, queue: JobQueue) -> None:
        self._url, self._queue = url, queue
        self.at_work: dict[str, threading.Event] = {}
        self.ends: dict[str, JSONObject] = {}
        self.start()

    def start(self) -> None:
        DBOS(
            config={
                "name": APPLICATION_NAME,
                "system_database_url": self._url,
                "serializer": JSONSerializer(),
                "executor_id": "puppet",
                "application_version": PAYLOAD_VERSION,
                "log_level": "CRITICAL",
            }
        )

        @DBOS.workflow(name=WORKFLOW_NAME)
        def make_video(asked: JSONObject) -> JSONObject:
            job_id = str(DBOS.workflow_id)
            event = self.at_work[job_id] = threading.Event()
            while not event.wait(POLL_SECONDS):
                job = self._queue.find(job_id)
                if job is None or job.state.has_ended:  # cancelled between its being taken and anybody's knowing
                    self.at_work.pop(job_id, None)
                    break
            return self.ends.get(job_id, {"error": {"code": "cancelled", "message": "the worker died"}})

        DBOS.listen_queues([QUEUE_NAME])
        DBOS.launch()

    def end(self, job_id: str, told: JSONObject) -> None:
        self.ends[job_id] = told
        event = self.at_work.pop(job_id, None)
        if event is not None:
            event.set()

    def stop(self) -> None:
        for event in self.at_work.values():
            event.set()
        self.at_work.clear()
        DBOS.destroy(destroy_registry=True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if programs() is None:
        pytest.skip("no PostgreSQL here; .ci/run installs one")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty one."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    return f"{request.getfixturevalue('server')}_{os.urandom(4).hex()}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def puppet(request: pytest.FixtureRequest) -> Iterator[tuple[Puppet, JobQueue]]:
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/jobs.sqlite"
        if request.param == "postgresql":
            url = request.getfixturevalue("server")
        queue = JobQueue(url)
        found = Puppet(url, queue)
        yield found, queue
        found.stop()
        queue.close()


class Jobs(RuleBasedStateMachine):
    """The model: a dictionary of what each job must be."""

    puppet: ClassVar[Puppet]
    queue: ClassVar[JobQueue]
    number: ClassVar[int] = 0
    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.expected: dict[str, JobState] = {}

    def running(self) -> str | None:
        """The one job that the worker must have by now; it takes them one by one, in their order."""
        busy = [name for name, state in self.expected.items() if state is JobState.IN_PROGRESS]
        if not busy:
            waiting = [name for name, state in self.expected.items() if state is JobState.QUEUED]
            if not waiting:
                return None
            busy = [wait_for(lambda: next((name for name in waiting if name in self.puppet.at_work), None))]
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
                if name in self.puppet.at_work:
                    self.puppet.end(name, {"video": {"too": "late"}})  # it is not heard

    @rule(well=st.booleans())
    def work_ends(self, well: bool) -> None:
        name = self.running()
        if name is not None:
            told = {"video": {"frames": 5}} if well else {"error": {"code": "storage", "message": "full"}}
            self.puppet.end(name, told)
            self.expected[name] = JobState.COMPLETED if well else JobState.FAILED
            job = wait_for(lambda: (found := self.queue.find(name)) and found.state.has_ended and found)
            assert job.result == told

    @rule(name=consumes(jobs))
    def forget(self, name: str) -> None:
        if name in self.expected:
            self.running()
            self.queue.cancel(name)
            self.queue.delete(name)
            if name in self.puppet.at_work:
                self.puppet.end(name, {"video": {"for": "nobody"}})
            del self.expected[name]

    def teardown(self) -> None:
        for name, state in getattr(self, "expected", {}).items():
            job = self.queue.find(name)
            assert job is not None
            assert job.state is state or (state is JobState.QUEUED and job.state is JobState.IN_PROGRESS), name
            self.queue.cancel(name)
            if name in self.puppet.at_work:
                self.puppet.end(name, {})
            self.queue.delete(name)


def test_whatever_happens_a_job_is_what_it_must_be(puppet: tuple[Puppet, JobQueue]) -> None:
    Jobs.puppet, Jobs.queue = puppet
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            phases=(Phase.explicit, Phase.generate),  # to shrink a failure takes minutes, as each step is waited for
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_what_a_lost_worker_had_begun_is_begun_anew_once(puppet: tuple[Puppet, JobQueue], tmp_path: Path) -> None:
    """The puppet lives, but is said to be lost: what it says of the job by then is not heard, and it gets it again."""
    worker, queue = puppet
    begun, waiting = names = [f"video_{number:032x}" for number in (2**64, 2**64 + 1)]
    for name in names:
        queue.submit(name, "me", {})
    lost = wait_for(lambda: worker.at_work.get(begun))
    listener = JobReporter(FileStore(tmp_path), queue, begun)
    listener.raise_if_stopped()
    assert queue.requeue_orphaned(lambda: {"puppet", "another"}) == [], "it is there"
    assert queue.requeue_orphaned(lambda: {"another"}) == [begun], "and not what waits"
    assert queue.requeue_orphaned(lambda: {"another"}) == [], "once"
    with pytest.raises(Lost):
        listener.raise_if_stopped()
    lost.set()
    wait_for(lambda: worker.at_work.get(begun) is not lost)
    worker.end(begun, {"video": {"frames": 5}})
    job = wait_for(lambda: (found := queue.find(begun)) and found.state.has_ended and found)
    assert job.result == {"video": {"frames": 5}}, "and not that it died"
    wait_for(lambda: waiting in worker.at_work)
    listener = JobReporter(FileStore(tmp_path), queue, waiting)
    queue.cancel(waiting)
    assert queue.requeue_orphaned(set) == [], "what was cancelled stays so"
    with pytest.raises(Cancelled):
        listener.raise_if_stopped()
    worker.end(waiting, {})
    for name in names:
        queue.delete(name)


def test_jobs_of_one_moment_are_read_page_by_page(database: str) -> None:
    queue = JobQueue(database)
    names = [f"video_{number:032x}" for number in range(30)]
    for name in names:
        queue.submit(name, "me" if int(name[-1], 16) % 2 else "you", {})
    found, after = [], None
    while page := queue.jobs(limit=4, owner="me", after=after, newest_first=False):
        found += [job.id for job in page]
        after = page[-1]
    assert found == [name for name in names if int(name[-1], 16) % 2]
    queue.close()


def test_a_database_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(StorageError, match="database: cannot be opened") as caught:
        JobQueue("postgresql://nobody:secret@127.0.0.1:1/humo")
    assert "secret" not in str(caught.value)


def test_a_database_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
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
