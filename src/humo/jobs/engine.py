"""The model between requests: where and how a plan is computed, loading, and making room where memory runs out.

No torch until something is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from humo.errors import RequestError
from humo.progress import Event, ProgressCallback, no_progress
from humo.request import GenerateRequest, GenerationPlan, PlacementName
from humo.runtime.device import gc_paused

if TYPE_CHECKING:
    from humo.distributed.parallel_generation import ParallelGeneration
    from humo.inference.pipeline import HuMoPipeline


class Engine:
    """Loads pipelines, and keeps the last one for the next request of the same model.

    Args:
        crew: the ranks that work on each clip together; one process alone by default.
        note: told of what is decided on the way, and is worth saying.
    """

    def __init__(self, crew: ParallelGeneration | None = None, note: Callable[[str], None] = lambda text: None) -> None:
        self.crew, self._note = crew, note
        self._key: tuple[Path, str, str, PlacementName] | None = None
        self._pipeline: HuMoPipeline | None = None

    def resolve_device(self, request: GenerateRequest) -> tuple[str, str]:
        """The device and dtype a request will run with.

        Raises:
            DependencyError: the device is not there.
        """
        from humo.runtime.device import choose_device, choose_dtype

        device = choose_device(request.device)
        return device, choose_dtype(request.dtype, device)

    @gc_paused()  # it imports torch, and what builds on torch
    def resolve_runtime(self, plan: GenerationPlan) -> GenerationPlan:
        """A plan whose device, dtype and placement are those it will run with.

        Raises:
            DependencyError: the device is not there.
            RequestError: no placement fits, or one was asked for where several processes have the weights; or the cache
                does not go with either.
        """
        from humo.checkpoints.model_folder import find_model_folder, open_model_folder
        from humo.model.caches import check_cache
        from humo.runtime.placement import STREAMED_PLACEMENTS, choose_placement

        check_cache(plan.request.cache, processes=1 if self.crew is None else self.crew.group.size)
        device, dtype = self.resolve_device(plan.request)
        model = open_model_folder(find_model_folder(plan.request.model))
        if self.crew is not None and plan.request.placement not in ("auto", "resident"):
            problem = f"{plan.request.placement!r} is for one process"
            raise RequestError("placement", problem, "leave it out; --fsdp divides the weights among several")
        placement = "resident" if self.crew is not None else self._current_placement(model.path, device, dtype)
        if placement is None or plan.request.placement not in ("auto", placement):
            placement = choose_placement(plan, model, device, dtype)
        check_cache(plan.request.cache, hooked=placement in STREAMED_PLACEMENTS)
        settled = {"device": device, "dtype": dtype, "placement": placement}
        return replace(plan, request=plan.request.model_copy(update=settled))

    def _current_placement(self, folder: Path, device: str, dtype: str) -> PlacementName | None:
        """How the model at hand lies, if it is this one: what fitted before is not looked into again."""
        if self._key is None or self._key[:3] != (folder.resolve(), device, dtype):
            return None
        return self._key[3]

    @gc_paused()
    def pipeline(
        self,
        folder: Path,
        device: str,
        dtype: str,
        placement: PlacementName = "resident",
        listener: ProgressCallback = no_progress,
    ) -> HuMoPipeline:
        """The pipeline of a model folder, loaded unless it was the last one.

        Raises:
            CheckpointError: the folder's weights cannot be used.
        """
        from humo.runtime.loading import load_pipeline

        key = (folder.resolve(), device, dtype, placement)
        if self._pipeline is None or self._key != key:
            self._key = self._pipeline = None  # the old one leaves memory before the new one comes
            listener(Event("load", 0, 1))
            if self.crew is None:
                self._pipeline = load_pipeline(folder, device=device, dtype=dtype, placement=placement)
                self._pipeline.make_room = self._free_memory
            else:
                self._pipeline = self.crew.load(folder, dtype)
            self._key = key
            listener(Event("load", 1, 1))
        return self._pipeline

    def _free_memory(self) -> bool:
        """Place the weights so that they take less of the device, as its memory has run out.

        Raises:
            RequestError: they cannot take less.
        """
        import torch

        from humo.runtime.offload import fall_back
        from humo.runtime.placement import REDUCE_MEMORY

        assert self._pipeline is not None
        assert self._key is not None
        folder, device, dtype, placement = self._key
        lower = fall_back(self._pipeline, placement, device, getattr(torch, dtype))
        if lower is None:
            raise RequestError("memory", f"of the GPU ran out, with placement {placement}", REDUCE_MEMORY)
        self._note(f"the GPU's memory ran out: going on with placement {lower} in place of {placement}")
        self._key = (folder, device, dtype, lower)
        return True
