"""Settings of the service."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from humo.environment import DEFAULT_HOST, DEFAULT_PORT
from humo.server.upload_sanitizer import UploadLimits

SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the service.

    Args:
        folder: data folder (`humo.server.file_store`).
        database: URL of the job queue; by default a SQLite file in the data folder.
        host, port: address to listen at.
        devices: one worker for each (`supervisor.worker_specs`); not used with Ray.
        ray_address: Ray cluster that runs the workers: ``HOST:PORT``, or ``local`` to start one on this machine.
        replicas: workers in the cluster; by default one for each GPU, or one for each machine if there is no GPU.
        models: model folder of each served name; None is the built-in model. The first is the default.
        loras: file of each LoRA that clients may name.
        limits: upper limits of uploads.
        retention_seconds: how long ended jobs and their files are kept.
        max_waiting_jobs: unfinished jobs above which new ones are rejected.
        allowed_hosts: further host names that a service on a loopback address answers to.
        fetch_hosts: hosts that files may be fetched from when a client sends a URL; by default none.
        consent_by_operator: the operator declares that the people in all clients' images have agreed.
        max_video_pixels: upper limit of width times height times frames.
        web_ui: serve the web page at ``/ui``.
        embedders: origins whose pages may show the web page in a frame; by default none.
    """

    folder: Path
    database: str | None = None
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    devices: tuple[str, ...] = ("auto",)
    ray_address: str | None = None
    replicas: int | None = None
    models: dict[str, str | None] = field(default_factory=lambda: {"humo-nano": None})
    loras: dict[str, str] = field(default_factory=dict)
    limits: UploadLimits = field(default_factory=UploadLimits)
    retention_seconds: float = 7 * SECONDS_PER_DAY
    max_waiting_jobs: int = 1000
    allowed_hosts: tuple[str, ...] = ()
    fetch_hosts: tuple[str, ...] = ()
    consent_by_operator: bool = False
    max_video_pixels: int = 200_000_000
    web_ui: bool = False
    embedders: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the service."""
        return is_loopback(self.host)

    @property
    def keys_file(self) -> Path:
        """File of the API keys."""
        return self.folder / "keys.json"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
