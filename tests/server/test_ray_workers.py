"""Workers in a Ray cluster. With ``make soak``: several machines, one of which is lost."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from humo.cli.main import main
from humo.media.video import read_video
from humo.server.job_queue import JobQueue
from tests.server.postgres import postgres, programs
from tests.server.raynodes import Nodes, is_installed, nodes
from tests.server.running import Running, wait_for

pytestmark = pytest.mark.skipif(not is_installed(), reason="no Ray here: pip install humo-video[ray]")

REJECTION_SECONDS = 15.0
"""Five seconds of waiting for an answer, and the start of two Pythons on a machine that may be busy."""


@pytest.fixture(scope="module")
def ray() -> Iterator[Nodes]:
    with nodes() as cluster:
        yield cluster


def workers_of(url: str) -> dict[str, str]:
    """Return the worker that runs each job, or ran it last."""
    with closing(psycopg.connect(url)) as database:
        rows = database.execute("SELECT workflow_uuid, executor_id FROM dbos.workflow_status").fetchall()
    return dict(rows)


def metric(running: Running, name: str) -> float:
    """Return a metric of the service."""
    lines = httpx.get(f"{running.address}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def both_take_jobs(running: Running, url: str) -> bool:
    """Return whether each machine ran one of two short jobs."""
    pair = [running.submit(seed=seed, steps=20) for seed in (100, 101)]
    for job_id in pair:
        running.wait(job_id, "completed", "failed")
    workers = workers_of(url)
    return len({workers[job_id] for job_id in pair}) == 2


@pytest.mark.soak
def test_machines_share_the_jobs_and_a_lost_machine_loses_none(ray: Nodes, tmp_path: Path) -> None:
    if programs() is None:
        pytest.skip("no PostgreSQL here; .ci/run installs one")
    with postgres() as url:
        options = ["--database", url, "--ray", ray.address]
        running = Running(tmp_path / "service", options, devices=()).start()
        wait_for(lambda: both_take_jobs(running, url))  # or the first worker to start would take all jobs
        jobs = [running.submit(seed=number, steps=60 if number < 2 else 1) for number in range(5)]

        def denoising() -> list[str]:
            return [job_id for job_id in jobs if running.retrieve(job_id)["humo"]["phase"] == "denoise"]

        both = wait_for(lambda: len(both := denoising()) == 2 and both)
        before = workers_of(url)
        assert len({before[job_id] for job_id in both}) == 2, "each machine runs one"
        ray.send("kill")
        finished: dict[str, int] = {}
        videos = running.folder / "videos"
        for job_id in jobs:
            job = running.wait(job_id, "completed", "failed", "cancelled")
            assert job["status"] == "completed", job["error"]
            finished[job_id] = (videos / f"{job_id}.mp4").stat().st_mtime_ns
        after = {job_id: worker for job_id, worker in workers_of(url).items() if job_id in jobs}
        assert len(set(after.values())) == 1, "the remaining machine ran all unfinished jobs"
        assert len([job_id for job_id in both if after[job_id] == before[job_id]]) == 1
        ray.send("add")
        wait_for(lambda: metric(running, "humo_workers") == 2)
        assert metric(running, "humo_worker_restarts_total") >= 1  # Ray may have started a replacement before
        assert finished == {job_id: (videos / f"{job_id}.mp4").stat().st_mtime_ns for job_id in jobs}, (
            "no job ran twice"
        )
        assert len({read_video(videos / f"{job_id}.mp4").frames.tobytes() for job_id in jobs}) == len(jobs)
        check_progress_finish_and_cancel(running)
        check_workers_survive_a_killed_service(running, url)
        assert running.stop() == 130
        assert not (running.folder / "cluster.token").exists()
        assert not list((running.folder / "running").iterdir())


def check_progress_finish_and_cancel(running: Running) -> None:
    """Progress, previews, finishing and cancelling go through the folder and the database, wherever a worker runs."""
    finished, cancelled = running.submit(steps=400), running.submit(steps=400, seed=1)
    names: set[str] = set()
    with httpx.stream("GET", f"{running.address}/v1/videos/{finished}/events", timeout=120) as response:
        for line in response.iter_lines():
            if line.startswith("event: preview") and "preview" not in names:
                httpx.post(f"{running.address}/v1/videos/{finished}/finish")
            names |= {line.removeprefix("event: ")} if line.startswith("event: ") else set()
    assert names == {"progress", "preview", "done"}
    assert running.retrieve(finished)["status"] == "completed"
    wait_for(lambda: running.retrieve(cancelled)["humo"]["phase"] == "denoise")
    httpx.post(f"{running.address}/v1/videos/{cancelled}/cancel")
    wait_for(lambda: not list((running.folder / "running").iterdir()))
    assert running.retrieve(cancelled)["error"]["code"] == "cancelled"
    assert not list((running.folder / "videos").glob(f"{cancelled}*"))


def check_workers_survive_a_killed_service(running: Running, url: str) -> None:
    """They run the queued jobs; the next start has new workers and knows the finished jobs."""
    job_id = running.submit(seed=9)
    running.kill()
    queue = JobQueue(url)
    wait_for(lambda: (job := queue.find(job_id)) and job.state.has_ended)
    queue.close()
    running.start()
    assert running.retrieve(job_id)["status"] == "completed"


CHECK_PROGRAM = """
import json, sys, time
from pathlib import Path
from humo.errors import RequestError
from humo.distributed import ray_cluster
from humo.server import ray_workers
from humo.server.settings import Settings
address, folder = sys.argv[1:]
ray_workers.connect(address, None)
(Path(folder) / ray_workers.CLUSTER_TOKEN).write_text("right")
config = {"version": ray_workers.__version__, "folder": folder, "token": "right", "database": "sqlite:///x"}
config |= {"models": {}, "loras": {}}
for change in json.load(sys.stdin):
    try:
        ray_workers._check_machines(ray_cluster.usable_nodes()[0], config | change)
        print("no problem")
    except RequestError as error:
        print(error)
workers = ray_workers.RayWorkers(Settings(Path(folder)), "sqlite:///x", None)
workers._running, workers._updated = 2, time.monotonic()
print(workers.running, "and when stale", end=" ")
workers._updated -= ray_workers.STALE_SECONDS
print(workers.running)
"""


def test_a_machine_that_cannot_run_workers_is_rejected(ray: Nodes, tmp_path: Path) -> None:
    host = ray.address.partition(":")[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "no problem"),
        (
            {"token": "wrong"},
            f"--data: '{tmp_path}' is missing or is another folder (machine {host}); mount",
        ),
        ({"folder": "/nowhere"}, f"--data: '/nowhere' is missing or is another folder (machine {host})"),
        ({"models": {"big": "/nowhere"}}, f"--model: big is missing at '/nowhere' (machine {host}); copy it there"),
        ({"database": "postgresql://me:secret@127.0.0.1:1/humo"}, "--database: cannot be reached"),
        ({"version": "0.0.0"}, "humo: the machine has version "),
    ]
    command = [sys.executable, "-W", "ignore", "-c", CHECK_PROGRAM, ray.address, str(tmp_path)]
    changes = json.dumps([change for change, _ in cases])
    lines = subprocess.run(command, input=changes, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert lines.pop() == "2 and when stale 0"
    assert len(lines) == len(cases), "one line each"
    for line, (_, message) in zip(lines, cases, strict=True):
        assert line.startswith(message)
        assert "secret" not in line


def test_an_address_without_ray_is_rejected_quickly(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # accepts connections and sends nothing
        for port in (1, silent.getsockname()[1]):
            start = time.monotonic()
            command = [sys.executable, "-m", "humo", "serve", "--data", str(tmp_path), "--ray", f"127.0.0.1:{port}"]
            ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
            assert time.monotonic() - start < REJECTION_SECONDS
            assert ended.returncode == 2
            assert f"--ray: no Ray answers at 127.0.0.1:{port}" in ended.stderr
            assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ray", "local", "--device", "cpu"), "--device: cannot be combined with --ray"),
        (("--replicas", "2"), "--replicas: requires --ray"),
        (("--ray", "local", "--replicas", "none"), "--replicas: 'none'"),
        (("--ray", "local", "--replicas", "1.5"), "--replicas: '1.5' is not allowed"),
        (("--ray", "ray://somewhere:1"), "--ray: 'ray://somewhere:1' is not an address"),
    ],
)
def test_conflicting_options_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code = main(["serve", "--data", str(tmp_path), *arguments])
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_cluster_on_one_machine_works_with_sqlite(tmp_path: Path) -> None:
    running = Running(tmp_path / "service", ["--ray", "local"], devices=()).start()
    job_id = running.submit()
    assert running.wait(job_id, "completed", "failed")["status"] == "completed"
    running.kill()  # the cluster ends with the service
    queue = JobQueue(f"sqlite:///{tmp_path}/service/jobs.sqlite")
    assert [job.state.value for job in queue.jobs(limit=9)] == ["completed"]
    queue.close()


def test_ray_is_imported_only_with_its_option() -> None:
    code = (
        "import sys, humo.server.serve, humo.cli.serve; print([name for name in sys.modules if name.startswith('ray')])"
    )
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert json.loads(output.replace("'", '"')) == []
