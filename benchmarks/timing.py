"""Time several candidates in alternation within one process; report medians, and ratios with their range.

A machine's speed drifts (heat, other programs), so that times taken minutes apart do not compare. Every round runs each
candidate once, rounds start with a different candidate in turn, and a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
from torch import Tensor

import humo

WARM_UPS = 1
"""Untimed runs of each candidate before the first round, for allocations, kernel selection and caches."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of one candidate divided by another's in the same round; below 1 the first is faster.

    Args:
        name, against: the candidates.
        median, lowest, highest: over the rounds.
    """

    name: str
    against: str
    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Case:
    """One timed comparison.

    Args:
        name: name of the case, for the table.
        settings: sizes of the case.
        differences: candidate -> max |its output - the first one's| / max |output|, before timing.
        seconds: candidate -> seconds of each round; the first is compared with each other one.
    """

    name: str
    settings: Mapping[str, object]
    differences: Mapping[str, float]
    seconds: Mapping[str, Sequence[float]]

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds of each candidate."""
        return {name: median(times) for name, times in self.seconds.items()}

    @property
    def ratios(self) -> list[Ratio]:
        """Ratios of the first candidate to each other one."""
        first, *others = self.seconds
        return [ratio(first, other, self.seconds) for other in others]

    def as_json(self) -> dict[str, Any]:
        """Return everything as values that JSON can store."""
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "differences": dict(self.differences),
            "seconds": {name: list(times) for name, times in self.seconds.items()},
            "medians": self.medians,
            "ratios": [asdict(one) for one in self.ratios],
        }


def ratio(name: str, against: str, seconds: Mapping[str, Sequence[float]]) -> Ratio:
    """Return the ratio of two candidates' times over the rounds."""
    each = [one / other for one, other in zip(seconds[name], seconds[against], strict=True)]
    return Ratio(name, against, median(each), min(each), max(each))


def alternate(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each candidate in each round; the first candidate of a round alternates."""
    for _ in range(WARM_UPS):
        for run in contestants.values():
            run()
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def difference(output: Tensor, reference: Tensor) -> float:
    """Return max |output - reference| / max |reference|."""
    return ((output.float() - reference.float()).abs().max() / reference.float().abs().max()).item()


def check_equal(output: Tensor, reference: Tensor, bound: float) -> float:
    """Return the difference of two outputs that must be equal, so that the timed computations are the same.

    Raises:
        ArithmeticError: the difference exceeds the bound, or is not a number.
    """
    error = difference(output, reference)
    if not error <= bound:
        raise ArithmeticError(f"the outputs differ by {error:.1e}, more than {bound:.1e}; nothing is timed")
    return error


def positive(text: str) -> int:
    """Parse an integer of at least 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def arguments(description: str | None, *, rounds: int, layers: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share.

    Args:
        description: docstring of the benchmark.
        rounds: default of ``--rounds``.
        layers: default of ``--layers``; None if the benchmark has no such option.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=rounds, help=f"rounds to time (default {rounds})")
    if layers is not None:
        parser.add_argument("--layers", type=positive, default=layers, help=f"transformer blocks (default {layers})")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    return parser


def environment() -> dict[str, object]:
    """Return machine, threads and versions, on which the times depend."""
    return {
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "humo": humo.__version__,
    }


TABLE_HEAD = "| case | HuMo, s | compared with | its time, s | ratio | min to max |\n|---|---|---|---|---|---|"
"""Head of the result tables, here and in README.md."""


def table_rows(case: Case) -> list[str]:
    """Return a case as rows of a Markdown table, one for each ratio."""
    return [
        f"| {case.name} | {case.medians[one.name]:.3f} | {one.against} | {case.medians[one.against]:.3f} "
        f"| {one.median:.2f} | {one.lowest:.2f} to {one.highest:.2f} |"
        for one in case.ratios
    ]


def report(benchmark: str, cases: Sequence[Case], file: Path | None) -> dict[str, Any]:
    """Print the measurements, write them to a file if one is named, and return them."""
    result = {"benchmark": benchmark, "environment": environment(), "cases": [case.as_json() for case in cases]}
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    for case in cases:
        print(f"{case.name}: " + ", ".join(f"{name} {value}" for name, value in case.settings.items()))
        for name, error in case.differences.items():
            print(f"  {name}: outputs differ by {error:.1e}")
    print("\n".join(["", TABLE_HEAD, *(row for case in cases for row in table_rows(case))]))
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
