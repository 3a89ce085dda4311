"""Seconds that the phases of earlier videos took on this machine, and what a new video will take.

They are stored for each model, device and precision in `humo.environment.timings_file`. A file that cannot be read or
written is no error: there is no estimate then.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from humo.environment import timings_file
from humo.files import atomic_write
from humo.plan import GenerationPlan
from humo.progress import Phase

MAX_ENTRIES = 100
"""Number of models, devices and precisions that are kept; the oldest go first."""


def expected_seconds(plan: GenerationPlan) -> dict[Phase, float] | None:
    """Return the expected seconds of each phase of a plan.

    Args:
        plan: with the device and dtype that it runs with.

    Returns:
        None if this model has not been run on this device here.
    """
    rates = _read().get(_key(plan))
    if rates is None:
        return None
    return {phase: rates[phase] * units for phase, units in _units(plan).items() if phase in rates}


def record_seconds(plan: GenerationPlan, timings: Mapping[str, float]) -> None:
    """Store the seconds that the phases of a finished video took.

    Args:
        plan: with the device and dtype that it ran with.
        timings: seconds of each phase; a phase that did not run keeps its earlier value.
    """
    if plan.request.cache != "none":
        return  # the number of computed passes depends on the video
    with contextlib.suppress(OSError):
        stored = _read()
        before = stored.pop(_key(plan), {})
        measured = {phase: timings[phase] / units for phase, units in _units(plan).items() if timings.get(phase)}
        stored[_key(plan)] = before | {phase: (before.get(phase, rate) + rate) / 2 for phase, rate in measured.items()}
        path = timings_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "timings") as part:
            part.write_text(json.dumps(dict(list(stored.items())[-MAX_ENTRIES:])))


def _units(plan: GenerationPlan) -> dict[Phase, float]:
    """Return the amount of work of each phase, which its time is taken to be proportional to."""
    geometry = plan.geometry
    pixels = geometry.width * geometry.height * geometry.frames
    passes = plan.passes * plan.window_geometry.tokens
    return {"load": 1, "encode": 1, "denoise": passes, "decode": pixels, "write": pixels}


def _key(plan: GenerationPlan) -> str:
    request = plan.request
    return f"{request.model or plan.preset.name} {request.device} {request.dtype} {request.offload} {request.quantize}"


def _read() -> dict[str, dict[Phase, float]]:
    try:
        stored: Any = json.loads(timings_file().read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {key: rates for key, rates in stored.items() if isinstance(rates, dict) and _are_numbers(rates.values())}


def _are_numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)
