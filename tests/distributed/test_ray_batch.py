"""A batch on a Ray cluster: the same videos, whoever makes them and whatever is lost on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from humo import __version__
from humo.cli.exit_codes import SOME_FAILED
from humo.cli.main import main
from humo.media.video import read_video
from tests.server.raynodes import is_installed, nodes
from tests.server.running import wait_for
from tests.tiny import save_tiny_model

if not is_installed():
    pytest.skip("no Ray here: pip install humo-video[ray]", allow_module_level=True)

FEW, MANY = 1, 900
"""Steps: soon made, and long enough to be caught at."""


def rows(folder: Path, steps: list[int]) -> Path:
    """A batch file of clips that differ in their seeds, the last of them impossible."""
    values = [{"name": f"row{n}", "prompt": "a", "seed": n, "steps": count} for n, count in enumerate(steps)]
    model = save_tiny_model(folder / "model", "humo-1.7b")
    common = {"model": str(model), "width": 48, "height": 32, "frames": 9}
    path = folder / "rows.json"
    path.write_text(json.dumps([row | common for row in values] + [{"name": "bad", "prompt": "a", "width": 3}]))
    return path


def at_work() -> int:
    """Workers that are at a row: Ray names their processes so."""
    titles = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    return sum(title.startswith("ray::RayWorker.generate") for title in titles)


def test_a_cluster_makes_the_same_videos_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = rows(tmp_path, [MANY, MANY, FEW, FEW, FEW])
    with nodes() as cluster:
        arguments = ["batch", str(path), "--ray", cluster.address, "--workers", "2", "--output-dir", "far", "--json"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        batch = subprocess.Popen(
            [sys.executable, "-m", "humo", *arguments], stdout=subprocess.PIPE, text=True, env=environment
        )
        wait_for(lambda: at_work() == 2)
        cluster.send("kill")
        events = [json.loads(line) for line in batch.communicate(timeout=240)[0].splitlines()]
    assert batch.returncode == SOME_FAILED
    ends = {one["name"]: one["status"] for one in events if one["event"] in ("row", "error") and "status" in one}
    assert ends == {"bad": "failed"} | {f"row{n}": "generated" for n in range(5)}
    assert main(["batch", str(path), "--output-dir", "near", "--quiet"]) == SOME_FAILED
    for number in range(5):
        far, near = (read_video(tmp_path / folder / f"row{number}.mp4") for folder in ("far", "near"))
        assert (far.frames == near.frames).all()
    assert not list(tmp_path.glob(".humo-*"))


def test_what_a_worker_says_becomes_an_outcome(tmp_path: Path) -> None:
    """An error is the error that it was there; a video that is not here was not made."""
    code = """
import json, sys, warnings
from dataclasses import replace
warnings.simplefilter("ignore")
from humo.jobs.request_files import Row
from humo.jobs.generate import PreparedJob, prepare_job
from humo.jobs.ray_batch import RayWorker, to_outcome
from humo.request import parse_request
request = parse_request({"prompt": "a", "output": "there.mp4", "frames": 5, "steps": 1})
job = prepare_job(request)
row = Row(1, "a", {})
broken = {"error": "MediaError", "args": ["images", "is broken", "mend it"]}
for payload in (broken, {"error": "", "args": ["Fault: x"]}, {"result": {}}):
    error = to_outcome(row, job, payload).error
    print(type(error).__name__, error)
maker = RayWorker(*sys.argv[1:])
plan = replace(job.plan, request=job.plan.request.model_copy(update={"images": ("nowhere.png",), "mode": "TI"}))
print(maker.generate(PreparedJob(plan))["error"])
for wrong in (("0", *sys.argv[2:]), (*sys.argv[1:3], "no token"), (sys.argv[1], "/nowhere", "token")):
    try:
        RayWorker(*wrong)
    except RuntimeError as error:
        print(error)
"""
    (tmp_path / "token").touch()
    arguments = [sys.executable, "-c", code, __version__, str(tmp_path), "token"]
    lines = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "MediaError images: is broken; mend it"
    assert lines[1] == "RuntimeError Fault: x"
    assert lines[2].startswith("StorageError output: 'there.mp4' was written on another machine and is missing here")
    assert lines[3].startswith("MediaError")
    assert lines[4] == f"humo is {__version__} there, and 0 here"
    assert lines[5].startswith(f"'{tmp_path}' is missing there or differs")
    assert lines[6].startswith("'/nowhere' is missing there")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray", "nowhere"], "--ray: 'nowhere' is not an address"),
        (["--ray", "127.0.0.1:1"], "--ray: no Ray answers at 127.0.0.1:1"),
        (["--workers", "2"], "--workers: requires --ray; add --ray ADDRESS"),
        (["--ray", "local", "--workers", "0"], "--workers: '0' is not allowed; give a whole number from 1 to 10000"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "humo", "batch", str(rows(tmp_path, [FEW])), "--output-dir", str(tmp_path / "new")]
    ended = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert not list((tmp_path / "new").glob("*"))
