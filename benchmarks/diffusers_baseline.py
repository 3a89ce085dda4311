"""Baselines: diffusers' Wan transformer, and the same with HuMo's audio layers added.

Shape suffixes: B batch, C channels, F latent frames, H, W latent size, S video tokens, D width, L text positions,
K audio tokens a frame, E audio token width.

Parameter names equal those of `HuMoTransformer3DModel`, so that all share one set of weights.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin, WanTransformer3DModel
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanTransformerBlock
from torch import Tensor, nn

from humo import HuMoTransformer3DModel
from humo.model.audio import AudioProjection
from humo.model.transformer import SIGMA_DATA

SHARED_SETTINGS = (
    "patch_size",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "freq_dim",
    "ffn_dim",
    "num_layers",
    "eps",
)


class BlockWithAudio(WanTransformerBlock):
    """diffusers' block with an audio cross-attention; its forward repeats diffusers' code with that addition."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float, audio_token_dim: int) -> None:
        super().__init__(dim, ffn_dim, heads, cross_attn_norm=True, eps=eps)
        self.norm_audio = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.attn_audio = WanAttention(
            dim, heads, dim // heads, eps=eps, cross_attention_dim_head=dim // heads, processor=WanAttnProcessor()
        )
        self.attn_audio.to_k = nn.Linear(audio_token_dim, dim)
        self.attn_audio.to_v = nn.Linear(audio_token_dim, dim)
        self.audio_BFKE: Tensor  # set before each pass, as diffusers' model cannot pass it to its blocks

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Compute the block, (B, S, D) -> (B, S, D), with the residual stream in the dtype of its input."""
        x = hidden_states
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + temb.float()).chunk(6, dim=1)
        normed = (self.norm1(x.float()) * (1 + scale) + shift).type_as(x)
        x = (x.float() + self.attn1(normed, None, None, rotary_emb) * gate).type_as(x)
        x = x + self.attn2(self.norm2(x.float()).type_as(x), encoder_hidden_states, None, None)
        normed = self.norm_audio(x.float()).type_as(x).unflatten(1, (self.audio_BFKE.shape[1], -1)).flatten(0, 1)
        x = x + self.attn_audio(normed, self.audio_BFKE.flatten(0, 1)).view_as(x)
        normed = (self.norm3(x.float()) * (1 + ffn_scale) + ffn_shift).type_as(x)
        out: Tensor = (x.float() + self.ffn(normed).float() * ffn_gate).type_as(x)
        return out


class WanWithAudio(WanTransformer3DModel):
    """diffusers' Wan transformer with audio cross-attention in every block."""

    _keep_in_fp32_modules = [*WanTransformer3DModel._keep_in_fp32_modules, "norm_audio"]

    def __init__(self, config: Any) -> None:
        super().__init__(**{name: config[name] for name in SHARED_SETTINGS})
        self.prediction = config.prediction
        heads, token_dim = config.num_attention_heads, config.audio_token_dim
        dim = heads * config.attention_head_dim
        self.audio_proj = AudioProjection(
            config.audio_window,
            config.audio_bands,
            config.audio_width,
            config.audio_hidden_dim,
            config.audio_tokens,
            token_dim,
        )
        self.blocks = nn.ModuleList(
            BlockWithAudio(dim, config.ffn_dim, heads, config.eps, token_dim) for _ in range(config.num_layers)
        )

    def forward(self, latents_BCFHW: Tensor, timestep_B: Tensor, text_BLD: Tensor, audio: Tensor) -> Tensor:
        """Return the velocity (B, C, F, H, W) from padded text and HuMo's audio windows."""
        audio_BFKE = self.audio_proj(audio.to(text_BLD.dtype))
        for block in self.blocks:
            block.audio_BFKE = audio_BFKE
        out: Tensor = super().forward(latents_BCFHW.to(text_BLD.dtype), timestep_B, text_BLD, return_dict=False)[0]
        if self.prediction == "sample":
            level = (timestep_B / 1000).view(-1, 1, 1, 1, 1)
            spread = SIGMA_DATA**2 + level**2
            return latents_BCFHW * level / spread - out / spread**0.5
        return out


def with_audio(network: HuMoTransformer3DModel) -> WanWithAudio:
    """Return the baseline with audio layers, of the same shape and weights."""
    baseline = WanWithAudio(network.config)
    baseline.load_state_dict(network.state_dict())
    baseline.eval()
    return baseline


def without_audio(network: HuMoTransformer3DModel) -> WanTransformer3DModel:
    """Return diffusers' network with all weights but those of the audio layers."""
    baseline = WanTransformer3DModel(**{name: network.config[name] for name in SHARED_SETTINGS})
    baseline.load_state_dict({name: weight for name, weight in network.state_dict().items() if "audio" not in name})
    baseline.eval()
    return baseline


def cast_weights(network: ModelMixin, dtype: torch.dtype) -> None:
    """Convert the weights to a dtype, but for those that the class keeps in float32."""
    float32_modules = set(network._keep_in_fp32_modules)
    for name, parameter in network.named_parameters():
        if not float32_modules & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
