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

SOUND = tone(30)


def plan_of(preset: str, fields: dict[str, Any]) -> GenerationPlan:
    """The plan of a clip with a picture and a sound."""
    asked = {"prompt": "x", "images": ["red"], "audio": "sound", "steps": 3, "seed": 3, **fields}
    return resolve(parse_request(asked), find_preset(preset), len(SOUND))


def main(folder: Path, cases: list[dict[str, Any]]) -> None:
    """Every case, one after the other."""
    torch.set_num_threads(1)
    made: dict[str, torch.Tensor] = {}
    told: dict[str, str] = {}
    with process_group("cpu") as group:
        for number, case in enumerate(cases):
            plan = plan_of(case["preset"], case["fields"])
            crew = ParallelGeneration(group, case["parallel"], fsdp=case.get("fsdp", False))
            pipeline = crew.load(folder / case["preset"], case.get("dtype", "float32"))
            pipeline.use_loras(strengths_of(plan.request))
            try:
                execution = crew.configure(plan)
            except RequestError as error:
                told[str(number)] = str(error)
                continue
            made[str(number)] = pipeline.generate_latents(GenerationInputs(plan, [RED], SOUND), execution=execution)
        if group.is_main:
            save_file(made, str(folder / f"made-{group.size}.safetensors"))
            (folder / f"told-{group.size}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
