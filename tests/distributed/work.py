"""Makes clips as one of several ranks; the first one keeps their latents. ``python -m tests.distributed.work ...``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from humo.distributed.parallel_generation import ParallelGeneration
from humo.distributed.process_group import process_group
from humo.errors import RequestError
from humo.inference.inputs import GenerationInputs
from humo.jobs.loras import strengths_of
from humo.plan import GenerationPlan, resolve
from humo.presets import find_preset
from humo.request import parse_request
from tests.calls import RED, tone

SAMPLES = tone(30)


def plan_of(preset: str, fields: dict[str, Any]) -> GenerationPlan:
    """Return the plan of a clip with an image and audio."""
    values = {"prompt": "x", "images": ["red"], "audio": "tone", "steps": 3, "seed": 3, **fields}
    return resolve(parse_request(values), find_preset(preset), len(SAMPLES))


def main(folder: Path, cases: list[dict[str, Any]]) -> None:
    """Every case, one after the other."""
    torch.set_num_threads(1)
    clips: dict[str, torch.Tensor] = {}
    errors: dict[str, str] = {}
    with process_group("cpu") as group:
        for number, case in enumerate(cases):
            plan = plan_of(case["preset"], case["fields"])
            parallel = ParallelGeneration(group, case["parallel"], fsdp=case.get("fsdp", False))
            pipeline = parallel.load(folder / case["preset"], case.get("dtype", "float32"))
            pipeline.use_loras(strengths_of(plan.request))
            try:
                execution = parallel.configure(plan)
            except RequestError as error:
                errors[str(number)] = str(error)
                continue
            clips[str(number)] = pipeline.generate_latents(GenerationInputs(plan, [RED], SAMPLES), execution=execution)
        if group.is_main:
            save_file(clips, str(folder / f"clips-{group.size}.safetensors"))
            (folder / f"errors-{group.size}.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
