"""The one record of all jobs: DBOS on SQLite or PostgreSQL, in JSON alone.

    queued ──────► in_progress ──────► completed
       │                │  ▲  └──────► failed        (what was wrong is told)
       │                └──┘ the worker died, or its word could not be written: queued again, under the same name
       └────────────────┴────────────► cancelled     (told to clients as failed, code "cancelled")

A job is in the queue before anybody is told of it, and leaves it by being deleted. Its end is written once: whatever a
worker says of a job that was cancelled meanwhile is not heard.
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
WORKFLOW_NAME = "make_video"
PAYLOAD_VERSION = "1"  # of the jobs' form: workers take up those of their own version alone
POLL_SECONDS = 0.2
"""How often an idle worker looks for a job."""

JSONObject = dict[str, Any]
_SQLITE = "sqlite:///"

MAX_JOBS_PER_MILLISECOND = 64
"""Jobs of one owner that may have come in the same millisecond, the queue's unit."""


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether it will never change again."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


_STATES = {
    "ENQUEUED": JobState.QUEUED,
    "DELAYED": JobState.QUEUED,
    "PENDING": JobState.IN_PROGRESS,
    "CANCELLED": JobState.CANCELLED,
    "ERROR": JobState.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.FAILED,
}

_UNFINISHED = ["ENQUEUED", "DELAYED", "PENDING"]

WORKER_LOST = {"code": "worker_lost", "message": "the worker died again and again while it made this video"}


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the queue has it.

    Args:
        id: of the job.
        state: where it stands.
        owner: whose it is: the name of a key.
        asked: what was stored of it when it was accepted.
        told: what the worker said at its end: ``{"error": {"code", "message"}}`` or ``{"video": ...}``.
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
    """What the queue holds is JSON; an exception is its words."""

    def serialize(self, data: Any) -> str:
        """-> JSON."""
        return json.dumps(data, default=repr)

    def deserialize(self, serialized_data: str) -> Any:
        """JSON ->."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """Of this form, in the queue."""
        return "json"


class JobQueue:
    """The jobs.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://...``; its tables are made where they are missing.

    Raises:
        StorageError: it cannot be opened; and from every method, that it cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        logging.getLogger("dbos").setLevel(logging.WARNING)
        try:
            if url.startswith(_SQLITE):
                with closing(sqlite3.connect(url.removeprefix(_SQLITE))) as file:
                    file.execute("PRAGMA journal_mode=WAL")  # kept in the file: readers do not wait for the writer
            DBOS.migrate(url)
            self._client = DBOSClient(
                system_database_url=url, serializer=JSONSerializer(), application_name=APPLICATION_NAME
            )
            self._client.register_queue(
                QUEUE_NAME, worker_concurrency=1, polling_interval_sec=POLL_SECONDS, application_name=APPLICATION_NAME
            )
        except Exception as error:  # of the database's own kind, whichever it is
            problem = f"cannot be opened ({error})"
            raise StorageError("database", problem, "check its address, and whether it can be written") from error

    def _list(self, **which: Any) -> list[Any]:
        with _as_storage_error():
            return self._client.list_workflows(**which)

    def submit(self, job_id: str, owner: str, payload: Mapping[str, Any]) -> Job:
        """Take a job in; one that is there under that name stays as it is.

        Returns:
            the job as the queue has it, this one or the older one.
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
        found = self.find(job_id)
        assert found is not None
        return found

    def find(self, job_id: str) -> Job | None:
        """A job by its name."""
        found = self._list(workflow_ids=[job_id])
        return _job(found[0]) if found else None

    def jobs(
        self, *, limit: int, owner: str | None = None, after: Job | None = None, newest_first: bool = True
    ) -> list[Job]:
        """Some jobs in the order of their coming.

        Args:
            limit: at most so many.
            owner: whose; by default everybody's.
            after: only those that come after this one in that order.
            newest_first: the order.
        """
        border: JSONObject = {}
        if after is not None:
            moment = datetime.fromtimestamp(after.created, UTC).isoformat(timespec="milliseconds")
            border = {"end_time" if newest_first else "start_time": moment}
        found = self._list(
            name=WORKFLOW_NAME, user=owner, limit=limit + MAX_JOBS_PER_MILLISECOND, sort_desc=newest_first, **border
        )
        jobs = [_job(one) for one in found]
        places = [place for place, job in enumerate(jobs) if after is not None and job.id == after.id]
        return jobs[places[0] + 1 if places else 0 :][:limit]

    def unfinished(self) -> list[Job]:
        """All jobs that have not ended."""
        return [_job(one) for one in self._list(name=WORKFLOW_NAME, status=_UNFINISHED)]

    def all_jobs(self) -> list[Job]:
        """All jobs, ended or not."""
        return [_job(one) for one in self._list(name=WORKFLOW_NAME, load_output=False)]

    def states(self) -> list[JobState]:
        """Of all jobs that are kept."""
        return [_job(one).state for one in self._list(name=WORKFLOW_NAME, load_input=False)]

    def ended_before(self, before: float) -> list[Job]:
        """Jobs that ended before a moment, in seconds since 1970."""
        moment = datetime.fromtimestamp(before, UTC).isoformat(timespec="milliseconds")
        return [_job(one) for one in self._list(name=WORKFLOW_NAME, completed_before=moment)]

    def cancel(self, job_id: str) -> None:
        """End a job that has not ended; its worker learns of it within a step."""
        with _as_storage_error():
            self._client.cancel_workflow(job_id)

    def delete(self, job_id: str) -> None:
        """Take a job out."""
        with _as_storage_error():
            self._client.delete_workflow(job_id)

    def requeue(self, job_id: str) -> None:
        """Give a job that is in progress back to the workers: what came of it could not be written down."""
        with _as_storage_error():
            self._client.resume_workflow(job_id, queue_name=QUEUE_NAME)

    def requeue_orphaned(self, live_workers: Callable[[], Collection[str]]) -> list[str]:
        """Queue anew what workers had begun that are no more: once, whoever does so and however often.

        Args:
            alive: the names of all workers that there are. It is asked after the jobs were read, so that a worker which
                came in between is not taken for dead.

        Returns:
            the jobs.
        """
        begun = self._client.list_workflows(name=WORKFLOW_NAME, status="PENDING", load_input=False)
        there = live_workers() if begun else ()
        lost = [(one.workflow_id, str(one.executor_id)) for one in begun if one.executor_id not in there]
        # DBOS's own recovery, in one statement; its clients' `resume` would also bring cancelled jobs back
        return [one for one, worker in lost if self._client._sys_db.reenqueue_for_recovery(one, [worker], QUEUE_NAME)]

    def close(self) -> None:
        """Let go of the database."""
        self._client.destroy()


@contextmanager
def _as_storage_error() -> Iterator[None]:
    """What the database cannot do is told.

    Raises:
        StorageError: it cannot.
    """
    try:
        yield
    except OperationalError as error:
        problem = f"cannot be used ({error.orig})"
        raise StorageError("database", problem, "make room on its disk, and see whether it can be reached") from error


def _job(found: Any) -> Job:
    told = found.output if isinstance(found.output, dict) else {}
    state = _STATES.get(found.status, JobState.FAILED if "error" in told else JobState.COMPLETED)
    if state is JobState.FAILED and not told:
        told = {"error": WORKER_LOST}
    arguments: Any = (found.input or {}).get("args") or ({},)
    return Job(
        id=found.workflow_id,
        state=state,
        owner=found.authenticated_user or "",
        payload=arguments[0],
        result=told,
        created=_seconds(found.created_at) or 0.0,
        started=_seconds(found.dequeued_at),
        ended=_seconds(found.completed_at),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
