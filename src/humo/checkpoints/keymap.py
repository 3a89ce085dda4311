"""Names of all tensors of all components: published name, name in diffusers layout, shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from humo.checkpoints.architecture import (
    Architecture,
    AutoencoderArchitecture,
    ShortcutArchitecture,
    SpeechEncoderArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
)
from humo.geometry import VALUES_PER_LATENT

Shape = tuple[int, ...]


class Naming(StrEnum):
    """Naming scheme of the tensors in a file."""

    PUBLISHED = "published"
    """Names in the released files of HuMo, Wan2.1 and Whisper, and in ComfyUI's HuMo and Wan files."""
    DIFFUSERS = "diffusers"
    """Parameter names of the classes of diffusers and transformers, and names in ComfyUI's umT5 files."""


class TensorName(NamedTuple):
    """A tensor under both names.

    Args:
        published: in the released file.
        diffusers: in a model folder; the parameter's name in the class.
        shape: its sizes.
    """

    published: str
    diffusers: str
    shape: Shape


def tensor_names(architecture: Architecture) -> Iterator[TensorName]:
    """Return all tensors of a component.

    Args:
        architecture: of the component.
    """
    match architecture:
        case TransformerArchitecture():
            return transformer_names(architecture)
        case AutoencoderArchitecture():
            return autoencoder_names(architecture)
        case TextEncoderArchitecture():
            return text_encoder_names(architecture)
        case SpeechEncoderArchitecture():
            return speech_encoder_names(architecture)


def _layer(published: str, diffusers: str, weight: Shape, bias: bool = True) -> Iterator[TensorName]:
    """Yield weight and, if it has one, bias of a linear layer, convolution or norm."""
    yield TensorName(f"{published}.weight", f"{diffusers}.weight", weight)
    if bias:
        yield TensorName(f"{published}.bias", f"{diffusers}.bias", weight[:1])


# --- The video transformer -------------------------------------------------------------------------------------------


def transformer_names(architecture: TransformerArchitecture) -> Iterator[TensorName]:
    """Yield the tensors of HuMo's transformer: Wan2.1's with an audio cross-attention in every block.

    Args:
        architecture: its sizes.
    """
    width, tokens = architecture.width, architecture.audio_tokens * architecture.audio_token_dim
    hidden, audio_in = (
        architecture.audio_hidden_dim,
        architecture.audio_window * architecture.audio_bands * architecture.audio_width,
    )
    out = architecture.out_channels * math.prod(architecture.patch_size)
    diffusers = "condition_embedder"
    yield from _layer("patch_embedding", "patch_embedding", (width, architecture.in_channels, *architecture.patch_size))
    yield from _layer("text_embedding.0", f"{diffusers}.text_embedder.linear_1", (width, architecture.text_dim))
    yield from _layer("text_embedding.2", f"{diffusers}.text_embedder.linear_2", (width, width))
    yield from _layer("time_embedding.0", f"{diffusers}.time_embedder.linear_1", (width, architecture.freq_dim))
    yield from _layer("time_embedding.2", f"{diffusers}.time_embedder.linear_2", (width, width))
    yield from _layer("time_projection.1", f"{diffusers}.time_proj", (6 * width, width))
    yield from _layer("audio_proj.audio_proj_glob_1.layer", "audio_proj.proj_1", (hidden, audio_in))
    yield from _layer("audio_proj.audio_proj_glob_2.layer", "audio_proj.proj_2", (hidden, hidden))
    yield from _layer("audio_proj.audio_proj_glob_3.layer", "audio_proj.proj_3", (tokens, hidden))
    yield from _layer("audio_proj.audio_proj_glob_norm.layer", "audio_proj.norm", (architecture.audio_token_dim,))
    for index in range(architecture.num_layers):
        yield from _transformer_block(f"blocks.{index}", architecture)
    if architecture.scale_inputs:  # only distilled networks have it; none was published
        yield from _layer(
            "guidance_embedder.linear_1", "guidance_embedder.linear_1", (width, architecture.scale_inputs)
        )
        yield from _layer("guidance_embedder.linear_2", "guidance_embedder.linear_2", (width, width))
    yield TensorName("head.modulation", "scale_shift_table", (1, 2, width))
    yield from _layer("head.head", "proj_out", (out, width))


def _transformer_block(block: str, architecture: TransformerArchitecture) -> Iterator[TensorName]:
    """Yield the tensors of self-attention, text and audio cross-attention, feed-forward and modulation."""
    width, ffn = architecture.width, architecture.ffn_dim
    audio = f"{block}.audio_cross_attn_wrapper"
    yield TensorName(f"{block}.modulation", f"{block}.scale_shift_table", (1, 6, width))
    yield from _attention(f"{block}.self_attn", f"{block}.attn1", width, width)
    yield from _layer(f"{block}.norm3", f"{block}.norm2", (width,))
    yield from _attention(f"{block}.cross_attn", f"{block}.attn2", width, width)
    yield from _layer(f"{audio}.norm1_audio", f"{block}.norm_audio", (width,))
    yield from _attention(f"{audio}.audio_cross_attn", f"{block}.attn_audio", width, architecture.audio_token_dim)
    yield from _layer(f"{block}.ffn.0", f"{block}.ffn.net.0.proj", (ffn, width))
    yield from _layer(f"{block}.ffn.2", f"{block}.ffn.net.2", (width, ffn))


def _attention(published: str, diffusers: str, width: int, key_width: int) -> Iterator[TensorName]:
    yield from _layer(f"{published}.q", f"{diffusers}.to_q", (width, width))
    yield from _layer(f"{published}.k", f"{diffusers}.to_k", (width, key_width))
    yield from _layer(f"{published}.v", f"{diffusers}.to_v", (width, key_width))
    yield from _layer(f"{published}.o", f"{diffusers}.to_out.0", (width, width))
    yield from _layer(f"{published}.norm_q", f"{diffusers}.norm_q", (width,), bias=False)
    yield from _layer(f"{published}.norm_k", f"{diffusers}.norm_k", (width,), bias=False)


# --- The autoencoder -------------------------------------------------------------------------------------------------


def autoencoder_names(architecture: AutoencoderArchitecture) -> Iterator[TensorName]:
    """Yield the tensors of Wan2.1's causal video autoencoder.

    The encoder's layers have the same numbers under both names. The decoder's layers are a flat list in the published
    file, and levels of residual blocks with an upsampler in diffusers.

    Args:
        architecture: its sizes.
    """
    widths = [architecture.base_dim * multiple for multiple in architecture.dim_mult]
    latent, last = architecture.z_dim, len(widths) - 1
    yield from _layer("conv1", "quant_conv", (2 * latent, 2 * latent, 1, 1, 1))
    yield from _layer("conv2", "post_quant_conv", (latent, latent, 1, 1, 1))

    yield from _layer("encoder.conv1", "encoder.conv_in", (architecture.base_dim, architecture.pixel_channels, 3, 3, 3))
    step, width = 0, architecture.base_dim
    for level, out in enumerate(widths):
        for _ in range(architecture.num_res_blocks):
            yield from _residual(f"encoder.downsamples.{step}", f"encoder.down_blocks.{step}", width, out)
            step, width = step + 1, out
        if level < last:
            published, diffusers = f"encoder.downsamples.{step}", f"encoder.down_blocks.{step}"
            yield from _layer(f"{published}.resample.1", f"{diffusers}.resample.1", (out, out, 3, 3))
            if architecture.temperal_downsample[level]:
                yield from _layer(f"{published}.time_conv", f"{diffusers}.time_conv", (out, out, 3, 1, 1))
            step += 1
    yield from _mid_block("encoder", widths[-1])
    yield from _head("encoder", widths[-1], 2 * latent)

    widths = [architecture.decoder_width * multiple for multiple in architecture.dim_mult]
    yield from _layer("decoder.conv1", "decoder.conv_in", (widths[-1], latent, 3, 3, 3))
    yield from _mid_block("decoder", widths[-1])
    step, width = 0, widths[-1]
    for level, out in enumerate(reversed(widths)):
        diffusers = f"decoder.up_blocks.{level}"
        for block in range(architecture.num_res_blocks + 1):
            yield from _residual(f"decoder.upsamples.{step}", f"{diffusers}.resnets.{block}", width, out)
            step, width = step + 1, out
        if level < last:
            published = f"decoder.upsamples.{step}"
            width = out // 2  # the upsampler halves the channels
            yield from _layer(f"{published}.resample.1", f"{diffusers}.upsamplers.0.resample.1", (width, out, 3, 3))
            if architecture.temperal_downsample[last - 1 - level]:
                yield from _layer(
                    f"{published}.time_conv", f"{diffusers}.upsamplers.0.time_conv", (2 * out, out, 3, 1, 1)
                )
            step += 1
    yield from _head("decoder", widths[0], architecture.pixel_channels)
    if isinstance(architecture, ShortcutArchitecture):
        yield from _layer("linear_encoder", "linear_encoder", (latent, VALUES_PER_LATENT))
        yield from _layer("linear_decoder", "linear_decoder", (VALUES_PER_LATENT, latent, 3, 3, 3))


def _residual(published: str, diffusers: str, width: int, out: int) -> Iterator[TensorName]:
    yield TensorName(f"{published}.residual.0.gamma", f"{diffusers}.norm1.gamma", (width, 1, 1, 1))
    yield from _layer(f"{published}.residual.2", f"{diffusers}.conv1", (out, width, 3, 3, 3))
    yield TensorName(f"{published}.residual.3.gamma", f"{diffusers}.norm2.gamma", (out, 1, 1, 1))
    yield from _layer(f"{published}.residual.6", f"{diffusers}.conv2", (out, out, 3, 3, 3))
    if width != out:
        yield from _layer(f"{published}.shortcut", f"{diffusers}.conv_shortcut", (out, width, 1, 1, 1))


def _mid_block(side: str, width: int) -> Iterator[TensorName]:
    attention = f"{side}.mid_block.attentions.0"
    yield from _residual(f"{side}.middle.0", f"{side}.mid_block.resnets.0", width, width)
    yield TensorName(f"{side}.middle.1.norm.gamma", f"{attention}.norm.gamma", (width, 1, 1))
    yield from _layer(f"{side}.middle.1.to_qkv", f"{attention}.to_qkv", (3 * width, width, 1, 1))
    yield from _layer(f"{side}.middle.1.proj", f"{attention}.proj", (width, width, 1, 1))
    yield from _residual(f"{side}.middle.2", f"{side}.mid_block.resnets.1", width, width)


def _head(side: str, width: int, out: int) -> Iterator[TensorName]:
    yield TensorName(f"{side}.head.0.gamma", f"{side}.norm_out.gamma", (width, 1, 1, 1))
    yield from _layer(f"{side}.head.2", f"{side}.conv_out", (out, width, 3, 3, 3))


# --- The text encoder ------------------------------------------------------------------------------------------------


def text_encoder_names(architecture: TextEncoderArchitecture) -> Iterator[TensorName]:
    """Yield the tensors of umT5's encoder, in which every block has its own table of relative positions.

    Args:
        architecture: its sizes.
    """
    width, inner, ffn = architecture.d_model, architecture.num_heads * architecture.d_kv, architecture.d_ff
    buckets = (architecture.relative_attention_num_buckets, architecture.num_heads)
    yield TensorName("token_embedding.weight", "shared.weight", (architecture.vocab_size, width))
    for index in range(architecture.num_layers):
        block = f"blocks.{index}"
        attention, ffn_layer = f"encoder.block.{index}.layer.0", f"encoder.block.{index}.layer.1"
        self_attention = f"{attention}.SelfAttention"
        yield TensorName(f"{block}.norm1.weight", f"{attention}.layer_norm.weight", (width,))
        for letter in "qkv":
            yield TensorName(f"{block}.attn.{letter}.weight", f"{self_attention}.{letter}.weight", (inner, width))
        yield TensorName(f"{block}.attn.o.weight", f"{self_attention}.o.weight", (width, inner))
        yield TensorName(
            f"{block}.pos_embedding.embedding.weight", f"{self_attention}.relative_attention_bias.weight", buckets
        )
        yield TensorName(f"{block}.norm2.weight", f"{ffn_layer}.layer_norm.weight", (width,))
        yield TensorName(f"{block}.ffn.gate.0.weight", f"{ffn_layer}.DenseReluDense.wi_0.weight", (ffn, width))
        yield TensorName(f"{block}.ffn.fc1.weight", f"{ffn_layer}.DenseReluDense.wi_1.weight", (ffn, width))
        yield TensorName(f"{block}.ffn.fc2.weight", f"{ffn_layer}.DenseReluDense.wo.weight", (width, ffn))
    yield TensorName("norm.weight", "encoder.final_layer_norm.weight", (width,))


# --- The speech encoder ----------------------------------------------------------------------------------------------


def speech_encoder_names(architecture: SpeechEncoderArchitecture) -> Iterator[TensorName]:
    """Yield the tensors of Whisper's encoder; their names in the diffusers layout have no prefix.

    Args:
        architecture: its sizes.
    """
    for name, shape in _speech_encoder_tensors(architecture):
        yield TensorName(f"model.encoder.{name}", name, shape)


def _speech_encoder_tensors(architecture: SpeechEncoderArchitecture) -> Iterator[tuple[str, Shape]]:
    width, ffn = architecture.d_model, architecture.encoder_ffn_dim
    yield "conv1.weight", (width, architecture.num_mel_bins, 3)
    yield "conv1.bias", (width,)
    yield "conv2.weight", (width, width, 3)
    yield "conv2.bias", (width,)
    yield "embed_positions.weight", (architecture.max_source_positions, width)
    for index in range(architecture.encoder_layers):
        layer = f"layers.{index}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{layer}.self_attn.{projection}.weight", (width, width)
            if projection != "k_proj":
                yield f"{layer}.self_attn.{projection}.bias", (width,)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{layer}.{norm}.weight", (width,)
            yield f"{layer}.{norm}.bias", (width,)
        yield f"{layer}.fc1.weight", (ffn, width)
        yield f"{layer}.fc1.bias", (ffn,)
        yield f"{layer}.fc2.weight", (width, ffn)
        yield f"{layer}.fc2.bias", (width,)
    yield "layer_norm.weight", (width,)
    yield "layer_norm.bias", (width,)
