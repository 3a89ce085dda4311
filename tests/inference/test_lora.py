"""LoRA files of every key naming in use change the network as intended."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from humo import HuMoError, HuMoPipeline
from tests.calls import call
from tests.lora_files import write_lora
from tests.tiny import tiny_pipeline

RANK = 3
LAYERS = {  # published layer -> ours
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.v": "blocks.1.attn2.to_v",
    "blocks.0.audio_cross_attn_wrapper.audio_cross_attn.k": "blocks.0.attn_audio.to_k",
    "blocks.1.audio_cross_attn_wrapper.audio_cross_attn.o": "blocks.1.attn_audio.to_out.0",
    "blocks.0.ffn.2": "blocks.0.ffn.net.2",
    "audio_proj.audio_proj_glob_1.layer": "audio_proj.proj_1",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
NAMINGS: dict[str, Callable[[str], tuple[str, str]]] = {
    "comfyui": lambda layer: (f"diffusion_model.{layer}.lora_A.weight", f"diffusion_model.{layer}.lora_B.weight"),
    "published": lambda layer: (f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"),
    "kohya": lambda layer: (
        f"lora_unet_{layer.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{layer.replace('.', '_')}.lora_up.weight",
    ),
    "peft": lambda layer: (
        f"base_model.model.{layer}.lora_A.default.weight",
        f"base_model.model.{layer}.lora_B.default.weight",
    ),
    "diffusers": lambda layer: (
        f"transformer.{LAYERS[layer]}.lora_A.weight",
        f"transformer.{LAYERS[layer]}.lora_B.weight",
    ),
}


def factors(pipeline: HuMoPipeline) -> dict[str, tuple[Tensor, Tensor]]:
    """Return random low-rank factors for each layer."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for published, ours in LAYERS.items():
        out, into = pipeline.transformer.get_submodule(ours).weight.shape
        tensors[published] = (
            torch.randn(RANK, into, generator=generator),
            0.1 * torch.randn(out, RANK, generator=generator),
        )
    return tensors


def predict(pipeline: HuMoPipeline) -> Tensor:
    """Return the output of one pass on a fixed input."""
    config = pipeline.transformer.config
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        velocity: Tensor = pipeline.transformer(
            torch.randn(1, config.in_channels, 2, 4, 4, generator=generator),
            torch.tensor([300.0]),
            torch.randn(1, 6, config.text_dim, generator=generator),
            torch.randn(1, 2, 8, 5, config.audio_width, generator=generator),
        ).sample
    return velocity


def merged() -> Tensor:
    """Return the expected output at full strength, with the products of the factors added to the weights."""
    pipeline = tiny_pipeline()
    for published, (down, up) in factors(pipeline).items():
        pipeline.transformer.get_submodule(LAYERS[published]).weight.data += up @ down
    return predict(pipeline)


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_lora_of_any_naming_changes_every_layer_it_names(naming: str, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    plain = predict(pipeline)
    state: dict[str, Tensor] = {}
    for published, pair in factors(pipeline).items():
        state |= dict(zip(NAMINGS[naming](published), pair, strict=True))
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "style.safetensors")
    pipeline.load_lora_weights(str(tmp_path), weight_name="style.safetensors", adapter_name="style")
    assert torch.allclose(predict(pipeline), merged(), atol=1e-5)
    pipeline.set_adapters("style", 0.0)
    assert torch.allclose(predict(pipeline), plain, atol=1e-6)
    pipeline.set_adapters("style", 1.0)
    assert not torch.allclose(predict(pipeline), plain, atol=1e-3)
    pipeline.delete_adapters("style")
    assert torch.equal(predict(pipeline), plain)


def test_alpha_scales_a_lora() -> None:
    pipeline = tiny_pipeline()
    state: dict[str, Tensor] = {}
    for published, (down, up) in factors(pipeline).items():
        state[f"diffusion_model.{published}.lora_down.weight"] = down
        state[f"diffusion_model.{published}.lora_up.weight"] = 2 * up
        state[f"diffusion_model.{published}.alpha"] = torch.tensor(RANK / 2)
    pipeline.load_lora_weights(state, adapter_name="style")
    assert torch.allclose(predict(pipeline), merged(), atol=1e-5)


def test_layers_that_humo_lacks_are_reported_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tiny_pipeline()
    state: dict[str, Tensor] = {"diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": torch.ones(RANK, 48)}
    for published, (down, up) in factors(pipeline).items():
        state[f"diffusion_model.{published}.lora_A.weight"] = down
        state[f"diffusion_model.{published}.lora_B.weight"] = up
    pipeline.load_lora_weights(state, adapter_name="style")
    assert torch.allclose(predict(pipeline), merged(), atol=1e-5)
    assert "1 tensors are ignored: the image encoder branch" in caplog.text


def test_a_lora_of_another_model_is_refused() -> None:
    with pytest.raises(HuMoError, match="belong to no layer"):
        tiny_pipeline().load_lora_weights({"diffusion_model.double_blocks.0.img_attn.lora_A.weight": torch.ones(3, 3)})


def test_an_error_names_a_missing_or_damaged_lora_file(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    with pytest.raises(HuMoError, match="cannot be read"):
        pipeline.load_lora_weights(str(tmp_path / "missing.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(HuMoError, match="cannot be read"):
        pipeline.load_lora_weights(str(tmp_path), weight_name="broken.safetensors")


def test_a_file_saved_by_diffusers_keeps_its_alpha(tmp_path: Path) -> None:
    """Rank 3 with alpha 12: alpha is in the header's configuration, not in a tensor."""
    pipeline = tiny_pipeline()
    state: dict[str, Tensor] = {}
    for published, (down, up) in factors(pipeline).items():
        state |= dict(zip(NAMINGS["diffusers"](published), (down, up / 4), strict=True))
    layers = {key.removeprefix("transformer."): tensor.contiguous() for key, tensor in state.items()}
    HuMoPipeline.save_lora_weights(
        str(tmp_path),
        transformer_lora_layers=layers,
        transformer_lora_adapter_metadata={"r": RANK, "lora_alpha": 4 * RANK, "use_rslora": False},
    )
    pipeline.load_lora_weights(str(tmp_path))
    assert torch.allclose(predict(pipeline), merged(), atol=1e-5)


def test_fusing_equals_hooks_and_can_be_undone() -> None:
    pipeline = tiny_pipeline()
    plain = predict(pipeline)
    state: dict[str, Tensor] = {}
    for published, pair in factors(pipeline).items():
        state |= dict(zip(NAMINGS["comfyui"](published), pair, strict=True))
    pipeline.load_lora_weights(state, adapter_name="style")
    pipeline.fuse_lora()
    assert torch.allclose(predict(pipeline), merged(), atol=1e-5)
    pipeline.unfuse_lora()
    assert torch.allclose(predict(pipeline), merged(), atol=1e-5)
    pipeline.disable_lora()
    assert torch.equal(predict(pipeline), plain)
    pipeline.enable_lora()
    with pipeline.scaled_loras({"scale": 0.0}):
        assert torch.allclose(predict(pipeline), plain, atol=1e-6)
    pipeline.load_lora_weights(state, adapter_name="style", hotswap=True)
    assert torch.allclose(predict(pipeline), merged(), atol=1e-5)
    pipeline.unload_lora_weights()
    assert torch.equal(predict(pipeline), plain)
    assert pipeline.get_list_adapters() == {}


def test_a_file_that_does_not_fit_leaves_the_pipeline_unchanged() -> None:
    pipeline = tiny_pipeline()
    plain = predict(pipeline)
    with pytest.raises(HuMoError):
        pipeline.load_lora_weights({"blocks.0.self_attn.q.lora_A.weight": torch.ones(3, 7)}, adapter_name="bad")
    assert pipeline.get_list_adapters() == {}
    assert torch.equal(predict(pipeline), plain)


def test_attention_kwargs_scale_every_lora_for_one_call(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors", "humo-1.7b")
    pipeline = tiny_pipeline()
    plain = call(pipeline)
    pipeline.load_lora_weights(str(path), "style")
    whole = call(pipeline)
    half = call(pipeline, attention_kwargs={"scale": 0.5})
    assert torch.equal(call(pipeline, attention_kwargs={"scale": 0.0}), plain)
    assert torch.equal(call(pipeline), whole), "the scale is that of one call"
    pipeline.set_adapters("style", 0.5)
    torch.testing.assert_close(half, call(pipeline), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(half, whole, atol=1e-4)


def test_the_loras_in_use_are_exactly_those_that_are_named(tmp_path: Path) -> None:
    first, second = (write_lora(tmp_path / f"{seed}.safetensors", "humo-1.7b", seed) for seed in (1, 2))
    pipeline = tiny_pipeline()
    plain = predict(pipeline)
    pipeline.use_loras({first: 0.5, second: 1.0})
    both = predict(pipeline)
    pipeline.use_loras({first: 0.5})
    one = predict(pipeline)
    assert not torch.equal(one, both)
    pipeline.use_loras({second: 1.0, first: 0.5})
    torch.testing.assert_close(predict(pipeline), both, atol=1e-6, rtol=1e-6)
    pipeline.use_loras({})
    assert torch.equal(predict(pipeline), plain)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors", "humo-1.7b", 1)
    pipeline = tiny_pipeline()
    pipeline.use_loras({path: 1.0})
    before = predict(pipeline)
    path.unlink()
    write_lora(path, "humo-1.7b", 2)
    os.utime(path, ns=(0, 0))
    pipeline.use_loras({path: 1.0})
    assert not torch.equal(predict(pipeline), before)


def test_of_several_files_one_that_does_not_fit_leaves_the_pipeline_unchanged(tmp_path: Path) -> None:
    good, other = (write_lora(tmp_path / f"{seed}.safetensors", "humo-1.7b", seed) for seed in (1, 2))
    bad = write_lora(tmp_path / "bad.safetensors", "humo-1.7b", num_attention_heads=4)
    pipeline = tiny_pipeline()
    pipeline.use_loras({good: 1.0})
    before = predict(pipeline)
    with pytest.raises(HuMoError, match="another size"):
        pipeline.use_loras({other: 1.0, bad: 1.0})
    assert torch.equal(predict(pipeline), before)


def test_names_of_loras_are_not_used_twice(tmp_path: Path) -> None:
    path = str(write_lora(tmp_path / "style.safetensors", "humo-1.7b"))
    pipeline = tiny_pipeline()
    for _ in range(2):
        pipeline.load_lora_weights(path)
    pipeline.delete_adapters("default_0")
    pipeline.load_lora_weights(path)
    assert pipeline.get_list_adapters() == {"transformer": ["default_1", "default_0"]}
