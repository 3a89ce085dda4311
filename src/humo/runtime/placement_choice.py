"""Estimate the memory of each placement for a clip, and choose the fastest that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from humo.checkpoints.architecture import Architecture, TransformerArchitecture
from humo.checkpoints.lora_store import open_lora
from humo.checkpoints.model_folder import NETWORK, ModelFolder
from humo.errors import RequestError
from humo.geometry import Geometry
from humo.inference.lora_file import LoraFile, lora_on_meta
from humo.loras import parse_lora
from humo.model.tiling import check_tile
from humo.plan import GenerationPlan
from humo.runtime.memory_estimate import (
    COMPONENT_OF_PHASE,
    NO_ADDITIONS,
    MemoryEstimate,
    NetworkAdditions,
    autoencoder_on_meta,
    estimate_memory,
    estimate_quantized,
)
from humo.runtime.placement import (
    ANY,
    AUTOENCODER,
    QUANT_TYPE_OF,
    TILES,
    Choice,
    Placement,
    candidate_placements,
    check_placement,
    check_quantized,
)

NO_ESTIMATES: Mapping[str, MemoryEstimate] = {}
"""Default of `estimate_placements`: no estimates of quantized networks."""

PROCESS_BYTES = 560 * 2**20
"""Bytes of the interpreter, the libraries and a small video's frames; measured on Linux with torch for CPUs."""

CONTEXT_BYTES = 600 * 2**20
"""Bytes that CUDA reserves for itself; an assumption that was not measured."""

AMPLE_FACTOR = 8
"""The memory estimate is skipped if free memory is at least this many times the weights."""


@dataclass(frozen=True, slots=True)
class PlacementEstimate:
    """Estimated memory of a placement for a clip.

    Args:
        placement: the placement.
        device, host: peak bytes; on a CPU ``host`` counts all and ``device`` is 0.
        phase: the phase with the peak memory of the device.
        fits: whether both fit into the available memory.
    """

    placement: Placement
    device: int
    host: int
    phase: str
    fits: bool


def estimate_quantized_placements(
    estimate: MemoryEstimate,
    architecture: Architecture,
    geometry: Geometry,
    dtype: torch.dtype,
    additions: NetworkAdditions = NO_ADDITIONS,
) -> dict[str, MemoryEstimate]:
    """Estimate a clip's memory for each value of ``quantize`` that quantizes the network while it is loaded.

    Args:
        estimate: estimate of the clip with the network as it is stored.
        architecture: architecture of the network.
        geometry, dtype, additions: as in `estimate_memory`.

    Returns:
        value of ``quantize`` -> estimate; empty if the network is stored quantized.
    """
    if estimate.quantized:
        return {}
    return {
        name: estimate_quantized(estimate, architecture, geometry, dtype, quant_type, additions)
        for name, quant_type in QUANT_TYPE_OF.items()
    }


def fit_to_memory(
    placement: Placement, estimate: MemoryEstimate, memory: int, choice: Choice, *, shared_memory: bool = False
) -> Placement:
    """Return a placement with the largest tiles, and the most blocks on the device, that fit.

    Args:
        placement: its tile and resident blocks are replaced, unless the choice has them.
        estimate: estimate of the clip.
        memory: available bytes of the device.
        choice: what a request fixes.
        shared_memory: as in `Placement.device_bytes`.
    """
    placement = replace(placement, resident_blocks=0)
    tiles = TILES if choice.tile is None else (choice.tile,)
    weights = placement.weights_on_device(estimate, shared_memory=shared_memory)
    if choice.tile is None and not placement.is_streamed and max(weights.values()) > memory:
        tiles = TILES[:1]  # the weights alone are too much for it
    needed: dict[int, int] = {}
    for tile in tiles:
        phases = replace(placement, tile=tile).device_bytes(estimate, shared_memory=shared_memory)
        needed[tile] = max(phases[phase] for phase, component in COMPONENT_OF_PHASE.items() if component == AUTOENCODER)
        if needed[tile] <= memory:
            break
    fitting = [tile for tile, size in needed.items() if size <= memory]
    placement = replace(placement, tile=fitting[0] if fitting else min(needed, key=lambda tile: needed[tile]))
    if not placement.is_streamed:
        return placement
    blocks = estimate.weights[NETWORK].blocks
    if choice.resident_blocks is not None:
        return replace(placement, resident_blocks=min(choice.resident_blocks, blocks))
    for resident in range(blocks, 0, -1):
        fuller = replace(placement, resident_blocks=resident)
        if fuller.device_bytes(estimate, shared_memory=shared_memory)["denoise"] <= memory:
            return fuller
    return placement


def estimate_placements(
    estimate: MemoryEstimate,
    device_type: str,
    device_memory: int,
    host_memory: int,
    *,
    quantized: Mapping[str, MemoryEstimate] = NO_ESTIMATES,
    choice: Choice = ANY,
) -> list[PlacementEstimate]:
    """Estimate the memory of each placement, the fastest first.

    Args:
        estimate: estimate of the clip with the network as it is stored.
        device_type: ``cuda`` or ``cpu``.
        device_memory, host_memory: available bytes; on a CPU only ``host_memory`` counts.
        quantized: result of `estimate_quantized_placements`; placements whose estimate it lacks are omitted.
        choice: what a request fixes.
    """
    estimates = []
    is_cpu = device_type == "cpu"
    reserved, memory = (PROCESS_BYTES, host_memory) if is_cpu else (CONTEXT_BYTES, device_memory)
    for candidate in candidate_placements(device_type, choice):
        if estimate.quantized and not candidate.is_exact:
            continue
        if candidate.quant_type is not None and candidate.quantize not in quantized:
            continue
        clip = quantized.get(candidate.quantize, estimate)
        placement = fit_to_memory(candidate, clip, memory - reserved, choice, shared_memory=is_cpu)
        phases = placement.device_bytes(clip, shared_memory=is_cpu)
        phase = max(phases, key=lambda one: phases[one])
        device = reserved + phases[phase]
        host = device if is_cpu else PROCESS_BYTES + placement.host_bytes(clip)
        fits = device <= memory and host <= host_memory
        estimates.append(PlacementEstimate(placement, 0 if is_cpu else device, host, phase, fits))
    return estimates


def fastest_placement(
    estimates: Sequence[PlacementEstimate], device_type: str, device_memory: int, host_memory: int
) -> PlacementEstimate:
    """Return the fastest placement that fits into the available memory.

    Args:
        estimates: result of `estimate_placements`.
        device_type, device_memory, host_memory: as in `estimate_placements`.

    Raises:
        RequestError: no placement fits.
    """
    for one in estimates:
        if one.fits:
            return one
    least = min(estimates, key=lambda one: (one.device, one.host))
    needed = _format_sizes(device_type, least.device, least.host)
    available = _format_sizes(device_type, device_memory, host_memory)
    problem = f"{available} is too little because even {least.placement} needs {needed}"
    raise RequestError("memory", problem, REDUCE_MEMORY)


REDUCE_MEMORY = "make a smaller or shorter video, or a long one in shorter windows (--window)"
"""Remedy of errors about memory."""


def _format_sizes(device_type: str, device: int, host: int) -> str:
    host_size = f"{host / 1e9:.1f} GB"
    return host_size if device_type == "cpu" else f"{device / 1e9:.1f} GB on the GPU and {host_size} on the host"


def choose_placement(
    plan: GenerationPlan,
    model: ModelFolder,
    device: str,
    dtype: str,
    available: tuple[int, int],
    loaded: Placement | None = None,
) -> Placement:
    """Return the fastest placement that a request allows and that fits into memory.

    A placement that the request fixes is not refused: its tiles and resident blocks are chosen, and the rest is tried.

    Args:
        plan: plan of the clip.
        model: the model folder.
        device, dtype: as chosen by `choose_device` and `choose_dtype`.
        available: free bytes of the device and of the host without the model.
        loaded: placement of the model if it is loaded; another is chosen only if it does not fit.

    Raises:
        RequestError: the device does not support the request's placement, no placement fits, or tiles are too small.
    """
    request = plan.request
    check_placement(request.offload, request.quantize, device)
    check_quantized(request.quantize, model)
    if request.tile:
        check_tile(request.tile, autoencoder_on_meta(model.architectures["vae"]))
    choice = Choice(request.offload, request.quantize, request.tile, request.resident_blocks)
    candidates = candidate_placements(device, choice)
    if device == "mps" or model.bytes * AMPLE_FACTOR < available[0 if device == "cuda" else 1]:
        return replace(candidates[0], tile=choice.tile or 0, resident_blocks=choice.resident_blocks or 0)

    estimates = estimate_plan(plan, model, device, dtype, available, choice)
    if len(candidates) == 1:
        return estimates[0].placement
    if loaded is not None:
        estimates.sort(key=lambda one: not one.placement.loads_as(loaded))
    return fastest_placement(estimates, device, *available).placement


def read_lora_sizes(files: Sequence[Path], network: Architecture) -> tuple[LoraFile, ...]:
    """Return LoRAs without numbers, to estimate their memory.

    Args:
        files: their files.
        network: architecture of the network.

    Raises:
        CheckpointError: a file is damaged, or for another network.
    """
    assert isinstance(network, TransformerArchitecture)
    return tuple(lora_on_meta(open_lora(file), network) for file in files)


def estimate_plan(
    plan: GenerationPlan, model: ModelFolder, device: str, dtype: str, available: tuple[int, int], choice: Choice
) -> list[PlacementEstimate]:
    """Estimate the memory of a clip in each placement that a request allows, the fastest first.

    Args:
        plan, model, device, dtype, available: as in `choose_placement`.
        choice: what the request fixes.
    """
    request = plan.request
    passes = {rung.keep for step in plan.guidance.plan_steps(plan.timesteps) for rung, _ in step.rungs}
    geometry, precision = plan.window_geometry, getattr(torch, dtype)
    network = model.architectures[NETWORK]
    files = [Path(parse_lora(lora).name) for lora in request.loras]
    additions = NetworkAdditions(request.cache, read_lora_sizes(files, network))
    estimate = estimate_memory(
        model.architectures,
        geometry,
        plan.preset.reference_injection,
        precision,
        len(passes),
        additions,
        {name: component.quant_types for name, component in model.components.items()},
        len(plan.windows),
    )
    quantized = estimate_quantized_placements(estimate, network, geometry, precision, additions)
    return estimate_placements(estimate, device, *available, quantized=quantized, choice=choice)
