"""A Ray cluster of two machines of one processor each, as far as Ray can tell, on this one.

``python -m tests.server.raynodes``: prints the address as JSON and lives until its standard input ends. Each line of it
is a command: ``kill`` ends the second machine at once, as a loss of power does; ``add`` starts another. Both answer.
It is a process of its own, because importing Ray warns, and the tests take warnings for errors.
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
QUICK = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 1000}
"""Ray's settings: how soon a silent machine is given up. By default it takes a quarter of a minute."""


@dataclass
class Nodes:
    """The cluster.

    Args:
        process: that keeps it.
        address: of its head.
    """

    process: subprocess.Popen[str]
    address: str = ""

    def ask(self, command: str = "") -> None:
        """Give a command, and wait until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if command:
            print(command, file=self.process.stdin, flush=True)
        self.address = json.loads(self.process.stdout.readline())["address"]


def is_installed() -> bool:
    """Whether there is Ray here."""
    return importlib.util.find_spec("ray") is not None


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster for the length of the block."""
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
    with process:  # leaving it ends its standard input, and waits
        found = Nodes(process)
        found.ask()
        yield found


def main() -> None:
    """Keep the cluster."""
    warnings.simplefilter("ignore")
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(
        initialize_head=True, head_node_args={**settings, "include_dashboard": False, "_system_config": QUICK}
    )
    second = cluster.add_node(**settings)
    answer = json.dumps({"address": cluster.address})
    print(answer, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            kill([one.process.pid for several in second.all_processes.values() for one in several])
        else:
            second = cluster.add_node(**settings)
        print(answer, flush=True)
    cluster.shutdown()


def kill(pids: list[int]) -> None:
    """End processes and all they started, none of which gets to know."""
    found = [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    for process in found:
        process.kill()


if __name__ == "__main__":
    main()
