"""The network under training, with the heads that only training knows; and its weights at the very start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from humo.model.transformer import HuMoTransformer3DModel
from humo.training.auxiliary_heads import FocusHeads, IdentityHeads, LipsHead, listening

EMBEDDING_DEVIATION = 0.02
"""Of the first weights of the time and text embeddings, as Wan2.1 has them."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a pass says.

    Args:
        velocity: (B, C, L, H, W).
        focus: face logits (B, heads, frames, h, w).
        lips: mouth curve (B, frames, 4, 3).
        identity: face embedding (B, heads, 128).

    The last three are None where they are not asked for.
    """

    velocity: Tensor
    focus: Tensor | None
    lips: Tensor | None
    identity: Tensor | None


class Learner(nn.Module):
    """A transformer and the heads on it, as one module to be optimised, saved and sharded.

    Args:
        transformer: the network.
    """

    def __init__(self, transformer: HuMoTransformer3DModel) -> None:
        super().__init__()
        config: Any = transformer.config
        self.transformer = transformer
        self.focus = FocusHeads(config.num_attention_heads * config.attention_head_dim, config.num_layers)
        self.lips = LipsHead(config.audio_tokens, config.audio_token_dim)
        self.identity = IdentityHeads(config.num_attention_heads * config.attention_head_dim, config.num_layers)
        self.patch: tuple[int, int, int] = tuple(config.patch_size)
        self.asked: Sequence[str] = ("focus", "lips", "identity")

    def forward(
        self,
        inputs_BCLHW: Tensor,
        timestep_B: Tensor,
        text_BLD: Tensor,
        audio_BLWND: Tensor,
        frames: int,
        scales_BK: Tensor | None = None,
    ) -> Told:
        """What the network makes of a batch, and what the heads that are ``asked`` say of its video latent frames."""
        with listening(self.transformer) as (hidden, tokens):
            velocity = self.transformer(
                hidden_states=inputs_BCLHW,
                timestep=timestep_B,
                encoder_hidden_states=text_BLD,
                audio_hidden_states=audio_BLWND,
                scales=scales_BK,
                return_dict=False,
            )[0]
        grid = frames, inputs_BCLHW.shape[3] // self.patch[1], inputs_BCLHW.shape[4] // self.patch[2]
        seen = [state[:, : math.prod(grid)] for state in hidden]
        return Told(
            velocity,
            focus=self.focus(seen).unflatten(2, grid) if "focus" in self.asked else None,
            lips=self.lips(tokens[0][:, :frames]) if "lips" in self.asked else None,
            identity=self.identity(seen) if "identity" in self.asked else None,
        )


def initialise(transformer: HuMoTransformer3DModel) -> None:
    """Draw the weights of a network that starts from nothing, from torch's own generator.

    As Wan2.1's: linear layers Xavier-uniform, embeddings normal, the last layer zero. The audio attention's last
    layers are zero, too: until they are trained, it adds nothing, as if it were absent (training.md, stage 1).
    """
    for layer in transformer.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(transformer.patch_embedding.weight.flatten(1))
    assert transformer.patch_embedding.bias is not None
    nn.init.zeros_(transformer.patch_embedding.bias)
    embedder = transformer.condition_embedder
    for part in (embedder.time_embedder, embedder.text_embedder):
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=EMBEDDING_DEVIATION)
    nn.init.zeros_(transformer.proj_out.weight)
    block: Any
    for block in transformer.blocks:
        nn.init.zeros_(block.attn_audio.to_out[0].weight)
