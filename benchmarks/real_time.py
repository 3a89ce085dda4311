"""Time from request to mp4 with the built-in model, compared with the length of the video.

    python benchmarks/real_time.py --threads 2
    python benchmarks/real_time.py --seconds 1 10 --model humo-nano-teacher --rounds 9 --json real_time.json

Prompt and image come from `examples/demo.toml`, whose audio is repeated to the length. The model is loaded before. The
time includes everything else: checking the inputs, encoding, denoising, decoding, watermarking, writing.
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


def write_audio(path: Path, seconds: float) -> None:
    """Write the demo's audio, repeated to a length, as a 16 kHz file."""
    audio = load_audio(str(EXAMPLES / DEMO["audio"]))
    count = round(seconds * SAMPLE_RATE)
    repeated = pad_or_trim(np.tile(audio, -(-count // len(audio))), count)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(repeated * 32767).astype("<i2").tobytes())


def generate_one(engine: Engine, folder: Path, seconds: float, more: dict[str, Any]) -> dict[str, float]:
    """Return the seconds that a video took, in total and by phase, and its length."""
    fields = {
        "prompt": DEMO["prompt"],
        "images": [str(EXAMPLES / name) for name in DEMO["images"]],
        "audio": str(folder / f"{seconds:g}.wav"),
        "frames": round(seconds * FRAMES_PER_SECOND),
        "output": str(folder / "out.mp4"),
    }
    start = time.perf_counter()
    result = generate(prepare_job(build_request(fields | more)), engine=engine)
    return {"total": time.perf_counter() - start, **result.timings, "length": result.seconds}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 3.4, 10.0], help="lengths (default 1 3.4 10)")
    parser.add_argument("--rounds", type=positive, default=5, help="videos of each length (default 5)")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--model", help="by default the built-in model")
    parser.add_argument("--steps", type=positive, help="denoising steps (default: the model's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    more = {"model": options.model, "steps": options.steps}
    engine, rounds = Engine(), []
    with tempfile.TemporaryDirectory() as name:
        for seconds in options.seconds:
            write_audio(Path(name) / f"{seconds:g}.wav", seconds)
        for number in range(WARM_UPS + options.rounds):
            videos = {f"{seconds:g}": generate_one(engine, Path(name), seconds, more) for seconds in options.seconds}
            if number >= WARM_UPS:
                rounds.append(videos)
    medians = {
        length: {phase: median(one[length].get(phase, 0.0) for one in rounds) for phase in values}
        for length, values in rounds[0].items()
    }
    result = {"benchmark": "real_time", "environment": environment(), "rounds": rounds, "medians": medians}
    print("\n| length, s | time, s (median) | denoising, s | other phases, s | speed |\n|---|---|---|---|---|")
    for values in medians.values():
        total, denoise = values["total"], values["denoise"]
        ratio = f"{values['length'] / total:.2f} x"
        print(f"| {values['length']:.2f} | {total:.2f} | {denoise:.2f} | {total - denoise:.2f} | {ratio} |")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
