"""Faster ways to run the same network: attention kernels, compiled blocks, TF32. docs/speed.md says which are exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from humo.inference.adapters import accept_changes
from humo.inference.pipeline import HuMoPipeline
from humo.model.attention_backends import set_attention
from humo.model.caches import is_compiled
from humo.request import GenerateRequest

COMPILER = "inductor"
"""Backend of torch.compile."""


def accelerate(pipeline: HuMoPipeline, request: GenerateRequest) -> None:
    """Run a pipeline's network as a request says.

    Args:
        pipeline: its network may be compiled and have a backend from an earlier request.
        request: ``attention``, ``compile`` and ``tf32`` are used.
    """
    set_attention(pipeline.transformer, request.attention)
    torch.set_float32_matmul_precision("high" if request.tf32 else "highest")
    if request.compile and not is_compiled(pipeline.transformer):
        compile_blocks(pipeline.transformer, COMPILER)
    elif not request.compile and is_compiled(pipeline.transformer):
        run_eagerly(pipeline.transformer)


def compile_blocks(network: Any, backend: Any) -> None:
    """Compile the blocks of a network at their first call.

    A block's forward method is compiled, not its call, so that hooks which load its weights stay outside. Blocks are
    alike and share their code, so that one is compiled for all. LoRAs are compiled with it; others, or other strengths,
    are compiled again.

    Args:
        network: the transformer.
        backend: of torch.compile.
    """
    for block in network.blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm):
                accept_changes(module)
        block.forward = torch.compile(block.forward, backend=backend)


def run_eagerly(network: Any) -> None:
    """Undo `compile_blocks`."""
    for block in network.blocks:
        del block.forward
