"""Placements: where weights are stored until they are needed, how they are quantized, and the memory that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from humo.checkpoints.model_folder import NETWORK, ModelFolder
from humo.errors import RequestError
from humo.request import OffloadName, QuantizeName
from humo.runtime.memory_estimate import COMPONENT_OF_PHASE, MemoryEstimate, WeightBytes

AUTOENCODER = "vae"
"""Component that computes with its weights as they are stored.

On a CPU its file is memory-mapped, and its bytes count from its first use.
"""

QUANT_TYPE_OF: Mapping[str, str] = {"fp8": "F8_E4M3", "int8": "Q8_0", "int4": "Q4_0"}
"""Value of ``quantize`` -> the type that the network's blocks are quantized to while they are loaded."""

TILES = (0, 512, 384, 256)
"""Sides in pixels of the autoencoder's tiles among which the first that fits is chosen; 0 means whole frames.

All give the same result. Smaller tiles need less memory and more time, because tiles overlap.
"""

OFFLOAD_TITLES: Mapping[str, str] = {
    "none": "all components on the device",
    "model": "each component on the device while it computes",
    "group": "blocks streamed from the host's memory",
    "disk": "blocks streamed from the disk",
}
"""Value of ``offload`` -> description."""

QUANTIZE_TITLES: Mapping[str, str] = {
    "none": "",
    "fp8": "network blocks quantized to fp8",
    "int8": "network blocks quantized to int8",
    "int4": "network blocks quantized to int4",
}
"""Value of ``quantize`` -> description."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Position of weights until they are needed, quantization of the network, and size of tiles.

    Args:
        offload: ``none``, ``model``, ``group`` or ``disk``, as in a request.
        quantize: ``none``, ``fp8``, ``int8`` or ``int4``, as in a request.
        tile: side of the autoencoder's tiles in pixels; 0 for whole frames.
        resident_blocks: network blocks that stay on the device while the others are streamed.
    """

    offload: OffloadName
    quantize: QuantizeName = "none"
    tile: int = 0
    resident_blocks: int = 0

    def __str__(self) -> str:
        """Return the command-line options that select it."""
        options = [f"--offload {self.offload}"]
        options += [f"--resident-blocks {self.resident_blocks}"] if self.resident_blocks else []
        options += [] if self.is_exact else [f"--quantize {self.quantize}"]
        return " ".join(options + ([f"--tile {self.tile}"] if self.tile else []))

    @property
    def title(self) -> str:
        """Description in plain English."""
        tiles = f"frames in tiles of {self.tile} pixels" if self.tile else ""
        return ", ".join(filter(None, (OFFLOAD_TITLES[self.offload], QUANTIZE_TITLES[self.quantize], tiles)))

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

    def loads_as(self, other: Placement) -> bool:
        """Return whether weights that are loaded for one placement fit the other."""
        return (self.offload, self.quantize) == (other.offload, other.quantize)

    @property
    def quant_type(self) -> str | None:
        """Type that the network's blocks are quantized to while they are loaded, if any."""
        return QUANT_TYPE_OF.get(self.quantize)

    def device_bytes(self, estimate: MemoryEstimate, *, shared_memory: bool = False) -> dict[str, int]:
        """Return the peak memory of the device in each phase.

        Args:
            estimate: estimate of the clip.
            shared_memory: the device's memory is the host's, so that idle components count as well.

        Returns:
            phase -> bytes.
        """
        activations = estimate.phases(self.tile, streamed=self.offload != "none")
        weights = self.weights_on_device(estimate, shared_memory=shared_memory)
        carried = estimate.autoencoder(self.tile).carried if shared_memory else 0
        carried_in = dict.fromkeys(("denoise", "decode"), carried)
        return {phase: size + activations[phase] + carried_in.get(phase, 0) for phase, size in weights.items()}

    def weights_on_device(self, estimate: MemoryEstimate, *, shared_memory: bool = False) -> dict[str, int]:
        """Return the bytes of weights and LoRAs on the device in each phase.

        Args:
            estimate, shared_memory: as in `device_bytes`.
        """
        bytes_of_phase = {}
        used = {name for name in estimate.weights if name != AUTOENCODER or not shared_memory}
        for phase, component in COMPONENT_OF_PHASE.items():
            used.add(component)
            if self.offload == "none":
                weights = sum(one.total for one in estimate.weights.values())
            else:
                outside_blocks = sum(
                    one.outside_blocks - one.embedding for name, one in estimate.weights.items() if name in used
                )
                weights = outside_blocks + self.blocks_on_device(component, estimate.weights[component])
            bytes_of_phase[phase] = weights + estimate.loras
        return bytes_of_phase

    def host_bytes(self, estimate: MemoryEstimate) -> int:
        """Return the bytes of weights, LoRAs and carried frames on the host, for a device with its own memory."""
        weights = estimate.weights.values()
        waiting = {"none": 0, "disk": max(one.streaming for one in weights)}
        total = sum(one.total for one in weights)
        return waiting.get(self.offload, total) + estimate.loras + estimate.autoencoder(self.tile).carried

    def blocks_on_device(self, component: str, weights: WeightBytes) -> int:
        """Return the bytes of a component's blocks on the device while it computes."""
        if self.offload == "model":
            return weights.block * weights.blocks
        resident = min(self.resident_blocks, weights.blocks) if component == NETWORK else 0
        streamed = weights.blocks - resident
        if streamed == 0:
            return resident * weights.block
        ahead = weights.prefetched if self.offload == "disk" else weights.block * (streamed > 1)
        return (resident + 1) * weights.block + ahead


class Choice(NamedTuple):
    """Parts of a placement that a request fixes.

    Args:
        offload, quantize: ``auto`` allows any.
        tile, resident_blocks: None allows any.
    """

    offload: OffloadName = "auto"
    quantize: QuantizeName = "auto"
    tile: int | None = None
    resident_blocks: int | None = None


ANY = Choice()
"""A request that fixes nothing."""

GPU_PLACEMENTS = (
    Placement("none"),
    Placement("model"),
    Placement("group"),
    Placement("group", "fp8"),
    Placement("group", "int8"),
    Placement("group", "int4"),
    Placement("disk"),
)
"""Placements among which ``auto`` chooses on a GPU, in the order of preference.

Exact placements come before lossy ones, and faster before slower ones. Streaming from the disk comes last.
"""

CPU_PLACEMENTS = (Placement("none"), Placement("none", "int8"), Placement("none", "int4"), Placement("disk"))
"""Placements among which ``auto`` chooses where the device's memory is the host's, the fastest first."""


def candidate_placements(device_type: str, choice: Choice = ANY) -> list[Placement]:
    """Return the placements that a request allows on a device, the fastest first.

    Args:
        device_type: ``cuda``, ``mps`` or ``cpu``.
        choice: what the request fixes; tiles and resident blocks follow from the memory.
    """
    placements = GPU_PLACEMENTS if device_type == "cuda" else CPU_PLACEMENTS
    offload, quantize = choice.offload, choice.quantize
    if offload != "auto" and quantize != "auto":
        return [Placement(offload, quantize)]
    return [one for one in placements if one.satisfies(offload, quantize)]


def check_placement(offload: OffloadName, quantize: QuantizeName, device: str) -> None:
    """Raise RequestError unless a device supports ``offload``, and it can be combined with ``quantize``.

    Args:
        offload, quantize: as in a request.
        device: as chosen by `choose_device`.
    """
    if device != "cuda" and offload in ("model", "group"):
        problem = f"{offload!r} needs a GPU, and the device is {device}"
        raise RequestError("offload", problem, "use --offload none or --offload disk")
    if offload == "disk" and quantize in LOSSY:
        problem = f"{quantize!r} cannot be combined with offload 'disk', which streams blocks as they are stored"
        raise RequestError("quantize", problem, "use --offload group, or drop --quantize")


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
