"""Summaries of evaluations, and paired comparisons of two.

Two evaluations are compared metric by metric, on cases with equal inputs. Values with different protocols are never
compared. Cases without a value are counted apart: once they are left out of both models, once the worst value of
either model stands for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from humo.errors import RequestError
from humo.evaluation.metric import Direction, Status
from humo.evaluation.results import Evaluation, Score
from humo.evaluation.statistics import Difference, Estimate, estimate, holm, paired_difference


@dataclass(frozen=True)
class MetricSummary:
    """A metric over all cases of an evaluation.

    Args:
        estimate: mean with interval over cases with a value; None if there are none.
        valid, invalid, not_applicable, unavailable: numbers of videos.
        reasons: why there was no value -> number of videos.
        categories: category -> estimate.
    """

    estimate: Estimate | None
    valid: int
    invalid: int
    not_applicable: int
    unavailable: int
    reasons: Mapping[str, int]
    categories: Mapping[str, Estimate]


@dataclass(frozen=True)
class MetricComparison:
    """Comparison of two models by one metric; positive differences favor the second model's larger values.

    Args:
        metric: its name.
        better: its direction.
        difference: on cases with a value of both.
        p: p-value after Holm's correction over all metrics.
        verdict: ``better``, ``worse``, ``different`` (of a metric without direction) or ``not distinguishable``, of
            the second model.
        invalid: numbers of cases without a value, of the first and the second model.
        worst_case: difference on all cases, with the worst value of either model for a missing one.
    """

    metric: str
    better: str
    difference: Difference
    p: float
    verdict: str
    invalid: tuple[int, int]
    worst_case: Difference


@dataclass(frozen=True)
class Comparison:
    """Comparison of two evaluations.

    Args:
        labels: of both models.
        metrics: comparisons, in the order of the first evaluation.
        refused: metric -> why it was not compared.
        cases: number of cases with equal inputs.
        other_inputs: ids of cases whose inputs differ.
    """

    labels: tuple[str, str]
    metrics: Sequence[MetricComparison]
    refused: Mapping[str, str]
    cases: int
    other_inputs: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


NOT_DISTINGUISHABLE = "not distinguishable"


def case_values(evaluation: Evaluation, metric: str) -> dict[str, float]:
    """Return the value of each case, the mean over its seeds that have one."""
    values: dict[str, list[float]] = {}
    for result in evaluation.results:
        score = result.scores.get(metric)
        if score is not None and score.value is not None:
            values.setdefault(result.case, []).append(score.value)
    return {case: float(np.mean(numbers)) for case, numbers in values.items()}


def clusters_of(evaluation: Evaluation) -> dict[str, str]:
    """Return for each case the name of what is drawn together."""
    return {name: case.cluster for name, case in evaluation.cases.items()}


def summarize(evaluation: Evaluation, metric: str) -> MetricSummary:
    """Summarize a metric over all cases."""
    values, clusters = case_values(evaluation, metric), clusters_of(evaluation)
    scores = [score for result in evaluation.results if (score := result.scores.get(metric)) is not None]
    reasons: dict[str, int] = {}
    for score in scores:
        if score.value is None:
            reasons[score.reason] = reasons.get(score.reason, 0) + 1
    by_category: dict[str, dict[str, float]] = {}
    for case, value in values.items():
        by_category.setdefault(evaluation.cases[case].category, {})[case] = value
    numbers = Counter(score.status for score in scores)
    return MetricSummary(
        estimate=estimate(values, clusters) if values else None,
        valid=numbers[Status.VALID],
        invalid=numbers[Status.INVALID],
        not_applicable=numbers[Status.NOT_APPLICABLE],
        unavailable=numbers[Status.UNAVAILABLE],
        reasons=dict(sorted(reasons.items(), key=lambda pair: -pair[1])),
        categories={name: estimate(group, clusters) for name, group in sorted(by_category.items()) if name},
    )


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two evaluations.

    Raises:
        RequestError: they have no case with equal inputs, or no metric with equal protocols.
    """
    common, others = _common_cases(first, second)
    if not common:
        problem = f"{str(second.folder)!r} has no case with the inputs of {str(first.folder)!r}"
        raise RequestError("OUT_B", problem, "compare evaluations of the same cases")
    refused = _other_protocols(first, second)
    names = [name for name in first.metrics if name in second.metrics and name not in refused]
    differences: dict[str, tuple[Difference, Difference, tuple[int, int]]] = {}
    for name in names:
        pair = _metric_difference(first, second, name, common)
        if pair is None:
            refused[name] = "no case has a value of both"
        else:
            differences[name] = pair
    if not differences:
        name, why = next(iter(refused.items()), ("metrics", "the evaluations have none in common"))
        raise RequestError(name, why, "run both evaluations with the same version, --suite and --frames")
    corrected = holm({name: pair[0].p for name, pair in differences.items()})
    metrics = [
        MetricComparison(
            name,
            str(first.metrics[name]["better"]),
            difference,
            corrected[name],
            _verdict(Direction(first.metrics[name]["better"]), difference, corrected[name]),
            invalid,
            worst,
        )
        for name, (difference, worst, invalid) in differences.items()
    ]
    return Comparison((first.label, second.label), metrics, refused, len(common), others)


def _common_cases(first: Evaluation, second: Evaluation) -> tuple[set[str], list[str]]:
    """Return the cases of both whose inputs are equal, and those whose inputs differ."""
    inputs = [
        {
            result.case: {name: value for name, value in result.inputs.items() if name != "video"}
            for result in evaluation.results
        }
        for evaluation in (first, second)
    ]
    both = inputs[0].keys() & inputs[1].keys()
    equal = {case for case in both if inputs[0][case] == inputs[1][case]}
    return equal, sorted(both - equal)


def _other_protocols(first: Evaluation, second: Evaluation) -> dict[str, str]:
    refused = {}
    for name, metric in first.metrics.items():
        other = second.metrics.get(name)
        if other is not None and other["hash"] != metric["hash"]:
            refused[name] = f"the protocols differ ({metric['hash']} and {other['hash']}), so it is not compared"
    return refused


def _metric_difference(
    first: Evaluation, second: Evaluation, metric: str, common: set[str]
) -> tuple[Difference, Difference, tuple[int, int]] | None:
    """Return the difference on cases with both values, that with worst values, and the numbers of missing values."""
    better, clusters = Direction(first.metrics[metric]["better"]), clusters_of(first)
    values = [_ranked_values(one, metric, common) for one in (first, second)]
    if not values[0].keys() & values[1].keys():
        return None
    tried = [_tried_cases(one, metric) & common for one in (first, second)]
    invalid = (len(tried[0] - values[0].keys()), len(tried[1] - values[1].keys()))
    every = [*values[0].values(), *values[1].values()]
    worst = min(every) if better is Direction.UP else max(every)
    filled = [{case: side.get(case, worst) for case in sorted(tried[0] | tried[1])} for side in values]
    on_common = paired_difference(values[0], values[1], clusters)
    return on_common, paired_difference(filled[0], filled[1], clusters), invalid


def _ranked_values(evaluation: Evaluation, metric: str, cases: set[str]) -> dict[str, float]:
    """Return the values of some cases; sizes of values that are the better the nearer they are to zero."""
    values = {case: value for case, value in case_values(evaluation, metric).items() if case in cases}
    if Direction(evaluation.metrics[metric]["better"]) is Direction.ZERO:
        return {case: abs(value) for case, value in values.items()}
    return values


def _tried_cases(evaluation: Evaluation, metric: str) -> set[str]:
    """Return the cases that have a value, or have none although the metric applies."""

    def counts(score: Score | None) -> bool:
        return score is not None and score.status in (Status.VALID, Status.INVALID)

    return {result.case for result in evaluation.results if counts(result.scores.get(metric))}


def _verdict(better: Direction, difference: Difference, p: float) -> str:
    if not difference.is_distinguishable(p):
        return NOT_DISTINGUISHABLE
    if better is Direction.NEITHER:
        return "different"
    grows = difference.mean > 0
    return "better" if grows == (better is Direction.UP) else "worse"


def rank_cases(first: Evaluation, second: Evaluation, metric: str) -> list[tuple[str, float]]:
    """Return the cases with their differences (second minus first), the largest first."""
    sides = [case_values(one, metric) for one in (first, second)]
    pairs = [(case, sides[1][case] - value) for case, value in sides[0].items() if case in sides[1]]
    return sorted(pairs, key=lambda pair: -pair[1])


def summary_values(evaluation: Evaluation) -> dict[str, Any]:
    """Return the summary of every metric as JSON values, with its protocol."""
    return {
        "label": evaluation.label,
        "videos": len(evaluation.results),
        "missing": list(evaluation.missing),
        "metrics": {
            name: {**described, **asdict(summarize(evaluation, name))} for name, described in evaluation.metrics.items()
        },
    }
