"""The call stack between a job and the network is short, and the same for every entry point."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from humo import HuMoPipeline
from humo.inference import predictor
from humo.inference.inputs import GenerationInputs
from humo.jobs import generate as jobs
from humo.jobs.engine import Engine
from humo.plan import resolve
from humo.request import parse_request
from tests.calls import HEIGHT, WIDTH, call
from tests.tiny import save_tiny_model

MAX_FRAMES = 8
"""Stack frames, those of torch included, between `humo.jobs.generate.generate` and the network's ``forward``."""


def stack_at_forward(pipeline: HuMoPipeline, run: Callable[[], object]) -> list[tuple[str, str]]:
    """Return file and function of each stack frame of the first network call, without those of the hook."""
    stacks: list[list[tuple[str, str]]] = []

    def record(*_: Any) -> None:
        frames = traceback.extract_stack()[:-1]
        stacks.append([(Path(frame.filename).name, frame.name) for frame in frames])

    hook = pipeline.transformer.register_forward_pre_hook(record)
    try:
        run()
    finally:
        hook.remove()
    return stacks[0]


@pytest.mark.parametrize("max_batched_tokens", [0, 10_000], ids=["pass by pass", "as one batch"])
def test_few_calls_lie_between_a_job_and_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_batched_tokens: int
) -> None:
    monkeypatch.setattr(predictor, "MAX_BATCHED_TOKENS", max_batched_tokens)
    folder = save_tiny_model(tmp_path / "model", "humo-1.7b")
    fields = {"model": str(folder), "prompt": "x", "width": WIDTH, "height": HEIGHT, "frames": 5, "steps": 1}
    job = jobs.prepare_job(parse_request({**fields, "output": str(tmp_path / "out.mp4"), "device": "cpu"}))
    engine = Engine()
    pipeline = engine.pipeline(engine.resolve_runtime(job.plan).request)
    stack = stack_at_forward(pipeline, lambda: jobs.generate(job, engine=engine))
    start = stack.index((Path(jobs.__file__).name, jobs.generate.__name__))
    assert len(stack[start + 1 :]) <= MAX_FRAMES, stack[start:]


def test_a_call_and_a_job_run_the_same_loop(small: HuMoPipeline) -> None:
    """From `HuMoPipeline.generate_segments` to the network, both stacks are the same."""
    fields = {"prompt": "x", "width": WIDTH, "height": HEIGHT, "frames": 5, "steps": 1}
    inputs = GenerationInputs(resolve(parse_request(fields), small.preset))
    stacks = [
        stack_at_forward(small, lambda: list(small.generate_frames(inputs))),
        stack_at_forward(small, lambda: call(small, images=None, audio_embeds=None, num_frames=5)),
        stack_at_forward(small, lambda: small.generate_latents(inputs)),
    ]
    shared = [stack[stack.index(("pipeline.py", "generate_segments")) :] for stack in stacks]
    assert shared[0] == shared[1] == shared[2]


def test_a_callback_that_stops_ends_the_clip_with_its_latents(small: HuMoPipeline) -> None:
    step_latents: list[torch.Tensor] = []

    def interrupt(pipeline: HuMoPipeline, step: int, _: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        step_latents.append(tensors["latents"])
        pipeline._interrupt = step == 1
        return {}

    latents = call(small, callback_on_step_end=interrupt)
    assert len(step_latents) == 2
    assert torch.equal(latents, step_latents[-1][:, :, : latents.shape[2]])
