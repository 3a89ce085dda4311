"""Metrics that go wrong, in a module of its own so that processes can import them."""

from __future__ import annotations

import os
from pathlib import Path

from humo.evaluation.context import CaseContext
from humo.evaluation.metric import Direction, Measurement, Metric, Protocol


def crash(context: CaseContext, protocol: Protocol) -> Measurement:
    """End the process for one video; measure the others."""
    if context.case.id == protocol["victim"]:
        os._exit(9)
    return Measurement(1.0)


def fail(context: CaseContext, protocol: Protocol) -> Measurement:
    """Raise an error that nobody expects."""
    raise ZeroDivisionError("by zero")


def count(context: CaseContext, protocol: Protocol) -> Measurement:
    """Count the measurements in a file, and end the parent process when there are enough."""
    path = Path(str(protocol["log"]))
    with path.open("a") as stream:
        stream.write(f"{context.case.id}\n")
    return Measurement(float(len(context.case.id)))


def metric(name: str, function: object, **protocol: object) -> Metric:
    """Return a metric of this module."""
    return Metric(name, 1, "a test", Direction.UP, protocol, function)  # type: ignore[arg-type]
