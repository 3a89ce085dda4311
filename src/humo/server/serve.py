"""Starts everything and ends everything: the queue, the workers, the door."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from humo.errors import RequestError
from humo.files import os_error_text
from humo.server.api_keys import ApiKeys
from humo.server.app import make_app
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings
from humo.server.supervisor import Supervisor, WorkerPool, worker_specs

GRACE_SECONDS = 3
"""For requests that are being answered when the service is told to end."""

BACKLOG = 128
"""Calls that may wait to be answered."""

IDLE_SECONDS = 60
"""A line on which nothing comes is closed."""


def serve(settings: Settings, keys: ApiKeys, say: Callable[[str, dict[str, Any]], None]) -> None:
    """Serve until interrupted or terminated.

    Args:
        settings: of the service.
        keys: asked for if there are any.
        say: told where it listens.

    Raises:
        HuMoError: the folder, the queue, the address or the cluster cannot be used.
    """
    os.umask(0o077)  # what it writes is nobody else's
    store = FileStore(settings.folder)
    database = settings.database or store.database
    if settings.ray_address is not None:
        from humo.server import ray_workers

        ray_workers.connect(settings.ray_address, settings.replicas)
        ray_workers.delete_application(
            ray_workers.application_name(settings.folder, database)
        )  # before what it may be writing is swept up
    store.prepare()
    listening = bind_socket(settings)
    queue = JobQueue(database)
    queue.requeue_orphaned(tuple)  # nobody is at work yet
    workers: WorkerPool = Supervisor(settings.folder.absolute(), database, worker_specs(settings.devices))
    if settings.ray_address is not None:
        workers = ray_workers.RayWorkers(settings, database, queue)
    service = Service(settings, store, queue)
    app = make_app(service, keys, workers)
    if settings.web_ui:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(settings.folder.absolute() / "uploads")  # by default all users share one
        from humo.server.webui.page import PATH, mount

        app = mount(app, service)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="critical",  # the application tells its own faults
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            h11_max_incomplete_event_size=64 * 2**10,
        )
    )
    listening.listen(BACKLOG)  # whoever calls as soon as the address is told waits until it is answered
    workers.start()
    service.sanitizer.start_standby()
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    told = {"address": address, "models": list(settings.models), "keys": len(keys)}
    if settings.web_ui:
        told["page"] = f"{address}{PATH}"
    say(f"serving at {told.get('page', address)}", told)
    try:
        server.run(sockets=[listening])
    finally:
        workers.stop()
        service.sanitizer.close()
        queue.close()


def bind_socket(settings: Settings) -> socket.socket:
    """The socket.

    Raises:
        RequestError: the address is taken, or not this machine's.
    """
    found: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        if found is not None:
            found.close()
        problem = f"{settings.host} cannot be listened at ({os_error_text(error)})"
        raise RequestError(f"--port {settings.port}", problem, "choose another port or address") from error
    return found
