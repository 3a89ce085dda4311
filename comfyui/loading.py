"""Loading of a model with the settings of HuMo Memory and Speed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.plan import check_resident_blocks

if TYPE_CHECKING:
    from humo import HuMoPipeline
    from humo.request import AttentionName, GenerateRequest, QuantizeName

NO_SETTINGS: Mapping[str, Any] = {}
"""Settings of a loader to which no HuMo Memory and Speed is connected."""


def load(folder: Path, request: GenerateRequest, *, device: str, dtype: str, quantize: QuantizeName) -> HuMoPipeline:
    """Return the pipeline of a model folder; what does not fit together is refused before weights are read.

    Args:
        folder: the model folder.
        request: ``offload`` and the settings: ``tile``, ``resident_blocks``, ``attention``, ``compile``.
        device, dtype, quantize: as in a request.

    Raises:
        CheckpointError, DependencyError, RequestError: as of `humo.runtime.loading.load_pipeline`, and if the attention
            kernels do not support the device or the precision.
    """
    from humo.model.attention_backends import check_attention, set_attention
    from humo.runtime.acceleration import COMPILER, compile_blocks
    from humo.runtime.device import choose_device, choose_dtype
    from humo.runtime.loading import load_pipeline

    device = choose_device(device)
    check_attention(request.attention, device, choose_dtype(dtype, device))
    check_resident_blocks(request, ("none", "model", "auto"))
    pipeline = load_pipeline(
        folder,
        device=device,
        dtype=dtype,
        offload=request.offload,
        quantize=quantize,
        tile=request.tile,
        resident_blocks=request.resident_blocks,
    )
    set_attention(pipeline.transformer, request.attention)
    if request.compile:
        compile_blocks(pipeline.transformer, COMPILER)
    return pipeline


def check_installed(attention: AttentionName) -> None:
    """Raise DependencyError unless the package of attention kernels is installed."""
    from humo.model.attention_backends import check_attention

    check_attention(attention, "cuda", "bfloat16")
