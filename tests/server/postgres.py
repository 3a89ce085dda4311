"""A PostgreSQL server of the tests' own, in a folder of theirs, on a port that is free."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "postgres"
"""Whom the server runs as where the tests run as root, which it refuses."""


def programs() -> Path | None:
    """Where the server's programs lie."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres() -> Iterator[str]:
    """Its address, while it runs."""
    where = programs()
    assert where is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="humo-postgres-"))
    data = folder / "data"
    if os.getuid() == 0:
        shutil.chown(folder, USER)

    def run(*words: str) -> None:
        as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.getuid() == 0 else []
        subprocess.run([*as_user, *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run(str(where / "initdb"), "--pgdata", str(data), "--username", USER, "--auth", "trust", "--encoding", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    log = str(folder / "log")
    run(str(where / "pg_ctl"), "--pgdata", str(data), "--options", options, "--log", log, "--wait", "start")
    try:
        yield f"postgresql://{USER}@127.0.0.1:{port}/humo"
    finally:
        run(str(where / "pg_ctl"), "--pgdata", str(data), "--mode", "immediate", "stop")
        shutil.rmtree(folder)
