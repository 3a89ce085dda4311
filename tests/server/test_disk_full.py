"""A disk that is full, at every write: a job fails with the reason, nothing half-written is left, the service lives."""

from __future__ import annotations

import asyncio
import base64
import itertools
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
from tests.server.small_disk import SmallDisk, files_of_at_most, small_disk

PICTURE = (EXAMPLES / "woman.png").read_bytes()
ASKED = {"prompt": "a woman speaks", "frames": 25, "steps": 2, "seed": 1}
"""Of a clip whose file is larger than its previews, so that each file is in its turn the one that does not fit."""

IN_A_ROW = 3
"""Jobs that end well, after which more room changes nothing."""

MEGABYTES = 160
"""Of the small disk: more than is kept free of clients' files."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", MEGABYTES) as found:
        if found is None:
            pytest.skip("no small disk can be made here: that takes the rights to mount one")
        yield found


class Filling(FileStore):
    """A folder whose disk fills up while a job is at work, after it was seen that there was room."""

    disk: SmallDisk
    pages: int
    filled: str = ""

    def tell(self, job_id: str, said: dict[str, Any]) -> None:
        if said["phase"] == "denoise" and said["done"] >= 1 and self.filled != job_id:  # a quick step is not told
            object.__setattr__(self, "filled", job_id)
            self.disk.leave(self.pages)
        super().write_progress(job_id, said)


def files(folder: Path) -> set[str]:
    return {path.name for name in ("videos", "running") for path in (folder / name).iterdir()}


def test_at_every_write_of_a_job_a_full_disk_is_told_and_leaves_nothing(disk: SmallDisk) -> None:
    """One page of room more each time, until there is enough: every write has been the first that failed."""
    open_identity(identity_folder())  # it lies elsewhere, and is there
    store = Filling(disk.folder / "service")
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
        told = worker.run_job(job_id, {"fields": ASKED})
        disk.empty()
        if "error" in told:
            assert told["error"]["code"] == "storage", (pages, told)
            assert "No space left on device" in told["error"]["message"], (pages, told)
            assert str(disk.folder) not in told["error"]["message"]
            assert files(store.folder) == set(), pages
            ends.append("failed")
            unwritten.append(next((name for name in (".mp4", ".json") if name in told["error"]["message"]), "other"))
        else:
            assert files(store.folder) == {f"{job_id}{suffix}" for suffix in (".mp4", ".json", ".png")}
            assert len(read_video(store.output_path(job_id)).frames) == ASKED["frames"]
            assert read_record(store.output_path(job_id, "sidecar")).request["seed"] == ASKED["seed"]
            with Image.open(store.output_path(job_id, "thumbnail")) as thumbnail:
                thumbnail.load()
            store.remove(job_id)
            ends.append("well")
        if ends[-IN_A_ROW:] == ["well"] * IN_A_ROW:
            break
    queue.close()
    assert ends == sorted(ends)  # more room is never worse
    # progress and previews, then the video, its record, its thumbnail
    assert [name for name, _ in itertools.groupby(unwritten)] == ["other", ".mp4", ".json", "other"]


def fill_during_a_job(running: Running, disk: SmallDisk, pages: int) -> None:
    """Leave so many pages while a job is at work; too few for its next preview, and at first for the queue."""
    job_id = running.ask(steps=300, prompt="x" * 2000)
    wait_for(lambda: running.look(job_id)["humo"]["phase"] == "denoise")
    (worker,) = running.workers()
    worker.suspend()
    disk.leave(pages)
    worker.resume()
    wait_for(lambda: not list((running.folder / "running").glob(f"{job_id}*")))  # it has given up
    assert not list((running.folder / "videos").glob(f"*{job_id}*"))
    answer = httpx.post(f"{running.address}/v1/videos", json={"prompt": "hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage")
    if pages == 0:
        answer = httpx.post(f"{running.address}/v1/videos/{job_id}/finish")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage")
    assert httpx.get(f"{running.address}/health").status_code == 200
    assert httpx.get(f"{running.address}/v1/videos").status_code == 200
    disk.empty()
    told = running.wait(job_id, "completed", "failed")
    assert told["error"]["code"] == "storage"
    assert "No space left on device" in told["error"]["message"]
    assert running.workers() == [worker]  # the very same


def test_a_service_whose_disk_is_full_lives_and_goes_on_once_there_is_room(disk: SmallDisk) -> None:
    """The queue lies on it, too: what came of a job is written down when that can be done."""
    running = Running(disk.folder / "service").start()
    running.wait(running.ask(), "completed")
    try:
        for pages in (0, 1, 4):
            fill_during_a_job(running, disk, pages)
        assert running.wait(running.ask(seed=9), "completed", "failed")["status"] == "completed"
    finally:
        disk.empty()
        running.stop()


# -- where no disk can be made: what can be said of a write that fails ------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(StorageError, match="data: cannot be written"):
        write_file(tmp_path / "a", bytes(1001))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("most", [0, 1000, 4096, 10_000, 16_384])
def test_a_worker_that_cannot_write_says_so(service: Service, most: int) -> None:
    open_identity(identity_folder())
    job_id = f"video_{most:032x}"
    service.queue.submit(job_id, "me", {})
    worker = Worker(service.store, service.queue, "cpu")
    with files_of_at_most(most):
        told = worker.run_job(job_id, {"fields": ASKED})
    assert told["error"]["code"] == "storage", told
    assert files(service.store.folder) == set()


def test_a_ledger_that_cannot_be_written_says_so_and_works_again(tmp_path: Path) -> None:
    queue = JobQueue(f"sqlite:///{tmp_path}/jobs.sqlite")
    job = queue.submit(f"video_{1:032x}", "me", {})
    with files_of_at_most(4096):
        for act in (
            lambda: queue.submit(f"video_{2:032x}", "me", {"prompt": "x" * 100_000}),
            lambda: queue.cancel(job.id),
            lambda: queue.delete(job.id),
        ):
            with pytest.raises(StorageError, match="database: cannot be used"):
                act()
    assert queue.find(f"video_{2:032x}") is None
    assert queue.submit(f"video_{2:032x}", "me", {}).state is JobState.QUEUED
    queue.cancel(job.id)
    found = queue.find(job.id)
    assert found is not None
    assert found.state is JobState.CANCELLED
    queue.close()


def test_a_request_that_cannot_be_kept_is_refused_and_leaves_nothing(client: TestClient, service: Service) -> None:
    kept = service.store.folder / "inputs"
    large = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    path = service.store.folder.parent / "large.png"
    Image.fromarray(large).save(path)
    fields = {"prompt": "x", "consent": "true", "frames": "5"}
    for content, most in ((PICTURE, 1000), (path.read_bytes(), 2**20)):  # written where it is kept; while it comes
        with files_of_at_most(most):
            answer = client.post("/v1/videos", data=fields, files=[("image", ("a.png", content))])
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage"), answer.text
        assert str(service.store.folder) not in answer.text
    assert not list(kept.iterdir())
    assert client.get("/v1/videos").json()["data"] == []
    address = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    assert client.post("/v1/videos", json={"prompt": "x", "consent": True, "image": address}).status_code == 202


def test_a_decoder_that_cannot_write_does_not_blame_the_file() -> None:
    with files_of_at_most(13_000), pytest.raises(StorageError, match="data: cannot be written"):
        asyncio.run(
            UploadSanitizer(UploadLimits()).sanitize(PICTURE, "image", "file")
        )  # the file itself has room; written anew it has none


def test_clients_files_do_not_get_the_last_of_the_disk(client: TestClient, service: Service) -> None:
    object.__setattr__(service.store, "reserve_bytes", 2**60)
    files = [("image", ("a.png", PICTURE))]
    answer = client.post("/v1/videos", data={"prompt": "x", "consent": "true"}, files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage")
    assert client.post("/v1/videos", json={"prompt": "x", "frames": 5}).status_code == 202  # words take none
