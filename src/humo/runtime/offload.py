"""Place a pipeline's weights on its devices, and move them to a smaller placement when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from humo.checkpoints.model_folder import NETWORK
from humo.inference.execution import Execution
from humo.inference.pipeline import HuMoPipeline
from humo.model.tiling import set_tile
from humo.runtime.block_streaming import RowEmbedding, WeightStreams
from humo.runtime.host_blocks import HostBlocks, PackedBlock, copies_to
from humo.runtime.placement import TILES, Placement

BLOCK_LISTS = {"text_encoder": "encoder.block", "audio_encoder": "layers", "transformer": "blocks"}
"""Component -> path of the list of its blocks, whose weights can wait in the host's memory or on the disk."""


def apply_placement(pipeline: HuMoPipeline, placement: Placement, device: str) -> None:
    """Place a pipeline's weights, all of which are in the host's memory.

    Args:
        pipeline: as loaded.
        placement: any whose ``offload`` is not ``disk``, which `humo.runtime.loading.load_streamed` applies.
        device: device that the pipeline computes on.
    """
    if placement.offload == "none":
        pipeline.to(device)
    else:
        stream_from_host(pipeline, torch.device(device))
    adjust_placement(pipeline, placement)


def adjust_placement(pipeline: HuMoPipeline, placement: Placement) -> None:
    """Set what a clip determines of a placement: the autoencoder's tiles and the blocks that stay on the device.

    Args:
        pipeline: placed before, with the same ``offload`` and ``quantize``.
        placement: of the clip.

    Raises:
        RequestError: tiles are smaller than the field of the autoencoder's convolutions.
    """
    set_tile(pipeline.vae, placement.tile)
    if pipeline.execution.streamed is not None:
        pipeline.execution.streamed.keep(None if placement.offload == "model" else placement.resident_blocks)


def stream_from_host(pipeline: HuMoPipeline, device: torch.device) -> None:
    """Move the blocks of a pipeline to the host's memory, to be copied to the device when they are called.

    Layers outside the blocks and the autoencoder stay on the device; the token embedding stays on the host.

    Args:
        pipeline: its weights are in the host's memory or on the device.
        device: device that the pipeline computes on.
    """
    embed_on_host(pipeline.text_encoder)
    copies, streams = copies_to(device), WeightStreams()
    for name, path in BLOCK_LISTS.items():
        component = getattr(pipeline, name)
        blocks = component.get_submodule(path)
        source = HostBlocks([pack(block) for block in blocks], copies)
        streams.add(blocks, source, is_network=name == NETWORK)
        move_outside(component, path, device)
    pipeline.vae.to(device)
    pipeline.execution = Execution(device=device, streamed=streams)


def pack(block: nn.Module) -> PackedBlock:
    """Move the weights of a block to a buffer on the host; the block's are on the meta device afterwards."""
    weights = block.state_dict()
    packed = PackedBlock(weights)
    block.load_state_dict({name: weight.to("meta") for name, weight in weights.items()}, assign=True)
    return packed


def embed_on_host(text_encoder: Any) -> None:
    """Let the token embedding of a text encoder stay on the host; only the rows of the prompt are moved."""
    matrix: Tensor = text_encoder.shared.weight.detach().cpu()
    set_embedding(text_encoder, lambda rows: matrix[list(rows)])


def set_embedding(text_encoder: Any, rows: Callable[[Sequence[int]], Tensor]) -> None:
    """Replace the token embedding of a text encoder.

    Args:
        text_encoder: umT5's.
        rows: as in `RowEmbedding`.
    """
    text_encoder.shared = text_encoder.encoder.embed_tokens = RowEmbedding(rows)


def move_outside(component: nn.Module, block_list: str, device: torch.device) -> None:
    """Move the weights of a component that are outside its blocks to a device."""
    for name, module in component.named_modules():
        if name == block_list or name.startswith(f"{block_list}."):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(device)
        for buffer_name, buffer in module.named_buffers(recurse=False):
            setattr(module, buffer_name, buffer.to(device))


def smaller_placement(placement: Placement, blocks: int) -> Placement | None:
    """Return the next placement that needs less memory of the device for the network; None if there is none.

    Args:
        placement: the current one.
        blocks: number of blocks of the network.
    """
    if placement.offload == "none":
        return replace(placement, offload="model")
    if placement.offload == "model":
        return replace(placement, offload="group", resident_blocks=blocks // 2)
    if placement.resident_blocks:
        return replace(placement, resident_blocks=placement.resident_blocks // 2)
    return None


def fall_back(pipeline: HuMoPipeline, placement: Placement, device: str) -> Placement | None:
    """Move a pipeline's weights to the next placement that needs less device memory, in the middle of a clip.

    Args:
        pipeline: placed by `apply_placement` or `humo.runtime.loading.load_streamed`.
        placement: the current placement.
        device: device that the pipeline computes on.

    Returns:
        the new placement; None if there is none.
    """
    smaller = smaller_placement(placement, len(pipeline.transformer.blocks))
    if smaller is None:
        return None
    if placement.offload == "none":
        stream_from_host(pipeline, torch.device(device))
    adjust_placement(pipeline, smaller)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return smaller


def smaller_tile(tile: int) -> int | None:
    """Return the next smaller side of the autoencoder's tiles; None if there is none.

    Args:
        tile: the current side in pixels; 0 for whole frames.
    """
    return next((one for one in TILES if one and (tile == 0 or one < tile)), None)
