"""A Ray cluster on this machine that looks to Ray like two machines with one CPU each.

``python -m tests.server.raynodes``: prints the address as JSON and runs until its standard input ends. Each line of it
is a command: ``kill`` ends the second machine like a loss of power; ``add`` starts another. Both print a line.
It is a process of its own, because importing Ray warns, and warnings are errors in the tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

OBJECT_STORE_BYTES = 80 * 2**20
FAST_HEALTH_CHECKS = {
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
    "health_check_initial_delay_ms": 1000,
}
"""Ray settings that declare a silent machine dead within seconds."""


@dataclass
class Nodes:
    """The cluster.

    Args:
        process: runs the cluster.
        address: address of the head node.
    """

    process: subprocess.Popen[str]
    address: str = ""

    def send(self, command: str = "") -> None:
        """Send a command, and wait until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if command:
            print(command, file=self.process.stdin, flush=True)
        self.address = json.loads(self.process.stdout.readline())["address"]


def is_installed() -> bool:
    """Return whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


@contextmanager
def nodes() -> Iterator[Nodes]:
    """Run a cluster within the block."""
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.server.raynodes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    with process:  # at the end closes its standard input, and waits
        cluster = Nodes(process)
        cluster.send()
        yield cluster


def main() -> None:
    """Run the cluster."""
    warnings.simplefilter("ignore")
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**settings, "include_dashboard": False, "_system_config": FAST_HEALTH_CHECKS},
    )
    second = cluster.add_node(**settings)
    response = json.dumps({"address": cluster.address})
    print(response, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            kill([one.process.pid for several in second.all_processes.values() for one in several])
        else:
            second = cluster.add_node(**settings)
        print(response, flush=True)
    cluster.shutdown()


def kill(pids: list[int]) -> None:
    """Kill processes with all of their children."""
    parents = [psutil.Process(pid) for pid in pids]
    children = [child for parent in parents for child in parent.children(recursive=True)]
    for process in parents + children:
        process.kill()


if __name__ == "__main__":
    main()
