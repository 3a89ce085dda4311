"""Figures of the service for Prometheus, counted when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from humo.server.job_queue import JobQueue, JobState
from humo.server.supervisor import WorkerPool


class ServiceMetrics(Collector):
    """Jobs by state, and workers.

    Args:
        queue: of the jobs.
        workers: that there are, if any.
    """

    def __init__(self, queue: JobQueue, workers: WorkerPool | None) -> None:
        self._queue, self._workers = queue, workers

    def collect(self) -> Iterator[Metric]:
        """Count."""
        counts = Counter(self._queue.states())
        jobs = GaugeMetricFamily("humo_jobs", "Jobs that are kept, by state.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.value], counts[state])
        yield jobs
        if self._workers is not None:
            yield GaugeMetricFamily("humo_workers", "WorkerPool that are running.", value=self._workers.running)
            yield CounterMetricFamily(
                "humo_worker_restarts", "WorkerPool that died and were started again.", value=self._workers.restarts
            )


def prometheus_text(queue: JobQueue, workers: WorkerPool | None) -> bytes:
    """All figures in Prometheus' text form."""
    registry = CollectorRegistry()
    registry.register(ServiceMetrics(queue, workers))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
