"""Join a Ray cluster, or start one on this machine, and list the nodes that can work.

**Source:** Ray's documentation (https://docs.ray.io, ``ray.init``, ``ray.nodes``); gRPC's health protocol, which Ray's
head node answers (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

import grpc
import ray

from humo.errors import RequestError

LOCAL = "local"
"""Address for a cluster that is started on this machine and stops with the process."""

HEAD_TIMEOUT_SECONDS = 5.0
"""Seconds in which the head node of a cluster must answer."""

OBJECT_STORE_BYTES = 80 * 2**20
"""Bytes of Ray's shared memory, which this package does not use; about the minimum that Ray accepts."""


def join(address: str, workers: int | None) -> None:
    """Join a cluster, or start one on this machine.

    Args:
        address: ``HOST:PORT`` of the head node, or `LOCAL`.
        workers: number of workers that a local cluster must have processors for.

    Raises:
        RequestError: no head node answers at the address, or this machine is not part of the cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
    settings: dict[str, Any] = {"address": address}
    if address == LOCAL:
        processors = max(os.cpu_count() or 1, workers or 1)
        settings |= {"num_cpus": processors, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    else:
        _check_head(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings, namespace="humo", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise connection_error(address, error) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray replaces it


def connection_error(address: str, error: Exception) -> RequestError:
    """Return the error to raise for a cluster that cannot be joined."""
    remedy = "run `ray start --address HOST:PORT` on this machine first, with the same version of Ray"
    return RequestError("--ray", f"{address} cannot be joined ({first_line(error)})", remedy)


def _check_head(address: str) -> None:
    """Raise RequestError unless a head node answers; Ray's own attempt would take minutes."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=HEAD_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            remedy = "use --ray HOST:PORT with the address that `ray start --head` prints, or --ray local"
            raise RequestError("--ray", f"no Ray answers at {address} ({error.details()})", remedy) from error


def usable_nodes() -> tuple[list[dict[str, Any]], str, int]:
    """Return the nodes that can run a worker, the resource of a worker, and the number of workers.

    There is one worker for each GPU if there are any, and otherwise one for each node with a free processor.

    Returns:
        nodes as Ray describes them; ``GPU`` or ``CPU``; number of workers.

    Raises:
        RequestError: no node can run a worker.
    """
    alive = [one for one in ray.nodes() if one["Alive"]]
    for resource in ("GPU", "CPU"):
        nodes = [one for one in alive if one["Resources"].get(resource, 0) >= 1]
        if nodes:
            workers = sum(int(one["Resources"][resource]) for one in nodes) if resource == "GPU" else len(nodes)
            return nodes, resource, workers
    problem = "the cluster has no node with a free GPU or processor"
    raise RequestError("--ray", problem, "add one with `ray start --address HOST:PORT`")


def first_line(error: BaseException) -> str:
    """Return the first line of an error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
