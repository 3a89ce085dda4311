"""The loaded model between jobs: device and placement of a plan, loading, and a fallback where GPU memory runs out.

Torch is imported when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from humo.errors import RequestError
from humo.jobs.loras import strengths_of
from humo.plan import GenerationPlan
from humo.progress import Event, ProgressCallback, no_progress
from humo.request import GenerateRequest
from humo.runtime.device import gc_paused

if TYPE_CHECKING:
    from humo.distributed.parallel_generation import ParallelGeneration
    from humo.inference.execution import Execution
    from humo.inference.pipeline import HuMoPipeline
    from humo.runtime.placement import Placement


class Engine:
    """Loads pipelines and keeps the last one for the next job with the same model.

    Args:
        parallel: the processes that compute each clip together; a single process by default.
        note: is called with a line about each decision worth reporting.
    """

    def __init__(
        self, parallel: ParallelGeneration | None = None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.parallel, self._note = parallel, note
        self._key: tuple[Path, str, str, Placement] | None = None
        self._pipeline: HuMoPipeline | None = None

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
            DependencyError: the device is not available.
            RequestError: no placement fits; a placement is given for several processes; or the step cache cannot be
                combined with either.
        """
        from humo.checkpoints.model_folder import find_model_folder, open_model_folder
        from humo.model.caches import check_cache
        from humo.runtime.placement import Placement, choose_placement

        check_cache(plan.request.cache, processes=1 if self.parallel is None else self.parallel.group.size)
        device, dtype = self.resolve_device(plan.request)
        model = open_model_folder(find_model_folder(plan.request.model))
        if self.parallel is not None:
            _check_several_processes(plan.request)
            placement: Placement | None = Placement("none")
        else:
            placement = self._current_placement(model.path, device, dtype)
        if placement is None or not placement.satisfies(plan.request.offload, plan.request.quantize):
            placement = choose_placement(plan, model, device, dtype)
        check_cache(plan.request.cache, hooked=placement.is_streamed)
        resolved = {"device": device, "dtype": dtype, "offload": placement.offload, "quantize": placement.quantize}
        return replace(plan, request=plan.request.model_copy(update=resolved))

    def _current_placement(self, folder: Path, device: str, dtype: str) -> Placement | None:
        """Return the placement of this model if it is loaded; it fitted before, so it is not estimated again."""
        if self._key is None or self._key[:3] != (folder.resolve(), device, dtype):
            return None
        return self._key[3]

    @gc_paused()
    def pipeline(self, request: GenerateRequest, callback: ProgressCallback = no_progress) -> HuMoPipeline:
        """Return the pipeline of a request with its LoRAs; it is loaded unless it was the last one.

        Args:
            request: resolved by `resolve_runtime`.
            callback: called when loading starts and ends.

        Raises:
            CheckpointError: the folder's weights, or a LoRA, cannot be used.
        """
        from humo.checkpoints.model_folder import find_model_folder
        from humo.runtime.loading import load_pipeline
        from humo.runtime.placement import Placement

        folder, device, dtype = find_model_folder(request.model), request.device, request.dtype
        placement = Placement(request.offload, request.quantize)
        key = (folder.resolve(), device, dtype, placement)
        if self._pipeline is None or self._key != key:
            self._key = self._pipeline = None  # the old one leaves memory before the new one is loaded
            callback(Event("load", 0, 1))
            if self.parallel is None:
                self._pipeline = load_pipeline(
                    folder, device=device, dtype=dtype, offload=request.offload, quantize=request.quantize
                )
            else:
                self._pipeline = self.parallel.load(folder, dtype)
            self._key = key
            callback(Event("load", 1, 1))
        self._pipeline.use_loras(strengths_of(request))
        return self._pipeline

    def execution(self, pipeline: HuMoPipeline, plan: GenerationPlan) -> Execution:
        """Return how a pipeline of this engine runs its network for a plan.

        Raises:
            RequestError: the ranks cannot divide the clip.
        """
        if self.parallel is not None:
            return self.parallel.configure(plan)
        return replace(pipeline.execution, on_out_of_memory=self._free_memory)

    def _free_memory(self) -> bool:
        """Change to a placement that needs less GPU memory, after memory ran out.

        Raises:
            RequestError: no placement needs less.
        """
        from humo.runtime.offload import fall_back
        from humo.runtime.placement import REDUCE_MEMORY

        assert self._pipeline is not None
        assert self._key is not None
        folder, device, dtype, placement = self._key
        lower = fall_back(self._pipeline, placement, device)
        if lower is None:
            raise RequestError("memory", f"is too small on the GPU for {placement}", REDUCE_MEMORY)
        self._note(f"GPU memory ran out with {placement}; continuing with {lower}")
        self._key = (folder, device, dtype, lower)
        return True


def _check_several_processes(request: GenerateRequest) -> None:
    """Raise RequestError if a request asks several processes to offload or quantize weights."""
    for field in ("offload", "quantize"):
        if (value := getattr(request, field)) not in ("auto", "none"):
            problem = f"{value!r} works in a single process only"
            raise RequestError(field, problem, f"drop --{field}; --fsdp divides the weights among processes")
