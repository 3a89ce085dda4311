"""Embeddings of the timestep, the text, and, in distilled networks, the guidance scales.

Shape suffixes: B batch, D width, L text positions, K scales.

**Source:** ``humo/models/wan_modules/model_humo.py``: ``sinusoidal_embedding_1d``, ``WanModel.forward``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo.model.upstream import PixArtAlphaTextProjection, TimestepEmbedding

TIME_MAX_PERIOD = 10_000.0

MIN_RANGE = 1e-3
"""Smallest range that a guidance scale is normalized by; a scale that never varied has the range 0."""


def time_sinusoid(timestep_B: Tensor, dim: int) -> Tensor:
    """Return [cos, sin] of t * 10000^(-i / (dim / 2)), (B, dim), computed in float64 and returned in float32."""
    half = dim // 2
    device = torch.device("cpu") if timestep_B.device.type == "mps" else timestep_B.device  # MPS has no float64
    exponent = torch.arange(half, device=device, dtype=torch.float64) / half
    angle = torch.outer(timestep_B.to(device).double(), TIME_MAX_PERIOD**-exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=1).float().to(timestep_B.device)


class ConditionEmbedder(nn.Module):
    """Time and text embeddings; parameter names are those of diffusers."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = TimestepEmbedding(in_channels=freq_dim, time_embed_dim=dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")

    def text_embedding(self, text_BLD: Tensor) -> Tensor:
        """Project text embeddings (B, L, D') to the network's width (B, L, D)."""
        embedded: Tensor = self.text_embedder(text_BLD.to(self.text_embedder.linear_1.weight.dtype))
        return embedded

    def forward(self, timestep_B: Tensor, guidance_BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the time embedding (B, D), guidance included, and six modulations (B, 6, D), both float32."""
        sinusoid = time_sinusoid(timestep_B, self.freq_dim).to(self.time_embedder.linear_1.weight.dtype)
        time_BD = self.time_embedder(sinusoid)
        if guidance_BD is not None:
            time_BD = time_BD + guidance_BD
        modulation = self.time_proj(F.silu(time_BD)).unflatten(1, (6, -1))
        return time_BD.float(), modulation.float()


class GuidanceEmbedder(nn.Module):
    """Embeds guidance scales as a change of the time embedding of a distilled network.

    Args:
        dim: width of the time embedding.
        ranges: lowest and highest value of each scale, normalized to 0 and 1.
    """

    def __init__(self, dim: int, ranges: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        self.ranges = tuple(ranges)
        self.linear_1 = nn.Linear(len(ranges), dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, scales_BK: Tensor) -> Tensor:
        """Embed guidance scales (B, K) as (B, D)."""
        low, high = scales_BK.new_tensor(self.ranges).unbind(dim=1)
        normalized = (scales_BK - low) / (high - low).clamp(min=MIN_RANGE)
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(normalized.to(self.linear_1.weight.dtype))))
        return embedded
