"""Figures of the service for Prometheus, counted when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from humo.server.job_queue import Ledger, State
from humo.server.supervisor import Workers


class Figures(Collector):
    """Jobs by state, and workers.

    Args:
        ledger: of the jobs.
        workers: that there are, if any.
    """

    def __init__(self, ledger: Ledger, workers: Workers | None) -> None:
        self._ledger, self._workers = ledger, workers

    def collect(self) -> Iterator[Metric]:
        """Count."""
        counts = Counter(self._ledger.states())
        jobs = GaugeMetricFamily("humo_jobs", "Jobs that are kept, by state.", labels=["state"])
        for state in State:
            jobs.add_metric([state.value], counts[state])
        yield jobs
        if self._workers is not None:
            yield GaugeMetricFamily("humo_workers", "Workers that are running.", value=self._workers.running)
            yield CounterMetricFamily(
                "humo_worker_restarts", "Workers that died and were started again.", value=self._workers.restarts
            )


def exposition(ledger: Ledger, workers: Workers | None) -> bytes:
    """All figures in Prometheus' text form."""
    registry = CollectorRegistry()
    registry.register(Figures(ledger, workers))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
