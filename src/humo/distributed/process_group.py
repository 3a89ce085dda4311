"""Several processes at one job, started by torchrun: who this one is among all, and what they share.

Without torchrun there is one, and torch.distributed is never started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from humo.checkpoints.model_folder import open_model_folder
from humo.errors import RequestError
from humo.inference.denoise import GuidanceParallel
from humo.inference.long_video import WindowCache
from humo.inference.pipeline import HuMoPipeline
from humo.model.context_parallel import ContextParallel
from humo.request import GenerationPlan
from humo.runtime.device import choose_device
from humo.runtime.loading import load_pipeline


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among all: its number, how many there are, and its device."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def device_type(self) -> str:
        """``cuda`` or ``cpu``."""
        return self.device.partition(":")[0]

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """This process's part of ``count`` things.

        Raises:
            RequestError: they cannot be divided evenly.
        """
        if count % self.size:
            problem = f"{count} samples a pass cannot be divided into {self.size} processes"
            raise RequestError("batch", problem, f"give a multiple of {self.size}, or start fewer")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, mine: Any) -> list[Any]:
        """Every process's value, in order."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def broadcast_flag(self, word: bool) -> bool:
        """The first one's word."""
        return bool(self.gather(word)[0])

    def barrier(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = ProcessGroup()
"""One process, on the CPU."""


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the others, if torchrun started this process.

    Args:
        device: as in a recipe.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = choose_device(device)
    if size == 1:
        yield ProcessGroup(device=place)
        return
    if place == "cuda":
        place = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.startswith("cuda") else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """How the ranks divide a clip: passes of a step among ``branches``, places of the frame among ``places`` each."""

    guidance: int
    context: int


def choose_parallel_layout(parallel: str, size: int, num_passes: int) -> ParallelLayout:
    """How many ranks make different passes, and how many share each.

    Args:
        asked: ``auto``, or the two numbers as ``2x4``.
        size: ranks in all.
        passes: of most steps.

    Raises:
        RequestError: not such words, or other than all ranks.
    """
    if parallel == "auto":
        even = [count for count in range(1, size + 1) if size % count == 0]
        branches = max(even, key=lambda count: (num_passes / (count * -(-num_passes // count)), count))
        return ParallelLayout(branches, size // branches)
    numbers = parallel.split("x")
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise RequestError("--parallel", f"{parallel!r} is not allowed", "give auto, or passes x places, as 2x4")
    layout = ParallelLayout(*map(int, numbers))
    if layout.guidance * layout.context != size:
        problem = f"{parallel} is for {layout.guidance * layout.context} processes, and there are {size}"
        raise RequestError("--parallel", problem, f"give auto, or two numbers whose product is {size}")
    return layout


class ParallelGeneration:
    """The ranks at work on one clip.

    Args:
        here: this process.
        asked: see `choose_layout`.
        shard: divide the weights of the network and of the text encoder, too.
    """

    def __init__(self, group: ProcessGroup, parallel: str = "auto", *, fsdp: bool = False) -> None:
        self.group, self._parallel, self._fsdp = group, parallel, fsdp
        self._layout: ParallelLayout | None = None

    def configure(self, pipeline: HuMoPipeline, plan: GenerationPlan) -> None:
        """Let a pipeline do this rank's part of a clip, from now on.

        Raises:
            RequestError: the ranks cannot divide it.
        """
        num_passes = max(len(turn.rungs) for turn in plan.guidance.plan_steps(plan.timesteps))
        layout = choose_parallel_layout(self._parallel, self.group.size, num_passes)
        places = plan.geometry.tokens_per_frame
        if layout.context > places:
            problem = f"{layout.context} processes cannot share the {places} places of a frame"
            raise RequestError("--parallel", problem, "start fewer, make a larger video, or give more to the passes")
        if layout == self._layout:
            return
        mesh = init_device_mesh(self.group.device_type, (layout.guidance, layout.context))
        branch, place = mesh.get_coordinate() or (0, 0)
        pipeline.branches = GuidanceParallel(branch, layout.guidance, mesh.get_group(0))
        pipeline.transformer.split = (
            ContextParallel(place, layout.context, mesh.get_group(1)) if layout.context > 1 else None
        )
        self._layout = layout

    def load(self, folder: Path, dtype: str) -> HuMoPipeline:
        """The pipeline of a model folder on this rank's device, the weights of its large parts shared if so asked.

        Args:
            folder, dtype: as `load_pipeline` takes them.

        Raises:
            CheckpointError: as `load_pipeline`.
            RequestError: the weights of a quantized network were to be shared.
        """
        if self._fsdp and open_model_folder(folder).components["transformer"].quantized:
            problem = "divides weights that are not quantized, and this network's are"
            raise RequestError("--fsdp", problem, "leave it out: each process has all of them, which are small")
        pipeline = load_pipeline(folder, device="cpu", dtype=dtype)
        if not self._fsdp:
            placed: HuMoPipeline = pipeline.to(self.group.device)
            return placed
        mesh = init_device_mesh(self.group.device_type, (self.group.size,))
        transformer, text_encoder = pipeline.transformer, pipeline.text_encoder
        for part, blocks in ((transformer, transformer.blocks), (text_encoder, text_encoder.encoder.block)):
            for module in (*blocks, part):
                # the small float32 layers of a lower precision's blocks stay whole: one group has one type
                other = {weight for weight in module.parameters() if weight.dtype != part.dtype}
                for weight in other:
                    weight.data = weight.data.to(self.group.device)
                fully_shard(module, mesh=mesh, ignored_params=other)
        for part in (pipeline.vae, pipeline.audio_encoder):
            part.to(self.group.device)
        return pipeline

    def window_cache(self, shelf: WindowCache) -> BroadcastWindowCache:
        """What the first rank keeps of a long clip, for all."""
        return BroadcastWindowCache(shelf, self.group)


@dataclass(frozen=True)
class BroadcastWindowCache:
    """What the first rank keeps of a long clip, for all: they need not see its disk.

    Args:
        shelf: the first one's; the others' is not looked at.
        here: this process.
    """

    shelf: WindowCache
    group: ProcessGroup

    def get(self, number: int) -> Tensor | None:
        """A window's latents (B, C, L, H, W), if the first rank has them."""
        found = self.shelf.get(number) if self.group.is_main else None
        shape = self.group.gather(None if found is None else list(found.shape))[0]
        if shape is None:
            return None
        latents = (torch.empty(shape) if found is None else found.float()).to(self.group.device)
        dist.broadcast(latents, src=0)
        return latents

    def put(self, number: int, latents: Tensor) -> None:
        """Keep a window's latents, if this is the first rank."""
        if self.group.is_main:
            self.shelf.put(number, latents)
