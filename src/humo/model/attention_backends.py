"""Kernels of attention: those that diffusers dispatches to, which of them are usable here, and choosing one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from humo.errors import DependencyError, RequestError
from humo.model.attention import Attention
from humo.model.upstream import AttentionBackendName, check_attention_backend
from humo.request import AttentionName

BACKENDS: Mapping[AttentionName, AttentionBackendName] = {
    "sdpa": AttentionBackendName.NATIVE,
    "efficient": AttentionBackendName._NATIVE_EFFICIENT,
    "cudnn": AttentionBackendName._NATIVE_CUDNN,
    "flash": AttentionBackendName.FLASH,
    "flash3": AttentionBackendName._FLASH_3,
    "sage": AttentionBackendName.SAGE,
    "xformers": AttentionBackendName.XFORMERS,
}
"""Value of ``attention`` -> diffusers' name. Backends that download kernels from a hub are left out."""

PACKAGES: Mapping[AttentionName, str] = {
    "flash": "flash-attn",
    "flash3": "flash-attn 3, which is built from its source",
    "sage": "sageattention",
    "xformers": "xformers",
}
"""Value of ``attention`` -> the package that it needs; the others are torch's own."""

ANY_DEVICE: frozenset[AttentionName] = frozenset({"sdpa"})
"""Values that work on every device; the others need an NVIDIA GPU."""

FLOAT32: frozenset[AttentionName] = frozenset({"sdpa", "efficient"})
"""Values that support float32; the others need bfloat16 or float16."""


def is_installed(attention: AttentionName) -> bool:
    """Return whether the package of a backend is installed in a version that diffusers supports."""
    try:
        check_attention_backend(BACKENDS[attention])
    except RuntimeError:
        return False
    return True


def check_attention(attention: AttentionName, device: str, dtype: str) -> None:
    """Check that attention can be computed as a request says.

    Args:
        attention: as in a request.
        device, dtype: as chosen by `humo.runtime.device`.

    Raises:
        DependencyError: its package is not installed.
        RequestError: the device or the precision is not supported.
    """
    if not is_installed(attention):
        problem = f"{attention!r} is not installed, or its version is not supported"
        raise DependencyError("attention", problem, f"install {PACKAGES[attention]}, or use --attention sdpa")
    if device != "cuda" and attention not in ANY_DEVICE:
        problem = f"{attention!r} needs an NVIDIA GPU, and the device is {device}"
        raise RequestError("attention", problem, "use --attention sdpa")
    if dtype == "float32" and attention not in FLOAT32:
        problem = f"{attention!r} does not support float32"
        raise RequestError("attention", problem, "use --dtype bfloat16, or --attention sdpa")


def set_attention(network: nn.Module, attention: AttentionName) -> None:
    """Set the backend of all attention layers of a network.

    Args:
        network: the transformer.
        attention: as in a request.
    """
    for module in network.modules():
        if isinstance(module, Attention):
            module.processor._attention_backend = BACKENDS[attention]
