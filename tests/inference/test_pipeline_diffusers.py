"""Features of diffusers: saving, offloading, half precision, other attention kernels, training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from safetensors.torch import load_file
from torch import Tensor

from humo import HuMoPipeline
from humo.presets import HUMO_NANO, PRESETS
from humo.runtime.loading import load_pipeline
from tests.calls import (
    FAMILIES,
    call,
    distance,
    seeded,
    tone,
)
from tests.tiny import AUDIO_WIDTH, tiny_pipeline

# -- diffusers' ways --------------------------------------------------------------------------------------------------

FRESH = """
import sys
import torch
from safetensors.torch import save_file
from humo import HuMoPipeline

width, *folders = sys.argv[1:]
rows = torch.randn(11, 5, int(width), generator=torch.Generator().manual_seed(0))
for folder in folders:
    pipeline = HuMoPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        "a man talks", audio_embeds=rows, width=48, height=32, num_frames=9, num_inference_steps=2,
        generator=torch.Generator().manual_seed(1), output_type="latent",
    ).frames
    save_file({"latents": latents.contiguous()}, folder + ".safetensors")
"""


def test_a_saved_pipeline_generates_the_same_clip_in_a_new_process(tmp_path: Path) -> None:
    pipelines = {family: tiny_pipeline(family) for family in FAMILIES}
    for family, pipeline in pipelines.items():
        pipeline.save_pretrained(str(tmp_path / family))
    (tmp_path / "fresh.py").write_text(FRESH)
    command = [sys.executable, "fresh.py", str(AUDIO_WIDTH), *FAMILIES]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for family, pipeline in pipelines.items():
        saved = load_file(tmp_path / f"{family}.safetensors")["latents"]
        # nano's empty negative prompt is one token: a matrix times a vector rounds by where the weights lie in memory
        bound = 1e-5 if pipeline.preset is HUMO_NANO else 0.0
        assert distance(saved, call(pipeline, images=None)) <= bound, family


def test_a_saved_pipeline_keeps_its_family(tiny_model_folder: Path, tiny_model_folder_17b: Path) -> None:
    for folder, family in ((tiny_model_folder, "humo-1.7b"), (tiny_model_folder_17b, "humo-17b")):
        loaded = HuMoPipeline.from_pretrained(str(folder), local_files_only=True)
        assert loaded.preset is PRESETS[family]


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 5e-2), ("float16", 5e-3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_half_precision_a_clip_stays_near_the_one_in_float32(
    family: str, dtype: str, bound: float, tiny_model_folder: Path, tiny_model_folder_17b: Path
) -> None:
    folder = tiny_model_folder if family == "humo-1.7b" else tiny_model_folder_17b
    rough, exact = (load_pipeline(folder, device="cpu", dtype=precision) for precision in (dtype, "float32"))
    for loaded in (rough, exact):
        loaded.set_progress_bar_config(disable=True)
    latents = call(rough)
    assert latents.dtype == torch.float32
    assert 1e-5 < distance(latents, call(exact)) < bound


def test_offloading_whole_models_changes_nothing() -> None:
    for family in FAMILIES:
        pipeline = tiny_pipeline(family)
        expected = call(pipeline, audio_embeds=None, audio=tone(9))
        pipeline.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert torch.equal(call(pipeline, audio_embeds=None, audio=tone(9)), expected)


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_offloading_in_groups_changes_nothing(kind: str) -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    expected = call(pipeline)
    place = torch.device("cpu")
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    apply_group_offloading(pipeline.transformer, onload_device=place, offload_device=place, offload_type=kind, **blocks)
    assert torch.equal(call(pipeline), expected)


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_another_attention_backend_gives_nearly_the_same_clip(backend: str) -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    expected = call(pipeline)
    pipeline.transformer.set_attention_backend(backend)
    used = {
        layer.processor._attention_backend.value
        for block in pipeline.transformer.blocks
        for layer in (block.attn1, block.attn2, block.attn_audio)
    }
    assert used == {backend}
    assert distance(call(pipeline), expected) <= 1e-5


def test_weights_stored_in_eight_bits_give_nearly_the_same_clip() -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    expected = call(pipeline)
    pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {parameter.dtype for parameter in pipeline.transformer.blocks.parameters()}
    assert torch.float8_e4m3fn in stored
    assert 1e-4 < distance(call(pipeline), expected) < 5e-2


def gradients(family: str, *, checkpointing: bool) -> dict[str, Tensor | None]:
    """Return the gradient of every parameter for a fixed input."""
    transformer = tiny_pipeline(family).transformer.train()
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    generator = seeded(0)
    config = transformer.config
    velocity = transformer(
        torch.randn(1, config.in_channels, 3, 4, 4, generator=generator),
        torch.tensor([400.0]),
        torch.randn(1, 6, config.text_dim, generator=generator),
        torch.randn(1, 3, 8, 5, config.audio_width, generator=generator),
    ).sample
    velocity.square().mean().backward()
    return {name: parameter.grad for name, parameter in transformer.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_gradient_and_checkpointing_changes_none(family: str) -> None:
    plain, checkpointed = gradients(family, checkpointing=False), gradients(family, checkpointing=True)
    for name, gradient in plain.items():
        recomputed = checkpointed[name]
        assert gradient is not None, name
        assert recomputed is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.any(), name
        torch.testing.assert_close(recomputed, gradient, rtol=1e-5, atol=1e-7)
