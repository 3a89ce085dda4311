"""Start and stop the service: job queue, workers, HTTP server."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
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
from humo.server.supervisor import WORKER_PROGRAM, Supervisor, WorkerPool, worker_specs
from humo.server.webui.page import PATH, mount

SHUTDOWN_SECONDS = 3
"""Time that requests in progress have to end at shutdown."""

BACKLOG = 128
"""Connections that may wait to be accepted."""

IDLE_SECONDS = 60
"""Time after which an idle connection is closed."""

MAX_INCOMPLETE_EVENT_BYTES = 64 * 2**10
"""Largest request line with headers."""


def serve(
    settings: Settings,
    keys: ApiKeys,
    report: Callable[[str, dict[str, Any]], None],
    worker_program: Sequence[str] = WORKER_PROGRAM,
) -> None:
    """Serve until interrupted or terminated.

    Args:
        settings: settings of the service.
        keys: API keys; without any, requests need none.
        report: called with a text and its values once the service accepts connections.
        worker_program: Python's arguments for the program of a worker on this machine.

    Raises:
        HuMoError: the data folder, the database, the address or the cluster cannot be used.
    """
    os.umask(0o077)  # files of the service are readable by this user only
    store = FileStore(settings.folder)
    database = settings.database or store.database
    if settings.ray_address is not None:
        from humo.server import ray_workers

        ray_workers.connect(settings.ray_address, settings.replicas)
        # workers of an earlier start must end before `prepare` removes the files that they are writing
        ray_workers.delete_application(ray_workers.application_name(settings.folder, database))
    store.prepare()
    listener = bind_socket(settings)
    queue = JobQueue(database)
    queue.requeue_orphaned(tuple)  # no worker is running yet
    specs = worker_specs(settings.devices)
    workers: WorkerPool = Supervisor(settings.folder.absolute(), database, specs, worker_program)
    if settings.ray_address is not None:
        workers = ray_workers.RayWorkers(settings, database, queue)
    service = Service(settings, store, queue)
    app = make_app(service, keys, workers)
    if settings.web_ui:
        mount(app, settings.embedders)
    server = _http_server(app)
    listener.listen(BACKLOG)  # clients may connect from the moment that the address is reported
    workers.start()
    service.sanitizer.start_standby()
    _report_address(settings, listener, len(keys), report)
    try:
        server.run(sockets=[listener])
    finally:
        workers.stop()
        service.sanitizer.close()
        queue.close()


def _http_server(app: Any) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="critical",  # the application logs its own errors
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            h11_max_incomplete_event_size=MAX_INCOMPLETE_EVENT_BYTES,
        )
    )


def _report_address(
    settings: Settings, listener: socket.socket, key_count: int, report: Callable[[str, dict[str, Any]], None]
) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    values = {"address": address, "models": list(settings.models), "keys": key_count}
    if settings.web_ui:
        values["page"] = f"{address}{PATH}"
    report(f"serving at {values.get('page', address)}", values)


def bind_socket(settings: Settings) -> socket.socket:
    """Bind a socket to the service's address.

    Raises:
        RequestError: the address is in use, or does not belong to this machine.
    """
    bound: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        problem = f"cannot be bound at {settings.host} ({os_error_text(error)})"
        raise RequestError(f"--port {settings.port}", problem, "choose another --port or --host") from error
    return bound
