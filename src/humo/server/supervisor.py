"""Keeps one worker process a device alive: started with the service, started again when it dies, gone with it."""

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
"""Seconds before a worker is started again, by how often it died without having lived for `STABLE_SECONDS`."""

WORKER_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
"""Of a worker, where the service's does not say otherwise: glibc keeps one heap for all the threads that jobs run in,
rather than one for each, which grow with the jobs."""

STABLE_SECONDS = 30.0
"""Seconds after which a worker's earlier deaths are forgotten."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker's name, the device it asks for, and what its environment says."""

    name: str
    device: str
    environment: Mapping[str, str]


def worker_specs(devices: Sequence[str]) -> list[WorkerSpec]:
    """One worker for each device named: ``cpu``, ``mps``, ``auto``, ``cuda`` or ``cuda:N``, one name more than once for
    several workers on it."""
    found = []
    for number, device in enumerate(devices):
        kind, _, index = device.partition(":")
        found.append(WorkerSpec(f"worker-{number}", kind, {"CUDA_VISIBLE_DEVICES": index} if index else {}))
    return found


class WorkerPool(Protocol):
    """The workers of a service, wherever they are."""

    @property
    def running(self) -> int:
        """How many are there."""

    @property
    def restarts(self) -> int:
        """How many died and were started again."""

    def start(self) -> None:
        """Start them all."""

    def stop(self) -> None:
        """End them all; what they were at is begun anew with the next start."""


class Supervisor:
    """The workers of this machine.

    Args:
        folder: the service's.
        database: address of the queue.
        workers: that shall be there.
    """

    def __init__(self, folder: Path, database: str, workers: Sequence[WorkerSpec]) -> None:
        self._folder, self._database = folder, database
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._keep, args=(one,), daemon=True) for one in workers]
        self.restarts = 0

    def start(self) -> None:
        """Start them all."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End them all; what they were at is begun anew with the next start."""
        self._ends.set()
        for process in list(self._processes.values()):
            _end(process)
        for thread in self._threads:
            thread.join(timeout=5)

    @property
    def running(self) -> int:
        """How many are there."""
        return sum(process.poll() is None for process in self._processes.values())

    def _keep(self, place: WorkerSpec) -> None:
        deaths = 0
        while not self._ends.wait(RESTART_DELAYS[min(deaths, len(RESTART_DELAYS) - 1)]):
            began = time.monotonic()
            process = self._begin(place)
            process.wait()
            if self._ends.is_set():
                return
            self.restarts += 1
            deaths = 1 if time.monotonic() - began > STABLE_SECONDS else deaths + 1
            logger.warning("%s ended with %s and is started again", place.name, process.returncode)

    def _begin(self, place: WorkerSpec) -> subprocess.Popen[bytes]:
        words = [str(self._folder), self._database, place.name, place.device]
        process = subprocess.Popen(
            [sys.executable, "-m", "humo.server.worker", *words],
            stdin=subprocess.PIPE,  # it ends when this process is gone, whatever it died of
            stdout=subprocess.DEVNULL,
            env={**WORKER_ENVIRONMENT, **os.environ, **place.environment},
        )
        self._processes[place.name] = process
        if self._ends.is_set():
            _end(process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
