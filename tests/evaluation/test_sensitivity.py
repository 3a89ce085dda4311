"""Each metric moves the right way when a true clip is damaged."""

from __future__ import annotations

from pathlib import Path

import metric_sensitivity as sensitivity
import pytest

from humo.evaluation.registry import METRICS, SUITES

CLIPS = 2

METRICS_HERE = [METRICS[name] for name in SUITES["rendered"].metrics if not METRICS[name].weights]


@pytest.fixture(scope="module")
def table(corpus: Path) -> dict[str, dict[str, list[float | None]]]:
    clips = sensitivity.load_clips(corpus, CLIPS)
    assert len(clips) == CLIPS
    return sensitivity.measure_damaged(clips, METRICS_HERE, list(sensitivity.DAMAGES))


EXPECTED_HERE = [key for key in sensitivity.EXPECTED if not METRICS[key[0]].weights]


@pytest.mark.parametrize(("metric", "damage"), EXPECTED_HERE, ids=[f"{m}, {d}" for m, d in EXPECTED_HERE])
def test_a_metric_moves_as_expected(metric: str, damage: str, table: dict[str, dict[str, list[float | None]]]) -> None:
    delta = sensitivity.mean_difference(table, metric, damage)
    assert delta is not None
    assert (delta > 0) == (sensitivity.EXPECTED[metric, damage] == "up")
    assert delta != 0


def test_a_shift_is_measured_in_frames(table: dict[str, dict[str, list[float | None]]]) -> None:
    before, after = table["none"]["av_offset"], table["mouth 3 frames late"]["av_offset"]
    shifts = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    assert shifts
    assert all(abs(shift - sensitivity.SHIFT_FRAMES) <= 1 for shift in shifts)


def test_a_cut_is_counted_once_and_a_hidden_face_has_no_value(table: dict[str, dict[str, list[float | None]]]) -> None:
    assert table["none"]["cuts"] == [0.0] * CLIPS
    assert table["cut"]["cuts"] == [1.0] * CLIPS
    assert table["hidden face"]["mouth_jaw_corr"] == [None] * CLIPS
    assert table["hidden face"]["id_dlib"] == [None] * CLIPS


def test_the_table_is_markdown(table: dict[str, dict[str, list[float | None]]]) -> None:
    text = sensitivity.markdown(table)
    assert text.count("\n") == len(METRICS_HERE) + 1
    assert "| `cuts` | 0 |" in text
