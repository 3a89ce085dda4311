"""WorkerPool on the machines of a Ray cluster: Ray Serve keeps replicas there, and each keeps one worker process alive.

    this process        HTTP, the queue, the folder                       Serve, without HTTP of its own
    each replica        a `Supervisor` of one `worker`, as on this machine: it pulls jobs from the same queue
                        (PostgreSQL, or SQLite on one machine) and writes into the same folder, which all share

A worker bears its replica's name, which Ray gives once. What a worker had begun whose replica Ray has given up for dead
goes back into the queue; were it alive after all, the queue would not hear it, and it stops (`worker.Lost`).

**Source:** Ray's documentation: Serve's `serve.start` (``proxy_location="Disabled"``: deployments without HTTP), its
health checks (``check_health``), `ray.util.list_named_actors`; gRPC's health protocol, which Ray's head answers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import ray
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from humo import __version__
from humo.checkpoints.layout import MODEL_INDEX
from humo.distributed import ray_cluster
from humo.distributed.ray_cluster import first_line
from humo.errors import RequestError, StorageError
from humo.server.file_store import CLUSTER_TOKEN, write_file
from humo.server.job_queue import JobQueue, JSONObject
from humo.server.settings import Settings
from humo.server.supervisor import Supervisor, WorkerSpec

MACHINE_CHECK_SECONDS = 60.0
"""In which a machine must say whether it can work: its Python starts for that."""

POLL_SECONDS = 1.0
"""So often it is looked which replicas there are."""

STALE_SECONDS = 15.0
"""After which nothing is known of them; Ray itself waits a minute for its head, and then ends this process."""

HEALTH_SECONDS = 5.0
"""Between two health checks; a replica that fails three in a row is replaced."""

DEPLOYMENT = "worker"

logger = logging.getLogger(__name__)


class Replica:
    """Keeps one worker at work, on whatever machine Ray put it; the worker ends with it.

    Args:
        told: what `check_machine` takes, and the device.

    Raises:
        RuntimeError: this machine cannot work for the service; Ray tries another.
    """

    def __init__(self, told: JSONObject) -> None:
        os.umask(0o077)  # what it writes is nobody else's
        if found := check_machine(told):
            raise RuntimeError(": ".join(found))
        place = WorkerSpec(str(ray.get_runtime_context().get_actor_name()), told["device"], {})
        self._supervisor = Supervisor(Path(told["folder"]), told["database"], [place])
        self._supervisor.start()

    def check_health(self) -> None:
        """ParsedRequest by Ray every `HEALTH_SECONDS`.

        Raises:
            RuntimeError: its worker does not stay alive here.
        """
        if not self._supervisor.running:
            raise RuntimeError("the worker is not running")


def check_machine(told: Mapping[str, Any]) -> list[str]:
    """What keeps this machine from working for a service.

    Args:
        told: ``version``, ``folder``, ``token``, ``database``, ``models`` of the service.

    Returns:
        field, problem and remedy; nothing if all is well.
    """
    folder = Path(told["folder"])
    shared = "every machine must see the service's folder under the same path: share it, and name it with --data"
    if told["version"] != __version__:
        return ["humo", f"is {__version__} there, and {told['version']} here", "install one version on every machine"]
    try:
        token = (folder / CLUSTER_TOKEN).read_text()
    except OSError:
        token = ""
    if token != told["token"]:
        return ["--data", f"{str(folder)!r} is not there, or another folder", shared]
    try:
        trial = folder / f".{secrets.token_hex(8)}"
        write_file(trial, b"")
        trial.unlink()
    except (StorageError, OSError):
        return ["--data", f"{str(folder)!r} cannot be written there", "let the user that Ray runs as write to it"]
    for name, model in told["models"].items():
        if model is not None and not (Path(model) / MODEL_INDEX).is_file():
            return ["--model", f"{name} is not there, in {model!r}", "put it there, or share HUMO_MODELS"]
    if told["database"].startswith("postgresql:"):
        try:
            psycopg.connect(told["database"], connect_timeout=int(ray_cluster.HEAD_TIMEOUT_SECONDS)).close()
        except psycopg.Error as error:
            return ["--database", f"cannot be reached there ({error})", "name it as every machine can reach it"]
    return []


def connect(address: str, replicas: int | None) -> None:
    """Join a cluster, or make one on this machine, and see that Serve runs on it.

    Args:
        address: ``HOST:PORT`` of its head, or `ray_cluster.LOCAL`.
        replicas: that one made here must have room for.

    Raises:
        RequestError: nobody answers there, or this machine is no part of it.
    """
    ray_cluster.join(address, replicas)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    except (OSError, RuntimeError, ValueError) as error:
        raise ray_cluster.connection_error(address, error) from error


def application_name(folder: Path, database: str) -> str:
    """The name in Serve of a service's workers."""
    return f"humo-{hashlib.sha256(f'{folder.absolute()} {database}'.encode()).hexdigest()[:12]}"


def delete_application(name: str) -> None:
    """End the workers of a service, those of an earlier start among them."""
    if name in serve.status().applications:
        serve.delete(name)


class RayWorkers:
    """The workers in a cluster that `connect` joined.

    Args:
        settings: of the service.
        database: address of the queue.
        queue: to put back what lost workers had begun.
    """

    def __init__(self, settings: Settings, database: str, queue: JobQueue) -> None:
        self._settings, self._database, self._queue = settings, database, queue
        self._name = application_name(settings.folder, database)
        self._token = settings.folder.absolute() / CLUSTER_TOKEN
        self._known: set[str] = set()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.restarts = 0
        self._running, self._seen = 0, 0.0
        self._problem = ""

    @property
    def running(self) -> int:
        """How many are there, as far as is known."""
        return self._running if time.monotonic() - self._seen < STALE_SECONDS else 0

    def start(self) -> None:
        """Look whether the machines can work, and have Serve keep replicas on them.

        Raises:
            RequestError: there is no machine, or one of them does not see what it must.
        """
        machines, kind, each = ray_cluster.usable_nodes()
        self._check_file_database(machines)
        told: JSONObject = {
            "version": __version__,
            "folder": str(self._settings.folder.absolute()),
            "token": secrets.token_hex(16),
            "database": self._database,
            "models": dict(self._settings.models),
            "device": "cuda" if kind == "GPU" else "cpu",
        }
        write_file(self._token, told["token"].encode())
        try:
            _check_machines(machines, told)
        except RequestError:
            self._token.unlink(missing_ok=True)
            raise
        deployment = serve.deployment(
            Replica,
            name=DEPLOYMENT,
            num_replicas=self._settings.replicas or each,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if kind == "GPU" else 0},
            health_check_period_s=HEALTH_SECONDS,
        )
        target = serve.RunTarget(target=deployment.bind(told), name=self._name, route_prefix=None)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        self._thread.start()

    def stop(self) -> None:
        """End them all; what they were at is begun anew with the next start."""
        self._ends.set()
        self._thread.join(timeout=5)
        self._token.unlink(missing_ok=True)
        delete_application(self._name)
        ray.shutdown()

    def _check_file_database(self, machines: Sequence[JSONObject]) -> None:
        addresses = {one["NodeManagerAddress"] for one in machines} | {ray.util.get_node_ip_address()}
        if self._database.startswith("sqlite:") and len(addresses) > 1:
            problem = f"a file serves workers of one machine, and there are {len(addresses)}"
            raise RequestError("--database", problem, "give postgresql://USER@HOST/NAME")

    def _watch(self) -> None:
        while not self._ends.wait(POLL_SECONDS):
            try:
                self._look()
            except Exception:  # the cluster or the database may answer the next time
                logger.exception("looking after the workers failed")

    def _look(self) -> None:
        names = _names()
        ours = {name for name in names if self._name in name}
        self.restarts += len(self._known - ours)
        self._known = ours
        for job in self._queue.requeue_orphaned(_names):
            logger.warning("%s was begun by a worker that is lost, and is queued again", job)
        found = serve.status().applications.get(self._name)
        told = None if found is None else found.deployments.get(DEPLOYMENT)
        self._running, self._seen = 0 if told is None else told.replica_states.get("RUNNING", 0), time.monotonic()
        problem = "" if told is None else told.message
        if problem and problem != self._problem:
            logger.warning("the workers: %s", problem)
        self._problem = problem


def _names() -> set[str]:
    """Of all named actors that Ray has not given up for dead."""
    return {one["name"] for one in ray.util.list_named_actors(all_namespaces=True)}


def _check_machines(machines: Sequence[JSONObject], told: JSONObject) -> None:
    """Have each machine say what its check_machine is."""
    look = ray.remote(num_cpus=0, max_retries=0)(check_machine)
    asked = []
    for one in machines:
        there = NodeAffinitySchedulingStrategy(one["NodeID"], soft=False)
        asked.append((one["NodeManagerAddress"], look.options(scheduling_strategy=there).remote(told)))
    for address, answer in asked:
        try:
            found = ray.get(answer, timeout=MACHINE_CHECK_SECONDS)
        except ray.exceptions.RayError as error:
            problem = f"cannot work ({first_line(getattr(error, 'cause', None) or error)})"
            found = ["--ray", problem, "install humo there, in the Python that Ray runs in"]
        if found:
            raise RequestError(found[0], f"{found[1]} (machine {address})", found[2])
