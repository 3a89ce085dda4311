"""Where weights can lie while a clip is made, what each takes of which memory, and which is the fastest that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from humo.checkpoints.architecture import Architecture
from humo.checkpoints.model_folder import ModelFolder
from humo.errors import RequestError
from humo.geometry import Geometry
from humo.request import CacheName, GenerationPlan, PlacementName
from humo.runtime.device import available_memory
from humo.runtime.memory_estimate import (
    COMPONENT_OF_PHASE,
    MemoryEstimate,
    WeightBytes,
    estimate_memory,
    estimate_quantized,
)

NO_ESTIMATES: Mapping[str, MemoryEstimate] = {}

PROCESS_BYTES = 560 * 2**20
"""Of the interpreter, the libraries and a small video's frames: measured on Linux with torch for CPUs."""

CONTEXT_BYTES = 600 * 2**20
"""What CUDA keeps for itself, about; not measured here."""

MEMORY_MAPPED = "vae"
"""The part that computes with its weights as they are stored: on a CPU its file is mapped, and read when it is used."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A way of placing weights.

    Args:
        name: in a request.
        title: for people.
        exact: the network computes with the weights as they are.
        whole: all parts are on the device at once; otherwise each comes when its phase does, and goes.
        streams: a part's blocks come one after another while it computes.
        from_disk: what is not on the device is not in the host's memory either.
        network: bytes of the network's blocks, as a share of those of its precision.
        kind: that the network's blocks are quantized to when they are loaded.
    """

    name: PlacementName
    title: str
    exact: bool = True
    whole: bool = False
    streams: bool = False
    from_disk: bool = False
    network: float = 1.0
    quant_type: str | None = None

    def device_bytes(self, estimate: MemoryEstimate, *, shared_memory: bool = False) -> dict[str, int]:
        """Phase -> the most that is on the device in it.

        Args:
            needs: of the clip.
            together: the device's memory is the host's, so that a part that is not at work is there, too.
        """
        found = {}
        used = {name for name in estimate.weights if name != MEMORY_MAPPED or not shared_memory}
        for phase, part in COMPONENT_OF_PHASE.items():
            used.add(part)
            if self.streams:
                outside_blocks = sum(
                    one.outside_blocks - one.embedding for name, one in estimate.weights.items() if name in used
                )
                there = outside_blocks + estimate.weights[part].streaming
            else:
                parts = estimate.weights if self.whole or shared_memory else (part,)
                there = sum(self._all(name, estimate.weights[name]) for name in parts)
            kv_cache = estimate.kv_cache if phase == "denoise" and not self.streams else 0
            step_cache = estimate.step_cache if phase == "denoise" else 0
            found[phase] = there + estimate.activations[phase] + kv_cache + step_cache
        return found

    def host_bytes(self, estimate: MemoryEstimate) -> int:
        """What a device of its own leaves in the host's memory."""
        if self.whole:
            return 0
        if self.from_disk:
            return max(one.streaming for one in estimate.weights.values())
        return sum(self._all(name, one) for name, one in estimate.weights.items())

    def _all(self, part: str, weights: WeightBytes) -> int:
        share = self.network if part == "transformer" else 1.0
        return weights.outside_blocks + round(weights.block * weights.blocks * share)


PLACEMENTS: Mapping[str, Placement] = {
    one.name: one
    for one in (
        Placement("resident", "everything on the device", whole=True),
        Placement("offload", "each part on the device while it computes"),
        Placement("host", "blocks streamed from the host's memory", streams=True),
        Placement("fp8", "each part in turn, the network's blocks stored in eight bits", exact=False, network=0.5),
        Placement(
            "int8", "each part in turn, the network's blocks as eight-bit integers", exact=False, quant_type="Q8_0"
        ),
        Placement(
            "int4", "each part in turn, the network's blocks as four-bit integers", exact=False, quant_type="Q4_0"
        ),
        Placement("disk", "blocks streamed from the disk", streams=True, from_disk=True),
    )
}
"""From the fastest to the one that takes the least: what is streamed comes while the block before computes."""

CPU_PLACEMENTS = ("resident", "int8", "int4", "disk")
"""Those that are something where the device's memory is the host's."""

GPU_PLACEMENTS = ("offload", "host", "fp8")
"""Placements that move weights between two memories."""

LOSSY_PLACEMENTS = ("fp8", "int8", "int4")
"""Placements that keep the network's blocks in fewer bits than they have."""

STREAMED_PLACEMENTS = ("host", "disk")
"""Placements that bring blocks one after another."""

AMPLE_FACTOR = 8
"""A model that would fit this often into what is free needs no looking into."""


@dataclass(frozen=True, slots=True)
class PlacementEstimate:
    """What a placement takes for a clip.

    Args:
        placement: the placement.
        device, host: bytes at most; on a CPU the two are one, and stand in ``host``.
        phase: in which the device holds the most.
        fits: into what there is.
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
    cache: CacheName = "none",
) -> dict[str, MemoryEstimate]:
    """What a clip takes with each placement that quantizes the network; none where it is quantized already.

    Args:
        needs: as the network is.
        structure: of the network.
        geometry, dtype, cache: as `needs_of` takes them.
    """
    if estimate.quantized:
        return {}
    return {
        name: estimate_quantized(estimate, architecture, geometry, dtype, one.quant_type, cache)
        for name, one in PLACEMENTS.items()
        if one.quant_type is not None
    }


def estimate_placements(
    estimate: MemoryEstimate,
    device_type: str,
    device_memory: int,
    host_memory: int,
    *,
    quantized: Mapping[str, MemoryEstimate] = NO_ESTIMATES,
) -> list[PlacementEstimate]:
    """What each placement takes, from the fastest on.

    Args:
        needs: of the clip.
        kind: of device: ``cuda`` or ``cpu``.
        device_memory, host_memory: bytes there are; on a CPU the latter alone counts.
        packed: what the clip takes with the placements that quantize; they are left out without it.
    """
    found = []
    for name, placement in PLACEMENTS.items():
        if (placement.quant_type is not None and name not in quantized) or (estimate.quantized and not placement.exact):
            continue
        its = quantized.get(name, estimate)
        phases = placement.device_bytes(its, shared_memory=device_type == "cpu")
        phase = max(phases, key=lambda one: phases[one])
        if device_type == "cpu":
            if name in CPU_PLACEMENTS:
                most = PROCESS_BYTES + phases[phase]
                found.append(PlacementEstimate(placement, 0, most, phase, most <= host_memory))
            continue
        device, host = CONTEXT_BYTES + phases[phase], PROCESS_BYTES + placement.host_bytes(its)
        found.append(PlacementEstimate(placement, device, host, phase, device <= device_memory and host <= host_memory))
    return found


def fastest_placement(
    estimate: MemoryEstimate,
    device_type: str,
    device_memory: int,
    host_memory: int,
    *,
    quantized: Mapping[str, MemoryEstimate] = NO_ESTIMATES,
) -> PlacementEstimate:
    """The fastest placement that fits.

    Args:
        needs, kind, device_memory, host_memory, packed: as `offers` takes them.

    Raises:
        RequestError: none does.
    """
    found = estimate_placements(estimate, device_type, device_memory, host_memory, quantized=quantized)
    fitting = [one for one in found if one.fits]
    if not fitting:
        least = min(found, key=lambda one: (one.device, one.host))
        there, wanted = (
            _format_sizes(device_type, device_memory, host_memory),
            _format_sizes(device_type, least.device, least.host),
        )
        where = "" if device_type == "cpu" else " on the GPU and beside it"
        problem = f"{there}{where} are too little: even placement {least.placement.name} takes {wanted}"
        raise RequestError("memory", problem, REDUCE_MEMORY)
    return fitting[0]


REDUCE_MEMORY = "make a smaller or shorter video, or a long one in shorter windows (--window)"


def _format_sizes(device_type: str, device: int, host: int) -> str:
    host_words = f"{host / 1e9:.1f} GB"
    return host_words if device_type == "cpu" else f"{device / 1e9:.1f} and {host_words}"


def check_placement(asked: PlacementName, device: str) -> None:
    """Whether a device can have its weights placed so.

    Args:
        asked: as in a request.
        device: as chosen by `choose_device`.

    Raises:
        RequestError: it takes a GPU.
    """
    if asked in GPU_PLACEMENTS and device != "cuda":
        remedy = "allowed: resident, int8, int4, disk, auto"
        raise RequestError("placement", f"{asked!r} is for a GPU, and this is {device}", remedy)


def check_quantized(asked: PlacementName, model: ModelFolder) -> None:
    """Whether a model's network can have its weights placed so, quantized as it may be.

    Args:
        asked: as in a request.
        model: its model folder.

    Raises:
        RequestError: they are quantized already, and would be once more.
    """
    if asked in LOSSY_PLACEMENTS and model.components["transformer"].quantized:
        problem = f"{asked!r} is for a network that is not quantized, as this one is"
        raise RequestError("placement", problem, "take offload, which keeps it as it is")


def choose_placement(plan: GenerationPlan, model: ModelFolder, device: str, dtype: str) -> PlacementName:
    """Where a model's weights had best lie for a clip: what was asked for, or the fastest that fits.

    Args:
        plan: of the clip.
        model: its model folder.
        device, dtype: as chosen by `choose_device` and `choose_dtype`.

    Raises:
        RequestError: nothing fits, or what was asked for needs a GPU.
    """
    asked = plan.request.placement
    check_placement(asked, device)
    check_quantized(asked, model)
    if asked != "auto":
        return asked
    there = available_memory(device)
    if device == "mps" or model.bytes * AMPLE_FACTOR < there[0 if device == "cuda" else 1]:
        return "resident"

    branches = {rung.keep for turn in plan.guidance.plan_steps(plan.timesteps) for rung, _ in turn.rungs}
    sizes = model.architectures, plan.window_geometry, plan.preset.reference_injection, getattr(torch, dtype)
    quant_types = model.components["transformer"].quant_types
    estimate = estimate_memory(*sizes, len(branches), plan.request.cache, quant_types)
    quantized = estimate_quantized_placements(
        estimate, model.architectures["transformer"], sizes[1], sizes[3], plan.request.cache
    )
    return fastest_placement(estimate, device, *there, quantized=quantized).placement.name
