"""Where weights can lie while a clip is made, what each takes of which memory, and which is the fastest that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from humo.checkpoints.architecture import Structure
from humo.errors import RequestError
from humo.geometry import Geometry
from humo.request import CacheName, PlacementName
from humo.runtime.memory_estimate import PHASES, Needs, Weights, packed_as

NOTHING: Mapping[str, Needs] = {}

PROCESS_BYTES = 560 * 2**20
"""Of the interpreter, the libraries and a small video's frames: measured on Linux with torch for CPUs."""

CONTEXT_BYTES = 600 * 2**20
"""What CUDA keeps for itself, about; not measured here."""

MAPPED = "vae"
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
        kind: that the network's blocks are quantised to when they are loaded.
    """

    name: PlacementName
    title: str
    exact: bool = True
    whole: bool = False
    streams: bool = False
    from_disk: bool = False
    network: float = 1.0
    kind: str | None = None

    def device_bytes(self, needs: Needs, *, together: bool = False) -> dict[str, int]:
        """Phase -> the most that is on the device in it.

        Args:
            needs: of the clip.
            together: the device's memory is the host's, so that a part that is not at work is there, too.
        """
        found = {}
        used = {name for name in needs.weights if name != MAPPED or not together}
        for phase, part in PHASES.items():
            used.add(part)
            if self.streams:
                around = sum(one.around - one.rows for name, one in needs.weights.items() if name in used)
                there = around + needs.weights[part].two_blocks
            else:
                parts = needs.weights if self.whole or together else (part,)
                there = sum(self._all(name, needs.weights[name]) for name in parts)
            offered = needs.offered if phase == "denoise" and not self.streams else 0
            cached = needs.cached if phase == "denoise" else 0
            found[phase] = there + needs.working[phase] + offered + cached
        return found

    def host_bytes(self, needs: Needs) -> int:
        """What a device of its own leaves in the host's memory."""
        if self.whole:
            return 0
        if self.from_disk:
            return max(one.two_blocks for one in needs.weights.values())
        return sum(self._all(name, one) for name, one in needs.weights.items())

    def _all(self, part: str, weights: Weights) -> int:
        share = self.network if part == "transformer" else 1.0
        return weights.around + round(weights.block * weights.blocks * share)


PLACEMENTS: Mapping[str, Placement] = {
    one.name: one
    for one in (
        Placement("resident", "everything on the device", whole=True),
        Placement("offload", "each part on the device while it computes"),
        Placement("host", "blocks streamed from the host's memory", streams=True),
        Placement("fp8", "each part in turn, the network's blocks stored in eight bits", exact=False, network=0.5),
        Placement("int8", "each part in turn, the network's blocks as eight-bit integers", exact=False, kind="Q8_0"),
        Placement("int4", "each part in turn, the network's blocks as four-bit integers", exact=False, kind="Q4_0"),
        Placement("disk", "blocks streamed from the disk", streams=True, from_disk=True),
    )
}
"""From the fastest to the one that takes the least: what is streamed comes while the block before computes."""

ON_A_CPU = ("resident", "int8", "int4", "disk")
"""Those that are something where the device's memory is the host's."""


@dataclass(frozen=True, slots=True)
class Offer:
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


def packed_needs(
    needs: Needs, structure: Structure, geometry: Geometry, dtype: torch.dtype, cache: CacheName = "none"
) -> dict[str, Needs]:
    """What a clip takes with each placement that quantises the network; none where it is quantised already.

    Args:
        needs: as the network is.
        structure: of the network.
        geometry, dtype, cache: as `needs_of` takes them.
    """
    if needs.quantised:
        return {}
    return {
        name: packed_as(needs, structure, geometry, dtype, one.kind, cache)
        for name, one in PLACEMENTS.items()
        if one.kind is not None
    }


def offers(
    needs: Needs, kind: str, device_memory: int, host_memory: int, *, packed: Mapping[str, Needs] = NOTHING
) -> list[Offer]:
    """What each placement takes, from the fastest on.

    Args:
        needs: of the clip.
        kind: of device: ``cuda`` or ``cpu``.
        device_memory, host_memory: bytes there are; on a CPU the latter alone counts.
        packed: what the clip takes with the placements that quantise; they are left out without it.
    """
    found = []
    for name, placement in PLACEMENTS.items():
        if (placement.kind is not None and name not in packed) or (needs.quantised and not placement.exact):
            continue
        its = packed.get(name, needs)
        phases = placement.device_bytes(its, together=kind == "cpu")
        phase = max(phases, key=lambda one: phases[one])
        if kind == "cpu":
            if name in ON_A_CPU:
                most = PROCESS_BYTES + phases[phase]
                found.append(Offer(placement, 0, most, phase, most <= host_memory))
            continue
        device, host = CONTEXT_BYTES + phases[phase], PROCESS_BYTES + placement.host_bytes(its)
        found.append(Offer(placement, device, host, phase, device <= device_memory and host <= host_memory))
    return found


def choose(
    needs: Needs, kind: str, device_memory: int, host_memory: int, *, packed: Mapping[str, Needs] = NOTHING
) -> Offer:
    """The fastest placement that fits.

    Args:
        needs, kind, device_memory, host_memory, packed: as `offers` takes them.

    Raises:
        RequestError: none does.
    """
    found = offers(needs, kind, device_memory, host_memory, packed=packed)
    fitting = [one for one in found if one.fits]
    if not fitting:
        least = min(found, key=lambda one: (one.device, one.host))
        there, wanted = _in_words(kind, device_memory, host_memory), _in_words(kind, least.device, least.host)
        where = "" if kind == "cpu" else " on the GPU and beside it"
        problem = f"{there}{where} are too little: even placement {least.placement.name} takes {wanted}"
        raise RequestError("memory", problem, WHAT_TAKES_LESS)
    return fitting[0]


WHAT_TAKES_LESS = "make a smaller or shorter video, or a long one in shorter windows (--window)"


def _in_words(kind: str, device: int, host: int) -> str:
    host_words = f"{host / 1e9:.1f} GB"
    return host_words if kind == "cpu" else f"{device / 1e9:.1f} and {host_words}"
