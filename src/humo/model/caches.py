"""Caches of diffusers: passes that run fewer blocks, by what the passes of the same branch made in the steps before.

Each branch of guidance has a state of its own, under the name that is told by ``cache_context``; a step that spares a
branch a pass leaves its state as it is. What each costs in quality: docs/speed.md.
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
"""Relative change of what the first block adds, below which the other blocks add what they added before."""

TAYLORSEER_WARM_UP, TAYLORSEER_INTERVAL = 4, 2
"""Passes of a branch that are made in full at the beginning; and of those after, one in so many."""


def _first_block() -> FirstBlockCacheConfig:
    return FirstBlockCacheConfig(threshold=FIRST_BLOCK_THRESHOLD)


def _taylorseer() -> TaylorSeerCacheConfig:
    """The last layer's output goes on in a straight line; what leads up to it is not run.

    diffusers' own choice of layers finds none in this network (its patterns miss ``blocks.0.attn1``), and the state of
    every attention would take more memory than the weights.
    """
    return TaylorSeerCacheConfig(
        cache_interval=TAYLORSEER_INTERVAL,
        disable_cache_before_step=TAYLORSEER_WARM_UP,
        taylor_factors_dtype=torch.float32,
        skip_predict_identifiers=[r"blocks\.\d+"],
        cache_identifiers=["proj_out"],
    )


CACHES: Mapping[CacheName, Callable[[], Any]] = {"first-block": _first_block, "taylorseer": _taylorseer}
"""Name -> diffusers' configuration."""


@contextmanager
def caching(transformer: HuMoTransformer3DModel, cache: CacheName) -> Iterator[None]:
    """Run a network with a cache that begins empty, and is gone afterwards.

    Args:
        transformer: has none yet.
        cache: as in a request; with ``none``, one that was enabled on the network itself begins anew.
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
    """Whether a network can be run with a cache.

    Args:
        cache: as in a request.
        processes: that work on a clip together.
        batched: the passes of a step are made as one batch.
        hooked: something else steps in between blocks: blocks that are streamed (offload group or disk), another cache.
        compiled: the network, or its blocks, are compiled.
        blocks: of the network, if they are known.

    Raises:
        RequestError: it cannot.
    """
    if cache == "none":
        return
    if processes > 1:
        problem = f"{cache!r} is for one process, and there are {processes}"
        raise RequestError("cache", problem, "leave it out, or start one process")
    if batched:
        problem = f"{cache!r} keeps what each pass of a step has made, and batch_passes makes them as one"
        raise RequestError("cache", problem, "leave one of the two out")
    if hooked:
        problem = f"{cache!r} passes over blocks, and something else brings them one after another, or has a cache"
        raise RequestError("cache", problem, "use --offload none or --offload model, or drop --cache")
    if compiled:
        problem = f"{cache!r} steps in between blocks, and these are compiled"
        raise RequestError("cache", problem, "leave one of the two out")
    if blocks == 1:
        raise RequestError("cache", f"{cache!r} needs more blocks than the one of this network", "leave it out")


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether a hook of diffusers stands before a module; one that was removed leaves its empty registry there."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    return registry is not None and bool(registry.hooks)


def is_compiled(transformer: HuMoTransformer3DModel) -> bool:
    """Whether the network, or a part of it, is compiled."""
    return hasattr(transformer, "_orig_mod") or any(
        part._compiled_call_impl is not None for part in transformer.modules()
    )
