"""Audio inside the network: Whisper's encoder, and the projection of its rows to audio tokens.

Shape suffixes: B batch, F latent frames, W rows a window, N bands, D width, K audio tokens a frame, E token width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from humo.model.upstream import FP32LayerNorm, WhisperEncoder

# diffusers requires the base class in the module of a pipeline component that is not its own
__all__ = ["AudioProjection", "PreTrainedModel", "SpeechEncoder", "null_audio_like"]


class SpeechEncoder(WhisperEncoder):
    """Whisper's encoder as a separate model; its folder has the encoder's weights only."""


class AudioProjection(nn.Module):
    """Projects the encoder rows of each latent frame to audio tokens.

    Args:
        window, bands, width: encoder rows per latent frame, bands of encoder states, width of a row.
        hidden_dim: width of the two hidden layers.
        tokens, token_dim: audio tokens per latent frame, and their width.

    **Source:** ``humo/models/audio/audio_proj.py``, ``AudioProjModel``.
    """

    def __init__(self, window: int, bands: int, width: int, hidden_dim: int, tokens: int, token_dim: int) -> None:
        super().__init__()
        self.tokens, self.token_dim = tokens, token_dim
        self.proj_1 = nn.Linear(window * bands * width, hidden_dim)
        self.proj_2 = nn.Linear(hidden_dim, hidden_dim)
        self.proj_3 = nn.Linear(hidden_dim, tokens * token_dim)
        self.norm = FP32LayerNorm(token_dim)

    def forward(self, audio_BFWND: Tensor) -> Tensor:
        """Project windows of encoder rows (B, F, W, N, D) to audio tokens (B, F, K, E)."""
        hidden = F.relu(self.proj_1(audio_BFWND.flatten(2)))
        hidden = F.relu(self.proj_2(hidden))
        tokens: Tensor = self.norm(self.proj_3(hidden).unflatten(2, (self.tokens, self.token_dim)))
        return tokens


def null_audio_like(audio: Tensor) -> Tensor:
    """Return all-zero windows, the null audio condition, which the network still projects and attends to.

    **Source:** ``humo/generate.py``, ``Generator.inference`` (``audio_emb_neg``).
    """
    return torch.zeros_like(audio)
