"""Calls of a tiny pipeline, and what is compared of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from humo import HuMoPipeline, HuMoTransformer3DModel
from humo.geometry import Geometry
from humo.presets import PRESETS
from humo.runtime.allocation_tracker import track_allocations
from tests.tiny import AUDIO_WIDTH

WIDTH, HEIGHT, FRAMES, STEPS = 48, 32, 9, 2
FAMILIES = sorted(PRESETS)
RED, BLUE, GREEN = (Image.new("RGB", (40, 30), color) for color in ("red", "blue", "green"))


def rows(frames: int = FRAMES + 2, seed: int = 0) -> Tensor:
    """Return encoder rows of some audio."""
    return torch.randn(frames, 5, AUDIO_WIDTH, generator=torch.Generator().manual_seed(seed))


def tone(frames: float, hertz: float = 220.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the samples of a tone of that many frames."""
    time = np.arange(round(frames * 640)) / 16_000
    return (0.4 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def seeded(seed: int = 1) -> torch.Generator:
    """A generator of noise."""
    return torch.Generator().manual_seed(seed)


def call(pipeline: HuMoPipeline, **changes: Any) -> Any:
    """Return video latents of a short clip, by default with a red image and random audio."""
    arguments: dict[str, Any] = {
        "prompt": "a man talks",
        "images": RED,
        "audio_embeds": rows(),
        "width": WIDTH,
        "height": HEIGHT,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "generator": seeded(),
        "output_type": "latent",
    }
    return pipeline(**(arguments | changes)).frames


@torch.no_grad()
def working_bytes(network: HuMoTransformer3DModel, geometry: Geometry, loras: Sequence[Tensor] = ()) -> tuple[int, int]:
    """Return the bytes of a pass on real tensors: its activations, and the keys and values of text and audio.

    Args:
        network: the network.
        geometry: of the clip.
        loras: tensors of its LoRAs, which are not counted.
    """
    config, rows, columns = network.config, geometry.latent_height, geometry.latent_width
    inputs = (
        torch.randn(1, config.in_channels, geometry.latent_frames, rows, columns),
        torch.tensor([500.0]),
        torch.randn(1, config.text_length, config.text_dim),
        torch.randn(1, geometry.latent_frames, config.audio_window, config.audio_bands, config.audio_width),
    )
    with track_allocations(network.parameters(), inputs, loras) as stats:
        kv = network.cross_attention_kv(*inputs[2:])
        kept = stats.peak = stats.live
        network(*inputs[:2], cross_attention_kv=kv, return_dict=False)
    return stats.peak - kept, kept


def counted(pipeline: HuMoPipeline, **changes: Any) -> tuple[Any, int]:
    """Return the result of such a call, by default with its passes one by one, and the number of passes."""
    passes: list[int] = []
    hook = pipeline.transformer.register_forward_hook(lambda *_: passes.append(1))
    try:
        return call(pipeline, **{"batch_passes": False, **changes}), len(passes)
    finally:
        hook.remove()


def distance(one: Tensor, other: Tensor) -> float:
    """Relative L2."""
    assert one.shape == other.shape
    return float((one - other).norm() / other.norm())
