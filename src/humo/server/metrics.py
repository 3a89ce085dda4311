"""Metrics for Prometheus, computed at each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from humo.server.job_queue import JobQueue, JobState
from humo.server.supervisor import WorkerPool


class ServiceMetrics(Collector):
    """Number of jobs by state, and of workers.

    Args:
        queue: the service's jobs.
        workers: the service's workers, if any.
    """

    def __init__(self, queue: JobQueue, workers: WorkerPool | None) -> None:
        self._queue, self._workers = queue, workers

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        counts = Counter(self._queue.states())
        jobs = GaugeMetricFamily("humo_jobs", "Jobs in the database, by state.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.value], counts[state])
        yield jobs
        if self._workers is not None:
            yield GaugeMetricFamily("humo_workers", "Running workers.", value=self._workers.running)
            yield CounterMetricFamily(
                "humo_worker_restarts", "Restarts of workers that died.", value=self._workers.restarts
            )


def prometheus_text(queue: JobQueue, workers: WorkerPool | None) -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(ServiceMetrics(queue, workers))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
