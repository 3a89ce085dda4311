"""A worker: one process for one device, which takes a job from the queue, makes its video, and takes the next.

It ends when the one that started it is gone, so that no two processes of one name are ever at work.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dbos import DBOS, DBOSConfig
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
"""At most so often the progress is written down."""

PREVIEW_SECONDS = 1.0
"""At most so often the picture that is taking shape is written."""

CANCEL_CHECK_SECONDS = 0.5
"""So often a worker looks whether its job was cancelled."""

NICENESS = 5
"""By so much a worker comes after the service on the same cores: who asks for a job is answered while one is made."""

RESULT_SAVE_SECONDS = 2.0
"""In which the end of a job is in the queue, if there is room for it."""

logger = logging.getLogger(__name__)


class Cancelled(Exception):  # noqa: N818 - not an error
    """The job was cancelled while it was made."""


class Lost(Exception):  # noqa: N818 - not an error
    """The job was begun anew by another worker: this one was taken for dead."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """What came of a job: what was said of it, when (on the monotonic clock), and the moment at which it was begun."""

    result: JSONObject
    finished: float
    started: float | None


class Worker:
    """Makes videos.

    Args:
        store: the service's folder.
        queue: to look whether a job is still wanted.
        device: of a request.
    """

    def __init__(self, store: FileStore, queue: JobQueue, device: str) -> None:
        self._store, self._queue, self._device = store, queue, device
        self._engine = Engine()
        self._has_begun = False
        self._ends: dict[str, FinishedJob] = {}
        self._unheard: dict[str, JSONObject] = {}

    def run_job(self, job_id: str, payload: JSONObject) -> JSONObject:
        """Make the video of a job, unless it was made and only could not be written down.

        Returns:
            what the queue shall say of it: ``{"video": ...}`` or ``{"error": {"code", "message"}}``.
        """
        if not self._has_begun:
            importlib.import_module("humo.inference.pipeline")  # and with it all the libraries
            gc.freeze()  # what they are made of stays, and is not looked through after each job
            self._has_begun = True
        try:
            return self._run_or_reuse(job_id, payload)
        finally:
            gc.collect()  # what a job leaves in circles would otherwise lie among what the next ones make

    def _run_or_reuse(self, job_id: str, asked: JSONObject) -> JSONObject:
        begun = self._queue.find(job_id)
        told = self._unheard.pop(job_id, None)
        if told is None or ("video" in told and not self._store.output_path(job_id).is_file()):
            try:
                told = self._attempt(job_id, asked)
            except Lost:  # its files are the other one's, and nobody hears what this one says
                return _error_result("worker_lost", "another worker makes it")
        self._ends[job_id] = FinishedJob(told, time.monotonic(), None if begun is None else begun.started)
        return told

    def retry_unsaved_results(self) -> None:
        """Look whether the ends of jobs were written down; where there was no room for that, they are once more."""
        for job_id, end in list(self._ends.items()):
            if time.monotonic() - end.finished > RESULT_SAVE_SECONDS:
                job = self._queue.find(job_id)
                # one that was begun at another moment is another worker's by now
                if job is not None and job.state is JobState.IN_PROGRESS and job.started == end.started:
                    self._unheard[job_id] = end.result
                    self._queue.requeue(job_id)
                del self._ends[job_id]

    def _attempt(self, job_id: str, asked: JSONObject) -> JSONObject:
        told = self._outcome(job_id, asked)
        try:
            if "error" in told:
                self._store.remove(job_id)  # of what failed, nothing is left
            self._store.clear_progress(job_id)
        except OSError:  # the folder itself is at fault, and the job's end says so
            logger.exception("of job %s something may be left", job_id)
        return told

    def _outcome(self, job_id: str, asked: JSONObject) -> JSONObject:
        try:
            return {"video": self._generate(job_id, asked)}
        except Lost:
            raise
        except Cancelled:
            return _error_result("cancelled", "cancelled")
        except HuMoError as error:
            code = "storage" if isinstance(error, StorageError) else "invalid_request"
            return _error_result(code, self._store.redact_paths(str(error)))
        except MemoryError:
            return _error_result("out_of_memory", "too large for this machine's memory; ask for less")
        except Exception as error:  # a fault of ours must not take the worker with it
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
                return _error_result("storage", str(storage_error(error)))
            logger.exception("job %s failed", job_id)
            code = "out_of_memory" if type(error).__name__ == "OutOfMemoryError" else "internal_error"
            return _error_result(code, f"{type(error).__name__}: {error}")

    def _generate(self, job_id: str, asked: JSONObject) -> JSONObject:
        fields = self._store.resolve_inputs(asked["fields"]) | {
            "output": str(self._store.output_path(job_id)),
            "sidecar": True,
            "device": self._device,
        }
        job = prepare_job(build_request(fields))
        listener = JobReporter(self._store, self._queue, job_id)
        result = generate(
            job,
            engine=self._engine,
            callback=listener,
            keep_paths=False,
            should_stop=listener.finish_requested,
            windows=self._store.running_path(job_id, ".windows"),
        )
        self._save_thumbnail(job_id, result.frames)
        listener.raise_if_stopped()  # what was cancelled while it was written leaves nothing
        told = result.as_dict() | {"peak_bytes": peak_bytes()}
        del told["path"]  # where it lies is nobody's business
        return told

    def _save_thumbnail(self, job_id: str, frames: int) -> None:
        """The frame in the middle, as a picture."""
        from humo.media.video import read_frame

        frame = read_frame(self._store.output_path(job_id), frames // 2)
        save_png(frame, self._store.output_path(job_id, "thumbnail"))


def _error_result(code: str, message: str) -> JSONObject:
    return {"error": {"code": code, "message": message}}


def save_png(frame: NDArray[np.uint8], path: Path) -> None:
    """Write a frame (H, W, 3) as PNG.

    Raises:
        StorageError: there is no room.
    """
    content = io.BytesIO()
    Image.fromarray(frame).save(content, format="PNG")
    write_file(path, content.getvalue())


class JobReporter:
    """Writes a job's progress down, and stops the job when it was cancelled."""

    def __init__(self, store: FileStore, queue: JobQueue, job_id: str) -> None:
        self._store, self._queue, self._id = store, queue, job_id
        begun = queue.find(job_id)
        self._started = None if begun is None else begun.started
        self._told = self._looked = self._shown = 0.0
        self._phase, self._began, self._first = "", 0.0, 0

    def __call__(self, event: Event) -> None:
        """Take an event.

        Raises:
            Cancelled: nobody wants the video any more.
            Lost: another worker makes it.
        """
        now = time.monotonic()
        if event.phase != self._phase:
            self._phase, self._began, self._first = event.phase, now, event.done
        is_end = event.done in (0, event.total)
        if is_end or now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._store.write_progress(self._id, {**self._progress(event, now), "at": time.time()})
        if event.preview is not None and now - self._shown >= PREVIEW_SECONDS:
            self._shown = now
            save_png(event.preview(), self._store.running_path(self._id, ".png"))
        if now - self._looked >= CANCEL_CHECK_SECONDS:
            self._looked = now
            self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        """Look whether the job is still wanted, and of this worker.

        Raises:
            Cancelled: nobody wants the video any more.
            Lost: another worker makes it.
        """
        job = self._queue.find(self._id)
        if job is None or job.state is JobState.CANCELLED:
            raise Cancelled
        if job.started != self._started:
            raise Lost

    def finish_requested(self) -> bool:
        """Whether the client wants what there is by now."""
        return self._store.running_path(self._id, FINISH_REQUESTED).exists()

    def _progress(self, event: Event, now: float) -> JSONObject:
        done = event.done - self._first
        left = None if done < 1 else round((now - self._began) / done * (event.total - event.done), 1)
        return {"phase": event.phase, "done": event.done, "total": event.total, "seconds_left": left}


def peak_bytes() -> int | None:
    """The most memory this process ever had."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_worker(folder: Path, database: str, name: str, device: str) -> None:
    """Work until the standard input ends.

    Args:
        folder: the service's.
        database: address of the queue.
        name: of this worker: what a worker of this name had begun when it died is begun anew.
        device: of a request.
    """
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICENESS)
    store, queue = FileStore(folder), JobQueue(database)
    worker = Worker(store, queue, device)
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

    @DBOS.workflow(name=WORKFLOW_NAME)
    def make_video(asked: JSONObject) -> JSONObject:
        job_id = DBOS.workflow_id
        assert job_id is not None
        return worker.run_job(job_id, asked)

    DBOS.listen_queues([QUEUE_NAME])
    DBOS.launch()
    threading.Thread(target=_exit_with_service, daemon=True).start()
    while True:
        time.sleep(RESULT_SAVE_SECONDS)
        try:
            worker.retry_unsaved_results()
        except StorageError as error:  # still no room
            logger.warning("%s", error)


def _exit_with_service() -> None:
    sys.stdin.read()
    os._exit(0)  # whatever is at work is begun anew by the next of this name


def main(argv: list[str]) -> None:
    """``python -m humo.server.worker``, started by `supervisor`."""
    parser = argparse.ArgumentParser()
    for option in ("folder", "database", "name", "device"):
        parser.add_argument(option)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    run_worker(Path(options.folder), options.database, options.name, options.device)


if __name__ == "__main__":
    main(sys.argv[1:])
