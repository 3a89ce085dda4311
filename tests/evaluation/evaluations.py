"""Finished evaluations with chosen values, for tests of comparisons and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from humo.evaluation.cases import CASES_FILE, Case, write_cases
from humo.evaluation.registry import METRICS
from humo.evaluation.results import DESCRIPTION, FORMAT, Score, VideoResult, describe_metric, write_json, write_result


def write_evaluation(
    folder: Path,
    values: Mapping[str, Sequence[float | None]],
    *,
    cases: Sequence[Case] | None = None,
    videos: Sequence[Path] | None = None,
    label: str = "",
    frames: int | None = None,
    prompts: Mapping[int, str] | None = None,
) -> Path:
    """Write an evaluation whose metrics have the given values, one a case; None is invalid.

    Args:
        folder: to write to.
        values: metric -> values.
        cases: the cases; by default plain ones, two of each person.
        videos: of the cases; by default names of files that are not there.
        label: name of the model.
        frames: number of frames of metrics that can have another one.
        prompts: number of a case -> its prompt as an input.
    """
    count = len(next(iter(values.values())))
    cases = cases or [Case(f"c{n:02}", prompt=f"Case {n}.", person=f"p{n // 2}") for n in range(count)]
    metrics = [METRICS[name].with_frames(frames) for name in values]
    described = {metric.name: describe_metric(metric, {}) for metric in metrics}
    folder.mkdir(parents=True, exist_ok=True)
    write_cases(cases, folder / CASES_FILE)
    for number, case in enumerate(cases):
        scores = {
            name: Score("valid", described[name]["hash"], value, frames=25, curves={"curve": [0.0, value, None]})
            if (value := values[name][number]) is not None
            else Score("invalid", described[name]["hash"], reason="no face is detected")
            for name in values
        }
        video = f"{case.id}.mp4" if videos is None else str(videos[number])
        inputs = {"video": label, "prompt": (prompts or {}).get(number, case.prompt)}
        write_result(folder, VideoResult(case.id, case.id, None, video, inputs, scores))
    description = {
        "format": FORMAT,
        "label": label or folder.name,
        "source": "test",
        "metrics": described,
        "unavailable": {},
        "videos": [case.id for case in cases],
        "missing": [],
    }
    write_json(folder / DESCRIPTION, description)
    return folder
