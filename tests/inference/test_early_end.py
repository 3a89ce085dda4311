"""A clip that is finished before its last step, and what it looks like on the way."""

from __future__ import annotations

import numpy as np
import torch

from humo import HuMoPipeline
from humo.inference.inputs import GenerationInputs
from humo.progress import Event
from humo.request import parse_request, resolve
from tests.calls import FRAMES, HEIGHT, WIDTH


def test_a_clip_may_be_what_it_has_come_to(small: HuMoPipeline) -> None:
    """Enough after a step: the data that the step's velocity implies, which differs from the noisy latents."""
    plan = resolve(
        parse_request({"prompt": "x", "width": WIDTH, "height": HEIGHT, "frames": FRAMES, "steps": 4}), small.preset
    )
    seen: list[Event] = []
    latents = small.generate_latents(GenerationInputs(plan, (), None), seen.append, lambda: seen[-1].done == 2)
    assert [event.done for event in seen if event.phase == "denoise"] == [0, 1, 2]
    last = seen[-1]
    assert last.preview is not None
    middle = plan.geometry.video_latent_frames // 2
    expected = next(small.decode_frames(latents[:, :, middle : middle + 1]))
    assert np.array_equal(last.preview(), expected)
    assert not torch.equal(latents, small.generate_latents(GenerationInputs(plan, (), None)))
