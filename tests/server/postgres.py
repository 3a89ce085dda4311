"""A temporary PostgreSQL server on a free port."""

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
"""User of the server if the tests run as root, which PostgreSQL refuses."""


def programs() -> Path | None:
    """Return the folder of the server's programs; None if it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return installed[-1].parent if installed else Path(on_path).parent if on_path else None


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server, and yield its URL."""
    bin_folder = programs()
    assert bin_folder is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="humo-postgres-"))
    data = folder / "data"
    if os.getuid() == 0:
        shutil.chown(folder, USER)

    def run(*arguments: str) -> None:
        as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.getuid() == 0 else []
        subprocess.run([*as_user, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run(str(bin_folder / "initdb"), "--pgdata", str(data), "--username", USER, "--auth", "trust", "--encoding", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    log = str(folder / "log")
    run(str(bin_folder / "pg_ctl"), "--pgdata", str(data), "--options", options, "--log", log, "--wait", "start")
    try:
        yield f"postgresql://{USER}@127.0.0.1:{port}/humo"
    finally:
        run(str(bin_folder / "pg_ctl"), "--pgdata", str(data), "--mode", "immediate", "stop")
        shutil.rmtree(folder)
