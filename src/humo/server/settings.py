"""How the service runs, as one value."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from humo.environment import DEFAULT_HOST, DEFAULT_PORT
from humo.server.upload_sanitizer import UploadLimits

SECONDS_PER_DAY = 86_400.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service runs.

    Args:
        folder: where everything is kept (`store`).
        database: address of the queue; by default a file in the folder.
        host, port: where it listens.
        devices: one worker each (`supervisor.worker_specs`), unless there is a cluster.
        ray_address: of a Ray cluster that runs the workers: ``HOST:PORT``, or ``local`` for a new one.
        replicas: workers in the cluster; by default one a GPU, or one a machine where there are none.
        models: name -> model folder, None the model inside the package; the first is the default.
        limits: of what comes in.
        retention_seconds: how long ended jobs and their files are kept.
        max_waiting_jobs: jobs that may wait at once; more are refused.
        allowed_hosts: further host names that a local service answers to.
        fetch_hosts: hosts from which files are fetched where a client names an address; none by default.
        max_video_pixels: of a whole video, all frames together.
        web_ui: put the web page on it.
    """

    folder: Path
    database: str | None = None
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    devices: tuple[str, ...] = ("auto",)
    ray_address: str | None = None
    replicas: int | None = None
    models: dict[str, str | None] = field(default_factory=lambda: {"humo-nano": None})
    limits: UploadLimits = field(default_factory=UploadLimits)
    retention_seconds: float = 7 * SECONDS_PER_DAY
    max_waiting_jobs: int = 1000
    allowed_hosts: tuple[str, ...] = ()
    fetch_hosts: tuple[str, ...] = ()
    max_video_pixels: int = 200_000_000
    web_ui: bool = False

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return is_loopback(self.host)

    @property
    def keys_file(self) -> Path:
        """File of the keys."""
        return self.folder / "keys.json"


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
