"""Describe a plan, a result, a batch row and a batch: a text for people and values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from humo.cli.console import table
from humo.geometry import AUDIO_WINDOW
from humo.guidance import SPEEDS
from humo.jobs.generate import Result
from humo.plan import GenerationPlan

if TYPE_CHECKING:
    from humo.checkpoints.convert import ConversionReport
    from humo.jobs.batch import Outcome
    from humo.progress import Phase
    from humo.runtime.placement_choice import PlacementEstimate

Report = tuple[str, dict[str, Any]]


def describe_plan(
    plan: GenerationPlan, memory: PlacementEstimate | None = None, seconds: Mapping[Phase, float] | None = None
) -> Report:
    """Describe a plan: the resolved request, sizes in every unit, network passes, memory, time, notes.

    Args:
        plan: with the device and placement that it runs with.
        memory: estimated memory; None if it is unknown.
        seconds: expected seconds of each phase; None if they are unknown.
    """
    geometry, request = plan.geometry, plan.request
    fields = request.model_dump(mode="json", exclude_none=True)
    per_step = Counter(len(step.rungs) for step in plan.guidance.plan_steps(plan.timesteps, SPEEDS[request.speed]))
    sizes = {
        "width": geometry.width,
        "height": geometry.height,
        "frames": geometry.frames,
        "seconds": geometry.seconds,
        "latent_frames": geometry.latent_frames,
        "reference_frames": geometry.reference_slots,
        "tokens_per_frame": geometry.tokens_per_frame,
        "tokens": geometry.tokens,
        "audio_windows": geometry.video_latent_frames if request.audio else 0,
    }
    values = {
        "request": fields,
        "preset": plan.preset.name,
        "geometry": sizes,
        "passes": {"steps": request.steps, "per_step": sorted(per_step), "total": plan.passes},
        "windows": len(plan.windows),
        "memory": None if memory is None else {"device": memory.device, "host": memory.host},
        "expected_seconds": None if seconds is None else round(sum(seconds.values()), 1),
        "notes": list(plan.notes),
    }
    windows = f"{sizes['audio_windows']} of {AUDIO_WINDOW} rows" if request.audio else "none (silence)"
    each = " or ".join(str(passes) for passes in sorted(per_step))
    lists = {name: ", ".join(map(_item, value)) for name, value in fields.items() if isinstance(value, list)}
    rows = {
        "family": plan.preset.title,
        **{name: value for name, value in (fields | lists).items() if value not in ("", "auto", False)},
        "length": f"{geometry.frames} frames, {geometry.seconds:g} s",
        "latent frames": f"{geometry.latent_frames}, of them {geometry.reference_slots} for references",
        "tokens": f"{geometry.tokens}, {geometry.tokens_per_frame} a latent frame",
        "audio windows": windows,
        "windows": f"{len(plan.windows)} of up to {request.window} frames",
        "network passes": f"{each} a step, {plan.passes} in total",
        "memory": "not estimated here" if memory is None else _memory_text(memory),
        "time": "unknown: no video was generated here yet" if seconds is None else _time_text(sum(seconds.values())),
    }
    return table(rows), values


def _item(value: object) -> str:
    """Return an item of a list: a file's name, a number."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _memory_text(memory: PlacementEstimate) -> str:
    host = f"{memory.host / 1e9:.1f} GB"
    return f"about {memory.device / 1e9:.1f} GB of the GPU and {host} of the host" if memory.device else f"about {host}"


def _time_text(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"


def describe_start(plan: GenerationPlan) -> Report:
    """Describe what is about to be generated, in one line."""
    request, geometry = plan.request, plan.geometry
    model = request.model or plan.preset.title
    size = f"{geometry.frames} frames, {geometry.width}x{geometry.height}"
    windows = f", {len(plan.windows)} windows" if len(plan.windows) > 1 else ""
    text = f"{request.output}: {size}{windows}, {request.steps} steps, seed {request.seed}, {model}"
    return text, {"path": request.output, "frames": geometry.frames, "seed": request.seed, "windows": len(plan.windows)}


def describe_result(result: Result) -> Report:
    """Describe a finished video."""
    times = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in result.timings.items())
    size = f"{result.width}x{result.height}, {result.bytes / 1e6:.2f} MB"
    return f"{result.path}: {result.frames} frames, {result.seconds:g} s, {size} ({times})", result.as_dict()


def describe_outcome(outcome: Outcome) -> Report:
    """Describe the outcome of a row of a batch."""
    row, error = outcome.row, outcome.error
    values: dict[str, Any] = {"row": row.number, "name": row.name, "status": outcome.status}
    if outcome.output is not None:
        values["path"] = str(outcome.output)
    start = f"row {row.number} ({row.name})"
    if error is not None:
        values["kind"] = type(error).__name__
        values |= {part: getattr(error, part) for part in ("field", "problem", "remedy") if hasattr(error, part)}
        return f"{start}: {error if hasattr(error, 'field') else f'{type(error).__name__}: {error}'}", values
    if outcome.result is not None:
        text, result = describe_result(outcome.result)
        return f"{start}: {text}", values | result
    return f"{start}: {outcome.output} {'exists' if outcome.status == 'skipped' else 'can be generated'}", values


def describe_summary(outcomes: list[Outcome], code: int) -> Report:
    """Describe a batch: the number of rows of each status, and each row."""
    counts = dict.fromkeys(("generated", "skipped", "failed"), 0)
    counts |= Counter(outcome.status for outcome in outcomes)
    rows = {
        f"{outcome.row.number} {outcome.row.name}": f"{outcome.status:10}{outcome.error or outcome.output or ''}"
        for outcome in outcomes
    }
    text = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{table(rows)}\n{text}", {**counts, "rows": len(outcomes), "exit_code": code}


def describe_conversion(report: ConversionReport) -> Report:
    """Describe a conversion: what it wrote, dropped and ignored, with the reasons."""
    parts = [
        {
            "part": part.component,
            "source": str(part.source),
            "files": [str(path) for path in part.files],
            "tensors": part.tensors,
            "bytes": part.bytes,
            "dtypes": part.dtypes,
        }
        for part in report.components
    ]
    values = {
        "path": str(report.destination),
        "naming": str(report.naming),
        "preset": report.preset,
        "parts": parts,
        "dropped": [{"name": dropped.name, "reason": dropped.reason} for dropped in report.dropped],
        "ignored": [{"path": str(ignored.path), "reason": ignored.reason} for ignored in report.ignored],
        "bytes": report.bytes,
    }
    rows = {
        one.component: f"{one.tensors} tensors, {one.bytes / 1e6:.1f} MB, {', '.join(one.dtypes)}, from {one.source}"
        for one in report.components
    }
    text = [f"{report.destination}: {report.preset or 'no transformer'}, {report.bytes / 1e6:.1f} MB", table(rows)]
    text += [f"dropped {count} tensors: {reason}" for reason, count in report.dropped_by_reason().items()]
    text += [f"not used: {ignored.path} ({ignored.reason})" for ignored in report.ignored]
    return "\n".join(text), values
