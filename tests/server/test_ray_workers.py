"""Workers in a Ray cluster; what cannot work is refused at once. With ``make soak``: machines, one of which is lost."""

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

REFUSAL_SECONDS = 15.0
"""Five until nobody has answered, and the start of two Pythons on a machine that may be busy."""


@pytest.fixture(scope="module")
def ray() -> Iterator[Nodes]:
    with nodes() as found:
        yield found


def workers_of(url: str) -> dict[str, str]:
    """Job -> the worker that has it or had it last."""
    with closing(psycopg.connect(url)) as database:
        rows = database.execute("SELECT workflow_uuid, executor_id FROM dbos.workflow_status").fetchall()
    return dict(rows)


def told_of(running: Running, name: str) -> float:
    """A figure among those the service tells of itself."""
    lines = httpx.get(f"{running.address}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def both_take_jobs(running: Running, url: str) -> bool:
    """Whether of two short jobs each machine made one."""
    pair = [running.ask(seed=seed, steps=20) for seed in (100, 101)]
    for job_id in pair:
        running.wait(job_id, "completed", "failed")
    workers = workers_of(url)
    return len({workers[job_id] for job_id in pair}) == 2


@pytest.mark.soak
def test_machines_share_the_jobs_and_one_that_is_lost_loses_none(ray: Nodes, tmp_path: Path) -> None:
    if programs() is None:
        pytest.skip("no PostgreSQL here; .ci/run installs one")
    with postgres() as url:
        words = ["--database", url, "--ray", ray.address]
        running = Running(tmp_path / "service", words, devices=()).start()
        wait_for(lambda: both_take_jobs(running, url))  # or the first to be ready makes what both should have had
        jobs = [running.ask(seed=number, steps=60 if number < 2 else 1) for number in range(5)]

        def at_work() -> list[str]:
            return [job_id for job_id in jobs if running.look(job_id)["humo"]["phase"] == "denoise"]

        both = wait_for(lambda: len(found := at_work()) == 2 and found)
        before = workers_of(url)
        assert len({before[job_id] for job_id in both}) == 2, "each of the two machines has one"
        ray.ask("kill")
        made: dict[str, int] = {}
        videos = running.folder / "videos"
        for job_id in jobs:
            told = running.wait(job_id, "completed", "failed", "cancelled")
            assert told["status"] == "completed", told["error"]
            made[job_id] = (videos / f"{job_id}.mp4").stat().st_mtime_ns
        after = {job_id: worker for job_id, worker in workers_of(url).items() if job_id in jobs}
        assert len(set(after.values())) == 1, "the machine that was left made all that were not made"
        assert len([job_id for job_id in both if after[job_id] == before[job_id]]) == 1
        ray.ask("add")
        wait_for(lambda: told_of(running, "humo_workers") == 2)
        assert told_of(running, "humo_worker_restarts_total") >= 1  # Ray may have put its next one there as well
        assert made == {job_id: (videos / f"{job_id}.mp4").stat().st_mtime_ns for job_id in jobs}, "none made twice"
        assert len({read_video(videos / f"{job_id}.mp4").frames.tobytes() for job_id in jobs}) == len(jobs)
        check_clients_see_no_difference(running)
        check_workers_outlive_a_service_that_is_killed(running, url)
        assert running.stop() == 130
        assert not (running.folder / "cluster.token").exists()
        assert not list((running.folder / "running").iterdir())


def check_clients_see_no_difference(running: Running) -> None:
    """Progress, previews, finishing and cancelling go through the folder and the queue, wherever a worker is."""
    finished, cancelled = running.ask(steps=400), running.ask(steps=400, seed=1)
    seen: set[str] = set()
    with httpx.stream("GET", f"{running.address}/v1/videos/{finished}/events", timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: preview") and "preview" not in seen:
                httpx.post(f"{running.address}/v1/videos/{finished}/finish")
            seen |= {line.removeprefix("event: ")} if line.startswith("event: ") else set()
    assert seen == {"progress", "preview", "done"}
    assert running.look(finished)["status"] == "completed"
    wait_for(lambda: running.look(cancelled)["humo"]["phase"] == "denoise")
    httpx.post(f"{running.address}/v1/videos/{cancelled}/cancel")
    wait_for(lambda: not list((running.folder / "running").iterdir()))
    assert running.look(cancelled)["error"]["code"] == "cancelled"
    assert not list((running.folder / "videos").glob(f"{cancelled}*"))


def check_workers_outlive_a_service_that_is_killed(running: Running, url: str) -> None:
    """They make what waits; the next start has workers of its own, and knows what was made."""
    job_id = running.ask(seed=9)
    running.kill()
    queue = JobQueue(url)
    wait_for(lambda: (job := queue.find(job_id)) and job.state.has_ended)
    queue.close()
    running.start()
    assert running.look(job_id)["status"] == "completed"


SEES = """
import json, sys, time
from pathlib import Path
from humo.errors import RequestError
from humo.distributed import ray_cluster
from humo.server import ray_workers
from humo.server.settings import Settings
address, folder = sys.argv[1:]
ray_workers.connect(address, None)
(Path(folder) / ray_workers.TOKEN).write_text("right")
whole = {"version": ray_workers.__version__, "folder": folder, "token": "right", "models": {}, "database": "sqlite:///x"}
for change in json.load(sys.stdin):
    try:
        ray_workers._check_machines(ray_cluster.machines()[0], whole | change)
        print("fit")
    except RequestError as error:
        print(error)
workers = ray_workers.RayWorkers(Settings(Path(folder)), "sqlite:///x", None)
workers._running, workers._seen = 2, time.monotonic()
print(workers.running, "and after a silence", end=" ")
workers._seen -= ray_workers.STALE_SECONDS
print(workers.running)
"""


def test_a_machine_that_does_not_see_what_it_must_is_refused(ray: Nodes, tmp_path: Path) -> None:
    host = ray.address.partition(":")[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "fit"),
        (
            {"token": "wrong"},
            f"--data: '{tmp_path}' is not there, or another folder (machine {host}); every machine must",
        ),
        ({"folder": "/nowhere"}, f"--data: '/nowhere' is not there, or another folder (machine {host})"),
        ({"models": {"big": "/nowhere"}}, f"--model: big is not there, in '/nowhere' (machine {host}); put it there"),
        ({"database": "postgresql://me:secret@127.0.0.1:1/humo"}, "--database: cannot be reached there"),
        ({"version": "0.0.0"}, "humo: is "),
    ]
    words = [sys.executable, "-W", "ignore", "-c", SEES, ray.address, str(tmp_path)]
    changes = json.dumps([change for change, _ in cases])
    lines = subprocess.run(words, input=changes, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert lines.pop() == "2 and after a silence 0"
    assert len(lines) == len(cases), "one line each"
    for line, (_, said) in zip(lines, cases, strict=True):
        assert line.startswith(said)
        assert "secret" not in line


def test_an_address_where_no_ray_answers_is_refused_at_once(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes calls, and says nothing
        for port in (1, silent.getsockname()[1]):
            began = time.monotonic()
            words = [sys.executable, "-m", "humo", "serve", "--data", str(tmp_path), "--ray", f"127.0.0.1:{port}"]
            ended = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
            assert time.monotonic() - began < REFUSAL_SECONDS
            assert ended.returncode == 2
            assert f"--ray: no Ray answers at 127.0.0.1:{port}" in ended.stderr
            assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ray", "local", "--device", "cpu"), "--device: cannot be combined with --ray"),
        (("--replicas", "2"), "--replicas: requires --ray"),
        (("--ray", "local", "--replicas", "none"), "--replicas: 'none'"),
        (("--ray", "local", "--replicas", "1.5"), "--replicas: '1.5' is not allowed"),
        (("--ray", "ray://somewhere:1"), "--ray: 'ray://somewhere:1' is not an address"),
    ],
)
def test_words_that_do_not_fit_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code = main(["serve", "--data", str(tmp_path), *words])
    assert code == 2
    assert said in capsys.readouterr().err


def test_a_cluster_of_this_machine_alone_works_on_sqlite(tmp_path: Path) -> None:
    running = Running(tmp_path / "service", ["--ray", "local"], devices=()).start()
    job_id = running.ask()
    assert running.wait(job_id, "completed", "failed")["status"] == "completed"
    running.kill()  # the cluster goes with the service
    queue = JobQueue(f"sqlite:///{tmp_path}/service/jobs.sqlite")
    assert [job.state.value for job in queue.jobs(limit=9)] == ["completed"]
    queue.close()


def test_ray_is_not_imported_unless_asked_for() -> None:
    code = (
        "import sys, humo.server.serve, humo.cli.serve; print([name for name in sys.modules if name.startswith('ray')])"
    )
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert json.loads(told.replace("'", '"')) == []
