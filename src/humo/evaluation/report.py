"""One HTML page about evaluations: tables, clips that play, values over time. It loads nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from humo import __version__
from humo.errors import RequestError
from humo.evaluation import report_media as media
from humo.evaluation.comparison import compare, summarize
from humo.evaluation.results import DESCRIPTION, Evaluation, Score, VideoResult
from humo.files import atomic_write
from humo.geometry import FRAMES_PER_SECOND

PAGE = files("humo.evaluation") / "report_page"
"""Folder of the page's HTML, style and script."""

MAX_CURVE_POINTS = 400
"""Largest number of values over time that are drawn."""

Progress = Callable[[int, int], None]


def write_report(evaluations: Sequence[Evaluation], path: Path, progress: Progress = lambda done, total: None) -> int:
    """Write the page and return its size in bytes.

    Args:
        evaluations: one or more; each after the first is compared with the first.
        path: the page.
        progress: called with the number of clips done and of all.

    Raises:
        StorageError: the page cannot be written.
    """
    data = page_data(evaluations, progress)
    text = (PAGE / "page.html").read_text(encoding="utf-8")
    parts = {
        "style": (PAGE / "page.css").read_text(encoding="utf-8"),
        "script": (PAGE / "page.js").read_text(encoding="utf-8"),
        "data": _embedded(data),
    }
    for name, part in parts.items():
        before, _, after = text.partition("{{" + name + "}}")
        text = before + part + after
    with atomic_write(path, "--report") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return len(text.encode())


def page_data(evaluations: Sequence[Evaluation], progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Return everything that the page shows, as JSON values."""
    metrics: dict[str, Mapping[str, Any]] = {}
    for evaluation in evaluations:
        for name, metric in evaluation.metrics.items():
            metrics.setdefault(name, metric)
    total, done = sum(len(evaluation.results) for evaluation in evaluations), 0
    cases: dict[str, dict[str, Any]] = {}
    models = []
    for evaluation in evaluations:
        clips: dict[str, list[dict[str, Any]]] = {}
        for result in evaluation.results:
            clip, seconds, own_wave = _clip(evaluation, result)
            clips.setdefault(result.case, []).append(clip)
            if result.case not in cases:
                cases[result.case] = _case(evaluation, result.case, seconds)
            cases[result.case]["waveform"] = cases[result.case]["waveform"] or own_wave
            done += 1
            progress(done, total)
        models.append(_model(evaluation, clips))
    return {
        "metrics": [{"name": name, **metric} for name, metric in metrics.items()],
        "models": models,
        "comparisons": [one for other in evaluations[1:] if (one := _comparison(evaluations[0], other)) is not None],
        "cases": cases,
        "categories": sorted({one["category"] for one in cases.values()} - {""}),
        "notes": f"Written by humo {__version__}. Two values are compared only if their hashes are equal.",
    }


def _embedded(data: Any) -> str:
    """Return JSON that can stand inside a script element, whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _comparison(first: Evaluation, second: Evaluation) -> dict[str, Any] | None:
    try:
        return compare(first, second).as_dict()
    except RequestError as error:
        return {
            "labels": (first.label, second.label),
            "metrics": [],
            "refused": {error.field: error.problem},
            "cases": 0,
        }


def _model(evaluation: Evaluation, clips: Mapping[str, Any]) -> dict[str, Any]:
    description = json.loads((evaluation.folder / DESCRIPTION).read_text(encoding="utf-8"))
    return {
        "label": evaluation.label,
        "videos": len(evaluation.results),
        "missing": len(evaluation.missing),
        "unavailable": description.get("unavailable", {}),
        "summaries": {name: asdict(summarize(evaluation, name)) for name in evaluation.metrics},
        "cases": clips,
    }


def _case(evaluation: Evaluation, name: str, seconds: float) -> dict[str, Any]:
    case = evaluation.cases[name]
    images = [media.reference(path) for path in case.references]
    return {
        "category": case.category,
        "prompt": case.prompt,
        "person": case.person,
        "expected": case.expected,
        "license": case.license,
        "source": case.source,
        "references": [image for image in images if image is not None],
        "waveform": media.case_waveform(case.audio, seconds),
    }


def _clip(evaluation: Evaluation, result: VideoResult) -> tuple[dict[str, Any], float, list[float] | None]:
    """Return a clip's part of the page, its seconds, and the waveform of its own audio."""
    clip, problem = media.clip_media(evaluation.folder / result.video)
    scores = {name: _score(score) for name, score in result.scores.items()}
    page_clip: dict[str, Any] = {
        "seed": result.seed,
        "scores": scores,
        "problem": problem,
        "strip": None,
        "video": None,
    }
    if clip is None:
        return page_clip, 0.0, None
    page_clip |= {"strip": media.strip(clip.frames), "video": media.playable(clip)}
    wave = None if clip.audio is None else media.waveform(clip.audio.samples.mean(axis=0))
    return page_clip, len(clip.frames) / FRAMES_PER_SECOND, wave


def _score(score: Score) -> dict[str, Any]:
    values = asdict(score)
    step = max(1, -(-max((len(points) for points in score.curves.values()), default=0) // MAX_CURVE_POINTS))
    values["curves"] = {name: list(points)[::step] for name, points in score.curves.items()}
    values["step"] = step
    return values
