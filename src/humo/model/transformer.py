"""The HuMo transformer: Wan2.1's, with an audio cross-attention in every block.

Shape suffixes: B batch, C channels, F latent frames, H, W latent size, S video tokens (F * h * w), D width,
L text positions, K audio tokens a frame, E audio token width, N attention heads.

The residual stream is float32 whatever the weights' precision, and so are the small layers at both ends; the blocks
compute in the precision of the text embeddings given. Parameter names are those of diffusers' Wan transformer, so
that its LoRAs fit.

**Source:** method.md, 4.
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

PREDICTABLE = 0.3
"""Noise level 0..1 below which a network that predicts data is shown what is left of it, rather than all of it."""

FLOAT32_PARTS = frozenset(
    (
        *("patch_embedding", "text_embedder", "audio_proj", "time_embedder", "time_proj", "scale_shift_table"),
        *("scale_embedder",),
        *("norm1", "norm2", "norm3", "norm_audio", "norm_q", "norm_k", "proj_out"),
    )
)
"""Words in the names of weights that stay float32 whatever the precision: norms, small layers, both ends."""


def _velocity_to(
    output_BCFHW: Tensor, noisy_BCFHW: Tensor, timestep_B: Tensor, sigma_data: float | Sequence[float] = PREDICTABLE
) -> Tensor:
    """The velocity (B, C, F, H, W) where the network's last layer speaks of clean data.

    data = d^2 / (d^2 + s^2) * noisy + s / sqrt(d^2 + s^2) * output, with noise level s and d = sigma_data: at high
    levels the output is the data itself, at low ones what is to be changed of what is seen. Then
    velocity = (noisy - data) / s, so that nothing is divided by zero.

    Args:
        output_BCFHW: of the last layer.
        noisy_BCFHW: latents as they were shown.
        timestep_B: 0..1000.
        sigma_data: of all channels, or one for each.
    """
    level_B = (timestep_B / TRAIN_TIMESTEPS).view(-1, 1, 1, 1, 1)
    sigma_C = torch.as_tensor(sigma_data, dtype=torch.float32, device=level_B.device).view(1, -1, 1, 1, 1)
    spread_BC = sigma_C.square() + level_B.square()
    return noisy_BCFHW * level_B / spread_BC - output_BCFHW / spread_BC.sqrt()


def modulation_table(module: Any) -> Tensor:
    """Return the modulation table of a block or of the head, with what LoRAs add to it."""
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
        """One block: the float32 residual stream (B, S, D) in and out, sub-layers in the precision ``dtype``.

        Text (B, L, D) and audio tokens (B * F, K, E), or the keys and values that this block makes of them. The stream
        has the name by which diffusers' caches know it.
        """
        hidden_BSD = self.attend(hidden_states, text, modulation_B6D, rotary, audio, frames, dtype)
        return self.feed(hidden_BSD, self.norm3(hidden_BSD), modulation_B6D, dtype)

    def attend(
        self,
        hidden_BSD: Tensor,
        text: Tensor | KeyValue,
        modulation_B6D: Tensor,
        rotary: RotaryEmbedding,
        audio: Tensor | KeyValue,
        frames: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """The block up to its feed-forward part: attention among the tokens, to the text, to the sound."""
        shift, scale, gate, *_ = (modulation_table(self) + modulation_B6D).chunk(6, dim=1)

        x = torch.addcmul(shift, self.norm1(hidden_BSD), 1 + scale).to(dtype)
        hidden_BSD = torch.addcmul(hidden_BSD, self.attn1(x, x, rotary), gate)

        x = self.norm2(hidden_BSD).to(dtype)
        hidden_BSD = hidden_BSD + self.attn2(x, text)

        x = self.norm_audio(hidden_BSD).to(dtype)
        x = x.unflatten(1, (frames, -1)).flatten(0, 1)  # each latent frame hears its own tokens only
        out: Tensor = hidden_BSD + self.attn_audio(x, audio).view_as(hidden_BSD)
        return out

    def feed(self, hidden_BSD: Tensor, normed_BSD: Tensor, modulation_B6D: Tensor, dtype: torch.dtype) -> Tensor:
        """The feed-forward part, on the stream and on what ``norm3`` (which training listens at) makes of it."""
        *_, shift, scale, gate = (modulation_table(self) + modulation_B6D).chunk(6, dim=1)
        x = torch.addcmul(shift, normed_BSD, 1 + scale).to(dtype)
        return torch.addcmul(hidden_BSD, self.ffn(x), gate)


Offered = tuple[KeyValue, ...]
"""Keys and values for each block in turn."""

TransformerBlockRegistry.register(HuMoTransformerBlock, TransformerBlockMetadata())  # for diffusers' caches


@dataclass(frozen=True)
class Heard:
    """What text and sound offer to each block, the same at every timestep.

    Args:
        text, audio: of each block, keys and values.
        dtype: that the blocks compute in.
    """

    text: Offered
    audio: Offered
    dtype: torch.dtype


class HuMoTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin):
    """Predicts the velocity noise - data of noisy latents from time, text, audio and (in the input) pictures.

    Args:
        patch_size: latent (frames, rows, columns) per token.
        num_attention_heads, attention_head_dim: their product is the width.
        in_channels: 36 where pictures enter beside the latents, 16 where they overwrite latent frames.
        out_channels: latent channels.
        text_dim, text_length: width of the text encoder, and the positions its embeddings are padded to with zeros.
        freq_dim: width of the time sinusoid.
        ffn_dim, num_layers, eps: of the blocks.
        audio_window, audio_bands, audio_width: rows a latent frame hears, bands, width of the audio encoder.
        audio_hidden_dim, audio_tokens, audio_token_dim: of the audio projection.
        prediction: what the last layer gives: the velocity itself, as published, or the clean data, from which the
            velocity follows. A narrow network does better with data, which is simpler than noise.
        sigma_data: noise level 0..1 below which a network that predicts data is shown what is left of it, of all
            channels or one for each; by default `PREDICTABLE`. Half of a channel's deviation does well.
        continues: it was trained with first latent frames that are clean already, and goes on from them.
        student: what it learned, if it is a student (`humo.presets.Student`, as a mapping): it is told the scales.
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
        prediction: Literal["velocity", "data"] = "velocity",
        sigma_data: float | Sequence[float] | None = None,
        continues: bool = False,
        student: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
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
        self.scale_embedder: GuidanceEmbedder | None = None
        if student:
            self.become_student(student)
        self.gradient_checkpointing = False

    def become_student(self, student: Mapping[str, Any]) -> None:
        """Be told the guidance scales from now on; until that is trained, they change nothing.

        Args:
            student: what it is to learn, as in the configuration.

        Raises:
            CheckpointError: the mapping is not whole.
        """
        self.register_to_config(student=dict(student))
        found = read_distillation(self.config)
        assert found is not None
        self.scale_embedder = GuidanceEmbedder(self.proj_out.in_features, [found.scales[name] for name in SCALE_NAMES])
        nn.init.zeros_(self.scale_embedder.linear_2.weight)
        nn.init.zeros_(self.scale_embedder.linear_2.bias)

    def forget_student(self) -> None:
        """Be guided from outside again."""
        self.register_to_config(student=None)
        self.scale_embedder = None

    def hear(self, encoder_hidden_states: Tensor, audio_hidden_states: Tensor) -> Heard:
        """All of text and sound that no timestep changes, to be computed once for many passes.

        Args:
            encoder_hidden_states, audio_hidden_states: as in a pass.
        """
        dtype = encoder_hidden_states.dtype
        return Heard(self.hear_text(encoder_hidden_states), self.hear_sound(audio_hidden_states, dtype), dtype)

    def hear_text(self, text_BLD: Tensor) -> Offered:
        """What text (B, L, text_dim) offers to each block, in its precision."""
        embedded = self.condition_embedder.text_embedding(self._padded(text_BLD))
        return self._offered("attn2", embedded, text_BLD.dtype)

    def hear_sound(self, audio_BFWND: Tensor, dtype: torch.dtype) -> Offered:
        """What windows of encoder rows (B, F, W, N, D) offer to each block, in the precision ``dtype``."""
        return self._offered("attn_audio", self._audio_tokens(audio_BFWND), dtype)

    def _offered(self, attention: str, context_BLD: Tensor, dtype: torch.dtype) -> Offered:
        layers: list[Any] = [block.get_submodule(attention) for block in self.blocks]
        pairs = (layer.key_value(context_BLD) for layer in layers)
        return tuple((keys.to(dtype), values.to(dtype)) for keys, values in pairs)

    def _padded(self, text_BLD: Tensor) -> Tensor:
        spare = self.config.text_length - text_BLD.shape[1]
        if spare < 0:
            raise ValueError(f"{text_BLD.shape[1]} text positions; at most {self.config.text_length}")
        return F.pad(text_BLD, (0, 0, 0, spare))

    def _audio_tokens(self, audio_BFWND: Tensor) -> Tensor:
        """(B * F, K, E)."""
        tokens: Tensor = self.audio_proj(audio_BFWND.to(self.audio_proj.proj_1.weight.dtype))
        return tokens.flatten(0, 1)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        audio_hidden_states: Tensor | None = None,
        heard: Heard | None = None,
        scales: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity.

        Args:
            hidden_states: (B, in_channels, F, H, W), noisy latents with the pictures (`model.reference`).
            timestep: (B,) in 0..1000.
            encoder_hidden_states: (B, L, text_dim) text, L at most ``text_length``; its precision is computed in.
            audio_hidden_states: (B, F, audio_window, audio_bands, audio_width), zeros where there is no sound.
            heard: what `hear` made of the two, in their place.
            scales: (B, 3) guidance scales of text, audio and image, which a student is told.
            attention_kwargs: ``scale`` scales LoRA layers; ``context_parallel`` (`ContextParallel`) divides the tokens
                among ranks.
            return_dict: give an object with ``sample``, rather than a tuple.

        Returns:
            (B, out_channels, F, H, W), float32.
        """
        batch, _, frames, height, width = hidden_states.shape
        p_f, p_h, p_w = self.config.patch_size
        frames, rows, columns = frames // p_f, height // p_h, width // p_w
        told = None if self.scale_embedder is None or scales is None else self.scale_embedder(scales)
        time_BD, modulation_B6D = self.condition_embedder(timestep, told)
        texts: Sequence[Tensor | KeyValue]
        sounds: Sequence[Tensor | KeyValue]
        if heard is not None:
            texts, sounds, dtype = heard.text, heard.audio, heard.dtype
        else:
            assert encoder_hidden_states is not None
            assert audio_hidden_states is not None
            dtype = encoder_hidden_states.dtype
            texts = [self.condition_embedder.text_embedding(self._padded(encoder_hidden_states))] * len(self.blocks)
            sounds = [self._audio_tokens(audio_hidden_states)] * len(self.blocks)
        rotary = rotary_embedding(self.config.attention_head_dim, frames, rows, columns, hidden_states.device)

        patches = self.patch_embedding(hidden_states.to(self.patch_embedding.weight.dtype))
        hidden_BSD = patches.flatten(2).transpose(1, 2).contiguous().float()
        context_parallel: ContextParallel | None = (attention_kwargs or {}).get("context_parallel")
        if context_parallel is not None:
            rotary = context_parallel.rotary(rotary, frames, rows * columns)
            hidden_BSD = context_parallel.shard(hidden_BSD, frames, dim=1)
        for block, text, audio in zip(self.blocks, texts, sounds, strict=True):
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
        patches = patches.view(batch, frames, rows, columns, p_f, p_h, p_w, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        velocity = patches.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        if self.config.prediction == "data":
            noisy, sigma_data = hidden_states[:, : self.config.out_channels], self.config.sigma_data
            velocity = _velocity_to(velocity, noisy, timestep, PREDICTABLE if sigma_data is None else sigma_data)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)
