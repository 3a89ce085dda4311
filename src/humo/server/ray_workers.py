"""Workers on the machines of a Ray cluster: Ray Serve runs replicas, and each replica keeps one worker process alive.

    this process        HTTP, job queue, data folder; Ray Serve runs without its own HTTP proxy
    each replica        a `Supervisor` of one `worker`, as on a single machine; it takes jobs from the same queue
                        (PostgreSQL, or SQLite on one machine) and writes to the same shared folder

A worker has the name of its replica, which Ray never uses again. When Ray declares a replica dead, its running jobs
are requeued. If the worker is alive after all, its result is discarded, and it stops (`worker.Lost`).

**Source:** documentation of Ray 2: ``serve.start(proxy_location="Disabled")`` (deployments without HTTP),
``check_health`` (health checks of replicas) and ``ray.util.list_named_actors``, https://docs.ray.io.
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
"""Time limit of `check_machine` on each machine, which includes the start of its Python."""

POLL_SECONDS = 1.0
"""Interval at which the state of the replicas is read."""

STALE_SECONDS = 15.0
"""Age at which that state no longer counts; Ray itself ends this process after a minute without its head node."""

HEALTH_SECONDS = 5.0
"""Interval of health checks; Ray replaces a replica after three failures in a row."""

DEPLOYMENT = "worker"

logger = logging.getLogger(__name__)


class Replica:
    """Keeps one worker running on the machine that Ray chose; the worker ends with the replica.

    Args:
        config: arguments of `check_machine`, and ``device``.

    Raises:
        RuntimeError: this machine cannot run workers; Ray tries another one.
    """

    def __init__(self, config: JSONObject) -> None:
        os.umask(0o077)  # files of the service are readable by this user only
        if problem := check_machine(config):
            raise RuntimeError(": ".join(problem))
        spec = WorkerSpec(str(ray.get_runtime_context().get_actor_name()), config["device"], {})
        self._supervisor = Supervisor(Path(config["folder"]), config["database"], [spec])
        self._supervisor.start()

    def check_health(self) -> None:
        """Check that the worker is running; Ray calls this every `HEALTH_SECONDS`.

        Raises:
            RuntimeError: it is not running.
        """
        if not self._supervisor.running:
            raise RuntimeError("the worker is not running")


def check_machine(config: Mapping[str, Any]) -> list[str]:
    """Check that the machine that runs this can run workers of a service.

    Args:
        config: ``version``, ``folder``, ``token``, ``database``, ``models`` and ``loras`` of the service.

    Returns:
        field, problem and remedy; empty if there is no problem.
    """
    folder = Path(config["folder"])
    if config["version"] != __version__:
        versions = f"the machine has version {__version__}, and the service has {config['version']}"
        return ["humo", versions, "install the same version on every machine"]
    try:
        token = (folder / CLUSTER_TOKEN).read_text()
    except OSError:
        token = ""
    if token != config["token"]:
        remedy = "mount the shared folder at this path on every machine, and name it with --data"
        return ["--data", f"{str(folder)!r} is missing or is another folder", remedy]
    try:
        probe = folder / f".{secrets.token_hex(8)}"
        write_file(probe, b"")
        probe.unlink()
    except (StorageError, OSError):
        return ["--data", f"{str(folder)!r} cannot be written", "grant write access to the user that runs Ray"]
    for name, model in config["models"].items():
        if model is not None and not (Path(model) / MODEL_INDEX).is_file():
            return ["--model", f"{name} is missing at {model!r}", "copy it there, or share the folder HUMO_MODELS"]
    for name, lora in config["loras"].items():
        if not Path(lora).is_file():
            return ["--lora", f"{name} is missing at {lora!r}", "copy it there, or share the folder HUMO_MODELS"]
    if config["database"].startswith("postgresql:"):
        try:
            timeout = int(ray_cluster.HEAD_TIMEOUT_SECONDS)
            psycopg.connect(config["database"], connect_timeout=timeout).close()
        except psycopg.Error as error:
            remedy = "use a host name in --database that every machine can reach"
            return ["--database", f"cannot be reached ({error})", remedy]
    return []


def connect(address: str, replicas: int | None) -> None:
    """Join a Ray cluster, or start one on this machine, and start Ray Serve on it.

    Args:
        address: ``HOST:PORT`` of the head node, or `ray_cluster.LOCAL`.
        replicas: number of workers that a new cluster must have room for.

    Raises:
        RequestError: no head node answers, or this machine is not part of the cluster.
    """
    ray_cluster.join(address, replicas)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    except (OSError, RuntimeError, ValueError) as error:
        raise ray_cluster.connection_error(address, error) from error


def application_name(folder: Path, database: str) -> str:
    """Return the name that a service's workers have in Ray Serve."""
    return f"humo-{hashlib.sha256(f'{folder.absolute()} {database}'.encode()).hexdigest()[:12]}"


def delete_application(name: str) -> None:
    """End the workers of a service, also those of an earlier start."""
    if name in serve.status().applications:
        serve.delete(name)


class RayWorkers:
    """Workers in a cluster that `connect` joined.

    Args:
        settings: settings of the service.
        database: URL of the job queue.
        queue: the service's jobs; those of dead workers are requeued.
    """

    def __init__(self, settings: Settings, database: str, queue: JobQueue) -> None:
        self._settings, self._database, self._queue = settings, database, queue
        self._name = application_name(settings.folder, database)
        self._token = settings.folder.absolute() / CLUSTER_TOKEN
        self._known: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.restarts = 0
        self._running, self._updated = 0, 0.0
        self._problem = ""

    @property
    def running(self) -> int:
        """Number of running workers at the last update; 0 if that is older than `STALE_SECONDS`."""
        return self._running if time.monotonic() - self._updated < STALE_SECONDS else 0

    def start(self) -> None:
        """Check the machines, and have Ray Serve start replicas on them.

        Raises:
            RequestError: there is no machine, or one of them cannot run workers.
        """
        nodes, kind, capacity = ray_cluster.usable_nodes()
        self._check_sqlite(nodes)
        config: JSONObject = {
            "version": __version__,
            "folder": str(self._settings.folder.absolute()),
            "token": secrets.token_hex(16),
            "database": self._database,
            "models": dict(self._settings.models),
            "loras": dict(self._settings.loras),
            "device": "cuda" if kind == "GPU" else "cpu",
        }
        write_file(self._token, config["token"].encode())
        try:
            _check_machines(nodes, config)
        except RequestError:
            self._token.unlink(missing_ok=True)
            raise
        deployment = serve.deployment(
            Replica,
            name=DEPLOYMENT,
            num_replicas=self._settings.replicas or capacity,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if kind == "GPU" else 0},
            health_check_period_s=HEALTH_SECONDS,
        )
        target = serve.RunTarget(target=deployment.bind(config), name=self._name, route_prefix=None)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        self._thread.start()

    def stop(self) -> None:
        """End all workers; the next start restarts their jobs."""
        self._stopping.set()
        self._thread.join(timeout=5)
        self._token.unlink(missing_ok=True)
        delete_application(self._name)
        ray.shutdown()

    def _check_sqlite(self, nodes: Sequence[JSONObject]) -> None:
        addresses = {node["NodeManagerAddress"] for node in nodes} | {ray.util.get_node_ip_address()}
        if self._database.startswith("sqlite:") and len(addresses) > 1:
            problem = f"is a file, which serves workers on one machine, and the cluster has {len(addresses)} machines"
            raise RequestError("--database", problem, "give --database postgresql://USER@HOST/NAME")

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._update()
            except Exception:  # the cluster or the database may answer the next time
                logger.exception("reading the state of the workers failed")

    def _update(self) -> None:
        replicas = {name for name in _actor_names() if self._name in name}
        self.restarts += len(self._known - replicas)
        self._known = replicas
        for job_id in self._queue.requeue_orphaned(_actor_names):
            logger.warning("%s lost its worker and is requeued", job_id)
        application = serve.status().applications.get(self._name)
        deployment = None if application is None else application.deployments.get(DEPLOYMENT)
        self._running = 0 if deployment is None else deployment.replica_states.get("RUNNING", 0)
        self._updated = time.monotonic()
        problem = "" if deployment is None else deployment.message
        if problem and problem != self._problem:
            logger.warning("workers: %s", problem)
        self._problem = problem


def _actor_names() -> set[str]:
    """Return the names of all actors that Ray has not declared dead."""
    return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}


def _check_machines(nodes: Sequence[JSONObject], config: JSONObject) -> None:
    """Run `check_machine` on each machine, in parallel.

    Raises:
        RequestError: a machine has a problem.
    """
    check = ray.remote(num_cpus=0, max_retries=0)(check_machine)
    pending = []
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pending.append((node["NodeManagerAddress"], check.options(scheduling_strategy=strategy).remote(config)))
    for address, reference in pending:
        try:
            problem = ray.get(reference, timeout=MACHINE_CHECK_SECONDS)
        except ray.exceptions.RayError as error:
            text = f"cannot run workers ({first_line(getattr(error, 'cause', None) or error)})"
            problem = ["--ray", text, "install humo there, in the Python that runs Ray"]
        if problem:
            raise RequestError(problem[0], f"{problem[1]} (machine {address})", problem[2])
