"""A real service in processes of its own, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil

PATIENCE = 120.0  # seconds: a worker loads torch, on a machine that may be busy


@dataclass
class Running:
    """``humo serve`` on a folder.

    Args:
        folder: its data.
        words: further options.
        devices: of its own workers.
    """

    folder: Path
    words: Sequence[str] = ()
    devices: Sequence[str] = ("cpu",)
    address: str = ""
    process: subprocess.Popen[str] = field(init=False)
    started: ClassVar[list[Running]] = []
    """Those that have not ended: of a test that failed, for whoever clears up after it."""

    def start(self) -> Running:
        """Start it, and wait until it listens."""
        command = [sys.executable, "-m", "humo", "serve", "--data", str(self.folder), "--port", "0"]
        command += [word for device in self.devices for word in ("--device", device)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [*command, *self.words, "--json"], stdout=subprocess.PIPE, text=True, env=environment
        )
        self.started.append(self)
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())["address"]
        return self

    def stop(self) -> int:
        """End it as a user does."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=PATIENCE)
        finally:
            self._close()

    def kill(self) -> None:
        """Its worst end."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.started.remove(self)

    def hurt(self, *, whole: bool) -> None:
        """Kill the service and start it again, or only its workers."""
        if whole:
            self.kill()
            self.start()
        else:
            for worker in self.workers():
                worker.kill()

    def workers(self) -> list[psutil.Process]:
        """Its worker processes that are alive."""
        alive = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # one that was killed a moment ago
                if "humo.server.worker" in " ".join(child.cmdline()):
                    alive.append(child)
        return alive

    def ask(self, **fields: Any) -> str:
        """Ask for a video.

        Returns:
            its ID.
        """
        answer = httpx.post(f"{self.address}/v1/videos", json={"prompt": "hello", "frames": 5, "steps": 1} | fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def look(self, job_id: str) -> dict[str, Any]:
        """How a video is doing."""
        told: dict[str, Any] = httpx.get(f"{self.address}/v1/videos/{job_id}").json()
        return told

    def wait(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait until a job is in one of some states."""
        found: dict[str, Any] = wait_for(lambda: (told := self.look(job_id))["humo"]["state"] in states and told)
        return found


def wait_for(is_so: Callable[[], Any]) -> Any:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)
    return found
