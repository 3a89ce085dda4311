"""The job queue: DBOS on SQLite or PostgreSQL, with JSON as the only serialization.

    queued ──────► in_progress ──────► completed
       │                │  ▲  └──────► failed        (the result has the error)
       │                └──┘ requeued under the same ID: the worker died, or its result could not be saved
       └────────────────┴────────────► cancelled     (clients see status failed, error code "cancelled")

A job is stored before its client gets an answer, and stays until it is deleted. A final state never changes: the
result of a job that was cancelled meanwhile is discarded.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dbos import DBOS, DBOSClient, EnqueueOptions, Serializer
from sqlalchemy.exc import OperationalError

from humo.errors import StorageError

APPLICATION_NAME = "humo"
QUEUE_NAME = "videos"
WORKFLOW_NAME = "generate_video"
PAYLOAD_VERSION = "1"
"""Version of the payload's form. Workers take only jobs of their own version."""

POLL_SECONDS = 0.2
"""Interval at which an idle worker looks for a job."""

MAX_JOBS_PER_MILLISECOND = 64
"""Jobs of one owner that may share a creation time, which the database stores in milliseconds."""

JSONObject = dict[str, Any]
_SQLITE = "sqlite:///"


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """True if the state is final."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


_STATE_OF_STATUS = {
    "ENQUEUED": JobState.QUEUED,
    "DELAYED": JobState.QUEUED,
    "PENDING": JobState.IN_PROGRESS,
    "CANCELLED": JobState.CANCELLED,
    "ERROR": JobState.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.FAILED,
}
"""State of a job for each status of DBOS; SUCCESS depends on the result."""

_UNFINISHED = ["ENQUEUED", "DELAYED", "PENDING"]

WORKER_LOST = {"code": "worker_lost", "message": "the worker died at every attempt to generate this video"}
"""Error of a job that DBOS gave up."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the queue.

    Args:
        id: job ID.
        state: current state.
        owner: name of the API key that submitted it.
        payload: what was stored at submission: the request and what was resolved from it.
        result: the worker's result, ``{"error": {"code", "message"}}`` or ``{"video": ...}``; empty before the end.
        created, started, ended: seconds since 1970.
    """

    id: str
    state: JobState
    owner: str
    payload: JSONObject
    result: JSONObject
    created: float
    started: float | None
    ended: float | None


class JSONSerializer(Serializer):
    """Serializes everything in the queue as JSON; exceptions become their text."""

    def serialize(self, data: Any) -> str:
        """Return ``data`` as JSON."""
        return json.dumps(data, default=repr)

    def deserialize(self, serialized_data: str) -> Any:
        """Parse JSON."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """Return the name that the database stores with each value."""
        return "json"


class JobQueue:
    """Durable queue of jobs.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://...``; missing tables are created.

    Raises:
        StorageError: the database cannot be opened; every method raises it if the database cannot be used.
    """

    def __init__(self, url: str) -> None:
        logging.getLogger("dbos").setLevel(logging.WARNING)
        try:
            if url.startswith(_SQLITE):
                with closing(sqlite3.connect(url.removeprefix(_SQLITE))) as file:
                    file.execute("PRAGMA journal_mode=WAL")  # persistent: readers do not wait for the writer
            DBOS.migrate(url)
            self._client = DBOSClient(
                system_database_url=url, serializer=JSONSerializer(), application_name=APPLICATION_NAME
            )
            self._client.register_queue(
                QUEUE_NAME, worker_concurrency=1, polling_interval_sec=POLL_SECONDS, application_name=APPLICATION_NAME
            )
        except Exception as error:  # each database driver has its own classes
            problem = f"cannot be opened ({error})"
            raise StorageError("database", problem, "check its address and its permissions") from error

    def _workflows(self, **filters: Any) -> list[Any]:
        with _as_storage_error():
            return self._client.list_workflows(**filters)

    def submit(self, job_id: str, owner: str, payload: Mapping[str, Any]) -> Job:
        """Add a job. If the ID exists already, the stored job does not change.

        Returns:
            the job in the queue: the new one, or the existing one.
        """
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW_NAME,
            "queue_name": QUEUE_NAME,
            "workflow_id": job_id,
            "app_version": PAYLOAD_VERSION,
            "authenticated_user": owner,
        }
        with _as_storage_error():
            self._client.enqueue(options, dict(payload))
        job = self.find(job_id)
        assert job is not None
        return job

    def find(self, job_id: str) -> Job | None:
        """Return a job by its ID; None if there is none."""
        workflows = self._workflows(workflow_ids=[job_id])
        return _job_of(workflows[0]) if workflows else None

    def jobs(
        self, *, limit: int, owner: str | None = None, after: Job | None = None, newest_first: bool = True
    ) -> list[Job]:
        """Return one page of jobs, ordered by creation time.

        Args:
            limit: maximum number of jobs.
            owner: name of an API key; by default the jobs of all.
            after: last job of the previous page.
            newest_first: order of the jobs.
        """
        bounds: JSONObject = {}
        if after is not None:
            moment = datetime.fromtimestamp(after.created, UTC).isoformat(timespec="milliseconds")
            bounds = {"end_time" if newest_first else "start_time": moment}
        workflows = self._workflows(
            name=WORKFLOW_NAME,
            user=owner,
            limit=limit + MAX_JOBS_PER_MILLISECOND,
            sort_desc=newest_first,
            **bounds,
        )
        jobs = [_job_of(workflow) for workflow in workflows]
        indices = [index for index, job in enumerate(jobs) if after is not None and job.id == after.id]
        return jobs[indices[0] + 1 if indices else 0 :][:limit]

    def unfinished(self) -> list[Job]:
        """Return all jobs that are queued or in progress."""
        return [_job_of(workflow) for workflow in self._workflows(name=WORKFLOW_NAME, status=_UNFINISHED)]

    def all_jobs(self) -> list[Job]:
        """Return all jobs, without their results."""
        return [_job_of(workflow) for workflow in self._workflows(name=WORKFLOW_NAME, load_output=False)]

    def states(self) -> list[JobState]:
        """Return the state of every job."""
        return [_job_of(workflow).state for workflow in self._workflows(name=WORKFLOW_NAME, load_input=False)]

    def ended_before(self, seconds: float) -> list[Job]:
        """Return the jobs that ended before a time, in seconds since 1970."""
        moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
        return [_job_of(workflow) for workflow in self._workflows(name=WORKFLOW_NAME, completed_before=moment)]

    def cancel(self, job_id: str) -> None:
        """Cancel a job that has not ended; its worker stops after the current step."""
        with _as_storage_error():
            self._client.cancel_workflow(job_id)

    def delete(self, job_id: str) -> None:
        """Remove a job from the database."""
        with _as_storage_error():
            self._client.delete_workflow(job_id)

    def requeue(self, job_id: str) -> None:
        """Requeue a running job whose result could not be saved."""
        with _as_storage_error():
            self._client.resume_workflow(job_id, queue_name=QUEUE_NAME)

    def requeue_orphaned(self, live_workers: Callable[[], Collection[str]]) -> list[str]:
        """Requeue the running jobs of workers that are gone; each job once, however many processes call this.

        Args:
            live_workers: returns the names of all workers. It is called after the jobs are read, so that a worker that
                starts in between does not count as gone.

        Returns:
            IDs of the requeued jobs.
        """
        running = self._client.list_workflows(name=WORKFLOW_NAME, status="PENDING", load_input=False)
        live = live_workers() if running else ()
        orphaned = [(one.workflow_id, str(one.executor_id)) for one in running if one.executor_id not in live]
        # DBOS's own recovery, in one statement; the client's `resume` would also restart cancelled jobs
        return [
            job_id
            for job_id, worker in orphaned
            if self._client._sys_db.reenqueue_for_recovery(job_id, [worker], QUEUE_NAME)
        ]

    def close(self) -> None:
        """Close the connections to the database."""
        self._client.destroy()


@contextmanager
def _as_storage_error() -> Iterator[None]:
    """Turn errors of the database into StorageError."""
    try:
        yield
    except OperationalError as error:
        problem = f"cannot be used ({error.orig})"
        raise StorageError("database", problem, "check that its disk has space and that it can be reached") from error


def _job_of(workflow: Any) -> Job:
    """Return the job of a DBOS workflow."""
    result = workflow.output if isinstance(workflow.output, dict) else {}
    state = _STATE_OF_STATUS.get(workflow.status, JobState.FAILED if "error" in result else JobState.COMPLETED)
    if state is JobState.FAILED and not result:
        result = {"error": WORKER_LOST}
    arguments: Any = (workflow.input or {}).get("args") or ({},)
    return Job(
        id=workflow.workflow_id,
        state=state,
        owner=workflow.authenticated_user or "",
        payload=arguments[0],
        result=result,
        created=_seconds(workflow.created_at) or 0.0,
        started=_seconds(workflow.dequeued_at),
        ended=_seconds(workflow.completed_at),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
