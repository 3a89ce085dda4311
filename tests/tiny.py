"""Real classes at tiny size with random weights: models that run in a second."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel, WhisperConfig, WhisperFeatureExtractor

from humo import HuMoPipeline, HuMoTransformer3DModel, SpeechEncoder
from humo.presets import ReferenceInjection, find_preset

LATENT_CHANNELS = 16
TEXT_WIDTH, TEXT_LENGTH = 24, 32
AUDIO_WIDTH = 16


def tiny_transformer(preset: str, **changes: object) -> HuMoTransformer3DModel:
    """Two blocks, 48 wide."""
    beside = find_preset(preset).reference_injection is ReferenceInjection.CHANNEL_CONCAT
    config: dict[str, object] = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": LATENT_CHANNELS + 4 + LATENT_CHANNELS if beside else LATENT_CHANNELS,
        "text_dim": TEXT_WIDTH,
        "text_length": TEXT_LENGTH,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
        "audio_width": AUDIO_WIDTH,
        "audio_hidden_dim": 16,
        "audio_tokens": 4,
        "audio_token_dim": 20,
    }
    torch.manual_seed(0)
    transformer: HuMoTransformer3DModel = HuMoTransformer3DModel(**(config | changes)).eval()
    return transformer


def tiny_vae() -> AutoencoderKLWan:
    """Wan's autoencoder, four channels wide at its base."""
    torch.manual_seed(1)
    return AutoencoderKLWan(base_dim=4, z_dim=LATENT_CHANNELS, num_res_blocks=1).eval()


def tiny_tokenizer() -> T5Tokenizer:
    """A token a letter."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase, *string.digits, *".,'-?!"]
    vocabulary = [(piece, 0.0 if index < 3 else -float(index)) for index, piece in enumerate(pieces)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def tiny_text_encoder() -> UMT5EncoderModel:
    """umT5 of two layers."""
    torch.manual_seed(2)
    config = UMT5Config(vocab_size=64, d_model=TEXT_WIDTH, d_kv=12, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0)
    return UMT5EncoderModel(config).eval()


def tiny_audio_encoder() -> SpeechEncoder:
    """Whisper's encoder of four layers."""
    torch.manual_seed(3)
    config = WhisperConfig(
        d_model=AUDIO_WIDTH,
        encoder_layers=4,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=80,
        decoder_layers=1,
        vocab_size=100,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    encoder: SpeechEncoder = SpeechEncoder(config).eval()
    return encoder


def tiny_scheduler() -> UniPCMultistepScheduler:
    """The published solver."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)


def tiny_pipeline(preset: str = "humo-1.7b") -> HuMoPipeline:
    """A whole pipeline."""
    pipeline = HuMoPipeline(
        transformer=tiny_transformer(preset),
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        audio_encoder=tiny_audio_encoder(),
        feature_extractor=WhisperFeatureExtractor(feature_size=80),
        scheduler=tiny_scheduler(),
        preset=preset,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tiny_model(folder: Path, preset: str) -> Path:
    """A model folder with such a pipeline."""
    tiny_pipeline(preset).save_pretrained(str(folder))
    return folder
