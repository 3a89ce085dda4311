"""Settings with which a pipeline runs its network on its devices; a loader, an engine or a rank creates them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from humo.model.context_parallel import ContextParallel, Group
from humo.progress import never_stop


class GuidanceParallel(Group):
    """Divides the guidance passes of a step among ranks."""

    def assigned(self, count: int) -> list[int]:
        """Numbers of the passes that this rank computes, one per round.

        A rank without a pass of its own repeats the last one: sharded weights need every rank in every round.

        Args:
            count: passes of the step.
        """
        return [min(start + self.rank, count - 1) for start in range(0, count, self.size)]

    def gather_passes(self, velocity: Tensor) -> list[Tensor]:
        """Return the velocities of one round, in the order of the passes."""
        return [velocity] if self.size == 1 else self.gather(velocity.contiguous())


SINGLE_PROCESS = GuidanceParallel()
"""One process computes all passes."""


class StreamedWeights(Protocol):
    """Weights of blocks that wait in the host's memory or on the disk."""

    def release(self) -> None:
        """Free the device's memory of all blocks; the next pass loads them again."""

    def keep(self, resident_blocks: int | None) -> None:
        """Set how many of the network's blocks stay on the device; None for all blocks of all components."""


@dataclass(frozen=True)
class Execution:
    """Settings with which a pipeline runs its network.

    Args:
        device: device that the pipeline computes on, if its weights wait elsewhere.
        streamed: the blocks that wait elsewhere; None: all weights are on the device, or diffusers moves them.
        on_out_of_memory: is called when the device's memory runs out in a pass. True: memory was freed, run it again.
        on_out_of_memory_in_decoder: the same for the first segment that is decoded. True: tiles are smaller now.
        guidance_parallel: divides the passes of a step among ranks.
        context_parallel: divides the tokens of a pass among ranks; None: each rank has all tokens.
        batch_passes: run the passes of a step as one batch. None: only where a pass has few tokens.
    """

    device: torch.device | None = None
    streamed: StreamedWeights | None = None
    on_out_of_memory: Callable[[], bool] = never_stop
    on_out_of_memory_in_decoder: Callable[[], bool] = never_stop
    guidance_parallel: GuidanceParallel = SINGLE_PROCESS
    context_parallel: ContextParallel | None = None
    batch_passes: bool | None = None

    @property
    def processes(self) -> int:
        """Number of ranks that work on one clip."""
        context = 1 if self.context_parallel is None else self.context_parallel.size
        return self.guidance_parallel.size * context
