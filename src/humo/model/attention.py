"""Attention with normalized queries and keys, and rotary positions in three dimensions.

Shape suffixes: B batch, S video tokens, D width, L context positions, N attention heads.

**Source:** ``humo/models/wan_modules/model_humo.py``: ``WanSelfAttention``, ``WanT2VCrossAttentionGather``,
``rope_apply``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo.model.upstream import AttentionModuleMixin, dispatch_attention_fn

ROPE_THETA = 10_000.0

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, (B, L, N, D / N) each."""


class RotaryEmbedding(NamedTuple):
    """Rotary positions of the tokens of this rank, and the exchange of keys and values with other ranks.

    Args:
        cos, sin: (S, 1, head_dim / 2) of each token's angles, float32.
        cis: cos + i sin, complex64.
        gather_kv: returns the keys and values of all ranks for those of this one; None without context parallelism.
    """

    cos: Tensor
    sin: Tensor
    cis: Tensor
    gather_kv: Callable[[KeyValue], KeyValue] | None = None


def rotary_embedding(head_dim: int, frames: int, rows: int, columns: int, device: torch.device) -> RotaryEmbedding:
    """Return the 3-D rotary positions of all tokens of a sequence.

    A head is split into head_dim - 4 * (head_dim // 6) channels for time and 2 * (head_dim // 6) each for height and
    width. Reference frames continue the time index.

    Args:
        head_dim: channels per attention head.
        frames, rows, columns: tokens along each axis.
        device: of the result.
    """
    across = 2 * (head_dim // 6)
    cosines: list[Tensor] = []
    sines: list[Tensor] = []
    for axis, (length, dim) in enumerate(((frames, head_dim - 2 * across), (rows, across), (columns, across))):
        frequency = 1.0 / ROPE_THETA ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
        angle = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequency)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = length
        for parts, table in ((cosines, angle.cos()), (sines, angle.sin())):
            parts.append(table.view(shape).expand(frames, rows, columns, -1))
    cos, sin = (torch.cat(parts, dim=-1).view(frames * rows * columns, 1, head_dim // 2) for parts in (cosines, sines))
    return RotaryEmbedding(cos, sin, torch.complex(cos, sin))


def apply_rotary_emb(x_BSND: Tensor, rotary: RotaryEmbedding) -> Tensor:
    """Rotate each pair of neighboring channels of (B, S, N, D / N) by the angle of its token."""
    cos, sin, cis, _ = rotary
    pairs = x_BSND.unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():  # torch.compile fuses real operations, and does not support complex ones
        return torch.view_as_real(torch.view_as_complex(pairs) * cis).flatten(-2)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class AttentionProcessor:
    """Multi-head attention through diffusers' backends (SDPA by default; flash, sage and others by name)."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self, attn: Attention, query: Tensor, context: Tensor | KeyValue, rotary: RotaryEmbedding | None = None
    ) -> Tensor:
        """Attend from queries (B, S, D) to a context (B, L, D'), or to its keys and values; return (B, S, D)."""
        q = attn.norm_q(attn.to_q(query).float()).unflatten(2, (attn.heads, -1))
        k, v = attn.key_value(context) if isinstance(context, Tensor) else context
        if rotary is not None:
            q, k = apply_rotary_emb(q, rotary), apply_rotary_emb(k, rotary)
        q, k, v = q.type_as(query), k.type_as(query), v.type_as(query)
        if rotary is not None and rotary.gather_kv is not None:
            k, v = rotary.gather_kv((k, v))
        out = dispatch_attention_fn(q, k, v, backend=self._attention_backend, parallel_config=self._parallel_config)
        result: Tensor = attn.to_out(out.flatten(2, 3).type_as(query))
        return result


class Float32Linear(nn.Linear):
    """Linear layer that computes in float32 in any dtype of its weights; used for the few tokens of a context."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) of any dtype to (..., out), float32."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(input.float(), self.weight.float(), bias)


class Attention(nn.Module, AttentionModuleMixin):
    """Attention with RMS-normalized queries and keys (over the full width, before the heads are split)."""

    _default_processor_cls = AttentionProcessor
    _available_processors = [AttentionProcessor]
    _supports_qkv_fusion = False

    def __init__(self, dim: int, heads: int, eps: float, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.is_cross_attention = context_dim is not None
        self.to_q = nn.Linear(dim, dim)
        project = Float32Linear if self.is_cross_attention else nn.Linear
        self.to_k = project(context_dim or dim, dim)
        self.to_v = project(context_dim or dim, dim)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))  # the name to_out.0 is that of diffusers and of LoRA files
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)
        self.processor = AttentionProcessor()

    def key_value(self, context: Tensor) -> KeyValue:
        """Return the keys and values (B, L, N, D / N) of a context (B, L, D'), without rotary positions."""
        keys = self.norm_k(self.to_k(context).float()).unflatten(2, (self.heads, -1))
        return keys, self.to_v(context).unflatten(2, (self.heads, -1))

    def forward(self, query: Tensor, context: Tensor | KeyValue, rotary: RotaryEmbedding | None = None) -> Tensor:
        """Attend from queries (B, S, D) to a context (B, L, D'), or to its keys and values; return (B, S, D)."""
        return self.processor(self, query, context, rotary)
