"""Files of an evaluation: one result a video while it runs, and the tables of all of them at the end.

    evaluation.json     metrics with their protocols and hashes, kind of source, label
    cases.jsonl         the cases
    results/NAME.json   values of one video, written when all its metrics are measured
    scores.json         values of all videos; scores.parquet has the same, frames.parquet the values over time
    timing.jsonl        seconds of each measurement and the machine; the only file that differs between runs

Everything but the timing is the same, byte for byte, for the same videos on the same machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from humo.errors import DependencyError, RequestError, StorageError
from humo.evaluation.case_sources import Video
from humo.evaluation.cases import CASES_FILE, Case, read_cases
from humo.evaluation.metric import Measurement, Metric, Status, rounded
from humo.files import atomic_write, hash_file, os_error_text

DESCRIPTION, RESULTS, SCORES, TIMING = "evaluation.json", "results", "scores.json", "timing.jsonl"
SCORES_TABLE, FRAMES_TABLE = "scores.parquet", "frames.parquet"

FORMAT = 1
"""Version of these files."""

CURVE_DIGITS = 4
"""Significant digits of values over time."""


@dataclass(frozen=True)
class Score:
    """Outcome of a metric for a video, as it is stored.

    Args:
        status: see `metric.Status`.
        protocol: hash of the protocol.
        value: None unless ``valid``.
        reason: why there is no value.
        frames: number of frames that the value is from.
        details: further numbers.
        curves: name -> values over the frames; None where there is none.
    """

    status: str
    protocol: str
    value: float | None = None
    reason: str = ""
    frames: int = 0
    details: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoResult:
    """All scores of one video.

    Args:
        name: of the video.
        case: id of its case.
        seed: its seed, if it has one.
        video: path relative to the folder of the evaluation.
        inputs: checksums of the video and of the case's files.
        scores: metric -> score.
    """

    name: str
    case: str
    seed: int | None
    video: str
    inputs: Mapping[str, str]
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation, as `compare` and `report` read it.

    Args:
        folder: where it is.
        label: name for people.
        metrics: name -> stored description of a metric.
        cases: id -> case.
        results: in the order of the cases.
        missing: ids of cases without a video.
    """

    folder: Path
    label: str
    metrics: Mapping[str, Mapping[str, Any]]
    cases: Mapping[str, Case]
    results: Sequence[VideoResult]
    missing: Sequence[str]


def make_score(measurement: Measurement, protocol: str) -> Score:
    """Return a measurement as it is stored."""
    value = measurement.value
    if value is not None and not math.isfinite(value):
        return Score(Status.INVALID, protocol, reason=f"the value is {value}")
    return Score(
        measurement.status,
        protocol,
        None if value is None else rounded(value),
        measurement.reason,
        measurement.frames,
        {name: rounded(number) for name, number in measurement.details.items()},
        {name: [_short(one) for one in curve] for name, curve in measurement.curves.items()},
    )


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.{CURVE_DIGITS}g}")


def describe_metric(metric: Metric, checksums: Mapping[str, str]) -> dict[str, Any]:
    """Return what is stored of a metric."""
    return {
        "version": metric.version,
        "summary": metric.summary,
        "better": str(metric.better),
        "unit": metric.unit,
        "protocol": dict(metric.protocol),
        "hash": metric.protocol_hash(checksums),
        "weights": {name: checksums[name] for name in metric.weights},
    }


def input_checksums(video: Video) -> dict[str, str]:
    """Return the checksums of a video and of the files and texts of its case."""
    case = video.case
    files: dict[str, Path | None] = {"video": video.path, "audio": case.audio, "speech": case.speech}
    files |= {f"reference {number}": path for number, path in enumerate(case.references, 1)}
    sums = {name: hash_file(path) for name, path in files.items() if path is not None and path.is_file()}
    texts = {"prompt": case.prompt, "expected": case.expected, "boxes": str(case.boxes) if case.boxes else ""}
    return sums | {name: text for name, text in texts.items() if text}


def write_json(path: Path, values: Any) -> None:
    """Write JSON with sorted keys, atomically."""
    with atomic_write(path, "OUT") as part:
        try:
            text = json.dumps(values, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
            part.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("OUT", problem, "free some space; what was measured is kept") from error


def result_path(folder: Path, name: str) -> Path:
    """Return the file of a video's result."""
    return folder / RESULTS / f"{name}.json"


def write_result(folder: Path, result: VideoResult) -> None:
    """Write the result of one video."""
    write_json(result_path(folder, result.name), asdict(result))


def read_result(path: Path) -> VideoResult | None:
    """Return a stored result; None if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        scores = {name: Score(**score) for name, score in values.pop("scores").items()}
        return VideoResult(**values, scores=scores)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_tables(folder: Path, results: Sequence[VideoResult]) -> None:
    """Write ``scores.json``, ``scores.parquet`` and ``frames.parquet``.

    Raises:
        DependencyError: pyarrow is missing.
    """
    scores, frames = [], []
    for result in results:
        for name, score in sorted(result.scores.items()):
            row = {"case": result.case, "seed": result.seed, "video": result.video, "metric": name}
            values = asdict(score)
            curves = values.pop("curves")
            scores.append(row | values)
            for curve, points in curves.items():
                frames += [
                    {"case": result.case, "seed": result.seed, "metric": name, "curve": curve, "frame": n, "value": v}
                    for n, v in enumerate(points)
                ]
    write_json(folder / SCORES, {"format": FORMAT, "scores": scores})
    flat = [{**row, "details": json.dumps(row["details"], sort_keys=True)} for row in scores]
    _write_table(folder / SCORES_TABLE, flat, _SCORE_COLUMNS)
    _write_table(folder / FRAMES_TABLE, frames, _FRAME_COLUMNS)


_SCORE_COLUMNS = {
    "case": "string",
    "seed": "int64",
    "video": "string",
    "metric": "string",
    "status": "string",
    "protocol": "string",
    "value": "double",
    "reason": "string",
    "frames": "int64",
    "details": "string",
}
_FRAME_COLUMNS = {
    "case": "string",
    "seed": "int64",
    "metric": "string",
    "curve": "string",
    "frame": "int64",
    "value": "double",
}


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        remedy = "pip install 'humo-video[evaluate]'"
        raise DependencyError("evaluate", "pyarrow is not installed, and Parquet needs it", remedy) from error
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()])
    table = pyarrow.Table.from_pylist(list(rows), schema=schema)
    with atomic_write(path, "OUT") as part:
        pyarrow.parquet.write_table(table, part)


def read_evaluation(folder: Path) -> Evaluation:
    """Read a finished evaluation.

    Raises:
        RequestError: the folder holds none.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        names, metrics, label = description["videos"], description["metrics"], description["label"]
    except (OSError, ValueError, KeyError) as error:
        problem = f"{str(folder)!r} holds no evaluation"
        raise RequestError("OUT", problem, "run `humo evaluate run SOURCE OUT` first") from error
    if description.get("format") != FORMAT:
        problem = f"{str(folder)!r} was written by another version (format {description.get('format')})"
        raise RequestError("OUT", problem, "run `humo evaluate run` again")
    cases = {case.id: case for case in read_cases(folder / CASES_FILE)}
    results = [result for name in names if (result := read_result(result_path(folder, name))) is not None]
    kept = [VideoResult(**{**result.__dict__, "scores": _of_protocols(result.scores, metrics)}) for result in results]
    return Evaluation(folder, label, metrics, cases, kept, description["missing"])


def _of_protocols(scores: Mapping[str, Score], metrics: Mapping[str, Any]) -> dict[str, Score]:
    """Return the scores of an evaluation's metrics; results may hold those of others, measured before."""
    return {
        name: score for name, score in scores.items() if name in metrics and score.protocol == metrics[name]["hash"]
    }


def curve_array(points: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return stored values over time as an array, NaN where there is none."""
    return np.array([np.nan if point is None else point for point in points], np.float64)
