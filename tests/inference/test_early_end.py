"""A clip that is stopped before its last step, and its previews."""

from __future__ import annotations

import numpy as np
import torch

from humo import HuMoPipeline
from humo.inference.inputs import GenerationInputs
from humo.plan import resolve
from humo.progress import Event
from humo.request import parse_request
from tests.calls import FRAMES, HEIGHT, WIDTH


def test_a_stopped_clip_has_the_predicted_clean_latents(small: HuMoPipeline) -> None:
    """The result is the clean data that follows from the last step's velocity, not the noisy latents."""
    plan = resolve(
        parse_request({"prompt": "x", "width": WIDTH, "height": HEIGHT, "frames": FRAMES, "steps": 4}), small.preset
    )
    events: list[Event] = []
    latents = small.generate_latents(GenerationInputs(plan, (), None), events.append, lambda: events[-1].done == 2)
    assert [event.done for event in events if event.phase == "denoise"] == [0, 1, 2]
    last = events[-1]
    assert last.preview is not None
    middle = plan.geometry.video_latent_frames // 2
    expected = next(small.decode_frames(latents[:, :, middle : middle + 1]))
    assert np.array_equal(last.preview(), expected)
    assert not torch.equal(latents, small.generate_latents(GenerationInputs(plan, (), None)))
