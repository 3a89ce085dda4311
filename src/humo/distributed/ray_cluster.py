"""Joining a Ray cluster, or making one on this machine; which of its machines can work.

**Source:** Ray's documentation (``ray.init``, ``ray.nodes``); gRPC's health protocol, which Ray's head answers.
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
"""The address of a cluster that is made on this machine, and goes with the process."""

HEAD_TIMEOUT_SECONDS = 5.0
"""In which the head of a cluster must answer."""

OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's shared memory, of which nothing here makes use: about the least it takes."""


def join(address: str, workers: int | None) -> None:
    """Join a cluster, or make one on this machine.

    Args:
        address: ``HOST:PORT`` of its head, or `LOCAL`.
        workers: that one made here must have room for.

    Raises:
        RequestError: nobody answers there, or this machine is no part of it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of it
    wanted: dict[str, Any] = {"address": address}
    if address == LOCAL:
        processors = max(os.cpu_count() or 1, workers or 1)
        wanted |= {"num_cpus": processors, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    else:
        _check_head(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**wanted, namespace="humo", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise connection_error(address, error) from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray puts its own in place


def connection_error(address: str, error: Exception) -> RequestError:
    """What is said where a cluster cannot be joined."""
    remedy = "start it on a machine of the cluster: `ray start --address HOST:PORT` first, of the same version"
    return RequestError("--ray", f"{address} cannot be joined ({first_line(error)})", remedy)


def _check_head(address: str) -> None:
    """Whether a Ray answers; Ray itself would ask for minutes."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=HEAD_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            remedy = "give HOST:PORT of the cluster's head, as `ray start --head` tells it, or local"
            raise RequestError("--ray", f"no Ray answers at {address} ({error.details()})", remedy) from error


def usable_nodes() -> tuple[list[dict[str, Any]], str, int]:
    """Those that have what a worker needs; the word for it; and how many workers there are at best.

    One for each GPU if there are any, and otherwise one for each machine with a processor to spare.

    Raises:
        RequestError: there is no such machine.
    """
    alive = [one for one in ray.nodes() if one["Alive"]]
    for kind in ("GPU", "CPU"):
        fit = [one for one in alive if one["Resources"].get(kind, 0) >= 1]
        if fit:
            each = sum(int(one["Resources"][kind]) for one in fit) if kind == "GPU" else len(fit)
            return fit, kind, each
    raise RequestError("--ray", "has no machine with a processor to spare", "start one: ray start --address ...")


def first_line(error: BaseException) -> str:
    """An error in a line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
