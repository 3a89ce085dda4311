"""Interruption of a video inside a step: a check that runs before each block of the network and each convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from humo.inference.pipeline import HuMoPipeline


@contextmanager
def interruptible(pipeline: HuMoPipeline, check: Callable[[], None]) -> Iterator[None]:
    """Call a function before each piece of work inside the block, so that it can end the work by an exception.

    The pieces are the blocks of the network and of the text encoder, and the convolutions of the autoencoder. A step or
    a decoding of a large video takes minutes, a piece of it seconds.

    Args:
        pipeline: its modules are called in this process.
        check: raises to end the work; it is called often, so it must be fast.
    """

    def before(_: nn.Module, __: Any) -> None:
        check()

    with ExitStack() as stack:
        for module in _pieces(pipeline):
            stack.callback(module.register_forward_pre_hook(before, prepend=True).remove)
        yield


def _pieces(pipeline: HuMoPipeline) -> Iterator[nn.Module]:
    yield from pipeline.transformer.blocks
    yield from (module for module in pipeline.vae.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    for module in pipeline.text_encoder.modules():
        if isinstance(module, nn.ModuleList):
            yield from module
