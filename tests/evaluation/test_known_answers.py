"""Published values: scores that add up, and examples where the user has them and the weights.

`HUMO_EVAL_WEIGHTS` names the folder of weights. `HUMO_MOCHABENCH` and `HUMO_OPENS2V` name clones of
https://github.com/congwei1230/MoChaBench and https://github.com/PKU-YuanGroup/OpenS2V-Nexus. `HUMO_SYNCNET_EXAMPLE` is
``example.avi`` of https://github.com/joonson/syncnet_python.
"""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest

from humo.analysis.weights import missing_files
from humo.evaluation.cases import Case
from humo.evaluation.context import CaseContext
from humo.evaluation.registry import METRICS
from humo.evaluation.runner import measure_one
from humo.evaluation.statistics import estimate


def folder_of(variable: str) -> Path:
    """Return the folder that an environment variable names, or skip the test."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no folder")
    return Path(os.environ[variable])


def value_of(metric: str, case: Case, video: Path) -> float:
    """Return a metric's value, or skip the test where its weights are missing."""
    folder_of("HUMO_EVAL_WEIGHTS")
    if any(missing_files(name) for name in METRICS[metric].weights):
        pytest.skip(f"the weights of {metric} are missing")
    score = measure_one(METRICS[metric], CaseContext(case, video), "")
    assert score.value is not None, score.reason
    return score.value


MONOLOGUES = {
    "1p_camera_movement",
    "1p_closeup_facingcamera",
    "1p_emotion",
    "1p_mediumshot_actioncontrol",
    "1p_protrait",
    "2p_1clip_1talk",
}


def test_published_scores_of_mochabench_add_up_to_its_readme() -> None:
    """A clip without a face has no value, though the file gives it 0."""
    with (Path(__file__).parent / "data" / "mochabench_scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 220
    valid = [row for row in rows if row["has_face"] == "True"]
    assert len(valid) == 218
    alone = [row for row in valid if row["category"] in MONOLOGUES]
    assert len(alone) == 199
    assert mean_scores(alone) == pytest.approx([6.333, 8.185], abs=5e-4)
    dialogs = [row for row in valid if row["category"] == "2p_2clip_2talk"]
    assert mean_scores(dialogs) == pytest.approx([4.951, 8.601], abs=5e-4)


def mean_scores(rows: list[dict[str, str]]) -> list[float]:
    """Return the means of Sync-C and Sync-D over clips."""
    names = {str(number): f"case {number}" for number in range(len(rows))}
    return [
        estimate({name: float(row[column]) for name, row in zip(names, rows, strict=True)}, names).mean
        for column in ("best_conf", "min_dist")
    ]


@pytest.mark.parametrize(("metric", "expected"), [("sync_c.mocha", 4.497), ("sync_d.mocha", 9.255)])
def test_the_example_of_mochabench(metric: str, expected: float) -> None:
    folder = folder_of("HUMO_MOCHABENCH") / "eval-lipsync" / "example"
    case = Case("example", speech=folder / "speech.wav")
    assert value_of(metric, case, folder / "video.avi") == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("sync_c.latentsync", 10.021), ("sync_d.latentsync", 5.353), ("sync_offset.latentsync", 3.0)],
)
def test_the_example_of_syncnet(metric: str, expected: float) -> None:
    video = folder_of("HUMO_SYNCNET_EXAMPLE")
    assert value_of(metric, Case("example"), video) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("metric", "expected"), [("id.curricular", 0.9420), ("id.arc", 0.9367)])
def test_the_example_of_opens2v(metric: str, expected: float) -> None:
    folder = folder_of("HUMO_OPENS2V")
    images = [path for path in folder.rglob("crop_man/11.*") if path.suffix in (".png", ".jpg")]
    if not images:
        pytest.skip("HUMO_OPENS2V holds no image crop_man/11, which belongs to OpenS2V-Eval's images")
    case = replace(Case("example"), references=(images[0],))
    video = folder / "eval" / "demo_result" / "model_name_input_video" / "singleface_3.mp4"
    assert value_of(metric, case, video) == pytest.approx(expected, abs=0.001)
