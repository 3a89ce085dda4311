"""Attention with normed queries and keys, and rotary positions in three dimensions.

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


class RotaryEmbedding(NamedTuple):
    """Where the tokens at hand are in the sequence, and how to reach those that are not.

    Args:
        cos, sin: (S, 1, head_dim / 2) of each token's rotary positions, float32.
        turn: the two as one complex number.
        others: gives everybody's keys and values for one's own, where the tokens lie on several ranks.
    """

    cos: Tensor
    sin: Tensor
    cis: Tensor
    gather_kv: Callable[[KeyValue], KeyValue] | None = None


def rotary_embedding(head_dim: int, frames: int, rows: int, columns: int, device: torch.device) -> RotaryEmbedding:
    """The 3-D rotary positions of all tokens of a sequence.

    A head is split into head_dim - 4 * (head_dim // 6) for time and 2 * (head_dim // 6) each for height and width.
    Reference frames simply carry on the time index.
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
    """Turn each pair of neighbouring channels by its token's angle."""
    cos, sin, turn, _ = rotary
    pairs = x_BSND.unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():  # a compiler joins real numbers to one loop, and knows no complex ones
        return torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(-2)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class AttentionProcessor:
    """Multi-head attention through diffusers' backends (SDPA by default; flash, sage and others by name)."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self, attn: Attention, query: Tensor, context: Tensor | KeyValue, rotary: RotaryEmbedding | None = None
    ) -> Tensor:
        """(B, S, D) queries over (B, L, D') context -> (B, S, D)."""
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
    """A linear layer computed in float32 whatever its weights are stored in: for the few tokens of a context."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) of any precision -> (..., out) float32."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(input.float(), self.weight.float(), bias)


class Attention(nn.Module, AttentionModuleMixin):
    """Attention with RMS-normed queries and keys (over the whole width, before the heads are split)."""

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
        self.to_out = nn.Sequential(nn.Linear(dim, dim))  # named to_out.0, as LoRAs know it
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)
        self.processor = AttentionProcessor()

    def key_value(self, context: Tensor) -> KeyValue:
        """What a context (B, L, D') offers to queries: (B, L, N, D / N) each, before any rotation."""
        keys = self.norm_k(self.to_k(context).float()).unflatten(2, (self.heads, -1))
        return keys, self.to_v(context).unflatten(2, (self.heads, -1))

    def forward(self, query: Tensor, context: Tensor | KeyValue, rotary: RotaryEmbedding | None = None) -> Tensor:
        """(B, S, D) queries over a context (B, L, D'), or over its keys and values -> (B, S, D)."""
        return self.processor(self, query, context, rotary)
