"""Whether a video is made as fast as it plays: from the request to the mp4, by the model inside the package.

    python benchmarks/real_time.py --threads 2
    python benchmarks/real_time.py --seconds 1 10 --model humo-nano-teacher --rounds 9 --json real_time.json

Words and picture of `examples/demo.toml`, its sound said again and again until it is long enough. The model is loaded;
everything else is in the time: looking at the inputs, encoding, denoising, decoding, marking, writing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tomllib
import wave
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from timing import WARM_UPS, environment, positive

from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE
from humo.jobs.engine import Engine
from humo.jobs.generate import build_request, generate, prepare_job
from humo.media.audio import load_audio, pad_or_trim

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DEMO = tomllib.loads((EXAMPLES / "demo.toml").read_text(encoding="utf-8"))


def write_sound(path: Path, seconds: float) -> None:
    """The demo's sound, as often as it takes, as a file of 16 kHz."""
    once = load_audio(str(EXAMPLES / DEMO["audio"]))
    count = round(seconds * SAMPLE_RATE)
    again = pad_or_trim(np.tile(once, -(-count // len(once))), count)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(again * 32767).astype("<i2").tobytes())


def make_one(engine: Engine, folder: Path, seconds: float, more: dict[str, Any]) -> dict[str, float]:
    """Seconds that a video took, whole and by phase, and that it plays."""
    fields = {
        "prompt": DEMO["prompt"],
        "images": [str(EXAMPLES / name) for name in DEMO["images"]],
        "audio": str(folder / f"{seconds:g}.wav"),
        "frames": round(seconds * FRAMES_PER_SECOND),
        "output": str(folder / "out.mp4"),
    }
    began = time.perf_counter()
    made = generate(prepare_job(build_request(fields | more)), engine=engine)
    return {"whole": time.perf_counter() - began, **made.timings, "plays": made.seconds}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 3.4, 10.0], help="lengths (default 1 3.4 10)")
    parser.add_argument("--rounds", type=positive, default=5, help="videos of each length (default 5)")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--model", help="by default the model inside the package")
    parser.add_argument("--steps", type=positive, help="denoising steps (default: the model's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    more = {"model": options.model, "steps": options.steps}
    engine, rounds = Engine(), []
    with tempfile.TemporaryDirectory() as name:
        for seconds in options.seconds:
            write_sound(Path(name) / f"{seconds:g}.wav", seconds)
        for number in range(WARM_UPS + options.rounds):
            videos = {f"{seconds:g}": make_one(engine, Path(name), seconds, more) for seconds in options.seconds}
            if number >= WARM_UPS:
                rounds.append(videos)
    medians = {
        length: {phase: median(one[length].get(phase, 0.0) for one in rounds) for phase in values}
        for length, values in rounds[0].items()
    }
    result = {"benchmark": "real_time", "environment": environment(), "rounds": rounds, "medians": medians}
    print("\n| plays, s | made in, s (median) | denoising | the rest | of real time |\n|---|---|---|---|---|")
    for values in medians.values():
        whole, denoise = values["whole"], values["denoise"]
        ratio = f"{values['plays'] / whole:.2f} x"
        print(f"| {values['plays']:.2f} | {whole:.2f} | {denoise:.2f} | {whole - denoise:.2f} | {ratio} |")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
