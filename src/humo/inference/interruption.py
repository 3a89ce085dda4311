"""Interruption of a video inside a step: a check that runs before each block of the network and each convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from humo.inference.pipeline import HuMoPipeline

Frame = NDArray[np.uint8]


def interruptible(frames: Iterator[Frame], pipeline: HuMoPipeline, check: Callable[[], None]) -> Iterator[Frame]:
    """Yield frames, and call a function before each piece of the work, so that it can end it by an exception.

    The pieces are the blocks of the network and of the text encoder, and the convolutions of the autoencoder. A step or
    a decoding of a large video takes minutes, a piece of it seconds.

    Args:
        frames: frames (H, W, 3) of the pipeline; the work is done when they are asked for.
        pipeline: its modules are called in this process.
        check: raises to end the work; it is called often, so it must be fast.
    """

    def before(_: nn.Module, __: Any) -> None:
        check()

    with ExitStack() as stack:
        for module in _pieces(pipeline):
            stack.callback(module.register_forward_pre_hook(before, prepend=True).remove)
        yield from frames


def _pieces(pipeline: HuMoPipeline) -> Iterator[nn.Module]:
    yield from pipeline.transformer.blocks
    yield from (module for module in pipeline.vae.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    for module in pipeline.text_encoder.modules():
        if isinstance(module, nn.ModuleList):
            yield from module
