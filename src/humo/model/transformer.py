"""HuMo's transformer: the one of Wan2.1 with an audio cross-attention in every block.

Shape suffixes: B batch, C channels, F latent frames, H, W latent size, S video tokens (F * h * w), D width,
L text positions, K audio tokens a frame, E audio token width, N attention heads.

The residual stream and the small layers at both ends are always float32. The blocks compute in the dtype of the text
embeddings. Parameter names are those of diffusers' Wan transformer, so that its LoRAs fit.

**Source:** ``humo/models/wan_modules/model_humo.py``: ``WanAttentionBlock``, ``AudioCrossAttentionWrapper``, ``Head``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import CacheMixin, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from humo.model.attention import Attention, KeyValue, RotaryEmbedding, rotary_embedding
from humo.model.audio import AudioProjection
from humo.model.context_parallel import ContextParallel
from humo.model.embedding import ConditionEmbedder, GuidanceEmbedder
from humo.model.upstream import (
    AttentionMixin,
    FeedForward,
    FP32LayerNorm,
    TransformerBlockMetadata,
    TransformerBlockRegistry,
    apply_lora_scale,
)
from humo.presets import SCALE_NAMES, read_distillation
from humo.schedule import TRAIN_TIMESTEPS

SIGMA_DATA = 0.3
"""Standard deviation of the data in the preconditioning of networks that predict clean data."""

FLOAT32_PARTS = frozenset(
    (
        *("patch_embedding", "text_embedder", "audio_proj", "time_embedder", "time_proj", "scale_shift_table"),
        *("guidance_embedder",),
        *("norm1", "norm2", "norm3", "norm_audio", "norm_q", "norm_k", "proj_out"),
    )
)
"""Parts of the names of weights that are always float32: norms, small layers, the first and the last layer."""


def _velocity_from_preconditioned(
    output_BCFHW: Tensor, noisy_BCFHW: Tensor, timestep_B: Tensor, sigma_data: float | Sequence[float] | None = None
) -> Tensor:
    """Return the velocity (B, C, F, H, W) of a network whose last layer predicts clean data.

    data = c_skip * noisy + c_out * output, with noise level s, d = sigma_data, c_skip = d^2 / (d^2 + s^2) and
    c_out = s / sqrt(d^2 + s^2). At high levels the output is the data, at low levels its difference from the input.
    Then velocity = (noisy - data) / s, simplified so that nothing is divided by zero.

    Args:
        output_BCFHW: output of the last layer.
        noisy_BCFHW: noisy latents in the network's input.
        timestep_B: 0..1000.
        sigma_data: one for all channels, or one per channel; default: `SIGMA_DATA`.

    **Source:** preconditioning of EDM (Karras et al. 2022, arXiv 2206.00364, table 1), up to the factor d in c_out.
    """
    sigma_data = SIGMA_DATA if sigma_data is None else sigma_data
    level_B = (timestep_B / TRAIN_TIMESTEPS).view(-1, 1, 1, 1, 1)
    sigma_C = torch.as_tensor(sigma_data, dtype=torch.float32, device=level_B.device).view(1, -1, 1, 1, 1)
    variance_BC = sigma_C.square() + level_B.square()
    return noisy_BCFHW * level_B / variance_BC - output_BCFHW / variance_BC.sqrt()


def modulation_table(module: Any) -> Tensor:
    """Return the modulation table of a block or of the head, with the changes of LoRAs."""
    table: Tensor = module.scale_shift_table
    if module.scale_shift_change is not None:
        module.scale_shift_change = module.scale_shift_change.to(table.device)
        table = table + module.scale_shift_change
    return table


class HuMoTransformerBlock(nn.Module):
    """Self-attention, text cross-attention, audio cross-attention within each latent frame, feed-forward."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float, audio_token_dim: int) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, eps)
        self.norm2 = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.attn2 = Attention(dim, heads, eps, context_dim=dim)
        self.norm_audio = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.attn_audio = Attention(dim, heads, eps, context_dim=audio_token_dim)
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.scale_shift_change: Tensor | None = None  # of LoRAs

    def forward(
        self,
        hidden_states: Tensor,
        text: Tensor | KeyValue,
        modulation_B6D: Tensor,
        rotary: RotaryEmbedding,
        audio: Tensor | KeyValue,
        frames: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """Run the block: float32 residual stream (B, S, D) in and out, sub-layers in ``dtype``.

        Text is (B, L, D) and audio (B * F, K, E), or the keys and values of either. diffusers' caches expect the
        stream under the name ``hidden_states``.
        """
        hidden_BSD = self.attention_layers(hidden_states, text, modulation_B6D, rotary, audio, frames, dtype)
        return self.feed_forward(hidden_BSD, self.norm3(hidden_BSD), modulation_B6D, dtype)

    def attention_layers(
        self,
        hidden_BSD: Tensor,
        text: Tensor | KeyValue,
        modulation_B6D: Tensor,
        rotary: RotaryEmbedding,
        audio: Tensor | KeyValue,
        frames: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """Run self-attention, text cross-attention and audio cross-attention."""
        shift, scale, gate, *_ = (modulation_table(self) + modulation_B6D).chunk(6, dim=1)

        x = torch.addcmul(shift, self.norm1(hidden_BSD), 1 + scale).to(dtype)
        hidden_BSD = torch.addcmul(hidden_BSD, self.attn1(x, x, rotary), gate)

        x = self.norm2(hidden_BSD).to(dtype)
        hidden_BSD = hidden_BSD + self.attn2(x, text)

        x = self.norm_audio(hidden_BSD).to(dtype)
        x = x.unflatten(1, (frames, -1)).flatten(0, 1)  # a latent frame attends to its own audio tokens only
        out: Tensor = hidden_BSD + self.attn_audio(x, audio).view_as(hidden_BSD)
        return out

    def feed_forward(
        self, hidden_BSD: Tensor, normed_BSD: Tensor, modulation_B6D: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Run the feed-forward layer on the stream, given the output of ``norm3`` (which training captures)."""
        *_, shift, scale, gate = (modulation_table(self) + modulation_B6D).chunk(6, dim=1)
        x = torch.addcmul(shift, normed_BSD, 1 + scale).to(dtype)
        return torch.addcmul(hidden_BSD, self.ffn(x), gate)


KVCache = tuple[KeyValue, ...]
"""Keys and values of one context, for each block."""

TransformerBlockRegistry.register(HuMoTransformerBlock, TransformerBlockMetadata())  # for diffusers' caches


@dataclass(frozen=True)
class CrossAttentionKV:
    """Cross-attention keys and values of text and audio for every block; they do not depend on the timestep.

    Args:
        text, audio: keys and values for each block.
        dtype: dtype of the blocks.
    """

    text: KVCache
    audio: KVCache
    dtype: torch.dtype


class HuMoTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin):
    """Predicts the velocity noise - data of noisy latents from timestep, text, audio and reference images.

    Args:
        patch_size: latent (frames, rows, columns) per token.
        num_attention_heads, attention_head_dim: their product is the width.
        in_channels: 36 where reference latents are concatenated as channels, 16 where they replace latent frames.
        out_channels: latent channels.
        text_dim, text_length: width of the text encoder, and the positions its embeddings are padded to with zeros.
        freq_dim: width of the time sinusoid.
        ffn_dim, num_layers, eps: inner width of the feed-forward layers, number of blocks, epsilon of the norms.
        audio_window, audio_bands, audio_width: encoder rows per latent frame, bands, width of the audio encoder.
        audio_hidden_dim, audio_tokens, audio_token_dim: arguments of `AudioProjection`.
        prediction: output of the last layer: ``velocity``, as published, or ``sample``, the clean data, from which the
            velocity is computed. Clean data is easier to predict for a narrow network.
        sigma_data: standard deviation of the data in the preconditioning of ``sample``, for all channels or for each;
            default: `SIGMA_DATA`. Half of a channel's deviation works well.
        continuation: the network was trained to continue from clean first latent frames.
        distillation: steps, shift and scales of a distilled network (`humo.presets.Distillation`), which takes the
            guidance scales as an input.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["HuMoTransformerBlock"]
    _repeated_blocks = ["HuMoTransformerBlock"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "condition_embedder", "audio_proj", "norm", "proj_out"]
    _keep_in_fp32_modules = sorted(FLOAT32_PARTS)

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        text_length: int = 512,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        eps: float = 1e-6,
        audio_window: int = 8,
        audio_bands: int = 5,
        audio_width: int = 1280,
        audio_hidden_dim: int = 512,
        audio_tokens: int = 16,
        audio_token_dim: int = 1536,
        prediction: Literal["velocity", "sample"] = "velocity",
        sigma_data: float | Sequence[float] | None = None,
        continuation: bool = False,
        distillation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if prediction not in ("velocity", "sample"):
            raise ValueError(f"prediction: {prediction!r} is not known; known are velocity, sample")
        dim = num_attention_heads * attention_head_dim
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = ConditionEmbedder(dim, freq_dim, text_dim)
        self.audio_proj = AudioProjection(
            audio_window, audio_bands, audio_width, audio_hidden_dim, audio_tokens, audio_token_dim
        )
        self.blocks = nn.ModuleList(
            HuMoTransformerBlock(dim, ffn_dim, num_attention_heads, eps, audio_token_dim) for _ in range(num_layers)
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.scale_shift_change: Tensor | None = None  # of LoRAs
        self.guidance_embedder: GuidanceEmbedder | None = None
        if distillation:
            self.enable_guidance_embedding(distillation)
        self.gradient_checkpointing = False

    def enable_guidance_embedding(self, distillation: Mapping[str, Any]) -> None:
        """Add an embedding of the guidance scales; its last layer starts at zero and changes nothing.

        Args:
            distillation: as in the configuration.

        Raises:
            CheckpointError: the mapping is incomplete.
        """
        self.register_to_config(distillation=dict(distillation))
        description = read_distillation(self.config)
        assert description is not None
        ranges = [description.scales[name] for name in SCALE_NAMES]
        self.guidance_embedder = GuidanceEmbedder(self.proj_out.in_features, ranges)
        nn.init.zeros_(self.guidance_embedder.linear_2.weight)
        nn.init.zeros_(self.guidance_embedder.linear_2.bias)

    def disable_guidance_embedding(self) -> None:
        """Remove the embedding of the guidance scales."""
        self.register_to_config(distillation=None)
        self.guidance_embedder = None

    def cross_attention_kv(self, encoder_hidden_states: Tensor, audio_hidden_states: Tensor) -> CrossAttentionKV:
        """Return the cross-attention keys and values of text and audio, which do not depend on the timestep.

        Args:
            encoder_hidden_states, audio_hidden_states: as in `forward`.
        """
        dtype = encoder_hidden_states.dtype
        return CrossAttentionKV(self.text_kv(encoder_hidden_states), self.audio_kv(audio_hidden_states, dtype), dtype)

    def text_kv(self, text_BLD: Tensor) -> KVCache:
        """Return the keys and values of text (B, L, text_dim) for each block, in the text's dtype."""
        embedded = self.condition_embedder.text_embedding(self._padded(text_BLD))
        return self._block_kv("attn2", embedded, text_BLD.dtype)

    def audio_kv(self, audio_BFWND: Tensor, dtype: torch.dtype) -> KVCache:
        """Return the keys and values of audio windows (B, F, W, N, D) for each block, in ``dtype``."""
        return self._block_kv("attn_audio", self._audio_tokens(audio_BFWND), dtype)

    def _block_kv(self, attention: str, context_BLD: Tensor, dtype: torch.dtype) -> KVCache:
        layers: list[Any] = [block.get_submodule(attention) for block in self.blocks]
        pairs = (layer.key_value(context_BLD) for layer in layers)
        return tuple((keys.to(dtype), values.to(dtype)) for keys, values in pairs)

    def _padded(self, text_BLD: Tensor) -> Tensor:
        padding = self.config.text_length - text_BLD.shape[1]
        if padding < 0:
            raise ValueError(f"{text_BLD.shape[1]} text positions; at most {self.config.text_length}")
        return F.pad(text_BLD, (0, 0, 0, padding))

    def _audio_tokens(self, audio_BFWND: Tensor) -> Tensor:
        """Return the audio tokens (B * F, K, E) of audio windows."""
        tokens: Tensor = self.audio_proj(audio_BFWND.to(self.audio_proj.proj_1.weight.dtype))
        return tokens.flatten(0, 1)

    def _contexts(
        self, text_BLD: Tensor | None, audio_BFWND: Tensor | None, kv: CrossAttentionKV | None
    ) -> tuple[Sequence[Tensor | KeyValue], Sequence[Tensor | KeyValue], torch.dtype]:
        """Return text and audio for each block, as tokens or as keys and values, and the blocks' dtype."""
        if kv is not None:
            return kv.text, kv.audio, kv.dtype
        assert text_BLD is not None
        assert audio_BFWND is not None
        text = self.condition_embedder.text_embedding(self._padded(text_BLD))
        count = len(self.blocks)
        return [text] * count, [self._audio_tokens(audio_BFWND)] * count, text_BLD.dtype

    def _unpatchify(self, patches_BSD: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        """Arrange the patches of all tokens as latents (B, out_channels, F, H, W)."""
        grid = patches_BSD.view(len(patches_BSD), frames, rows, columns, *self.config.patch_size, -1)
        return grid.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        audio_hidden_states: Tensor | None = None,
        cross_attention_kv: CrossAttentionKV | None = None,
        guidance: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity.

        Args:
            hidden_states: (B, in_channels, F, H, W), noisy latents with references (`humo.model.reference`).
            timestep: (B,) in 0..1000.
            encoder_hidden_states: (B, L, text_dim) text, L at most ``text_length``; its dtype is that of the blocks.
            audio_hidden_states: (B, F, audio_window, audio_bands, audio_width), zeros without audio.
            cross_attention_kv: result of `cross_attention_kv`, in place of text and audio.
            guidance: (B, 3) scales of text, audio and image, an input of distilled networks.
            attention_kwargs: ``scale`` scales LoRA layers; ``context_parallel`` (`ContextParallel`) divides the tokens
                among ranks.
            return_dict: return an object with ``sample``, not a tuple.

        Returns:
            (B, out_channels, F, H, W), float32.
        """
        _, _, frames, height, width = hidden_states.shape
        p_f, p_h, p_w = self.config.patch_size
        frames, rows, columns = frames // p_f, height // p_h, width // p_w
        guidance_BD = None if self.guidance_embedder is None or guidance is None else self.guidance_embedder(guidance)
        time_BD, modulation_B6D = self.condition_embedder(timestep, guidance_BD)
        texts, audios, dtype = self._contexts(encoder_hidden_states, audio_hidden_states, cross_attention_kv)
        rotary = rotary_embedding(self.config.attention_head_dim, frames, rows, columns, hidden_states.device)

        patches = self.patch_embedding(hidden_states.to(self.patch_embedding.weight.dtype))
        hidden_BSD = patches.flatten(2).transpose(1, 2).contiguous().float()
        context_parallel: ContextParallel | None = (attention_kwargs or {}).get("context_parallel")
        if context_parallel is not None:
            rotary = context_parallel.rotary(rotary, frames, rows * columns)
            hidden_BSD = context_parallel.shard(hidden_BSD, frames, dim=1)
        for block, text, audio in zip(self.blocks, texts, audios, strict=True):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_BSD = self._gradient_checkpointing_func(
                    block, hidden_BSD, text, modulation_B6D, rotary, audio, frames, dtype
                )
            else:
                hidden_BSD = block(hidden_BSD, text, modulation_B6D, rotary, audio, frames, dtype)

        shift, scale = (modulation_table(self) + time_BD.unsqueeze(1)).chunk(2, dim=1)
        out_BSD = torch.addcmul(shift, self.norm_out(hidden_BSD), 1 + scale)
        patches = self.proj_out(out_BSD.to(self.proj_out.weight.dtype)).float()
        if context_parallel is not None:
            patches = context_parallel.gather_tokens(patches, frames, rows * columns)
        velocity = self._unpatchify(patches, frames, rows, columns)
        if self.config.prediction == "sample":
            noisy = hidden_states[:, : self.config.out_channels]
            velocity = _velocity_from_preconditioned(velocity, noisy, timestep, self.config.sigma_data)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)
