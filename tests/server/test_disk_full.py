"""A full disk at every write: the job fails with the reason, no partial file remains, and the service keeps running."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from humo.environment import identity_folder
from humo.errors import StorageError
from humo.media.credentials import open_identity
from humo.media.provenance import read_record
from humo.media.video import read_video
from humo.server.file_store import FileStore, write_file
from humo.server.job_queue import JobQueue, JobState
from humo.server.service import Service
from humo.server.upload_sanitizer import UploadLimits, UploadSanitizer
from humo.server.worker import Worker
from tests.server.conftest import EXAMPLES
from tests.server.running import Running, wait_for
from tests.server.small_disk import SmallDisk, file_size_limit, small_disk

IMAGE = (EXAMPLES / "woman.png").read_bytes()
FIELDS = {"prompt": "a woman speaks", "frames": 25, "steps": 2, "seed": 1}
"""A clip whose file is larger than its previews, so that each file is once the first that does not fit."""

COMPLETED_IN_A_ROW = 3
"""Completed jobs after which more space makes no difference."""

MEGABYTES = 160
"""Size of the small disk; more than the space that client files may not use."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", MEGABYTES) as mounted:
        if mounted is None:
            pytest.skip("mounting a tmpfs needs root")
        yield mounted


class FillingStore(FileStore):
    """A file store whose disk fills up while a job runs."""

    disk: SmallDisk
    pages: int
    filled: str = ""

    def write_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        if (
            progress["phase"] == "denoise" and progress["done"] >= 1 and self.filled != job_id
        ):  # progress of a fast step is not written
            object.__setattr__(self, "filled", job_id)
            self.disk.leave(self.pages)
        super().write_progress(job_id, progress)


def files(folder: Path) -> set[str]:
    return {path.name for name in ("videos", "running") for path in (folder / name).iterdir()}


def test_a_full_disk_at_any_write_of_a_job_is_reported_and_leaves_no_file(disk: SmallDisk) -> None:
    """Leave one page more each time until the job completes, so that every write was once the first to fail."""
    open_identity(identity_folder())  # created in another folder
    store = FillingStore(disk.folder / "service")
    object.__setattr__(store, "disk", disk)
    store.prepare()
    queue = JobQueue(store.database)
    worker = Worker(store, queue, "cpu")
    ends: list[str] = []
    unwritten: list[str] = []
    for pages in range(200):
        object.__setattr__(store, "pages", pages)
        job_id = f"video_{pages:032x}"
        queue.submit(job_id, "me", {})
        result = worker.run_job(job_id, {"fields": FIELDS})
        disk.empty()
        if "error" in result:
            assert result["error"]["code"] == "storage", (pages, result)
            assert "No space left on device" in result["error"]["message"], (pages, result)
            assert str(disk.folder) not in result["error"]["message"]
            assert files(store.folder) == set(), pages
            ends.append("failed")
            unwritten.append(next((name for name in (".mp4", ".json") if name in result["error"]["message"]), "other"))
        else:
            assert files(store.folder) == {f"{job_id}{suffix}" for suffix in (".mp4", ".json", ".png")}
            assert len(read_video(store.output_path(job_id)).frames) == FIELDS["frames"]
            assert read_record(store.output_path(job_id, "sidecar")).request["seed"] == FIELDS["seed"]
            with Image.open(store.output_path(job_id, "thumbnail")) as thumbnail:
                thumbnail.load()
            store.remove(job_id)
            ends.append("completed")
        if ends[-COMPLETED_IN_A_ROW:] == ["completed"] * COMPLETED_IN_A_ROW:
            break
    queue.close()
    assert ends == sorted(ends, reverse=True)  # more space never makes it worse
    # progress and previews, then the video, its metadata, its thumbnail; how many previews there are depends on time
    assert list(dict.fromkeys(unwritten)) == ["other", ".mp4", ".json"]
    assert unwritten[-1] == "other"


def fill_disk_during_a_job(running: Running, disk: SmallDisk, pages: int) -> None:
    """Leave a few pages while a job runs: too few for its next preview, and at first for the database."""
    job_id = running.submit(steps=300, prompt="x" * 2000)
    wait_for(lambda: running.retrieve(job_id)["humo"]["phase"] == "denoise")
    (worker,) = running.workers()
    worker.suspend()
    disk.leave(pages)
    if pages == 0:
        response = httpx.post(f"{running.address}/v1/videos/{job_id}/finish")
        assert (response.status_code, response.json()["error"]["code"]) == (507, "storage")
    worker.resume()
    wait_for(lambda: not list((running.folder / "running").glob(f"{job_id}*")))  # the job has failed
    assert not list((running.folder / "videos").glob(f"*{job_id}*"))
    response = httpx.post(f"{running.address}/v1/videos", json={"prompt": "hello"})
    assert (response.status_code, response.json()["error"]["code"]) == (507, "storage")
    assert httpx.get(f"{running.address}/health").status_code == 200
    assert httpx.get(f"{running.address}/v1/videos").status_code == 200
    disk.empty()
    result = running.wait(job_id, "completed", "failed")
    assert result["error"]["code"] == "storage"
    assert "No space left on device" in result["error"]["message"]
    assert running.workers() == [worker]  # the worker did not restart


def test_a_service_with_a_full_disk_recovers_once_there_is_space(disk: SmallDisk) -> None:
    """The database is on the same disk: the result of a job is saved as soon as that is possible."""
    running = Running(disk.folder / "service").start()
    running.wait(running.submit(), "completed")
    try:
        for pages in (0, 1, 4):
            fill_disk_during_a_job(running, disk, pages)
        assert running.wait(running.submit(seed=9), "completed", "failed")["status"] == "completed"
    finally:
        disk.empty()
        running.stop()


# -- without a small disk: writes that fail by a file size limit ------------------------------------------------


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    with file_size_limit(1000), pytest.raises(StorageError, match="data: cannot be written"):
        write_file(tmp_path / "a", bytes(1001))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("most", [0, 1000, 4096, 10_000, 16_384])
def test_a_worker_that_cannot_write_reports_it(service: Service, most: int) -> None:
    open_identity(identity_folder())
    job_id = f"video_{most:032x}"
    service.queue.submit(job_id, "me", {})
    worker = Worker(service.store, service.queue, "cpu")
    with file_size_limit(most):
        result = worker.run_job(job_id, {"fields": FIELDS})
    assert result["error"]["code"] == "storage", result
    assert files(service.store.folder) == set()


def test_a_queue_that_cannot_be_written_reports_it_and_recovers(tmp_path: Path) -> None:
    queue = JobQueue(f"sqlite:///{tmp_path}/jobs.sqlite")
    job = queue.submit(f"video_{1:032x}", "me", {})
    with file_size_limit(4096):
        for operation in (
            lambda: queue.submit(f"video_{2:032x}", "me", {"prompt": "x" * 100_000}),
            lambda: queue.cancel(job.id),
            lambda: queue.delete(job.id),
        ):
            with pytest.raises(StorageError, match="database: cannot be used"):
                operation()
    assert queue.find(f"video_{2:032x}") is None
    assert queue.submit(f"video_{2:032x}", "me", {}).state is JobState.QUEUED
    queue.cancel(job.id)
    stored = queue.find(job.id)
    assert stored is not None
    assert stored.state is JobState.CANCELLED
    queue.close()


def test_a_request_that_cannot_be_stored_is_rejected_and_leaves_no_file(client: TestClient, service: Service) -> None:
    inputs = service.store.folder / "inputs"
    large = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    path = service.store.folder.parent / "large.png"
    Image.fromarray(large).save(path)
    fields = {"prompt": "x", "consent": "true", "frames": "5"}
    for content, most in ((IMAGE, 1000), (path.read_bytes(), 2**20)):  # at its final place; while it is received
        with file_size_limit(most):
            response = client.post("/v1/videos", data=fields, files=[("image", ("a.png", content))])
        assert (response.status_code, response.json()["error"]["code"]) == (507, "storage"), response.text
        assert str(service.store.folder) not in response.text
    assert not list(inputs.iterdir())
    assert client.get("/v1/videos").json()["data"] == []
    address = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
    assert client.post("/v1/videos", json={"prompt": "x", "consent": True, "image": address}).status_code == 200


def test_a_decoder_that_cannot_write_does_not_blame_the_file() -> None:
    with file_size_limit(13_000), pytest.raises(StorageError, match="data: cannot be written"):
        asyncio.run(
            UploadSanitizer(UploadLimits()).sanitize(IMAGE, "image", "file")
        )  # the uploaded file fits, the rewritten one does not


def test_client_files_do_not_use_the_reserved_disk_space(client: TestClient, service: Service) -> None:
    object.__setattr__(service.store, "reserve_bytes", 2**60)
    files = [("image", ("a.png", IMAGE))]
    response = client.post("/v1/videos", data={"prompt": "x", "consent": "true"}, files=files)
    assert (response.status_code, response.json()["error"]["code"]) == (507, "storage")
    assert client.post("/v1/videos", json={"prompt": "x", "frames": 5}).status_code == 200  # text needs no file
