"""`humo generate` with the model inside the package: seconds of the whole command beside denoising and decoding.

    python benchmarks/whole_command.py --threads 2
    python benchmarks/whole_command.py --rounds 9 --json whole_command.json

A process is started for each round, with words, a picture and a sound (`examples/demo.toml`). What is neither denoising
nor decoding is Python and its libraries, looking at the inputs, loading, encoding, marking and writing; it is to take
less than three seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from timing import environment, positive

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 3.0
"""Seconds that all but denoising and decoding is to stay under."""


def run(words: Sequence[str], threads: int | None) -> dict[str, float]:
    """Seconds of one command, of its phases, and what is left of the whole.

    Raises:
        RuntimeError: it failed.
    """
    limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "humo", "generate", *words, "--json"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | limits, check=False)
    whole = time.perf_counter() - began
    if told.returncode:
        raise RuntimeError(told.stdout + told.stderr)
    lines: list[Mapping[str, Any]] = [json.loads(line) for line in told.stdout.splitlines()]
    phases: dict[str, float] = next(line["timings"] for line in reversed(lines) if "timings" in line)
    outside = whole - phases["denoise"] - phases["decode"]
    return {"whole": whole, **phases, "outside": outside}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5, help="commands to time (default 5)")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--steps", type=positive, help="denoising steps (default: the model's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args(argv)
    words = ["--config", str(ROOT / "examples" / "demo.toml")]
    words += [] if options.steps is None else ["--steps", str(options.steps)]
    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            run([*words, "--output", str(Path(folder) / f"{number}.mp4")], options.threads)
            for number in range(options.rounds)
        ]
    medians = {name: median(one[name] for one in rounds) for name in rounds[0]}
    result = {"benchmark": "whole_command", "environment": environment(), "rounds": rounds, "medians": medians}
    print("\n| `humo generate`, nano | median, s | lowest to highest |\n|---|---|---|")
    for name, seconds in medians.items():
        each = [one[name] for one in rounds]
        print(f"| {name} | {seconds:.2f} | {min(each):.2f} to {max(each):.2f} |")
    word = "less" if medians["outside"] < WITHIN else "NOT less"
    print(f"\noutside denoising and decoding: {medians['outside']:.2f} s, {word} than {WITHIN:g} s")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
