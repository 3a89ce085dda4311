"""How the service runs, as one value."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from humo.environment import DEFAULT_HOST, DEFAULT_PORT
from humo.server.upload_sanitizer import Limits

DAY = 86_400.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service runs.

    Args:
        folder: where everything is kept (`store`).
        database: address of the ledger; by default a file in the folder.
        host, port: where it listens.
        devices: one worker each (`supervisor.places`), unless there is a cluster.
        cluster: of Ray, where the workers are in place of this machine: ``HOST:PORT``, or ``local`` for one made here.
        replicas: workers in the cluster; by default one a GPU, or one a machine where there are none.
        models: name -> model folder, None the model inside the package; the first is the default.
        limits: of what comes in.
        keep_seconds: how long ended jobs and their files are kept.
        most_waiting: jobs that may wait at once; more are refused.
        hosts: names by which it may be called beside this machine's own, where it listens to this machine alone.
        sources: hosts from which files are fetched where a client names an address; none by default.
        most_pixels: of a whole video, all frames together.
        page: put the web page on it.
    """

    folder: Path
    database: str | None = None
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    devices: tuple[str, ...] = ("auto",)
    cluster: str | None = None
    replicas: int | None = None
    models: dict[str, str | None] = field(default_factory=lambda: {"humo-nano": None})
    limits: Limits = field(default_factory=Limits)
    keep_seconds: float = 7 * DAY
    most_waiting: int = 1000
    hosts: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    most_pixels: int = 200_000_000
    page: bool = False

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return is_loopback(self.host)

    @property
    def keys(self) -> Path:
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
