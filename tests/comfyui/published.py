"""The published ComfyUI as a process of its own, driven through its HTTP interface."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

START_SECONDS = 600.0
"""Longest start of ComfyUI; it imports torch."""

RUN_SECONDS = 600.0
"""Longest run of a workflow."""

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
"""Types of inputs that are filled in on a node."""


class ComfyUI:
    """A running ComfyUI.

    Args:
        address: of its HTTP interface.
        log: file with what it prints.
    """

    def __init__(self, address: str, log: Path) -> None:
        self.address = address
        self._log = log

    @property
    def log(self) -> str:
        """Return its output."""
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """Return the JSON of a GET request."""
        with urllib.request.urlopen(self.address + path, timeout=60) as response:
            return json.loads(response.read())

    def get_bytes(self, path: str) -> bytes:
        """Return the body of a GET request."""
        with urllib.request.urlopen(self.address + path, timeout=60) as response:
            return bytes(response.read())

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Return status and JSON of a POST request."""
        request = urllib.request.Request(
            self.address + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def prompt_of(self, workflow: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Return a workflow file in the form that the interface runs, as ComfyUI's page converts it.

        Args:
            workflow: the file.
            changes: type of a node -> inputs to change.
        """
        info, links = self.get("/object_info"), {link[0]: link for link in workflow["links"]}
        prompt = {}
        for node in workflow["nodes"]:
            known = info[node["type"]]["input"]
            described = {**known.get("required", {}), **known.get("optional", {})}
            values = list(node["widgets_values"])
            inputs: dict[str, Any] = {}
            for name, (kind, *options) in described.items():
                if isinstance(kind, list) or kind in WIDGETS:
                    inputs[name] = values.pop(0)
                    if options and options[0].get("control_after_generate"):
                        values.pop(0)
            for socket_ in node["inputs"]:
                if socket_["link"] is not None:
                    _, source, slot, *_ = links[socket_["link"]]
                    inputs[socket_["name"]] = [str(source), slot]
            inputs |= changes.get(node["type"], {})
            prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
        return prompt

    def run(self, prompt: dict[str, Any], client: str = "test") -> dict[str, Any]:
        """Run a prompt, and return its entry in the history."""
        status, answer = self.post("/prompt", {"prompt": prompt, "client_id": client})
        assert status == 200, answer
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            history: dict[str, Any] = self.get(f"/history/{answer['prompt_id']}")
            if entry := history.get(answer["prompt_id"]):
                return dict(entry)
            time.sleep(0.2)
        raise AssertionError(f"no result in {RUN_SECONDS:g} s:\n{self.log[-4000:]}")


@contextmanager
def running(folder: Path, base: Path, *, port: int | None = None, environment: dict[str, str]) -> Iterator[ComfyUI]:
    """Run ComfyUI with HuMo's nodes for the length of the block.

    Args:
        folder: the published ComfyUI.
        base: its data: models, inputs, outputs, extensions.
        port: its port; default: a free one.
        environment: further environment variables.
    """
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes" / "humo-nodes").symlink_to(REPOSITORY / "comfyui")
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), "main.py", "--cpu", "--disable-auto-launch"]
    command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    command += ["--preview-method", "auto", "--database-url", f"sqlite:///{base}/comfyui.db"]
    paths = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    log = base / "comfyui.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        comfy = ComfyUI(f"http://127.0.0.1:{port}", log)
        try:
            _wait(comfy, process)
            yield comfy
        finally:
            process.terminate()
            process.wait(60)


def _wait(comfy: ComfyUI, process: subprocess.Popen[bytes]) -> None:
    """Wait until ComfyUI answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ComfyUI ended:\n{comfy.log[-4000:]}"
        try:
            comfy.get("/system_stats")
            return
        except (OSError, ValueError):
            time.sleep(0.5)
    raise AssertionError(f"ComfyUI does not answer:\n{comfy.log[-4000:]}")
