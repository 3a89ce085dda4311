"""Step caches of diffusers: a pass reuses outputs that blocks had in earlier steps, and runs fewer blocks.

Each guidance branch has its own cache state, whose name is set by ``cache_context``. A step that skips the pass of a
branch does not change the branch's state. docs/speed.md has the effect on quality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

from humo.errors import RequestError
from humo.model.transformer import HuMoTransformer3DModel
from humo.request import CacheName

FIRST_BLOCK_THRESHOLD = 0.1
"""Relative change of the first block's residual below which the other blocks' last residuals are reused."""

TAYLORSEER_WARM_UP, TAYLORSEER_INTERVAL = 4, 2
"""Number of full passes of a branch at the start, and interval of full passes after them."""


def _first_block() -> FirstBlockCacheConfig:
    return FirstBlockCacheConfig(threshold=FIRST_BLOCK_THRESHOLD)


def _taylorseer() -> TaylorSeerCacheConfig:
    """Return the configuration that extrapolates the last layer's output linearly and skips the blocks.

    diffusers' default patterns match no layer of this network (such as ``blocks.0.attn1``). A state for every attention
    layer would take more memory than the weights.
    """
    return TaylorSeerCacheConfig(
        cache_interval=TAYLORSEER_INTERVAL,
        disable_cache_before_step=TAYLORSEER_WARM_UP,
        taylor_factors_dtype=torch.float32,
        skip_predict_identifiers=[r"blocks\.\d+"],
        cache_identifiers=["proj_out"],
    )


CACHES: Mapping[CacheName, Callable[[], Any]] = {"first-block": _first_block, "taylorseer": _taylorseer}
"""Name of a cache -> function that returns diffusers' configuration of it."""


@contextmanager
def caching(transformer: HuMoTransformer3DModel, cache: CacheName) -> Iterator[None]:
    """Enable a step cache on a network inside the ``with`` block; it starts empty.

    Args:
        transformer: a network without a cache.
        cache: as in a request. ``none`` resets a cache that was enabled on the network itself.
    """
    if cache == "none":
        if transformer.is_cache_enabled:
            transformer._reset_stateful_cache()
        yield
        return
    transformer.enable_cache(CACHES[cache]())
    try:
        yield
    finally:
        transformer.disable_cache()


def check_cache(
    cache: CacheName,
    *,
    processes: int = 1,
    batched: bool = False,
    hooked: bool = False,
    compiled: bool = False,
    blocks: int | None = None,
) -> None:
    """Check that a network can run with a step cache.

    Args:
        cache: as in a request.
        processes: number of processes that generate a clip together.
        batched: the passes of a step run as one batch.
        hooked: blocks have hooks of diffusers: its group offloading, or another cache.
        compiled: the network, or its blocks, are compiled.
        blocks: number of blocks of the network, if known.

    Raises:
        RequestError: the cache cannot be used.
    """
    if cache == "none":
        return
    if processes > 1:
        problem = f"{cache!r} is for one process, and there are {processes}"
        raise RequestError("cache", problem, "drop --cache, or start one process")
    if batched:
        problem = f"{cache!r} needs separate passes and cannot be combined with batch_passes"
        raise RequestError("cache", problem, "drop the cache, or batch_passes")
    if hooked:
        problem = f"{cache!r} cannot be combined with diffusers' group offloading or with another cache"
        raise RequestError("cache", problem, "remove those, or drop the cache")
    if compiled:
        problem = f"{cache!r} cannot be combined with compiled blocks"
        raise RequestError("cache", problem, "drop the cache, or do not compile the network")
    if blocks == 1:
        raise RequestError("cache", f"{cache!r} needs more than the one block of this network", "drop --cache")


def is_hooked(module: torch.nn.Module) -> bool:
    """Return whether a module has a hook of diffusers. The empty registry of a removed hook does not count."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    return registry is not None and bool(registry.hooks)


def is_compiled(transformer: HuMoTransformer3DModel) -> bool:
    """Return whether the network, or a module of it, is compiled."""
    return hasattr(transformer, "_orig_mod") or any(
        module._compiled_call_impl is not None or hasattr(module.forward, "_torchdynamo_orig_callable")
        for module in transformer.modules()
    )
