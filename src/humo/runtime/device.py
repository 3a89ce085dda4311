"""Where and how precisely to compute, decided here and only here; and loading a pipeline so."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.errors import CheckpointError, DependencyError, RequestError

if TYPE_CHECKING:
    from humo.checkpoints.model_folder import ModelFolder
    from humo.inference.pipeline import HuMoPipeline
    from humo.request import GenerationPlan, PlacementName

GPU_PLACEMENTS = ("offload", "host", "fp8")
"""Placements that move weights between two memories."""

LOSSY_PLACEMENTS = ("fp8", "int8", "int4")
"""Placements that keep the network's blocks in fewer bits than they have."""

STREAMED_PLACEMENTS = ("host", "disk")
"""Placements that bring blocks one after another."""

AMPLE_FACTOR = 8
"""A model that would fit this often into what is free needs no looking into."""

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8848
"""Where the service listens unless it is told otherwise."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """Python looks for no unreachable objects meanwhile: libraries make many when they are imported, and all stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def models_folder() -> Path:
    """Where downloaded and imported models lie: ``HUMO_MODELS``, or a folder in the user's cache."""
    own = os.environ.get("HUMO_MODELS")
    return Path(own).expanduser() if own else Path.home() / ".cache" / "humo" / "models"


def identity_folder() -> Path:
    """Where the key lies that signs videos: ``HUMO_IDENTITY``, or a folder in the user's configuration."""
    own = os.environ.get("HUMO_IDENTITY")
    return Path(own).expanduser() if own else Path.home() / ".config" / "humo" / "identity"


def server_folder() -> Path:
    """Where the service keeps its jobs and videos: ``HUMO_SERVER``, or a folder in the user's data."""
    own = os.environ.get("HUMO_SERVER")
    return Path(own).expanduser() if own else Path.home() / ".local" / "share" / "humo" / "server"


def hub_name() -> str:
    """Where models are downloaded from: ``HUMO_HUB``, or Hugging Face."""
    return os.environ.get("HUMO_HUB") or "huggingface"


def modelscope_endpoint() -> str | None:
    """The address of ModelScope, where ``MODELSCOPE_ENDPOINT`` names another, as its own client reads it."""
    return os.environ.get("MODELSCOPE_ENDPOINT") or None


def find_model_folder(model: str | os.PathLike[str] | None) -> Path:
    """Where the weights of a request lie: the folder it names, the model of that name here, or the embedded model."""
    from humo.checkpoints.model_folder import BUILTIN_MODEL, BUILTIN_MODELS

    if model is None:
        return BUILTIN_MODEL
    folder = Path(model)
    if folder.parts != (folder.name,) or folder.name.startswith(".") or folder.exists():
        return folder
    kept = BUILTIN_MODELS.get(folder.name) or models_folder() / folder
    return kept if kept.is_dir() else folder


def choose_device(device: str) -> str:
    """``cuda``, ``mps`` or ``cpu``: what was asked for, or the fastest there is.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        DependencyError: what was asked for is not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, available in there.items() if available)
    if not there[device]:
        found = ", ".join(name for name, available in there.items() if available)
        raise DependencyError("device", f"{device!r} is not available here", f"there is {found}; or leave it at auto")
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """Precision of the network: what was asked for, or bfloat16 (as published) on a GPU and float32 on the CPU.

    Args:
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device: as chosen by `choose_device`.
    """
    if dtype != "auto":
        return dtype
    return "float32" if device == "cpu" else "bfloat16"


def available_memory(device: str) -> tuple[int, int]:
    """Bytes that are free on a device and in the host's memory.

    Args:
        device: as chosen by `choose_device`; where it is no GPU, its memory is the host's.
    """
    import psutil
    import torch

    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
    return free, int(psutil.virtual_memory().available)


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
    import torch

    asked = plan.request.placement
    check_placement(asked, device)
    check_quantized(asked, model)
    if asked != "auto":
        return asked
    there = available_memory(device)
    if device == "mps" or model.bytes * AMPLE_FACTOR < there[0 if device == "cuda" else 1]:
        return "resident"

    from humo.runtime.memory_estimate import estimate_memory
    from humo.runtime.placement import estimate_quantized_placements, fastest_placement

    branches = {rung.keep for turn in plan.guidance.plan_steps(plan.timesteps) for rung, _ in turn.rungs}
    sizes = model.architectures, plan.window_geometry, plan.preset.reference_injection, getattr(torch, dtype)
    quant_types = model.components["transformer"].quant_types
    estimate = estimate_memory(*sizes, len(branches), plan.request.cache, quant_types)
    quantized = estimate_quantized_placements(
        estimate, model.architectures["transformer"], sizes[1], sizes[3], plan.request.cache
    )
    return fastest_placement(estimate, device, *there, quantized=quantized).placement.name


def load_pipeline(
    folder: Path, *, device: str = "auto", dtype: str = "auto", placement: PlacementName = "resident"
) -> HuMoPipeline:
    """The pipeline in a model folder, on its device.

    The network and the text encoder take the precision asked for; the autoencoder and the audio encoder stay float32,
    as published.

    Args:
        folder: in our layout (`humo convert` makes it).
        device, dtype: as in a request.
        placement: where the weights lie (`humo.runtime.placement.PLACEMENTS`).

    Raises:
        CheckpointError: the folder is not a whole model, or its weights do not fit it.
        DependencyError: no such device here.
        RequestError: its network is quantized already, and was to be once more.
    """
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from humo.checkpoints.model_folder import open_model_folder
    from humo.inference.pipeline import HuMoPipeline
    from humo.runtime.block_streaming import apply_placement, load_quantized, load_streamed
    from humo.runtime.placement import PLACEMENTS

    model = open_model_folder(folder)
    check_quantized(placement, model)
    chosen = choose_device(device)
    precision = getattr(torch, choose_dtype(dtype, chosen))
    dtypes: dict[str, Any] = {"transformer": precision, "text_encoder": precision, "default": torch.float32}
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    if placement == "disk":
        return load_streamed(folder, device=chosen, dtype=precision)
    quant_type = PLACEMENTS[placement].quant_type
    quantized = quant_type is not None or model.components["transformer"].quantized
    parts = {"transformer": load_quantized(model, precision, quant_type)} if quantized else {}
    try:
        pipeline: HuMoPipeline = HuMoPipeline.from_pretrained(str(folder), dtype=dtypes, local_files_only=True, **parts)
    except (OSError, ValueError, RuntimeError, KeyError) as failure:
        raise CheckpointError(
            str(folder), f"does not load: {failure}", "convert it anew with humo convert"
        ) from failure
    apply_placement(pipeline, placement, chosen, precision)
    return pipeline
