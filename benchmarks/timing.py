"""Runs timed in turn within one process: medians, and ratios with their spread.

A machine's speed drifts (heat, other programs), so times of different moments do not compare. Here every round runs
each contestant once, the rounds begin with another one in turn, and a ratio is taken within a round.
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

WARM_UPS = 1  # runs of each contestant before the first round: allocations, kernel choice, caches


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of one contestant over another's in the same round; below 1 the first is faster.

    Args:
        name, against: the contestants.
        median, lowest, highest: over the rounds.
    """

    name: str
    against: str
    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison, timed.

    Args:
        name: of the case, for people.
        settings: its sizes.
        differences: contestant -> max |its output - the first one's| / max |output|, before timing.
        seconds: contestant -> seconds of each round; the first is set against each other.
    """

    name: str
    settings: Mapping[str, object]
    differences: Mapping[str, float]
    seconds: Mapping[str, Sequence[float]]

    @property
    def medians(self) -> dict[str, float]:
        """Contestant -> median seconds."""
        return {name: median(times) for name, times in self.seconds.items()}

    @property
    def ratios(self) -> list[Ratio]:
        """The first contestant against each of the others."""
        first, *others = self.seconds
        return [ratio(first, other, self.seconds) for other in others]

    def as_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "differences": dict(self.differences),
            "seconds": {name: list(times) for name, times in self.seconds.items()},
            "medians": self.medians,
            "ratios": [asdict(one) for one in self.ratios],
        }


def ratio(name: str, against: str, seconds: Mapping[str, Sequence[float]]) -> Ratio:
    """One contestant's time over another's, round by round."""
    each = [one / other for one, other in zip(seconds[name], seconds[against], strict=True)]
    return Ratio(name, against, median(each), min(each), max(each))


def alternate(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; they take turns, and take turns at beginning."""
    for _ in range(WARM_UPS):
        for run in contestants.values():
            run()
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def difference(output: Tensor, reference: Tensor) -> float:
    """max |output - reference| / max |reference|."""
    return ((output.float() - reference.float()).abs().max() / reference.float().abs().max()).item()


def agreed(output: Tensor, reference: Tensor, bound: float) -> float:
    """The difference of two outputs that are to be the same, so that like is timed against like.

    Raises:
        ArithmeticError: it is above the bound, or not a number.
    """
    apart = difference(output, reference)
    if not apart <= bound:
        raise ArithmeticError(f"the outputs differ by {apart:.1e}, more than {bound:.1e}: there is nothing to compare")
    return apart


def positive(text: str) -> int:
    """A whole number from 1, as an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def arguments(description: str | None, *, rounds: int, layers: int | None = None) -> argparse.ArgumentParser:
    """The options that all benchmarks have, with these defaults; ``--layers`` where there are any."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=rounds, help=f"rounds to time (default {rounds})")
    if layers is not None:
        parser.add_argument("--layers", type=positive, default=layers, help=f"transformer blocks (default {layers})")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    return parser


def environment() -> dict[str, object]:
    """What the times depend on besides the code."""
    return {
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "humo": humo.__version__,
    }


TABLE_HEAD = (
    "| case | humo, s | against | its time, s | ratio | lowest to highest |\n"
    "|---|---|---|---|---|---|"
)  # the head of the table in README.md


def table_rows(case: Case) -> list[str]:
    """A case as rows of a Markdown table, one for each ratio."""
    return [
        f"| {case.name} | {case.medians[one.name]:.3f} | {one.against} | {case.medians[one.against]:.3f} "
        f"| {one.median:.2f} | {one.lowest:.2f} to {one.highest:.2f} |"
        for one in case.ratios
    ]


def report(benchmark: str, cases: Sequence[Case], file: Path | None) -> dict[str, Any]:
    """Print what was measured, write it as JSON where a file is named, and give it back."""
    result = {"benchmark": benchmark, "environment": environment(), "cases": [case.as_json() for case in cases]}
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    for case in cases:
        print(f"{case.name}: " + ", ".join(f"{name} {value}" for name, value in case.settings.items()))
        for name, apart in case.differences.items():
            print(f"  {name}: outputs apart by {apart:.1e}")
    print("\n".join(["", TABLE_HEAD, *(row for case in cases for row in table_rows(case))]))
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
