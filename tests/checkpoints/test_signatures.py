"""A file of another model is recognized and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from humo.checkpoints.architecture import SpeechEncoderArchitecture
from humo.checkpoints.convert import convert
from humo.checkpoints.keymap import tensor_names
from humo.errors import CheckpointError
from tests.checkpoints import released

T5 = "encoder.block.0.layer.0.SelfAttention."

OTHERS = {
    "a LoRA": [
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight",
    ],
    "a LoRA, which": ["blocks.0.self_attn.q.diff", "blocks.0.self_attn.q.diff_b", "patch_embedding.lora_down.weight"],
    "Wan2.1 without HuMo's audio layers": ["patch_embedding.weight", "blocks.0.self_attn.q.weight"],
    "a diffusers-format Wan without HuMo's audio layers": [
        "patch_embedding.weight",
        "condition_embedder.time_proj.weight",
        "blocks.0.attn1.to_q.weight",
    ],
    "Wan2.1 VACE": ["patch_embedding.weight", "vace_blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.weight"],
    "Wan2.2 S2V": ["casual_audio_encoder.encoder.final_linear.weight", "patch_embedding.weight"],
    "Wan2.2 Animate": ["face_adapter.fuser_blocks.0.k_norm.weight", "patch_embedding.weight"],
    "a FLUX or HunyuanVideo transformer": ["double_blocks.0.img_attn.qkv.weight"],
    "Wan2.2's autoencoder": ["encoder.downsamples.0.downsamples.0.residual.0.gamma", "decoder.conv1.weight"],
    "an autoencoder for images": ["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"],
    "a T5 that is not umT5": [T5 + "relative_attention_bias.weight", T5 + "q.weight", "shared.weight"],
    "a CLIP encoder": ["text_model.encoder.layers.0.self_attn.k_proj.weight"],
    "Whisper in OpenAI's own format": ["encoder.blocks.0.attn.query.weight", "encoder.conv1.weight"],
    "a wav2vec2 encoder": ["wav2vec2.feature_extractor.conv_layers.0.conv.weight"],
    "not a component of HuMo": ["lstm.weight"],
}


@pytest.mark.parametrize("title", OTHERS)
def test_another_model_is_named(title: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2, 2) for name in OTHERS[title]}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=title) as caught:
        convert(tmp_path / "weights.safetensors", tmp_path / "out")
    assert "weights.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "layers", "bins", "title"),
    [
        (384, 4, 80, "whisper-tiny"),
        (512, 6, 80, "whisper-base"),
        (768, 12, 80, "whisper-small"),
        (1024, 24, 80, "whisper-medium"),
        (1280, 2, 80, "whisper-large or whisper-large-v2"),
    ],
)
def test_another_whisper_is_named(width: int, layers: int, bins: int, title: str, tmp_path: Path) -> None:
    architecture = SpeechEncoderArchitecture(width, layers, width // 64, 8, bins, 4)
    save_file(
        {name.published: torch.zeros(name.shape, dtype=torch.float16) for name in tensor_names(architecture)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(CheckpointError, match=f"is {title}.*take whisper-large-v3"):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(("decoder_layers", "title"), [(4, "whisper-large-v3-turbo"), (2, "a distilled whisper-large")])
def test_a_large_encoder_with_a_short_decoder_is_named(decoder_layers: int, title: str, tmp_path: Path) -> None:
    architecture = SpeechEncoderArchitecture(1280, 1, 20, 8, 128, 4)
    tensors = {name.published: torch.zeros(name.shape, dtype=torch.float16) for name in tensor_names(architecture)}
    tensors |= {f"model.decoder.layers.{layer}.fc1.bias": torch.zeros(2) for layer in range(decoder_layers)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=title):
        convert(tmp_path / "model.safetensors", tmp_path / "out")


def test_a_tree_whose_only_transformer_is_plain_wan_says_so(golden: Path, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.mkdir()
    weights = released.transformer_weights("humo-1.7b")
    save_file({name: tensor for name, tensor in weights.items() if "audio" not in name}, source / "wan.safetensors")
    save_file(released.autoencoder_weights(), source / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"is Wan2\.1 without HuMo's audio layers; take HuMo-17B or HuMo-1\.7B"):
        convert(source, tmp_path / "out")


def test_a_damaged_file_in_a_tree_is_reported_when_a_part_is_missing(golden: Path, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.mkdir()
    save_file(released.autoencoder_weights(), source / "vae.safetensors")
    save_file(released.text_weights(), source / "text.safetensors")
    data = (source / "text.safetensors").read_bytes()
    (source / "text.safetensors").write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match=r"text\.safetensors: is truncated"):
        convert(source, tmp_path / "out")


def test_a_gguf_file_among_others_that_is_not_whole_is_named(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "humo-Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"humo-Q8_0\.gguf: is not a complete GGUF file; download it again"):
        convert(tmp_path / "source", tmp_path / "out")


def test_several_models_in_one_file_are_an_error(golden: Path, tmp_path: Path) -> None:
    weights = released.transformer_weights("humo-1.7b")
    twice = {f"{prefix}.{name}": tensor for prefix in ("model", "generator") for name, tensor in weights.items()}
    torch.save(twice, tmp_path / "both.pth")
    with pytest.raises(CheckpointError, match=r"several models, under 'model\.', 'generator\.'"):
        convert(tmp_path / "both.pth", tmp_path / "out", head_dim=24)


def test_a_transformer_with_other_input_channels_is_of_no_family(golden: Path, tmp_path: Path) -> None:
    weights = released.transformer_weights("humo-1.7b")
    weights["patch_embedding.weight"] = torch.ones(96, 48, 1, 2, 2)
    save_file(weights, tmp_path / "humo.safetensors")
    with pytest.raises(CheckpointError, match=r"takes 48 input channels, but HuMo-17B takes 36, HuMo-1\.7B takes 16"):
        convert(tmp_path / "humo.safetensors", tmp_path / "out", head_dim=24)
