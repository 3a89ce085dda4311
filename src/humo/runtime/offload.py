"""Place a pipeline's weights on its devices, and move them to a smaller placement when memory runs out."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from humo.inference.pipeline import HuMoPipeline
from humo.model.upstream import apply_group_offloading
from humo.request import OffloadName
from humo.runtime.placement import Placement


def apply_placement(pipeline: HuMoPipeline, placement: Placement, device: str, dtype: torch.dtype) -> None:
    """Place a pipeline's weights, all of which are in the host's memory.

    Args:
        pipeline: as loaded.
        placement: any whose ``offload`` is not ``disk``, which `humo.runtime.loading.load_streamed` applies.
        device: device that the pipeline computes on.
        dtype: precision of the network.
    """
    if placement.quantize == "fp8":
        pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    _offload(pipeline, placement.offload, device)


def _offload(pipeline: HuMoPipeline, offload: OffloadName, device: str) -> None:
    if offload == "group":
        for component in (pipeline.transformer, pipeline.text_encoder, pipeline.audio_encoder):
            apply_group_offloading(
                component,
                onload_device=torch.device(device),
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=device.startswith("cuda"),
            )
        pipeline.vae.to(device)
    elif offload == "model" and device.startswith("cuda"):
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)


FALLBACKS: Mapping[OffloadName, OffloadName] = {"none": "model", "model": "group"}
"""``offload`` -> the value that replaces it when the device runs out of memory."""


def fall_back(pipeline: HuMoPipeline, placement: Placement, device: str) -> Placement | None:
    """Move a pipeline's weights to the next placement that needs less device memory, in the middle of a clip.

    Args:
        pipeline: placed by `apply_placement`.
        placement: the current placement.
        device: device that the pipeline computes on.

    Returns:
        the new placement; None if there is none.
    """
    offload = FALLBACKS.get(placement.offload)
    if offload is None:
        return None
    pipeline.remove_all_hooks()
    pipeline.to("cpu")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _offload(pipeline, offload, device)
    return Placement(offload, placement.quantize)
