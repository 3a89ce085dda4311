"""The transformer with its auxiliary heads as one trainable module, and the initialization of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from humo.model.transformer import HuMoTransformer3DModel
from humo.training.auxiliary_heads import FocusHeads, IdentityHeads, LipsHead, capture_activations

EMBEDDING_STD = 0.02
"""Standard deviation of the initial weights of time and text embeddings, as in Wan2.1."""


@dataclass(frozen=True, slots=True)
class TrainingOutput:
    """Outputs of a training pass.

    Args:
        velocity: (B, C, L, H, W).
        focus: face logits (B, heads, frames, h, w); None unless the focus heads are active.
        lips: mouth curve (B, frames, 4, 3); None unless the lips head is active.
        identity: face embedding (B, heads, 128); None unless the identity heads are active.
    """

    velocity: Tensor
    focus: Tensor | None
    lips: Tensor | None
    identity: Tensor | None


class TrainingModel(nn.Module):
    """A transformer and its auxiliary heads as one module to optimize, save and shard.

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
        self.active_heads: Sequence[str] = ("focus", "lips", "identity")

    def forward(
        self,
        inputs_BCLHW: Tensor,
        timestep_B: Tensor,
        text_BLD: Tensor,
        audio_BLWND: Tensor,
        frames: int,
        guidance_BK: Tensor | None = None,
    ) -> TrainingOutput:
        """Predict the velocity and the outputs of the active heads.

        Args:
            inputs_BCLHW: noisy sequence, with further channels where the family has them.
            timestep_B: 0..1000.
            text_BLD: text embeddings.
            audio_BLWND: audio windows.
            frames: number of video latent frames; the heads read these alone.
            guidance_BK: guidance scales, for a guidance-distilled network.
        """
        with capture_activations(self.transformer) as (hidden, tokens):
            velocity = self.transformer(
                hidden_states=inputs_BCLHW,
                timestep=timestep_B,
                encoder_hidden_states=text_BLD,
                audio_hidden_states=audio_BLWND,
                guidance=guidance_BK,
                return_dict=False,
            )[0]
        grid = frames, inputs_BCLHW.shape[3] // self.patch[1], inputs_BCLHW.shape[4] // self.patch[2]
        video_states = [state[:, : math.prod(grid)] for state in hidden]
        return TrainingOutput(
            velocity,
            focus=self.focus(video_states).unflatten(2, grid) if "focus" in self.active_heads else None,
            lips=self.lips(tokens[0][:, :frames]) if "lips" in self.active_heads else None,
            identity=self.identity(video_states) if "identity" in self.active_heads else None,
        )


def initialize_weights(transformer: HuMoTransformer3DModel) -> None:
    """Initialize the weights of a network that is trained from scratch, from torch's global generator.

    Linear layers are Xavier-uniform, embeddings normal, the last layer zero, as in Wan2.1. The output layers of audio
    attention are zero, too, so that it has no effect before it is trained.

    **Source:** Wan2.1 (arXiv 2503.20314), ``WanModel.init_weights``; paper (arXiv 2509.08519), progressive training:
    stage 1 has no audio modules.
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
    for mlp in (embedder.time_embedder, embedder.text_embedder):
        for layer in mlp.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=EMBEDDING_STD)
    nn.init.zeros_(transformer.proj_out.weight)
    block: Any
    for block in transformer.blocks:
        nn.init.zeros_(block.attn_audio.to_out[0].weight)
