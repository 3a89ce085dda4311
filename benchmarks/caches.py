"""The caches of a request (`--cache`) on the built-in model: blocks run, time, PSNR against the exact video.

python benchmarks/caches.py --threads 2
python benchmarks/caches.py --rounds 5 --clips 4 --json caches.json
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from timing import alternate, arguments, environment, positive, ratio
from torch import Tensor

from humo import HuMoPipeline
from humo.checkpoints.model_folder import BUILTIN_TEACHER
from humo.presets import HUMO_NANO
from humo.request import CacheName
from humo.runtime.loading import load_pipeline

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DEMO = tomllib.loads((EXAMPLES / "demo.toml").read_text(encoding="utf-8"))


def generate(pipeline: HuMoPipeline, steps: int, frames: int, cache: CacheName, seed: int) -> Tensor:
    """A video (1, F, 3, H, W) in [0, 1] from the demo's prompt, image and audio."""
    video: Tensor = pipeline(
        DEMO["prompt"],
        images=EXAMPLES / DEMO["images"][0],
        audio=EXAMPLES / DEMO["audio"],
        num_frames=frames,
        num_inference_steps=steps,
        cache=cache,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).frames
    return video


def counted(pipeline: HuMoPipeline, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Return the output of a run, and how many blocks it computed, counting each pass of a batch.

    The count is taken at the blocks' self-attention, because a cache intercepts calls of whole blocks.
    """
    runs: list[int] = []
    hooks = [
        block.attn1.register_forward_hook(lambda *arguments: runs.append(len(arguments[-1])))
        for block in pipeline.transformer.blocks
    ]
    video = run()
    for hook in hooks:
        hook.remove()
    return video, sum(runs)


def psnr(video: Tensor, exact: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB, for pixels in [0, 1]."""
    error = (video - exact).square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--clips", type=positive, default=4, help="seeds whose videos are compared (default 4)")
    parser.add_argument("--steps", type=positive, default=HUMO_NANO.steps, help="denoising steps (default the model's)")
    parser.add_argument(
        "--frames", type=positive, default=DEMO["frames"], help="frames of each video (default the demo's)"
    )
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    pipeline = load_pipeline(BUILTIN_TEACHER, device="cpu")
    pipeline.set_progress_bar_config(disable=True)
    names: tuple[CacheName, ...] = get_args(CacheName)

    def measure(name: CacheName) -> list[tuple[Tensor, int]]:
        seeds = range(options.clips)
        return [
            counted(pipeline, partial(generate, pipeline, options.steps, options.frames, name, seed)) for seed in seeds
        ]

    exact = measure("none")
    seconds = alternate(
        {name: partial(generate, pipeline, options.steps, options.frames, name, 0) for name in names}, options.rounds
    )
    rows = []
    for name in names[1:]:
        cached = measure(name)
        values = [psnr(video, reference) for (video, _), (reference, _) in zip(cached, exact, strict=True)]
        share = sum(blocks for _, blocks in cached) / sum(blocks for _, blocks in exact)
        median = ratio(name, "none", seconds).median
        rows.append({"cache": name, "blocks": share, "psnr": sum(values) / len(values), "ratio": median})
    result = {"benchmark": "caches", "environment": environment(), "rows": rows, "seconds": seconds}
    print("| cache | blocks run | time, relative to no cache | PSNR against the exact video, dB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['cache']} | {row['blocks']:.0%} | {row['ratio']:.2f} | {row['psnr']:.1f} |")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
