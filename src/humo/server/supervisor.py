"""Keep one worker process per device alive: start it with the service, restart it when it dies, end it at shutdown."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

RESTART_DELAYS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a restart, by the number of deaths in a row within `STABLE_SECONDS` of a start."""

WORKER_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
"""Defaults for a worker's environment. Jobs run in new threads, and glibc would keep a heap for each of them."""

WORKER_PROGRAM = ("-m", "humo.server.worker")
"""Python's arguments for the program of a worker; the folder, the database, its name and its device follow."""

STABLE_SECONDS = 30.0
"""Lifetime after which a worker's earlier deaths no longer count."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Arguments of a worker: its name, the request's device, and additions to the environment."""

    name: str
    device: str
    environment: Mapping[str, str]


def worker_specs(devices: Sequence[str]) -> list[WorkerSpec]:
    """Return a worker for each device.

    Args:
        devices: ``cpu``, ``mps``, ``auto``, ``cuda`` or ``cuda:N``; repeat a device for several workers on it.
    """
    specs = []
    for number, device in enumerate(devices):
        kind, _, index = device.partition(":")
        specs.append(WorkerSpec(f"worker-{number}", kind, {"CUDA_VISIBLE_DEVICES": index} if index else {}))
    return specs


class WorkerPool(Protocol):
    """Workers of a service, on this machine or in a cluster."""

    @property
    def running(self) -> int:
        """Number of running workers."""

    @property
    def restarts(self) -> int:
        """Number of restarts of workers that died."""

    def start(self) -> None:
        """Start all workers."""

    def stop(self) -> None:
        """End all workers; the next start restarts their jobs."""


class Supervisor:
    """Workers on this machine.

    Args:
        folder: data folder of the service.
        database: URL of the job queue.
        workers: workers to keep running.
        program: Python's arguments for the program of a worker.
    """

    def __init__(
        self, folder: Path, database: str, workers: Sequence[WorkerSpec], program: Sequence[str] = WORKER_PROGRAM
    ) -> None:
        self._folder, self._database, self._program = folder, database, program
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._keep_running, args=(spec,), daemon=True) for spec in workers]
        self.restarts = 0

    def start(self) -> None:
        """Start all workers."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all workers; the next start restarts their jobs."""
        self._stopping.set()
        for process in list(self._processes.values()):
            _end_process(process)
        for thread in self._threads:
            thread.join(timeout=5)

    @property
    def running(self) -> int:
        """Number of running workers."""
        return sum(process.poll() is None for process in self._processes.values())

    def _keep_running(self, spec: WorkerSpec) -> None:
        deaths = 0
        while not self._stopping.wait(RESTART_DELAYS[min(deaths, len(RESTART_DELAYS) - 1)]):
            started = time.monotonic()
            process = self._start_process(spec)
            process.wait()
            if self._stopping.is_set():
                return
            self.restarts += 1
            deaths = 1 if time.monotonic() - started > STABLE_SECONDS else deaths + 1
            logger.warning("%s exited with code %s and is restarted", spec.name, process.returncode)

    def _start_process(self, spec: WorkerSpec) -> subprocess.Popen[bytes]:
        arguments = [str(self._folder), self._database, spec.name, spec.device]
        process = subprocess.Popen(
            [sys.executable, *self._program, *arguments],
            stdin=subprocess.PIPE,  # closes however this process ends, and the worker exits
            stdout=subprocess.DEVNULL,
            env={**WORKER_ENVIRONMENT, **os.environ, **spec.environment},
        )
        self._processes[spec.name] = process
        if self._stopping.is_set():
            _end_process(process)
        return process


def _end_process(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
