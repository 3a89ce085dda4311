"""Single files as ComfyUI uses them: prefixed, in eight bits with scales, with a tokenizer inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Tokenizer

from humo.checkpoints.architecture import SpeechEncoderArchitecture, infer_text_encoder
from humo.checkpoints.convert import convert
from humo.checkpoints.keymap import tensor_names
from humo.errors import CheckpointError
from tests.checkpoints import released

PREFIX = "model.diffusion_model."


def to_fp8(weights: dict[str, torch.Tensor], suffix: str) -> dict[str, torch.Tensor]:
    """Matrices in fp8 with a scale each, as the scaled files hold them."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if tensor.ndim == 2 and "norm" not in name and "embedding" not in name:
            scale = tensor.abs().max().float() / 448
            out[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            out[name.removesuffix("weight") + suffix] = scale
        else:
            out[name] = tensor
    return out


def converted_transformer(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return tensors


def by_published_name(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.published: tensors[name.diffusers] for name in tensor_names(released.transformer("humo-17b"))}


@pytest.mark.parametrize("prefix", ["", PREFIX, "diffusion_model."])
def test_a_prefix_makes_no_difference(prefix: str, golden: Path, tmp_path: Path) -> None:
    weights = {name: tensor.half() for name, tensor in released.transformer_weights("humo-17b").items()}
    save_file({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "humo_17B_fp16.safetensors")
    report = convert(tmp_path / "humo_17B_fp16.safetensors", tmp_path / "out", head_dim=24)
    assert report.preset == "humo-17b"
    assert report.components[0].dtypes == {"F16": len(weights)}
    converted = by_published_name(converted_transformer(tmp_path / "out"))
    assert all(torch.equal(converted[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("suffix", "prefix"), [("scale_weight", ""), ("scale_weight", PREFIX), ("weight_scale", PREFIX)]
)
@pytest.mark.parametrize("dtype", [None, "fp32"])
def test_scaled_fp8_weights_are_multiplied_by_their_scale(
    suffix: str, prefix: str, dtype: str | None, golden: Path, tmp_path: Path
) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in released.transformer_weights("humo-17b").items()}
    small = to_fp8(weights, suffix)
    extras = {
        "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "blocks.0.self_attn.q." + ("scale_input" if suffix == "scale_weight" else "input_scale"): torch.ones(1),
    }
    if suffix == "weight_scale":
        note = b'{"format": "float8_e4m3fn"}'
        extras["blocks.0.self_attn.q.comfy_quant"] = torch.frombuffer(bytearray(note), dtype=torch.uint8)
    file = tmp_path / "Wan2_1-HuMo-14B_fp8_e4m3fn_scaled.safetensors"
    save_file({prefix + name: tensor for name, tensor in (small | extras).items()}, file)
    report = convert(file, tmp_path / "out", dtype=dtype, head_dim=24)
    wanted = torch.bfloat16 if dtype is None else torch.float32
    converted = by_published_name(converted_transformer(tmp_path / "out"))
    for name in weights:
        scale = small.get(name.removesuffix("weight") + suffix)
        expected = small[name].float() * scale if scale is not None else small[name]
        assert torch.equal(converted[name], expected.to(wanted))
    original = weights["blocks.1.ffn.0.weight"].float()
    assert (converted["blocks.1.ffn.0.weight"].float() - original).abs().max() < 0.04 * original.abs().max()
    assert {dropped.name.removeprefix(prefix) for dropped in report.dropped} == set(extras)
    assert report.notes[0].startswith("not among the sources")


def test_a_scale_for_each_row_is_applied_to_its_row(golden: Path, tmp_path: Path) -> None:
    weights = released.transformer_weights("humo-17b")
    name = "blocks.0.ffn.0.weight"
    rows = weights[name].abs().amax(dim=1, keepdim=True) / 448
    small = weights | {name: (weights[name] / rows).to(torch.float8_e4m3fn), "blocks.0.ffn.0.weight_scale": rows}
    save_file(small, tmp_path / "humo.safetensors")
    convert(tmp_path / "humo.safetensors", tmp_path / "out", head_dim=24, dtype="fp32")
    converted = by_published_name(converted_transformer(tmp_path / "out"))[name]
    assert torch.equal(converted, small[name].float() * rows)


def test_fp8_without_scales_is_taken_as_it_is_and_said(golden: Path, tmp_path: Path) -> None:
    weights = {
        name: tensor.to(torch.float8_e4m3fn) for name, tensor in released.transformer_weights("humo-17b").items()
    }
    save_file(weights, tmp_path / "humo_17B_fp8_e4m3fn.safetensors")
    report = convert(tmp_path / "humo_17B_fp8_e4m3fn.safetensors", tmp_path / "out", head_dim=24)
    assert report.notes[0] == f"transformer: {len(weights)} fp8 weights have no scale and were converted without one"
    assert report.components[0].dtypes == {"BF16": len(weights)}


@pytest.mark.parametrize(("dtype", "word"), [(torch.int8, "I8"), (torch.uint8, "U8")])
def test_other_quantizations_are_named_and_refused(dtype: torch.dtype, word: str, golden: Path, tmp_path: Path) -> None:
    weights = released.transformer_weights("humo-17b")
    weights["blocks.0.ffn.0.weight"] = weights["blocks.0.ffn.0.weight"].to(dtype)
    save_file(weights, tmp_path / "humo.safetensors")
    with pytest.raises(CheckpointError, match=rf"'blocks\.0\.ffn\.0\.weight' as {word}, a type that is not supported"):
        convert(tmp_path / "humo.safetensors", tmp_path / "out", head_dim=24)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_text_encoder_brings_its_tokenizer_inside(scaled: bool, golden: Path, tmp_path: Path) -> None:
    published = released.text_weights()
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    weights = {
        name.diffusers: published[name.published].half() for name in tensor_names(infer_text_encoder(shapes, {}))
    }
    pieces = released.sentence_pieces()
    tensors = (
        to_fp8(weights, "scale_weight") | {"scaled_fp8": torch.ones(2).to(torch.float8_e4m3fn)} if scaled else weights
    )
    file = tmp_path / "umt5_xxl.safetensors"
    save_file({**tensors, "spiece_model": torch.frombuffer(bytearray(pieces), dtype=torch.uint8)}, file)
    report = convert(file, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer" / "spiece.model").read_bytes() == pieces
    tokenizer = T5Tokenizer.from_pretrained(str(tmp_path / "out" / "tokenizer"))
    assert tokenizer("the girl sings").input_ids[-1] == 1
    converted = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    assert converted.keys() == weights.keys()
    assert all((converted[name].float() - tensor.float()).abs().max() < 0.15 for name, tensor in weights.items())
    assert {dropped.name for dropped in report.dropped} == {"spiece_model"} | ({"scaled_fp8"} if scaled else set())
    assert "tokenizer" not in report.notes[0]


def test_a_text_encoder_with_both_names_of_its_embedding_keeps_one(golden: Path, tmp_path: Path) -> None:
    published = released.text_weights()
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    weights = {name.diffusers: published[name.published] for name in tensor_names(infer_text_encoder(shapes, {}))}
    twice = weights | {"encoder.embed_tokens.weight": weights["shared.weight"].clone()}
    save_file(twice, tmp_path / "twice.safetensors")
    report = convert(tmp_path / "twice.safetensors", tmp_path / "first")
    assert [dropped.reason for dropped in report.dropped] == ["the same table as the shared embedding"]
    del twice["shared.weight"]
    save_file(twice, tmp_path / "other.safetensors")
    convert(tmp_path / "other.safetensors", tmp_path / "second")
    files = [tmp_path / folder / "text_encoder" / "model.safetensors" for folder in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
def test_a_speech_encoder_alone_gets_its_settings(prefix: str, golden: Path, tmp_path: Path) -> None:
    architecture = SpeechEncoderArchitecture(128, 32, 2, 64, 128, 1500)
    weights = released.fill({prefix + name.diffusers: name.shape for name in tensor_names(architecture)})
    save_file(weights, tmp_path / "whisper_large_v3_encoder_fp16.safetensors")
    convert(tmp_path / "whisper_large_v3_encoder_fp16.safetensors", tmp_path / "out")
    converted = load_file(tmp_path / "out" / "audio_encoder" / "model.safetensors")
    assert {prefix + name for name in converted} == set(weights)
    config = json.loads((tmp_path / "out" / "audio_encoder" / "config.json").read_text())
    assert config["encoder_attention_heads"] == 2
    features = json.loads((tmp_path / "out" / "feature_extractor" / "preprocessor_config.json").read_text())
    assert (features["feature_size"], features["n_samples"], features["sampling_rate"]) == (128, 480000, 16000)


def test_comfyui_folders_are_a_source_among_other_models(golden: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    files = {
        "diffusion_models/humo.safetensors": {
            PREFIX + name: tensor for name, tensor in released.transformer_weights("humo-1.7b").items()
        },
        "diffusion_models/flux1-dev.safetensors": {"double_blocks.0.img_attn.qkv.weight": torch.ones(3, 3)},
        "vae/wan_2.1_vae.safetensors": released.autoencoder_weights(),
        "text_encoders/umt5.safetensors": released.text_weights(),
        "text_encoders/clip_l.safetensors": {"text_model.embeddings.position_embedding.weight": torch.ones(3, 3)},
        "loras/speed.safetensors": {"diffusion_model.blocks.0.ffn.0.lora_A.weight": torch.ones(3, 3)},
    }
    for name, tensors in files.items():
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, models / name)
    report = convert(models, tmp_path / "out", head_dim=24)
    assert [component.component for component in report.components] == ["transformer", "vae", "text_encoder"]
    assert {item.path.name for item in report.ignored} == {
        "flux1-dev.safetensors",
        "clip_l.safetensors",
        "speed.safetensors",
    }
    assert report.notes[0].startswith("not among the sources: audio_encoder, tokenizer;")
