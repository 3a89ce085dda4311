"""Auxiliary heads and their losses, used in training alone: face masks (focus-by-predicting), lips and identity.

The heads read activations through forward hooks. The network computes the same with and without them.

Shape suffixes: B batch, N heads, F video latent frames, h, w token grid, S video tokens, D width, K audio tokens a
latent frame, E width of audio tokens, T frames a latent frame, M values of the mouth curve, P values of a face
embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo.geometry import TEMPORAL_STRIDE
from humo.media.face_identity import EMBEDDING_SIZE

LAST_BLOCKS = 4
"""Number of last blocks whose activations the heads read (published)."""

MOUTH_VALUES = 3
"""Number of values of the mouth curve in a frame: jaw, closure, pucker."""


class FocusHeads(nn.Module):
    """A perceptron for each of the last blocks that predicts, as a logit, whether a token lies on a face.

    **Source:** paper (arXiv 2509.08519), "focus-by-predicting": the heads read the stream after audio cross-attention,
    and their predictions are averaged. The predictor's architecture is not published; one hidden layer as wide as the
    network fits in the size of the published 1.7B file.
    """

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1)
            )
            for _ in range(min(LAST_BLOCKS, blocks))
        )

    def forward(self, hidden: list[Tensor]) -> Tensor:
        """Return the logits (B, N, S) for N hidden states (B, S, D)."""
        return torch.stack([head(state).squeeze(-1) for head, state in zip(self.heads, hidden, strict=True)], dim=1)


class IdentityHeads(nn.Module):
    """Heads of the last blocks that predict the person's face embedding from a weighted mean of video tokens.

    The gradient reaches the reference tokens through self-attention. So a network that is trained from scratch learns
    to use the reference long before the velocity loss teaches it.
    """

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        count = min(LAST_BLOCKS, blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(count))
        self.scores = nn.ModuleList(nn.Linear(dim, 1) for _ in range(count))
        self.readers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, EMBEDDING_SIZE)) for _ in range(count)
        )

    def forward(self, hidden: list[Tensor]) -> Tensor:
        """Return embeddings of unit standard deviation (B, N, P) for N hidden states (B, S, D)."""
        embeddings = []
        for state, norm, score, reader in zip(hidden, self.norms, self.scores, self.readers, strict=True):
            tokens = norm(state)
            embeddings.append(reader((tokens * score(tokens).softmax(dim=1)).sum(dim=1)))
        return torch.stack(embeddings, dim=1)


class LipsHead(nn.Linear):
    """A linear layer that predicts the mouth curve of a latent frame's four frames from its audio tokens.

    Args:
        tokens: number of audio tokens a latent frame.
        token_dim: width of an audio token.
    """

    def __init__(self, tokens: int, token_dim: int) -> None:
        super().__init__(tokens * token_dim, TEMPORAL_STRIDE * MOUTH_VALUES)

    def forward(self, audio_BFKE: Tensor) -> Tensor:
        """Return the mouth curve (B, F, 4, 3) in units of its standard deviation."""
        curve: Tensor = super().forward(audio_BFKE.flatten(2)).unflatten(2, (TEMPORAL_STRIDE, MOUTH_VALUES))
        return curve


@contextmanager
def capture_activations(transformer: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Capture activations of the transformer's passes within the ``with`` block.

    Yields:
        hidden states (B, S, D) after the audio cross-attention of the last blocks, in order; and the audio tokens
        (B, F, K, E). Both lists are filled by a pass.
    """
    hidden: list[Tensor] = []
    tokens: list[Tensor] = []
    with ExitStack() as hooks:
        for block in transformer.blocks[-LAST_BLOCKS:]:
            # the input of a block's last norm is its stream after audio attention
            handle = block.norm3.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
            hooks.callback(handle.remove)
        handle = transformer.audio_proj.register_forward_hook(lambda _, __, output: tokens.append(output))
        hooks.callback(handle.remove)
        yield hidden, tokens


def focus_loss(logits_BNFhw: Tensor, mask_BFhw: Tensor) -> Tensor:
    """Return the focus-by-predicting loss (B,): h * w / sum(mask) * BCE(mean probability, mask), averaged over frames.

    The factor gives small faces the weight of large ones. Frames without a face are left out; the loss of a sample
    without faces is zero.

    Args:
        logits_BNFhw: face logits of each head.
        mask_BFhw: fraction of each token that lies on a face, 0..1.

    **Source:** paper (arXiv 2509.08519), "focus-by-predicting". How it treats empty masks is not published.
    """
    log_heads = torch.tensor(logits_BNFhw.shape[1], dtype=torch.float32).log()
    logits = logits_BNFhw.float()
    log_face = F.logsigmoid(logits).logsumexp(dim=1) - log_heads  # of the mean probability, finite where it is 0 or 1
    log_background = F.logsigmoid(-logits).logsumexp(dim=1) - log_heads
    entropy = -(mask_BFhw * log_face + (1 - mask_BFhw) * log_background).mean(dim=(-2, -1))
    size = mask_BFhw.sum(dim=(-2, -1))
    has_face = size > 0
    factor = mask_BFhw[0, 0].numel() / torch.where(has_face, size, 1.0)
    return (entropy * factor * has_face).sum(dim=1) / has_face.sum(dim=1).clamp(min=1)


def identity_loss(predicted_BNP: Tensor, true_BP: Tensor) -> Tensor:
    """Return the mean squared error (B,) of the face embedding over all heads; zero where the truth is NaN."""
    known = ~true_BP.isnan().any(dim=1)
    error = (predicted_BNP.float() - true_BP.nan_to_num()[:, None]).square().mean(dim=(1, 2))
    return error * known


def lips_loss(curve_BFTM: Tensor, true_BFTM: Tensor) -> Tensor:
    """Return the mean squared error (B,) of the mouth curve over the values whose truth is not NaN."""
    known = ~true_BFTM.isnan()
    error = torch.where(known, curve_BFTM.float() - true_BFTM.nan_to_num(), 0.0).square()
    return error.flatten(1).sum(dim=1) / known.flatten(1).sum(dim=1).clamp(min=1)
