"""List the placements of weights during generation, estimate the memory of each, and choose the fastest that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from humo.checkpoints.architecture import Architecture
from humo.checkpoints.model_folder import ModelFolder
from humo.errors import RequestError
from humo.geometry import Geometry
from humo.plan import GenerationPlan
from humo.request import CacheName, OffloadName, QuantizeName
from humo.runtime.device import available_memory
from humo.runtime.memory_estimate import (
    COMPONENT_OF_PHASE,
    MemoryEstimate,
    WeightBytes,
    estimate_memory,
    estimate_quantized,
)

NO_ESTIMATES: Mapping[str, MemoryEstimate] = {}
"""Default of `estimate_placements`: no estimates of quantized networks."""

PROCESS_BYTES = 560 * 2**20
"""Bytes of the interpreter, the libraries and a small video's frames; measured on Linux with torch for CPUs."""

CONTEXT_BYTES = 600 * 2**20
"""Bytes that CUDA reserves for itself; an assumption that was not measured."""

MEMORY_MAPPED = "vae"
"""Component that computes with its weights as they are stored.

On a CPU its file is memory-mapped, and its bytes count from its first use.
"""

QUANT_TYPE_OF: Mapping[str, str] = {"int8": "Q8_0", "int4": "Q4_0"}
"""Value of ``quantize`` -> the GGUF type that the network's blocks are quantized to while they are loaded."""

FP8_SHARE = 0.5
"""Bytes of a network block in fp8, as a share of its bytes in bfloat16."""

OFFLOAD_TITLES: Mapping[str, str] = {
    "none": "all components on the device",
    "model": "each component on the device while it computes",
    "group": "blocks streamed from the host's memory",
    "disk": "blocks streamed from the disk",
}
"""Value of ``offload`` -> description."""

QUANTIZE_TITLES: Mapping[str, str] = {
    "none": "",
    "fp8": "network blocks stored in fp8",
    "int8": "network blocks quantized to int8",
    "int4": "network blocks quantized to int4",
}
"""Value of ``quantize`` -> description."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A combination of ``offload`` and ``quantize``: where idle weights are stored, and how the network is quantized.

    Args:
        offload: ``none``, ``model``, ``group`` or ``disk``, as in a request.
        quantize: ``none``, ``fp8``, ``int8`` or ``int4``, as in a request.
    """

    offload: OffloadName
    quantize: QuantizeName = "none"

    def __str__(self) -> str:
        """Return the command-line options that select it."""
        quantize = "" if self.is_exact else f" --quantize {self.quantize}"
        return f"--offload {self.offload}{quantize}"

    @property
    def title(self) -> str:
        """Description in plain English."""
        return ", ".join(filter(None, (OFFLOAD_TITLES[self.offload], QUANTIZE_TITLES[self.quantize])))

    @property
    def is_exact(self) -> bool:
        """True if the network computes with its weights as they are stored in the model folder."""
        return self.quantize == "none"

    @property
    def is_streamed(self) -> bool:
        """True if a component's blocks are loaded one after another while it computes."""
        return self.offload in ("group", "disk")

    def satisfies(self, offload: OffloadName, quantize: QuantizeName) -> bool:
        """Return whether a request allows this placement.

        Args:
            offload, quantize: as in a request; ``auto`` allows any.
        """
        return offload in ("auto", self.offload) and quantize in ("auto", self.quantize)

    @property
    def quant_type(self) -> str | None:
        """GGUF type that the network's blocks are quantized to while they are loaded, if any."""
        return QUANT_TYPE_OF.get(self.quantize)

    def device_bytes(self, estimate: MemoryEstimate, *, shared_memory: bool = False) -> dict[str, int]:
        """Return the peak memory of the device in each phase.

        Args:
            estimate: estimate of the clip.
            shared_memory: the device's memory is the host's, so that idle components count as well.

        Returns:
            phase -> bytes.
        """
        bytes_of_phase = {}
        used = {name for name in estimate.weights if name != MEMORY_MAPPED or not shared_memory}
        for phase, component in COMPONENT_OF_PHASE.items():
            used.add(component)
            if self.is_streamed:
                outside_blocks = sum(
                    one.outside_blocks - one.embedding for name, one in estimate.weights.items() if name in used
                )
                weights = outside_blocks + estimate.weights[component].streaming
            else:
                components = estimate.weights if self.offload == "none" or shared_memory else (component,)
                weights = sum(self._weight_bytes(name, estimate.weights[name]) for name in components)
            kv_cache = estimate.kv_cache if phase == "denoise" and not self.is_streamed else 0
            step_cache = estimate.step_cache if phase == "denoise" else 0
            bytes_of_phase[phase] = weights + estimate.activations[phase] + kv_cache + step_cache
        return bytes_of_phase

    def host_bytes(self, estimate: MemoryEstimate) -> int:
        """Return the bytes of weights in the host's memory, for a device with its own memory."""
        if self.offload == "none":
            return 0
        if self.offload == "disk":
            return max(one.streaming for one in estimate.weights.values())
        return sum(self._weight_bytes(name, one) for name, one in estimate.weights.items())

    def _weight_bytes(self, component: str, weights: WeightBytes) -> int:
        share = FP8_SHARE if component == "transformer" and self.quantize == "fp8" else 1.0
        return weights.outside_blocks + round(weights.block * weights.blocks * share)


GPU_PLACEMENTS = (
    Placement("none"),
    Placement("model"),
    Placement("group"),
    Placement("model", "fp8"),
    Placement("model", "int8"),
    Placement("model", "int4"),
    Placement("disk"),
)
"""Placements among which ``auto`` chooses on a GPU, in the order of preference.

Exact placements come before lossy ones, and faster before slower ones. Streaming from the disk comes last.
"""

CPU_PLACEMENTS = (Placement("none"), Placement("none", "int8"), Placement("none", "int4"), Placement("disk"))
"""Placements among which ``auto`` chooses where the device's memory is the host's, the fastest first."""

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
    cache: CacheName = "none",
) -> dict[str, MemoryEstimate]:
    """Estimate a clip's memory for each value of ``quantize`` that quantizes the network while it is loaded.

    Args:
        estimate: estimate of the clip with the network as it is stored.
        architecture: architecture of the network.
        geometry, dtype, cache: as in `estimate_memory`.

    Returns:
        value of ``quantize`` -> estimate; empty if the network is stored quantized.
    """
    if estimate.quantized:
        return {}
    return {
        name: estimate_quantized(estimate, architecture, geometry, dtype, quant_type, cache)
        for name, quant_type in QUANT_TYPE_OF.items()
    }


def candidate_placements(
    device_type: str, offload: OffloadName = "auto", quantize: QuantizeName = "auto"
) -> list[Placement]:
    """Return the placements that a request allows on a device, the fastest first.

    Args:
        device_type: ``cuda``, ``mps`` or ``cpu``.
        offload, quantize: as in a request; ``auto`` allows any.
    """
    placements = GPU_PLACEMENTS if device_type == "cuda" else CPU_PLACEMENTS
    if offload != "auto" and quantize != "auto":
        return [Placement(offload, quantize)]
    return [one for one in placements if one.satisfies(offload, quantize)]


def estimate_placements(
    estimate: MemoryEstimate,
    device_type: str,
    device_memory: int,
    host_memory: int,
    *,
    quantized: Mapping[str, MemoryEstimate] = NO_ESTIMATES,
    candidates: Sequence[Placement] | None = None,
) -> list[PlacementEstimate]:
    """Estimate the memory of each placement, the fastest first.

    Args:
        estimate: estimate of the clip with the network as it is stored.
        device_type: ``cuda`` or ``cpu``.
        device_memory, host_memory: available bytes; on a CPU only ``host_memory`` counts.
        quantized: result of `estimate_quantized_placements`; placements whose estimate it lacks are omitted.
        candidates: placements to estimate; by default all that ``auto`` chooses among.
    """
    estimates = []
    for placement in candidate_placements(device_type) if candidates is None else candidates:
        if estimate.quantized and not placement.is_exact:
            continue
        if placement.quant_type is not None and placement.quantize not in quantized:
            continue
        clip = quantized.get(placement.quantize, estimate)
        phases = placement.device_bytes(clip, shared_memory=device_type == "cpu")
        phase = max(phases, key=lambda one: phases[one])
        if device_type == "cpu":
            device, host = 0, PROCESS_BYTES + phases[phase]
            fits = host <= host_memory
        else:
            device, host = CONTEXT_BYTES + phases[phase], PROCESS_BYTES + placement.host_bytes(clip)
            fits = device <= device_memory and host <= host_memory
        estimates.append(PlacementEstimate(placement, device, host, phase, fits))
    return estimates


def fastest_placement(
    estimate: MemoryEstimate,
    device_type: str,
    device_memory: int,
    host_memory: int,
    *,
    quantized: Mapping[str, MemoryEstimate] = NO_ESTIMATES,
    candidates: Sequence[Placement] | None = None,
) -> PlacementEstimate:
    """Return the fastest placement that fits into the available memory.

    Args:
        estimate, device_type, device_memory, host_memory, quantized, candidates: as in `estimate_placements`.

    Raises:
        RequestError: no placement fits.
    """
    estimates = estimate_placements(
        estimate, device_type, device_memory, host_memory, quantized=quantized, candidates=candidates
    )
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


def check_placement(offload: OffloadName, quantize: QuantizeName, device: str) -> None:
    """Raise RequestError unless a device supports both values, and they can be combined.

    Args:
        offload, quantize: as in a request.
        device: as chosen by `choose_device`.
    """
    if device != "cuda" and offload in ("model", "group"):
        problem = f"{offload!r} needs a GPU, and the device is {device}"
        raise RequestError("offload", problem, "use --offload none or --offload disk")
    if device != "cuda" and quantize == "fp8":
        problem = f"'fp8' needs a GPU, and the device is {device}"
        raise RequestError("quantize", problem, "use --quantize int8 or --quantize int4")
    if offload == "disk" and quantize in LOSSY:
        problem = f"{quantize!r} cannot be combined with offload 'disk', which streams blocks as they are stored"
        raise RequestError("quantize", problem, "use --offload model, or drop --quantize")
    if offload == "group" and quantize == "fp8":
        problem = "'fp8' cannot be combined with offload 'group'"
        raise RequestError("quantize", problem, "use --quantize int8, or --offload model")


LOSSY = ("fp8", "int8", "int4")
"""Values of ``quantize`` that store the network's blocks in fewer bits than the model folder does."""


def check_quantized(quantize: QuantizeName, model: ModelFolder) -> None:
    """Raise RequestError if a network would be quantized whose weights are stored quantized.

    Args:
        quantize: as in a request.
        model: the model folder.
    """
    if quantize in LOSSY and model.components["transformer"].quantized:
        problem = f"{quantize!r} cannot be applied to a network whose weights are stored quantized"
        raise RequestError("quantize", problem, "drop --quantize")


def choose_placement(plan: GenerationPlan, model: ModelFolder, device: str, dtype: str) -> Placement:
    """Return the fastest placement that a request allows and that fits into memory.

    Args:
        plan: plan of the clip.
        model: the model folder.
        device, dtype: as chosen by `choose_device` and `choose_dtype`.

    Raises:
        RequestError: the device does not support the request's placement, or no placement fits.
    """
    request = plan.request
    check_placement(request.offload, request.quantize, device)
    check_quantized(request.quantize, model)
    candidates = candidate_placements(device, request.offload, request.quantize)
    if len(candidates) == 1:
        return candidates[0]
    available = available_memory(device)
    if device == "mps" or model.bytes * AMPLE_FACTOR < available[0 if device == "cuda" else 1]:
        return candidates[0]

    passes = {rung.keep for step in plan.guidance.plan_steps(plan.timesteps) for rung, _ in step.rungs}
    geometry, precision = plan.window_geometry, getattr(torch, dtype)
    estimate = estimate_memory(
        model.architectures,
        geometry,
        plan.preset.reference_injection,
        precision,
        len(passes),
        request.cache,
        model.components["transformer"].quant_types,
    )
    network = model.architectures["transformer"]
    quantized = estimate_quantized_placements(estimate, network, geometry, precision, request.cache)
    return fastest_placement(estimate, device, *available, quantized=quantized, candidates=candidates).placement
