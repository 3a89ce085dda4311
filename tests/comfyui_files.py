"""A small model in the files that ComfyUI's users have: real structure, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig

from humo import SpeechEncoder
from humo.checkpoints.architecture import infer_autoencoder
from humo.checkpoints.keymap import tensor_names
from tests.checkpoints.released import sentence_pieces
from tests.quantized_files import WIDE, published
from tests.tiny import tiny_text_encoder, tiny_transformer, tiny_vae

AUDIO_WIDTH = 64
"""Channels of one attention head of Whisper, whose file has no configuration."""

NETWORK, TEXT, AUDIO, VAE = (
    "diffusion_models/humo_1.7B_fp16.safetensors",
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "audio_encoders/whisper_large_v3_encoder_fp16.safetensors",
    "vae/wan_2.1_vae.safetensors",
)
"""Paths in ComfyUI's folder of models, with the names that the public files have."""


def save_comfyui_models(models: Path, preset: str = "humo-1.7b") -> Path:
    """Write a network in fp16 and the three small companions.

    Args:
        models: ComfyUI's folder of models, which is created.
        preset: family of the network.
    """
    for name in (NETWORK, TEXT, AUDIO, VAE):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in network_weights(preset).items()}, models / NETWORK)
    save_companions(models)
    return models


def network_weights(preset: str) -> dict[str, Tensor]:
    """Return the weights of a small network under their published names."""
    return published(tiny_transformer(preset, **WIDE, audio_width=AUDIO_WIDTH))


def save_companions(models: Path) -> None:
    """Write umT5 in scaled fp8 with its tokenizer, Whisper's encoder in fp16, and the autoencoder."""
    text = {name: tensor.half() for name, tensor in tiny_text_encoder().state_dict().items()}
    del text["encoder.embed_tokens.weight"]
    matrices = {name for name, tensor in text.items() if tensor.ndim == 2 and "layer" in name and "bias" not in name}
    for name in sorted(matrices):
        scale = text[name].float().abs().max() / 448
        text[name.removesuffix("weight") + "scale_weight"] = scale.reshape(1)
        text[name] = (text[name].float() / scale).to(torch.float8_e4m3fn)
    text["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    text["spiece_model"] = torch.frombuffer(bytearray(sentence_pieces()), dtype=torch.uint8)
    save_file(text, models / TEXT)
    save_file({f"model.encoder.{name}": one.half() for name, one in _audio_encoder().items()}, models / AUDIO)
    save_file(_renamed(tiny_vae().state_dict()), models / VAE)


def _audio_encoder() -> dict[str, Tensor]:
    torch.manual_seed(3)
    config = WhisperConfig(
        d_model=AUDIO_WIDTH,
        encoder_layers=4,
        encoder_attention_heads=1,
        encoder_ffn_dim=32,
        num_mel_bins=80,
        decoder_layers=1,
        decoder_attention_heads=1,
        vocab_size=100,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return dict(SpeechEncoder(config).state_dict())


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    return {name.published: weights[name.diffusers].clone() for name in tensor_names(infer_autoencoder(shapes, {}))}
