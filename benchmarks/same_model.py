"""A model against itself: how often are two halves of its seeds not distinguishable?

    humo evaluate run people OUT --model humo-nano --seeds 4
    python benchmarks/same_model.py OUT

Each draw gives half of each case's seeds, at random, to one side and the rest to the other. Then it compares both
sides as `humo evaluate compare` does. At least 95 % of the draws should not distinguish them.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from humo.evaluation.comparison import NOT_DISTINGUISHABLE, compare
from humo.evaluation.results import Evaluation, VideoResult, read_evaluation


def split_seeds(evaluation: Evaluation, random: np.random.Generator) -> tuple[Evaluation, Evaluation]:
    """Return two evaluations with half of each case's seeds each.

    Raises:
        SystemExit: a case has fewer than two seeds.
    """
    by_case: dict[str, list[VideoResult]] = {}
    for result in evaluation.results:
        by_case.setdefault(result.case, []).append(result)
    if min(map(len, by_case.values())) < 2:
        raise SystemExit("each case needs two seeds or more: humo evaluate run SOURCE OUT --model NAME --seeds 4")
    sides: tuple[list[VideoResult], list[VideoResult]] = ([], [])
    for results in by_case.values():
        order = random.permutation(len(results))
        half = len(results) // 2
        sides[0].extend(results[n] for n in order[:half])
        sides[1].extend(results[n] for n in order[half : 2 * half])
    return replace(evaluation, results=sides[0]), replace(evaluation, results=sides[1])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Count the draws that do not distinguish both sides, and print one row for each metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="an evaluation with several seeds of each case")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the counts")
    options = parser.parse_args(arguments)
    evaluation = read_evaluation(options.folder)
    random = np.random.default_rng(0)
    compared, same, all_same = Counter[str](), Counter[str](), 0
    for _ in range(options.draws):
        verdicts = {one.metric: one.verdict for one in compare(*split_seeds(evaluation, random)).metrics}
        compared.update(list(verdicts))
        same.update(name for name, verdict in verdicts.items() if verdict == NOT_DISTINGUISHABLE)
        all_same += set(verdicts.values()) == {NOT_DISTINGUISHABLE}
    rows = {name: same[name] / count for name, count in compared.items()}
    result = {"draws": options.draws, "all_metrics": all_same / options.draws, "metrics": rows}
    for name, fraction in rows.items():
        print(f"| `{name}` | {100 * fraction:.1f} % |")
    print(f"no metric distinguishes them in {100 * result['all_metrics']:.1f} % of {options.draws} draws")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
