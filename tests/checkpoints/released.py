"""A small model in the released layout: real structure, made-up weights by the golden files' rule."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from humo.checkpoints.architecture import SpeechEncoderArchitecture, TransformerArchitecture
from humo.checkpoints.keymap import tensor_names
from tests.conftest import GOLDEN
from tests.parity.fill import fill_state_dict

SEED = 1
SPEECH = SpeechEncoderArchitecture(
    d_model=32,
    encoder_layers=32,
    encoder_attention_heads=2,
    encoder_ffn_dim=64,
    num_mel_bins=128,
    max_source_positions=1500,
)
HEAD_WIDTH = 24
"""Channels of a head here; not in any tensor."""


def transformer(family: str) -> TransformerArchitecture:
    """A small transformer of either family, fitting the golden text encoder and the small speech encoder."""
    return TransformerArchitecture(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=HEAD_WIDTH,
        in_channels=36 if family == "humo-17b" else 16,
        out_channels=16,
        text_dim=golden_meta()["text"]["dim"],
        freq_dim=256,
        ffn_dim=160,
        num_layers=3,
        audio_width=SPEECH.d_model,
        audio_hidden_dim=20,
        audio_token_dim=40,
        audio_tokens=16,
    )


def golden_meta() -> dict[str, Any]:
    """The shapes and settings of the golden models."""
    meta: dict[str, Any] = json.loads((GOLDEN / "meta.json").read_text())
    return meta


def fill(shapes: Mapping[str, Any], seed: int = SEED) -> dict[str, torch.Tensor]:
    """Return weights by the rule of the golden files: a pure function of name, shape and seed."""
    return fill_state_dict(shapes, seed)


def transformer_weights(family: str) -> dict[str, torch.Tensor]:
    """Under the released names."""
    return fill({name.published: name.shape for name in tensor_names(transformer(family))})


def autoencoder_weights() -> dict[str, torch.Tensor]:
    """Under the released names."""
    return fill(golden_meta()["vae_keys"])


def text_weights() -> dict[str, torch.Tensor]:
    """Under the released names, in bf16 as released."""
    return {name: tensor.bfloat16() for name, tensor in fill(golden_meta()["text_keys"]).items()}


def speech_weights() -> dict[str, torch.Tensor]:
    """Under transformers' names, in fp16 as released, a piece of the decoder with it."""
    shapes = {name.published: name.shape for name in tensor_names(SPEECH)}
    shapes |= {"model.decoder.layers.0.fc1.weight": (64, 32), "model.decoder.embed_tokens.weight": (100, 32)}
    return {name: tensor.half() for name, tensor in fill(shapes).items()}


def sentence_pieces() -> bytes:
    """A tiny sentencepiece model with umT5's special pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a person speaks into a microphone", "the girl sings a song in the rain"] * 20),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def save_17b(folder: Path) -> None:
    """Shards and their index, and the configuration with the number of heads."""
    folder.mkdir(parents=True)
    weights = transformer_weights("humo-17b")
    names = list(weights)
    shards = {"humo-00001-of-00002.safetensors": names[::2], "humo-00002-of-00002.safetensors": names[1::2]}
    for file, names_in_file in shards.items():
        save_file({name: weights[name] for name in names_in_file}, folder / file)
    index = {
        "metadata": {},
        "weight_map": {name: file for file, names_in_file in shards.items() for name in names_in_file},
    }
    (folder / "humo.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(transformer("humo-17b").published_config()))


def save_1_7b(folder: Path) -> None:
    """One torch file, with what a training leaves in it."""
    folder.mkdir(parents=True)
    weights = transformer_weights("humo-1.7b")
    extras = {
        "blocks.2.mask_predictor.0.weight": torch.ones(8, 96),
        "blocks.2.mask_predictor.0.bias": torch.ones(8),
    }
    raw = {name: tensor + 1 for name, tensor in weights.items()}
    saved = {
        "ema": weights | extras | {"num_updates": torch.tensor(5)},
        "state_dict": raw,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "lr": 1e-4},
        "step": 1000,
    }
    torch.save(saved, folder / "ema.pth")


def save_shared(weights: Path) -> None:
    """Save autoencoder, text encoder, tokenizer and speech encoder, which both families share, and unused files."""
    wan, whisper = weights / "Wan2.1-T2V-1.3B", weights / "whisper-large-v3"
    tokenizer = wan / "google" / "umt5-xxl"
    tokenizer.mkdir(parents=True)
    whisper.mkdir()
    torch.save(autoencoder_weights(), wan / "Wan2.1_VAE.pth")
    torch.save(text_weights(), wan / "models_t5_umt5-xxl-enc-bf16.pth")
    (wan / "config.json").write_text(json.dumps({"_class_name": "WanModel", "dim": 1536, "num_heads": 12}))
    base = {name: tensor for name, tensor in transformer_weights("humo-1.7b").items() if "audio" not in name}
    save_file(base, wan / "diffusion_pytorch_model.safetensors")
    (tokenizer / "spiece.model").write_bytes(sentence_pieces())
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 300}))
    (tokenizer / "special_tokens_map.json").write_text("{}")
    save_file(speech_weights(), whisper / "model.safetensors")
    save_file(speech_weights(), whisper / "model.fp32-00001-of-00002.safetensors")
    torch.save(speech_weights(), whisper / "pytorch_model.bin")
    (whisper / "config.json").write_text(
        json.dumps(SPEECH.config() | {"decoder_layers": 1, "activation_function": "gelu"})
    )
    features = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "chunk_length": 30}
    (whisper / "preprocessor_config.json").write_text(json.dumps(features))
    (weights / "HuMo").mkdir(exist_ok=True)
    torch.save(torch.zeros(1, 16, 33, 8, 8), weights / "HuMo" / "zero_vae_129frame.pt")
    (weights / "audio_separator").mkdir()
    (weights / "audio_separator" / "Kim_Vocal_2.onnx").write_bytes(b"onnx")
