"""Speed of metrics: CPU seconds a clip, each metric alone on a fresh clip, in one thread.

    python benchmarks/metric_speed.py clip.mp4 --reference face.png
    python benchmarks/metric_speed.py clip.mp4 --reference face.png --metrics iqa.musiq_spaq --random-weights

CPU seconds are those of the process, so that other programs change them little.
`--random-weights` fills networks whose weights are missing with random numbers: time does not depend on them.
The first run of each metric, which loads its networks, is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

from humo.analysis.networks import image_encoders as encoders
from humo.analysis.networks.musiq import Musiq
from humo.analysis.networks.s3fd import S3FD
from humo.analysis.networks.syncnet import SyncNet
from humo.evaluation.cases import Case
from humo.evaluation.context import CaseContext
from humo.evaluation.metrics import perceptual, syncnet
from humo.evaluation.registry import METRICS, SUITES
from humo.evaluation.runner import measure_one

RANDOM = {
    "humo.evaluation.metrics.perceptual._clip": lambda device: encoders.clip_encoder(),
    "humo.evaluation.metrics.perceptual._dino": lambda device: encoders.dino_encoder(),
    "humo.evaluation.metrics.perceptual._musiq": lambda device: Musiq().eval(),
    "humo.evaluation.metrics.perceptual._aesthetic_head": lambda device: torch.nn.Linear(768, 1),
    "humo.evaluation.metrics.syncnet._network": lambda device: SyncNet().eval(),
    "humo.evaluation.metrics.syncnet._detector": lambda device: S3FD().eval(),
}
"""Function that loads a network -> one that fills it with random numbers."""

assert perceptual
assert syncnet


def seconds_of(name: str, case: Case, path: Path, rounds: int) -> tuple[float, str]:
    """Return the median CPU time of a metric on a clip that is decoded again, and the status of its value."""
    times, status = [], ""
    for number in range(rounds + 1):
        context = CaseContext(case, path)
        start = time.process_time()
        status = measure_one(METRICS[name], context, "").status
        if number:
            times.append(time.process_time() - start)
    return median(times), status


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print one row for each metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("video", type=Path)
    parser.add_argument("--reference", type=Path, help="image of the person")
    parser.add_argument("--metrics", default=",".join(SUITES["offline"].metrics), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--json", type=Path, help="write the times")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    references = () if options.reference is None else (options.reference,)
    case = Case(id="clip", prompt="A person talks.", references=references)
    result: dict[str, Any] = {}
    patches = [mock.patch(name, new) for name, new in RANDOM.items()] if options.random_weights else []
    for patch in patches:
        patch.start()
    try:
        clip = CaseContext(case, options.video).clip
        height, width = clip.frames.shape[1:3]
        print(f"{len(clip.frames)} frames of {width} x {height}; CPU seconds with decoding, one thread")
        for name in options.metrics.split(","):
            seconds, status = seconds_of(name, case, options.video, options.rounds)
            result[name] = {"seconds": round(seconds, 3), "status": status}
            print(f"| `{name}` | {seconds:.2f} | {status} |")
    finally:
        for patch in patches:
            patch.stop()
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
