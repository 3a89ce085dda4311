"""It stays up: a hundred kills at random moments, five hundred jobs over half an hour. ``make soak``; minutes each."""

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
AGAIN_SECONDS = 10.0
"""In which the service answers and a worker takes jobs up after a kill."""

JOBS, CLIENTS = int(os.environ.get("HUMO_SOAK_JOBS", "500")), 8
MINUTES = float(os.environ.get("HUMO_SOAK_MINUTES", "30"))
WARM_JOBS = JOBS // 5
"""After which memory is compared: what is loaded once is loaded by then."""

MEGABYTES_PER_100_JOBS = 1.0
STATUS_SECONDS = 0.05
"""In which a status is told, 99 of 100 times."""


def test_a_hundred_kills_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    luck = random.Random(1)
    running = Running(tmp_path / "service").start()
    jobs: list[str] = []
    finished: dict[str, float] = {}
    longest = 0.0
    for kill in range(KILLS):
        jobs += [running.ask(seed=len(jobs), steps=luck.choice((1, 4))) for _ in range(luck.choice((0, 1, 1)))]
        time.sleep(luck.random() * 1.5)
        finished |= made(running, jobs, finished)
        began = time.monotonic()
        running.hurt(whole=bool(kill % 2))
        wait_for(lambda: httpx.get(f"{running.address}/ready").status_code == 200)
        longest = max(longest, time.monotonic() - began)
    for job_id in jobs:
        assert running.wait(job_id, "completed", "failed", "cancelled")["status"] == "completed"
    videos = running.folder / "videos"
    assert sorted(path.stem for path in videos.glob("*.mp4")) == sorted(jobs)
    for job_id, moment in finished.items():
        assert (videos / f"{job_id}.mp4").stat().st_mtime == moment, f"{job_id} was made twice"
    running.stop()
    with capsys.disabled():
        print(f"\n{KILLS} kills, {len(jobs)} jobs, ready again after {longest:.1f} s at most")
    assert longest < AGAIN_SECONDS


def made(running: Running, jobs: list[str], known: dict[str, float]) -> dict[str, float]:
    """When the videos of jobs that have ended well were written."""
    ended = [job_id for job_id in jobs if job_id not in known and running.look(job_id)["status"] == "completed"]
    return {job_id: (running.folder / "videos" / f"{job_id}.mp4").stat().st_mtime for job_id in ended}


def test_five_hundred_jobs_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = Running(tmp_path / "service").start()
    seconds: list[float] = []
    failures: list[Any] = []
    done: list[float] = []
    pause = MINUTES * 60 / (JOBS / CLIENTS)

    def client(number: int) -> None:
        with httpx.Client(base_url=running.address) as http:
            for turn in range(JOBS // CLIENTS + (number < JOBS % CLIENTS)):
                began = time.monotonic()
                fields = {"prompt": f"client {number}", "frames": 5, "steps": 1, "seed": 1000 * number + turn}
                job_id = http.post("/v1/videos", json=fields).json()["id"]
                while True:
                    asked = time.perf_counter()
                    told = http.get(f"/v1/videos/{job_id}").json()
                    seconds.append(time.perf_counter() - asked)
                    if told["status"] in ("completed", "failed"):
                        break
                    time.sleep(0.3)
                if told["status"] == "failed":
                    failures.append(told["error"])
                done.append(time.monotonic())
                time.sleep(max(0.0, pause - (time.monotonic() - began)))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    server = psutil.Process(running.process.pid)
    seen: list[tuple[int, float, float, int]] = []
    while any(thread.is_alive() for thread in threads):
        every = [server, *running.workers()]
        service, *workers = (one.memory_info().rss / 2**20 for one in every)
        seen.append((len(done), service, sum(workers), sum(one.num_fds() for one in every)))
        time.sleep(2)
    running.stop()
    warm = np.array([row for row in seen if row[0] > WARM_JOBS])
    service, worker = (float(np.polyfit(warm[:, 0], warm[:, part], 1)[0] * 100) for part in (1, 2))
    slope = service + worker
    leaked = int(np.median(warm[-10:, 3]) - np.median(warm[:10, 3]))
    slowest = float(np.percentile(seconds, 99))
    with capsys.disabled():
        print(
            f"\n{len(done)} jobs of {CLIENTS} clients, {len(failures)} failed; {slope:.2f} MB per 100 jobs "
            f"({service:.2f} of the service, {worker:.2f} of its worker), "
            f"{leaked} descriptors more; status in {1000 * slowest:.0f} ms (99 of 100 of {len(seconds)})"
        )
    assert len(done) == JOBS
    assert not failures
    assert slope < MEGABYTES_PER_100_JOBS
    assert leaked <= 0
    assert slowest < STATUS_SECONDS
