"""The Hugging Face Space: its header and requirements, and its program started as a Space starts it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement

from tests.server.running import wait_for

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "space"

SPACES = """
import functools

class zero:
    @staticmethod
    def startup():
        log("startup")

def log(text):
    with open({log!r}, "a") as file:
        file.write(text + "\\n")

def GPU(duration):
    def decorate(function):
        @functools.wraps(function)
        def on_gpu(*arguments):
            log(f"GPU {{duration}}")
            return function(*arguments)
        return on_gpu
    return decorate
"""
"""Source of a package like Hugging Face's ``spaces`` on ZeroGPU, which logs its calls."""

VISITOR = {"authorization": f"Bearer {'v' * 64}"}


def test_the_header_and_the_requirements_are_those_of_a_space() -> None:
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "gradio"  # ZeroGPU is offered with it alone
    assert (SPACE / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60
    assert {header["colorFrom"], header["colorTo"]} <= {"red", "yellow", "green", "blue", "indigo", "purple", "pink"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own, _ = (Requirement(line) for line in (SPACE / "requirements.txt").read_text().splitlines())
    assert own.name == project["name"]
    assert own.extras <= set(project["optional-dependencies"])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of the running Space, in a copy of its folder, with a package ``spaces``."""
    home, packages = tmp_path / "home", tmp_path / "packages"
    shutil.copytree(SPACE, home / "app")
    packages.mkdir()
    (packages / "spaces.py").write_text(SPACES.format(log=str(tmp_path / "log")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HOME": str(home), "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "app.py"], cwd=home / "app", env=environment)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def is_up(address: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{address}/health").is_success
    return False


def test_the_space_shows_the_page_in_a_frame_and_generates_on_the_gpu(address: str, tmp_path: Path) -> None:
    wait_for(lambda: is_up(address))
    frame = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    page = httpx.get(address, headers=frame, follow_redirects=True)
    assert "<title>humo studio</title>" in page.text
    assert page.headers["content-security-policy"].endswith("frame-ancestors https://huggingface.co")
    assert httpx.get(f"{address}/v1/videos").json()["error"]["code"] == "visitor_key_required"

    with httpx.Client(base_url=address, headers=VISITOR) as visitor:
        job = visitor.post("/v1/videos", json={"prompt": "A woman talks.", "frames": 5, "steps": 1}).json()
        wait_for(lambda: visitor.get(f"/v1/videos/{job['id']}").json()["status"] == "completed")
        assert visitor.get(f"/v1/videos/{job['id']}/content").content[4:8] == b"ftyp"
    assert (tmp_path / "log").read_text().splitlines() == ["startup", "GPU 120"]
    assert (tmp_path / "home" / "humo" / "jobs.sqlite").is_file()
