"""Figures of the service for Prometheus, counted when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from humo.server.ledger import Ledger, State
from humo.server.supervisor import Supervisor


class Figures(Collector):
    """Jobs by state, and workers.

    Args:
        ledger: of the jobs.
        supervisor: of this machine's workers, if it has any.
    """

    def __init__(self, ledger: Ledger, supervisor: Supervisor | None) -> None:
        self._ledger, self._supervisor = ledger, supervisor

    def collect(self) -> Iterator[Metric]:
        """Count."""
        counts = Counter(self._ledger.states())
        jobs = GaugeMetricFamily("humo_jobs", "Jobs that are kept, by state.", labels=["state"])
        for state in State:
            jobs.add_metric([state.value], counts[state])
        yield jobs
        if self._supervisor is not None:
            yield GaugeMetricFamily("humo_workers", "Workers that are running.", value=len(self._supervisor.alive))
            yield CounterMetricFamily(
                "humo_worker_restarts", "Workers that died and were started again.", value=self._supervisor.restarts
            )


def exposition(ledger: Ledger, supervisor: Supervisor | None) -> bytes:
    """All figures in Prometheus' text form."""
    registry = CollectorRegistry()
    registry.register(Figures(ledger, supervisor))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
