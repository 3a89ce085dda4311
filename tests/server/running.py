"""A service in processes of its own, started by `humo serve` as a user does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil

TIMEOUT_SECONDS = 400
"""Time limit of every wait; a worker has to import torch, perhaps on a busy machine."""


@dataclass
class Running:
    """``humo serve`` on a folder.

    Args:
        folder: data folder.
        options: further options of the command.
        devices: devices of its workers.
        log: file of what it prints on stderr; by default it goes to the stderr of the tests.
    """

    folder: Path
    options: Sequence[str] = ()
    devices: Sequence[str] = ("cpu",)
    log: Path | None = None
    address: str = ""
    process: subprocess.Popen[str] = field(init=False)
    started: ClassVar[list[Running]] = []
    """Services that are running, so that a fixture can kill those of a failed test."""

    def start(self) -> Running:
        """Start the service, and wait until it reports its address."""
        command = [sys.executable, "-m", "humo", "serve", "--data", str(self.folder), "--port", "0"]
        command += [argument for device in self.devices for argument in ("--device", device)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with nullcontext() if self.log is None else self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options, "--json"], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.started.append(self)
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())["address"]
        return self

    def stop(self) -> int:
        """End the service with SIGINT, and return its exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=TIMEOUT_SECONDS)
        finally:
            self._close()

    def kill(self) -> None:
        """End the service with SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.started.remove(self)

    def kill_and_recover(self, *, service: bool) -> None:
        """Kill the service and start it again, or kill only its workers."""
        if service:
            self.kill()
            self.start()
        else:
            for worker in self.workers():
                worker.kill()

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes that are alive."""
        alive = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it died after it was listed
                if "humo.server.worker" in " ".join(child.cmdline()):
                    alive.append(child)
        return alive

    def submit(self, **fields: Any) -> str:
        """Submit a small video.

        Returns:
            its ID.
        """
        response = httpx.post(f"{self.address}/v1/videos", json={"prompt": "hello", "frames": 5, "steps": 1} | fields)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def retrieve(self, job_id: str) -> dict[str, Any]:
        """Return the job of a video."""
        job: dict[str, Any] = httpx.get(f"{self.address}/v1/videos/{job_id}").json()
        return job

    def wait(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait until a job is in one of some states, and return it."""
        result: dict[str, Any] = wait_for(lambda: (job := self.retrieve(job_id))["humo"]["state"] in states and job)
        return result


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until a condition returns a true value, and return it."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return value
