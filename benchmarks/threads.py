"""Seconds and CPU seconds of the command with numbers of threads in turn, and with the number that it chooses.

python benchmarks/threads.py --threads 1 2 --runs 5
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import environment

CHOSEN = 0
"""The number that the command chooses."""


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--frames", type=int, nargs="+", default=[25, 97])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mp4"
        for frames in options.frames:
            runs: dict[int, list[tuple[float, float]]] = {}
            for _ in range(options.runs):
                for threads in (CHOSEN, *options.threads):
                    runs.setdefault(threads, []).append(run(threads, frames, output))
            for threads, times in runs.items():
                wall, used = (statistics.median(column) for column in zip(*times, strict=True))
                name = "chosen" if threads == CHOSEN else f"{threads} threads"
                print(f"{frames:3} frames, {name:10}: {wall:5.1f} s, {used:5.1f} CPU seconds")


def run(threads: int, frames: int, output: Path) -> tuple[float, float]:
    """Return the seconds and CPU seconds of the command."""
    variables = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    if threads != CHOSEN:
        variables["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "humo", "generate", "--prompt", "A woman talks in a park.", "--quiet"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*command, "--frames", str(frames), "--output", str(output), "--overwrite"], env=variables, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


if __name__ == "__main__":
    main()
