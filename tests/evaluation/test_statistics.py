"""Statistics of scores: intervals, paired differences, correction, and models that are equal or differ."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from humo.evaluation import statistics
from humo.evaluation.statistics import estimate, holm, paired_difference, student_quantile

Random = np.random.Generator


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, -12.7062), (2, -4.3027), (3, -3.1824), (4, -2.7764), (5, -2.5706), (11, -2.2010), (199, -1.9720)],
)
def test_quantiles_of_students_t(freedom: int, quantile: float) -> None:
    assert student_quantile(0.025, freedom) == pytest.approx(quantile, abs=1e-4)


def alone(values: dict[str, float]) -> dict[str, str]:
    """Each case is a cluster of its own."""
    return {name: name for name in values}


def test_the_interval_of_a_mean_matches_students() -> None:
    numbers = np.random.default_rng(0).normal(5, 2, 40)
    values = {str(number): float(value) for number, value in enumerate(numbers)}
    one = estimate(values, alone(values))
    half = -student_quantile(0.025, 39) * numbers.std(ddof=1) / np.sqrt(40)
    assert one.mean == pytest.approx(numbers.mean())
    assert one.low is not None
    assert one.high is not None
    assert one.high - one.low == pytest.approx(2 * half, rel=0.08)
    assert (one.cases, one.clusters) == (40, 40)
    assert estimate(values, alone(values)) == one, "draws have a fixed seed"


def test_cases_of_one_person_are_drawn_together() -> None:
    random = np.random.default_rng(1)
    people = np.repeat(random.normal(0, 1, 10), 8)
    values = {str(number): float(value) for number, value in enumerate(people + random.normal(0, 0.1, 80))}
    clusters = {name: str(int(name) // 8) for name in values}
    together, apart = estimate(values, clusters), estimate(values, alone(values))
    assert together.low is not None
    assert together.high is not None
    assert apart.low is not None
    assert apart.high is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert together.clusters == 10


def test_one_person_gives_no_interval() -> None:
    one = estimate({"a": 1.0, "b": 2.0}, {"a": "x", "b": "x"})
    assert (one.low, one.high) == (None, None)
    difference = paired_difference({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}, {"a": "x", "b": "x"})
    assert not difference.is_distinguishable(difference.p)


def draw(random: Random, kind: str, count: int) -> NDArray[np.float64]:
    return random.normal(size=count) if kind == "normal" else random.standard_t(3, size=count)


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
@pytest.mark.parametrize("people", [6, 12])
def test_a_model_against_itself_is_not_distinguishable(kind: str, people: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets of seeds of one model, 200 times, two cases of each person."""
    monkeypatch.setattr(statistics, "DRAWS", 2000)
    random = np.random.default_rng(people)
    same = 0
    for _ in range(200):
        cases = [f"{number}" for number in range(2 * people)]
        level = np.repeat(random.normal(5, 1, people), 2)
        sides = [level + 0.4 * draw(random, kind, 2 * people) for _ in range(2)]
        first, second = (dict(zip(cases, side.tolist(), strict=True)) for side in sides)
        difference = paired_difference(first, second, {case: str(int(case) // 2) for case in cases})
        same += not difference.is_distinguishable(difference.p)
    assert same >= 0.93 * 200


def test_a_true_difference_is_distinguished_and_its_pairs_are_counted() -> None:
    random = np.random.default_rng(3)
    level = random.normal(6, 1.67, 200)
    noise = [random.normal(0, 1.0, 200) for _ in range(2)]
    first = {str(number): float(value) for number, value in enumerate(level + noise[0])}
    second = {str(number): float(value) for number, value in enumerate(level + noise[1] + 1)}
    difference = paired_difference(first, second, alone(first))
    assert difference.is_distinguishable(difference.p)
    assert difference.mean == pytest.approx(1, abs=0.3)
    assert difference.wins > 0.65
    assert difference.correlation is not None
    assert difference.correlation == pytest.approx(0.73, abs=0.1)
    spread = np.std([second[name] - first[name] for name in first], ddof=1)
    expected = (2.8016 * spread / difference.mean) ** 2
    assert difference.pairs_needed is not None
    assert difference.pairs_needed == pytest.approx(expected, rel=0.05, abs=1)
    assert difference.smallest == pytest.approx(2.8016 * spread / np.sqrt(200), rel=0.02)


def test_equal_models_need_no_pairs() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 2.0}
    difference = paired_difference(values, values, alone(values))
    assert (difference.mean, difference.p, difference.wins) == (0.0, 1.0, 0.5)
    assert difference.pairs_needed is None
    with pytest.raises(ValueError, match="no common case"):
        paired_difference({"a": 1.0}, {"b": 1.0}, {"a": "a", "b": "b"})


def test_p_values_are_corrected_for_their_number() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.5, "b": 0.9}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({}) == {}
