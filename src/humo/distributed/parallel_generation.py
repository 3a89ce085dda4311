"""Generate one clip with several processes: guidance passes and tokens are divided among them, weights by FSDP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from humo.checkpoints.model_folder import open_model_folder
from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.inference.execution import Execution, GuidanceParallel
from humo.inference.pipeline import HuMoPipeline
from humo.inference.window_cache import WindowCache
from humo.model.context_parallel import ContextParallel
from humo.plan import GenerationPlan
from humo.runtime.loading import load_pipeline


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """Division of a clip among ranks.

    Args:
        guidance: groups of ranks that compute different guidance passes of a step (CFG parallel).
        context: ranks in each group, which divide the token positions of a frame (context parallel).
    """

    guidance: int
    context: int


def choose_parallel_layout(parallel: str, size: int, num_passes: int) -> ParallelLayout:
    """Return the division of a clip among ranks.

    Args:
        parallel: ``auto``, or two numbers as ``2x4``: guidance x context.
        size: number of ranks.
        num_passes: guidance passes of most steps.

    Raises:
        RequestError: ``parallel`` has another form, or the product is not the number of ranks.
    """
    if parallel == "auto":
        divisors = [count for count in range(1, size + 1) if size % count == 0]
        guidance = max(divisors, key=lambda count: (num_passes / (count * -(-num_passes // count)), count))
        return ParallelLayout(guidance, size // guidance)
    numbers = parallel.split("x")
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) for number in numbers):
        problem = f"{parallel!r} is not a division of processes"
        raise RequestError("--parallel", problem, "use --parallel auto, or GUIDANCExCONTEXT such as --parallel 2x4")
    layout = ParallelLayout(*map(int, numbers))
    if layout.guidance * layout.context != size:
        problem = f"{parallel!r} needs {layout.guidance * layout.context} processes, but {size} are running"
        raise RequestError("--parallel", problem, f"use --parallel auto, or two numbers whose product is {size}")
    return layout


class ParallelGeneration:
    """The ranks that generate one clip together.

    Args:
        group: the processes.
        parallel: as in `choose_parallel_layout`.
        fsdp: shard the weights of the transformer and of the text encoder among the ranks.
    """

    def __init__(self, group: ProcessGroup, parallel: str = "auto", *, fsdp: bool = False) -> None:
        self.group, self._parallel, self._fsdp = group, parallel, fsdp
        self._layout: ParallelLayout | None = None
        self._execution = Execution()

    def configure(self, plan: GenerationPlan) -> Execution:
        """Return how this rank runs the network for a clip: its passes, and its tokens of each pass.

        Raises:
            RequestError: the ranks cannot divide the clip.
        """
        num_passes = max(len(step.rungs) for step in plan.guidance.plan_steps(plan.timesteps))
        layout = choose_parallel_layout(self._parallel, self.group.size, num_passes)
        tokens = plan.geometry.tokens_per_frame
        if layout.context > tokens:
            problem = f"{layout.context} processes cannot divide the {tokens} tokens of a frame"
            remedy = "start fewer processes, generate a larger video, or assign more processes to guidance"
            raise RequestError("--parallel", problem, remedy)
        if layout == self._layout:
            return self._execution
        mesh = init_device_mesh(self.group.device_type, (layout.guidance, layout.context))
        guidance_rank, context_rank = mesh.get_coordinate() or (0, 0)
        guidance = GuidanceParallel(guidance_rank, layout.guidance, mesh.get_group(0))
        context = ContextParallel(context_rank, layout.context, mesh.get_group(1)) if layout.context > 1 else None
        self._layout, self._execution = layout, Execution(guidance_parallel=guidance, context_parallel=context)
        return self._execution

    def load(self, folder: Path, dtype: str) -> HuMoPipeline:
        """Load the pipeline of a model folder onto this rank's device; FSDP shards the weights of large components.

        Args:
            folder, dtype: as in `load_pipeline`.

        Raises:
            CheckpointError: as in `load_pipeline`.
            RequestError: the weights are to be sharded, but the network is stored quantized.
        """
        if self._fsdp and open_model_folder(folder).components["transformer"].quantized:
            problem = "cannot shard the weights of a network that is stored quantized"
            raise RequestError("--fsdp", problem, "drop --fsdp")
        pipeline = load_pipeline(folder, device="cpu", dtype=dtype)
        if not self._fsdp:
            placed: HuMoPipeline = pipeline.to(self.group.device)
            return placed
        mesh = init_device_mesh(self.group.device_type, (self.group.size,))
        transformer, text_encoder = pipeline.transformer, pipeline.text_encoder
        for component, blocks in ((transformer, transformer.blocks), (text_encoder, text_encoder.encoder.block)):
            for module in (*blocks, component):
                # FSDP shards weights of one type together, so that float32 layers of lower-precision blocks stay whole
                other = {weight for weight in module.parameters() if weight.dtype != component.dtype}
                for weight in other:
                    weight.data = weight.data.to(self.group.device)
                fully_shard(module, mesh=mesh, ignored_params=other)
        for component in (pipeline.vae, pipeline.audio_encoder):
            component.to(self.group.device)
        return pipeline

    def window_cache(self, window_cache: WindowCache) -> BroadcastWindowCache:
        """Return a cache of a long video's windows that all ranks share."""
        return BroadcastWindowCache(window_cache, self.group)


@dataclass(frozen=True)
class BroadcastWindowCache:
    """Window cache of the main rank, whose windows are broadcast to the others; they need no access to its disk.

    Args:
        window_cache: cache of the main rank; those of the other ranks are not used.
        group: the processes.
    """

    window_cache: WindowCache
    group: ProcessGroup

    def get(self, number: int) -> Tensor | None:
        """Return a window's latents (B, C, L, H, W) in every rank, or None if the main rank has none."""
        cached_latents = self.window_cache.get(number) if self.group.is_main else None
        shape = self.group.gather(None if cached_latents is None else list(cached_latents.shape))[0]
        if shape is None:
            return None
        latents = (torch.empty(shape) if cached_latents is None else cached_latents.float()).to(self.group.device)
        dist.broadcast(latents, src=0)
        return latents

    def put(self, number: int, latents: Tensor) -> None:
        """Store a window's latents (B, C, L, H, W), in the main rank only."""
        if self.group.is_main:
            self.window_cache.put(number, latents)
