"""Small heads that say where faces are (focus by predicting), what the mouth does and who it is, for training alone.

They read the network from outside (forward hooks) and change nothing in it: it computes the same with and without them.

Shape suffixes: B batch, N heads, F video latent frames, h, w token grid, D width, K audio tokens a frame, E their
width, T frames a latent frame, M values of the mouth curve, P those of a face embedding.
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

FOCUS_BLOCKS = 4
"""The last blocks that are read (published)."""

MOUTH_VALUES = 3
"""Of the true mouth curve: jaw, closure, pucker."""


class FocusHeads(nn.Module):
    """For each of the last blocks, a token-wise perceptron: the chance that a token lies on a face, as a logit.

    **Source:** report, focus-by-predicting: read right after audio cross-attention, outputs averaged. The shape of the
    predictor is not published; one hidden layer as wide as the network stays within the room the 1.7B file has.
    """

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1)
            )
            for _ in range(min(FOCUS_BLOCKS, blocks))
        )

    def forward(self, hidden: list[Tensor]) -> Tensor:
        """N hidden states (B, S, D) -> logits (B, N, S)."""
        return torch.stack([head(one).squeeze(-1) for head, one in zip(self.heads, hidden, strict=True)], dim=1)


class IdentityHeads(nn.Module):
    """For each of the last blocks, the face embedding of the person shown, from a weighted mean of the video's tokens.

    The loss reaches the tokens of the reference through self-attention: a network that starts from nothing learns what
    to read there long before the pictures' own error tells it.
    """

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        count = min(FOCUS_BLOCKS, blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(count))
        self.scores = nn.ModuleList(nn.Linear(dim, 1) for _ in range(count))
        self.readers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, EMBEDDING_SIZE)) for _ in range(count)
        )

    def forward(self, hidden: list[Tensor]) -> Tensor:
        """N hidden states (B, S, D) -> embeddings of unit deviation (B, N, P)."""
        told = []
        for one, norm, score, reader in zip(hidden, self.norms, self.scores, self.readers, strict=True):
            tokens = norm(one)
            told.append(reader((tokens * score(tokens).softmax(dim=1)).sum(dim=1)))
        return torch.stack(told, dim=1)


class LipsHead(nn.Linear):
    """The mouth curve (of unit deviation) of each latent frame's four frames from its audio tokens, linearly."""

    def __init__(self, tokens: int, token_dim: int) -> None:
        super().__init__(tokens * token_dim, TEMPORAL_STRIDE * MOUTH_VALUES)

    def forward(self, audio_BFKE: Tensor) -> Tensor:
        """-> (B, F, 4, 3)."""
        curve: Tensor = super().forward(audio_BFKE.flatten(2)).unflatten(2, (TEMPORAL_STRIDE, MOUTH_VALUES))
        return curve


@contextmanager
def listening(transformer: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Within the block, a pass of the transformer leaves its hidden states and its audio tokens here.

    Yields:
        hidden states (B, S, D) right after the audio cross-attention of the last blocks, in order; and the audio
        tokens (B, F, K, E).
    """
    hidden: list[Tensor] = []
    tokens: list[Tensor] = []
    with ExitStack() as hooks:
        for block in transformer.blocks[-FOCUS_BLOCKS:]:
            # what enters the last norm of a block is its stream after audio attention
            handle = block.norm3.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
            hooks.callback(handle.remove)
        handle = transformer.audio_proj.register_forward_hook(lambda _, __, made: tokens.append(made))
        hooks.callback(handle.remove)
        yield hidden, tokens


def focus_loss(logits_BNFhw: Tensor, mask_BFhw: Tensor) -> Tensor:
    """How wrong the faces were predicted, (B,): h * w / sum(mask) * BCE(mean of the chances, mask) of each frame.

    The factor makes small faces count as much as large ones. Frames without a face carry no loss; a sample's loss is
    the mean over its others, and zero if there are none.

    Args:
        logits_BNFhw: of each head.
        mask_BFhw: share of each token that lies on a face, 0..1.

    **Source:** report, focus-by-predicting; what empty masks do is not published.
    """
    heads = torch.tensor(logits_BNFhw.shape[1], dtype=torch.float32).log()
    logits = logits_BNFhw.float()
    log_chance = F.logsigmoid(logits).logsumexp(dim=1) - heads  # of the averaged chance, safe where it is 0 or 1
    log_other = F.logsigmoid(-logits).logsumexp(dim=1) - heads
    entropy = -(mask_BFhw * log_chance + (1 - mask_BFhw) * log_other).mean(dim=(-2, -1))
    size = mask_BFhw.sum(dim=(-2, -1))
    there = size > 0
    factor = mask_BFhw[0, 0].numel() / torch.where(there, size, 1.0)
    return (entropy * factor * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def identity_loss(told_BNP: Tensor, true_BP: Tensor) -> Tensor:
    """Mean squared error of the face embedding, (B,), over all heads; zero where the truth is unknown (NaN)."""
    known = ~true_BP.isnan().any(dim=1)
    error = (told_BNP.float() - true_BP.nan_to_num()[:, None]).square().mean(dim=(1, 2))
    return error * known


def lips_loss(curve_BFTM: Tensor, true_BFTM: Tensor) -> Tensor:
    """Mean squared error of the mouth curve, (B,); frames where the truth is unknown (NaN) do not count."""
    known = ~true_BFTM.isnan()
    error = torch.where(known, curve_BFTM.float() - true_BFTM.nan_to_num(), 0.0).square()
    return error.flatten(1).sum(dim=1) / known.flatten(1).sum(dim=1).clamp(min=1)
