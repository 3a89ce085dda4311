"""Place a pipeline's weights on its devices, and move them to a smaller placement when memory runs out."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from humo.inference.pipeline import HuMoPipeline
from humo.model.upstream import apply_group_offloading
from humo.request import PlacementName


def apply_placement(pipeline: HuMoPipeline, placement: PlacementName, device: str, dtype: torch.dtype) -> None:
    """Put a pipeline's weights, all of them in the host's memory, where they are to lie.

    Args:
        pipeline: as loaded.
        placement: any but ``disk``, for which see `load_streaming`.
        device: where it computes.
        dtype: of the network.
    """
    if placement == "resident" or not (device.startswith("cuda") or placement == "host"):
        pipeline.to(device)
    elif placement == "host":
        streams = device.startswith("cuda")
        for part in (pipeline.transformer, pipeline.text_encoder, pipeline.audio_encoder):
            apply_group_offloading(
                part,
                onload_device=torch.device(device),
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=streams,
            )
        pipeline.vae.to(device)
    else:
        if placement == "fp8":
            pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        pipeline.enable_model_cpu_offload(device=device)


FALLBACKS: Mapping[PlacementName, PlacementName] = {"resident": "offload", "offload": "host", "fp8": "host"}
"""Where to go on when the device's memory runs out."""


def fall_back(
    pipeline: HuMoPipeline, placement: PlacementName, device: str, dtype: torch.dtype
) -> PlacementName | None:
    """Put the weights where they take less of the device's memory, in the middle of a clip.

    Args:
        pipeline, device, dtype: as in `place`.
        placement: the present one.

    Returns:
        the new one; None if there is none.
    """
    lower = FALLBACKS.get(placement)
    if lower is None:
        return None
    pipeline.remove_all_hooks()
    pipeline.to("cpu")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    apply_placement(pipeline, lower, device, dtype)
    return lower
