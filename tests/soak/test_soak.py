"""Soak tests (``make soak``, minutes each): a hundred kills at random moments; five hundred jobs over half an hour."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.server.running import Running, wait_for

pytestmark = pytest.mark.soak

KILLS = int(os.environ.get("HUMO_SOAK_KILLS", "100"))
RECOVERY_SECONDS = 10.0
"""Time after a kill within which the service must answer and a worker must run."""

JOBS, CLIENTS = int(os.environ.get("HUMO_SOAK_JOBS", "500")), 8
MINUTES = float(os.environ.get("HUMO_SOAK_MINUTES", "30"))
WARM_JOBS = JOBS // 5
"""Jobs before memory is compared, so that everything is loaded."""

MAX_MIB_PER_100_JOBS = 1.0
"""Largest growth of memory."""

STATUS_SECONDS = 0.05
"""Time within which 99 of 100 status requests must be answered."""


def test_a_hundred_kills_lose_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(1)
    running = Running(tmp_path / "service").start()
    jobs: list[str] = []
    finished: dict[str, float] = {}
    longest = 0.0
    for kill in range(KILLS):
        jobs += [
            running.submit(seed=len(jobs), steps=generator.choice((1, 4))) for _ in range(generator.choice((0, 1, 1)))
        ]
        time.sleep(generator.random() * 1.5)
        finished |= finish_times(running, jobs, finished)
        start = time.monotonic()
        running.kill_and_recover(service=bool(kill % 2))
        wait_for(lambda: httpx.get(f"{running.address}/ready").status_code == 200)
        longest = max(longest, time.monotonic() - start)
    for job_id in jobs:
        assert running.wait(job_id, "completed", "failed", "cancelled")["status"] == "completed"
    videos = running.folder / "videos"
    assert sorted(path.stem for path in videos.glob("*.mp4")) == sorted(jobs)
    for job_id, moment in finished.items():
        assert (videos / f"{job_id}.mp4").stat().st_mtime == moment, f"{job_id} ran twice"
    running.stop()
    with capsys.disabled():
        print(f"\n{KILLS} kills, {len(jobs)} jobs, ready after {longest:.1f} s at most")
    assert longest < RECOVERY_SECONDS


def finish_times(running: Running, jobs: list[str], known: dict[str, float]) -> dict[str, float]:
    """Return when the videos of newly completed jobs were written."""
    ended = [job_id for job_id in jobs if job_id not in known and running.retrieve(job_id)["status"] == "completed"]
    return {job_id: (running.folder / "videos" / f"{job_id}.mp4").stat().st_mtime for job_id in ended}


def test_five_hundred_jobs_leak_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = Running(tmp_path / "service").start()
    seconds: list[float] = []
    failures: list[Any] = []
    done: list[float] = []
    pause = MINUTES * 60 / (JOBS / CLIENTS)

    def client(number: int) -> None:
        with httpx.Client(base_url=running.address) as http:
            for number_of_job in range(JOBS // CLIENTS + (number < JOBS % CLIENTS)):
                start = time.monotonic()
                fields = {"prompt": f"client {number}", "frames": 5, "steps": 1, "seed": 1000 * number + number_of_job}
                job_id = http.post("/v1/videos", json=fields).json()["id"]
                while True:
                    sent = time.perf_counter()
                    job = http.get(f"/v1/videos/{job_id}").json()
                    seconds.append(time.perf_counter() - sent)
                    if job["status"] in ("completed", "failed"):
                        break
                    time.sleep(0.3)
                if job["status"] == "failed":
                    failures.append(job["error"])
                done.append(time.monotonic())
                time.sleep(max(0.0, pause - (time.monotonic() - start)))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    server = psutil.Process(running.process.pid)
    samples: list[tuple[int, float, float, int]] = []
    while any(thread.is_alive() for thread in threads):
        processes = [server, *running.workers()]
        service, *workers = (one.memory_info().rss / 2**20 for one in processes)
        samples.append((len(done), service, sum(workers), sum(one.num_fds() for one in processes)))
        time.sleep(2)
    running.stop()
    warm = np.array([row for row in samples if row[0] > WARM_JOBS])
    service, worker = (float(np.polyfit(warm[:, 0], warm[:, part], 1)[0] * 100) for part in (1, 2))
    slope = service + worker
    leaked = int(np.median(warm[-10:, 3]) - np.median(warm[:10, 3]))
    slowest = float(np.percentile(seconds, 99))
    with capsys.disabled():
        print(
            f"\n{len(done)} jobs of {CLIENTS} clients, {len(failures)} failed; {slope:.2f} MiB per 100 jobs "
            f"({service:.2f} of the service, {worker:.2f} of its worker), "
            f"{leaked} more file descriptors; status request {1000 * slowest:.0f} ms (99 of 100 of {len(seconds)})"
        )
    assert len(done) == JOBS
    assert not failures
    assert slope < MAX_MIB_PER_100_JOBS
    assert leaked <= 0
    assert slowest < STATUS_SECONDS
