"""Time of a whole `humo generate` command with the built-in model, and its part outside denoising and decoding.

    python benchmarks/command_overhead.py --threads 2
    python benchmarks/command_overhead.py --rounds 9 --json command_overhead.json

Each round starts a process with a prompt, an image and audio (`examples/demo.toml`). The time outside denoising and
decoding is Python's start, imports, checks of the inputs, loading, encoding, watermarking and writing. Its target is
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
TARGET_SECONDS = 3.0
"""Target for the time outside denoising and decoding."""


def run(arguments: Sequence[str], threads: int | None) -> dict[str, float]:
    """Return the seconds of one command, of its phases, and outside denoising and decoding.

    Raises:
        RuntimeError: the command failed.
    """
    limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    command = [sys.executable, "-m", "humo", "generate", *arguments, "--json"]
    completed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | limits, check=False)
    total = time.perf_counter() - start
    if completed.returncode:
        raise RuntimeError(completed.stdout + completed.stderr)
    lines: list[Mapping[str, Any]] = [json.loads(line) for line in completed.stdout.splitlines()]
    phases: dict[str, float] = next(line["timings"] for line in reversed(lines) if "timings" in line)
    outside = total - phases["denoise"] - phases["decode"]
    return {"total": total, **phases, "outside": outside}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5, help="commands to time (default 5)")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--steps", type=positive, help="denoising steps (default: the model's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    options = parser.parse_args(argv)
    arguments = ["--config", str(ROOT / "examples" / "demo.toml")]
    arguments += [] if options.steps is None else ["--steps", str(options.steps)]
    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            run([*arguments, "--output", str(Path(folder) / f"{number}.mp4")], options.threads)
            for number in range(options.rounds)
        ]
    medians = {name: median(one[name] for one in rounds) for name in rounds[0]}
    result = {"benchmark": "command_overhead", "environment": environment(), "rounds": rounds, "medians": medians}
    print("\n| `humo generate`, nano | median, s | min to max |\n|---|---|---|")
    for name, seconds in medians.items():
        each = [one[name] for one in rounds]
        print(f"| {name} | {seconds:.2f} | {min(each):.2f} to {max(each):.2f} |")
    word = "less" if medians["outside"] < TARGET_SECONDS else "NOT less"
    print(f"\noutside denoising and decoding: {medians['outside']:.2f} s, {word} than {TARGET_SECONDS:g} s")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
