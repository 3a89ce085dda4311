"""A worker: one process per device that takes jobs from the queue and generates their videos, one at a time.

The process exits when its parent exits, so that two workers never share a name.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dbos import DBOS, DBOSConfig
from dbos import _error as dbos_error
from numpy.typing import NDArray
from PIL import Image

from humo.errors import HuMoError, StorageError
from humo.files import DISK_FULL_ERRORS, storage_error
from humo.jobs.engine import Engine
from humo.jobs.generate import build_request, generate, prepare_job
from humo.progress import Event
from humo.server.file_store import FINISH_REQUESTED, FileStore, write_file
from humo.server.job_queue import (
    APPLICATION_NAME,
    PAYLOAD_VERSION,
    QUEUE_NAME,
    WORKFLOW_NAME,
    JobQueue,
    JobState,
    JSONObject,
    JSONSerializer,
)

PROGRESS_SECONDS = 0.2
"""Shortest interval between two writes of the progress."""

PREVIEW_SECONDS = 1.0
"""Shortest interval between two writes of the preview image."""

CANCEL_CHECK_SECONDS = 0.5
"""Interval at which a running job is checked for cancellation."""

NICENESS = 5
"""Added to the process's niceness, so that the service answers requests while a video is generated."""

RESULT_SAVE_SECONDS = 2.0
"""Time after which DBOS has saved a job's result, unless the disk is full."""

logger = logging.getLogger(__name__)


class Cancelled(Exception):  # noqa: N818 - not an error
    """The running job was cancelled."""


class Lost(Exception):  # noqa: N818 - not an error
    """Another worker runs this job, because this worker was taken for dead."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job that ended, whose result DBOS may not have saved yet.

    Args:
        result: the job's result.
        finished: when it ended, on the monotonic clock.
        started: `Job.started` of this run.
    """

    result: JSONObject
    finished: float
    started: float | None


class Worker:
    """Runs jobs on one device.

    Args:
        store: the service's files.
        queue: the service's jobs, to check for cancellation.
        device: the request's device.
    """

    def __init__(self, store: FileStore, queue: JobQueue, device: str) -> None:
        self._store, self._queue, self._device = store, queue, device
        self._engine = Engine()
        self._has_imported = False
        self._finished: dict[str, FinishedJob] = {}
        self._unsaved_results: dict[str, JSONObject] = {}

    def run_job(self, job_id: str, payload: JSONObject) -> JSONObject:
        """Generate the video of a job, unless an earlier run finished it and only its result was not saved.

        Returns:
            the job's result: ``{"video": ...}`` or ``{"error": {"code", "message"}, "fraction": of the work}``.
        """
        if not self._has_imported:
            importlib.import_module("humo.inference.pipeline")  # imports torch, diffusers and transformers
            gc.freeze()  # the collector need not search the objects of libraries after each job
            self._has_imported = True
        try:
            return self._run_or_reuse(job_id, payload)
        finally:
            gc.collect()  # reference cycles of a job would otherwise fragment the memory of the next jobs

    def _run_or_reuse(self, job_id: str, payload: JSONObject) -> JSONObject:
        job = self._queue.find(job_id)
        result = self._unsaved_results.pop(job_id, None)
        if result is None or ("video" in result and not self._store.output_path(job_id).is_file()):
            try:
                result = {"video": self._generate(job_id, payload)}
            except Lost:  # the job's files belong to the other worker, and this result is discarded
                return _error("worker_lost", "another worker runs this job")
            except Exception as error:  # noqa: BLE001 - an internal error must not end the worker
                fraction = self._store.read_progress(job_id).get("fraction", 0)
                result = self._error_of(error, job_id) | {"fraction": fraction}
            self._clean_up(job_id, failed="error" in result)
        self._finished[job_id] = FinishedJob(result, time.monotonic(), None if job is None else job.started)
        return result

    def _generate(self, job_id: str, payload: JSONObject) -> JSONObject:
        """Generate the video and its thumbnail.

        Returns:
            description of the video.

        Raises:
            Cancelled, Lost: the job was stopped.
        """
        fields = self._store.resolve_inputs(payload["fields"]) | {
            "output": str(self._store.output_path(job_id)),
            "sidecar": True,
            "device": self._device,
        }
        job = prepare_job(build_request(fields), payload.get("loras", {}))
        reporter = JobReporter(self._store, self._queue, job_id)
        result = generate(
            job,
            engine=self._engine,
            callback=reporter,
            keep_paths=False,
            should_stop=reporter.finish_requested,
            check_stopped=reporter.check_stopped,
            windows=self._store.running_path(job_id, ".windows"),
        )
        self._save_thumbnail(job_id, result.frames)
        reporter.raise_if_stopped()  # a job that was cancelled while its file was written keeps no file
        video = result.as_dict() | {"peak_bytes": peak_bytes()}
        del video["path"]  # clients do not learn paths of the server
        return video

    def _save_thumbnail(self, job_id: str, frames: int) -> None:
        """Save the middle frame as PNG."""
        from humo.media.video import read_frame

        frame = read_frame(self._store.output_path(job_id), frames // 2)
        save_png(frame, self._store.output_path(job_id, "thumbnail"))

    def _error_of(self, error: Exception, job_id: str) -> JSONObject:
        """Return the result of a job that ended with an exception; log internal errors."""
        match error:
            case Cancelled():
                return _error("cancelled", "cancelled")
            case HuMoError():
                code = "storage" if isinstance(error, StorageError) else "invalid_request"
                return _error(code, self._store.redact_paths(str(error)))
            case MemoryError():
                return _error("out_of_memory", "the video needs more memory than this machine has; reduce its size")
            case OSError() if error.errno in DISK_FULL_ERRORS:
                return _error("storage", str(storage_error(error)))
        logger.error("job %s failed", job_id, exc_info=error)
        code = "out_of_memory" if type(error).__name__ == "OutOfMemoryError" else "internal_error"
        return _error(code, f"{type(error).__name__}: {error}")

    def _clean_up(self, job_id: str, *, failed: bool) -> None:
        try:
            if failed:
                self._store.remove(job_id)
            self._store.clear_progress(job_id)
        except OSError:  # the folder is not writable, which the job's result says already
            logger.exception("files of job %s may remain", job_id)

    def retry_unsaved_results(self) -> None:
        """Requeue finished jobs whose result DBOS could not save; `run_job` then returns the result again."""
        for job_id, finished in list(self._finished.items()):
            if time.monotonic() - finished.finished > RESULT_SAVE_SECONDS:
                job = self._queue.find(job_id)
                # another start time means that another worker runs the job now
                if job is not None and job.state is JobState.IN_PROGRESS and job.started == finished.started:
                    self._unsaved_results[job_id] = finished.result
                    self._queue.requeue(job_id)
                del self._finished[job_id]


def _error(code: str, message: str) -> JSONObject:
    return {"error": {"code": code, "message": message}}


def save_png(frame: NDArray[np.uint8], path: Path) -> None:
    """Write a frame (H, W, 3) as PNG.

    Raises:
        StorageError: the disk is full.
    """
    content = io.BytesIO()
    Image.fromarray(frame).save(content, format="PNG")
    write_file(path, content.getvalue())


class JobReporter:
    """Progress callback that writes a job's progress and preview, and stops the job when it is cancelled."""

    def __init__(self, store: FileStore, queue: JobQueue, job_id: str) -> None:
        self._store, self._queue, self._id = store, queue, job_id
        job = queue.find(job_id)
        self._started = None if job is None else job.started
        self._progress_time = self._check_time = self._preview_time = 0.0

    def __call__(self, event: Event) -> None:
        """Report an event.

        Raises:
            Cancelled: the job was cancelled.
            Lost: another worker runs the job.
        """
        now = time.monotonic()
        is_end = event.done in (0, event.total)
        if is_end or now - self._progress_time >= PROGRESS_SECONDS:
            self._progress_time = now
            progress = {"phase": event.phase, "done": event.done, "total": event.total, "fraction": event.fraction}
            self._store.write_progress(self._id, {**progress, "seconds_left": event.seconds_left, "at": time.time()})
        if event.preview is not None and now - self._preview_time >= PREVIEW_SECONDS:
            self._preview_time = now
            save_png(event.preview(), self._store.running_path(self._id, ".png"))
        self.check_stopped()

    def check_stopped(self) -> None:
        """Check at intervals that this worker is still to run the job; it is also called inside a step.

        Raises:
            Cancelled, Lost: as `raise_if_stopped`.
        """
        now = time.monotonic()
        if now - self._check_time >= CANCEL_CHECK_SECONDS:
            self._check_time = now
            self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        """Raise unless this worker is still to run the job.

        Raises:
            Cancelled: the job was cancelled.
            Lost: another worker runs the job.
        """
        job = self._queue.find(self._id)
        if job is None or job.state is JobState.CANCELLED:
            raise Cancelled
        if job.started != self._started:
            raise Lost

    def finish_requested(self) -> bool:
        """Return whether the client asked to end denoising after the current step."""
        return self._store.running_path(self._id, FINISH_REQUESTED).exists()


def peak_bytes() -> int | None:
    """Return this process's peak resident memory in bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_worker(
    folder: Path,
    database: str,
    name: str,
    device: str,
    make_worker: Callable[[FileStore, JobQueue, str], Worker] = Worker,
) -> None:
    """Run jobs until the standard input closes.

    Args:
        folder: data folder of the service.
        database: URL of the job queue.
        name: name of this worker; a new worker of the same name restarts the jobs that the old one left.
        device: the request's device.
        make_worker: returns what runs the jobs.
    """
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICENESS)
    store, queue = FileStore(folder), JobQueue(database)
    worker = make_worker(store, queue, device)
    config: DBOSConfig = {
        "name": APPLICATION_NAME,
        "system_database_url": database,
        "serializer": JSONSerializer(),
        "executor_id": name,
        "application_version": PAYLOAD_VERSION,
        "log_level": "WARNING",
        "run_migrations": False,
    }
    DBOS(config=config)
    logging.getLogger("dbos").addFilter(_is_not_of_a_deleted_job)

    @DBOS.workflow(name=WORKFLOW_NAME)
    def generate_video(payload: JSONObject) -> JSONObject:
        job_id = DBOS.workflow_id
        assert job_id is not None
        return worker.run_job(job_id, payload)

    DBOS.listen_queues([QUEUE_NAME])
    DBOS.launch()
    threading.Thread(target=_exit_with_service, daemon=True).start()
    while True:
        time.sleep(RESULT_SAVE_SECONDS)
        try:
            worker.retry_unsaved_results()
        except StorageError as error:  # the disk is still full
            logger.warning("%s", error)


def _is_not_of_a_deleted_job(record: logging.LogRecord) -> bool:
    """Return False for DBOS's report that the job of a result was deleted or cancelled, which is no error."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (dbos_error.DBOSNonExistentWorkflowError, dbos_error.DBOSWorkflowCancelledError))


def _exit_with_service() -> None:
    sys.stdin.read()
    os._exit(0)  # the next worker of this name restarts the running job


def main(argv: list[str]) -> None:
    """Run ``python -m humo.server.worker``, which `supervisor` starts."""
    parser = argparse.ArgumentParser()
    for argument in ("folder", "database", "name", "device"):
        parser.add_argument(argument)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    run_worker(Path(arguments.folder), arguments.database, arguments.name, arguments.device)


if __name__ == "__main__":
    main(sys.argv[1:])
