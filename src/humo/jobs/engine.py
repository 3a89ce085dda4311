"""The loaded model between jobs: device and placement of a plan, loading, and a fallback where GPU memory runs out.

Torch is imported when a model is loaded.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from humo.errors import RequestError
from humo.jobs.loras import strengths_of
from humo.plan import GenerationPlan
from humo.request import GenerateRequest
from humo.runtime.device import gc_paused

if TYPE_CHECKING:
    from humo.checkpoints.model_folder import ModelFolder
    from humo.distributed.parallel_generation import ParallelGeneration
    from humo.inference.execution import Execution
    from humo.inference.pipeline import HuMoPipeline
    from humo.runtime.placement import Placement
    from humo.runtime.placement_choice import PlacementEstimate


class Engine:
    """Loads pipelines and keeps the last one for the next job with the same model.

    Args:
        parallel: the processes that compute each clip together; a single process by default.
        note: is called with a line about each decision worth reporting.
    """

    def __init__(
        self, parallel: ParallelGeneration | None = None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.parallel, self.note = parallel, note
        self._loaded: LoadedModel | None = None
        self._memory = (0, 0)  # free bytes of device and host before the model was loaded
        self._chosen: dict[Hashable, Placement] = {}  # for each clip that ran with the loaded model

    def resolve_device(self, request: GenerateRequest) -> tuple[str, str]:
        """Return the device and dtype that a request runs with.

        Raises:
            DependencyError: the device is not available.
        """
        from humo.runtime.device import choose_device, choose_dtype

        device = choose_device(request.device)
        return device, choose_dtype(request.dtype, device)

    @gc_paused()  # it imports torch and libraries that build on torch
    def resolve_runtime(self, plan: GenerationPlan) -> GenerationPlan:
        """Return the plan with the device, dtype and placement that it runs with.

        Raises:
            DependencyError: the device, or the package of the attention kernels, is not available.
            RequestError: no placement fits; a placement is given for several processes; or an option cannot be
                combined with the device, the precision or another option.
        """
        from humo.checkpoints.architecture import TransformerArchitecture
        from humo.checkpoints.model_folder import NETWORK, find_model_folder, open_model_folder
        from humo.model.attention_backends import check_attention
        from humo.model.caches import check_cache
        from humo.runtime.placement import Placement
        from humo.runtime.threads import set_threads

        check_cache(plan.request.cache, processes=1 if self.parallel is None else self.parallel.group.size)
        device, dtype = self.resolve_device(plan.request)
        check_attention(plan.request.attention, device, dtype)
        model = open_model_folder(find_model_folder(plan.request.model))
        if device == "cpu" and self.parallel is None:
            network = model.architectures[NETWORK]
            assert isinstance(network, TransformerArchitecture)
            set_threads(network, plan.window_geometry)
        if self.parallel is None:
            placement = self._choose_placement(plan, model, device, dtype)
        else:
            _check_several_processes(plan.request)
            placement = Placement("none", tile=plan.request.tile or 0)
        resolved = {"device": device, "dtype": dtype} | asdict(placement)
        return replace(plan, request=plan.request.model_copy(update=resolved))

    def _choose_placement(self, plan: GenerationPlan, model: ModelFolder, device: str, dtype: str) -> Placement:
        """Return the placement of a clip; the loaded model's, with other tiles and resident blocks, if it fits."""
        from humo.runtime.device import available_memory
        from humo.runtime.placement_choice import choose_placement

        if self._loaded is not None and self._loaded.model != (model.path.resolve(), device, dtype):
            self._loaded = None  # another model is loaded in its place
            gc.collect()
        if self._loaded is None:
            self._memory, self._chosen = available_memory(device), {}
        loaded, clip = None if self._loaded is None else self._loaded.placement, _clip_key(plan)
        if clip not in self._chosen:
            self._chosen[clip] = choose_placement(plan, model, device, dtype, self._memory, loaded)
        return self._chosen[clip]

    def estimate_memory(self, plan: GenerationPlan) -> PlacementEstimate | None:
        """Return the memory that a plan needs; None on a device without an estimate.

        Args:
            plan: from `resolve_runtime`.
        """
        from humo.checkpoints.model_folder import find_model_folder, open_model_folder
        from humo.runtime.placement import Choice
        from humo.runtime.placement_choice import estimate_plan

        request = plan.request
        if request.device == "mps":
            return None
        model = open_model_folder(find_model_folder(request.model))
        choice = Choice(request.offload, request.quantize, request.tile, request.resident_blocks)
        return estimate_plan(plan, model, request.device, request.dtype, self._memory, choice)[0]

    @gc_paused()
    def pipeline(self, request: GenerateRequest) -> HuMoPipeline:
        """Return the pipeline of a request with its LoRAs; it is loaded unless it was the last one.

        Args:
            request: resolved by `resolve_runtime`.

        Raises:
            CheckpointError: the folder's weights, or a LoRA, cannot be used.
        """
        from humo.checkpoints.model_folder import find_model_folder
        from humo.runtime.acceleration import accelerate
        from humo.runtime.loading import load_pipeline
        from humo.runtime.offload import adjust_placement
        from humo.runtime.placement import Placement

        folder, device, dtype = find_model_folder(request.model), request.device, request.dtype
        placement = Placement(request.offload, request.quantize, request.tile or 0, request.resident_blocks or 0)
        model = (folder.resolve(), device, dtype)
        if self._loaded is None or self._loaded.model != model or not self._loaded.placement.loads_as(placement):
            self._loaded = None  # the old one leaves memory before the new one is loaded
            if self.parallel is None:
                pipeline = load_pipeline(
                    folder, device=device, dtype=dtype, offload=request.offload, quantize=request.quantize
                )
            else:
                pipeline = self.parallel.load(folder, dtype)
            self._loaded = LoadedModel(model, placement, pipeline)
        self._loaded.placement = placement
        adjust_placement(self._loaded.pipeline, placement)
        self._loaded.pipeline.use_loras(strengths_of(request))
        accelerate(self._loaded.pipeline, request)
        return self._loaded.pipeline

    def execution(self, pipeline: HuMoPipeline, plan: GenerationPlan) -> Execution:
        """Return how a pipeline of this engine runs its network for a plan.

        Raises:
            RequestError: the ranks cannot divide the clip.
        """
        if self.parallel is not None:
            return self.parallel.configure(plan)
        return replace(
            pipeline.execution,
            on_out_of_memory=self._free_memory,
            on_out_of_memory_in_decoder=self._use_smaller_tiles,
        )

    def _free_memory(self) -> bool:
        """Change to a placement that needs less GPU memory, after memory ran out in a pass.

        Raises:
            RequestError: no placement needs less.
        """
        from humo.runtime.offload import fall_back
        from humo.runtime.placement_choice import REDUCE_MEMORY

        loaded = self._loaded
        assert loaded is not None
        lower = fall_back(loaded.pipeline, loaded.placement, loaded.model[1])
        if lower is None:
            raise RequestError("memory", f"is too small on the GPU for {loaded.placement}", REDUCE_MEMORY)
        self._change_placement(lower)
        return True

    def _use_smaller_tiles(self) -> bool:
        """Decode in smaller tiles, after memory ran out in the autoencoder.

        Raises:
            RequestError: tiles are the smallest already.
        """
        from humo.runtime.offload import adjust_placement, smaller_tile
        from humo.runtime.placement_choice import REDUCE_MEMORY

        loaded = self._loaded
        assert loaded is not None
        tile = smaller_tile(loaded.placement.tile)
        if tile is None:
            raise RequestError("memory", f"is too small on the GPU to decode with {loaded.placement}", REDUCE_MEMORY)
        lower = replace(loaded.placement, tile=tile)
        adjust_placement(loaded.pipeline, lower)
        self._change_placement(lower)
        return True

    def _change_placement(self, lower: Placement) -> None:
        """Record a smaller placement, and keep it for further clips."""
        assert self._loaded is not None
        self.note(f"GPU memory ran out with {self._loaded.placement}; continuing with {lower}")
        self._chosen = dict.fromkeys(self._chosen, lower)
        self._loaded.placement = lower


@dataclass
class LoadedModel:
    """A model in memory.

    Args:
        model: folder, device and dtype.
        placement: how it is placed.
        pipeline: its pipeline.
    """

    model: tuple[Path, str, str]
    placement: Placement
    pipeline: HuMoPipeline


def _clip_key(plan: GenerationPlan) -> Hashable:
    """Return what decides the memory of a clip with a model."""
    request = plan.request
    fixed = (request.offload, request.quantize, request.tile, request.resident_blocks)
    return (plan.window_geometry, len(plan.windows) > 1, request.cache, request.mode, request.loras, *fixed)


def _check_several_processes(request: GenerateRequest) -> None:
    """Raise RequestError if a request asks several processes to offload or quantize weights."""
    for field in ("offload", "quantize"):
        if (value := getattr(request, field)) not in ("auto", "none"):
            problem = f"{value!r} works in a single process only"
            raise RequestError(field, problem, f"drop --{field}; --fsdp divides the weights among processes")
