"""The whole service in processes of its own: videos are generated, jobs cancelled, processes killed."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from humo.media.provenance import read_record
from humo.media.video import read_video
from tests.server.conftest import EXAMPLES
from tests.server.postgres import postgres, programs
from tests.server.running import Running, wait_for

MAX_GROWTH_MIB = 64.0
"""Memory that a worker may keep after a cancelled job, for caches of its libraries."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    service = Running(tmp_path_factory.mktemp("service")).start()
    yield service
    service.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in the videos API of the client
def test_the_openai_client_works(running: Running, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=f"{running.address}/v1", api_key="none")
    video = client.videos.create_and_poll(
        prompt="a woman speaks",
        model="humo-nano",
        size="96x96",  # type: ignore[arg-type]
        input_reference=("woman.png", (EXAMPLES / "woman.png").read_bytes()),
        extra_body={"consent": True, "num_frames": 5, "num_inference_steps": 1, "seed": 4},
    )
    assert (video.status, video.progress, video.size, video.seconds) == ("completed", 100, "96x96", "0.2")
    path = tmp_path / "made.mp4"
    client.videos.download_content(video.id).write_to_file(path)
    assert len(read_video(path).frames) == 5
    record = read_record(path)
    assert (record.request["seed"], record.request["consent"]) == (4, True)
    assert all("/" not in name for name in (*record.inputs, record.request["output"], *record.request["images"]))
    assert video.id in [one.id for one in client.videos.list()]
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    with pytest.raises(openai.BadRequestError, match="size: 'huge' is not a size"):
        client.videos.create(prompt="x", size="huge")  # type: ignore[arg-type]


def test_a_clip_can_be_as_long_as_its_audio(running: Running) -> None:
    audio = base64.b64encode((EXAMPLES / "woman.wav").read_bytes()).decode()
    job = running.wait(running.submit(frames=-1, audio=f"data:audio/wav;base64,{audio}"), "completed", "failed")
    assert (job["status"], job["humo"]["request"]["frames"]) == ("completed", 45)


def test_events_report_progress_and_previews(running: Running) -> None:
    job_id = running.submit(frames=25, steps=12)
    names, phases, progress = [], [], []
    with httpx.stream("GET", f"{running.address}/v1/videos/{job_id}/events", timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line.startswith("data: ") and names[-1] != "preview":
                job = json.loads(line.removeprefix("data: "))
                phases.append(job["humo"]["phase"])
                progress.append(job["progress"])
    assert names[-1] == "done"
    assert "preview" in names
    assert "denoise" in phases
    assert progress == sorted(progress)
    assert progress[-1] == 100
    thumbnail = httpx.get(f"{running.address}/v1/videos/{job_id}/content?variant=thumbnail")
    assert thumbnail.headers["content-type"] == "image/png"
    part = httpx.get(f"{running.address}/v1/videos/{job_id}/content", headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_a_cancelled_job_stops_and_the_next_one_starts(running: Running) -> None:
    long, other = running.submit(frames=25, steps=400), running.submit(seed=2)
    running.wait(long, "in_progress")
    wait_for(lambda: running.retrieve(long)["humo"]["phase"] == "denoise")
    start = time.monotonic()
    httpx.post(f"{running.address}/v1/videos/{long}/cancel")
    assert running.retrieve(long)["error"]["code"] == "cancelled"
    running.wait(other, "in_progress", "completed")
    assert time.monotonic() - start < 15  # a step and 2 s, on a machine that may be busy
    assert running.wait(other, "completed", "failed")["status"] == "completed"
    assert not list((running.folder / "videos").glob(f"{long}*"))
    assert not list((running.folder / "running").iterdir())


def test_a_cancelled_job_does_not_change_the_next_ones_frames(running: Running) -> None:
    """Equal frames, and the worker frees the memory of the cancelled job."""

    def memory() -> float:
        (worker,) = running.workers()
        return worker.memory_info().rss / 2**20

    def frames(job_id: str) -> bytes:
        assert running.wait(job_id, "completed", "failed")["status"] == "completed"
        return read_video(running.folder / "videos" / f"{job_id}.mp4").frames.tobytes()

    alone = frames(running.submit(seed=7, steps=4))
    before = memory()
    large = running.submit(width=160, height=160, frames=49, steps=200)
    other = running.submit(seed=7, steps=4)
    wait_for(lambda: (running.retrieve(large)["humo"]["step"] or 0) > 1)
    httpx.post(f"{running.address}/v1/videos/{large}/cancel")
    assert frames(other) == alone
    assert memory() - before < MAX_GROWTH_MIB
    assert running.retrieve(large)["error"]["code"] == "cancelled"


def test_a_failed_job_reports_the_reason(running: Running) -> None:
    """The video cannot be written, because its folder is replaced by a file meanwhile."""
    job_id = running.submit(frames=97, steps=32)
    running.wait(job_id, "in_progress")
    wait_for(lambda: running.retrieve(job_id)["progress"] > 0)
    videos = running.folder / "videos"
    moved = videos.rename(running.folder / "away")
    videos.write_bytes(b"")
    job = running.wait(job_id, "failed")
    videos.unlink()
    moved.rename(videos)
    assert job["error"]["code"] == "storage"
    assert job["progress"] > 0
    assert "cannot be written" in job["error"]["message"]
    assert str(running.folder) not in job["error"]["message"]
    assert running.wait(running.submit(seed=5), "completed")  # the worker still runs


def test_a_service_on_postgresql_generates_videos(tmp_path: Path) -> None:
    if programs() is None:
        pytest.skip("no PostgreSQL here; .ci/run installs one")
    with postgres() as url:
        running = Running(tmp_path / "service", ["--database", url]).start()
        job_id = running.submit()
        assert running.wait(job_id, "completed", "failed")["status"] == "completed"
        assert not (tmp_path / "service" / "jobs.sqlite").exists()
        running.stop()


def test_no_job_is_lost_or_run_twice_when_processes_are_killed(tmp_path: Path) -> None:
    generator = random.Random(0)
    running = Running(tmp_path / "service").start()
    jobs: list[str] = []
    for round_number in range(4):
        jobs += [running.submit(seed=len(jobs) + number, steps=4) for number in range(2)]
        wait_for(running.workers)
        time.sleep(generator.random() * 4)
        running.kill_and_recover(service=bool(round_number % 2))
    for job_id in jobs:
        job = running.wait(job_id, "completed", "failed", "cancelled")
        assert job["status"] == "completed", job["error"]
    videos = sorted(path.name for path in (running.folder / "videos").iterdir())
    assert videos == sorted(f"{job_id}{suffix}" for job_id in jobs for suffix in (".json", ".mp4", ".png"))
    assert len({read_video(running.folder / "videos" / f"{job_id}.mp4").frames.tobytes() for job_id in jobs}) == len(
        jobs
    )
    workers = running.workers()
    assert running.stop() == 130
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
