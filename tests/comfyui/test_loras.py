"""The LoRA node stacks; the sampler uses exactly the LoRAs of its inputs and of its preset."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from humo import HuMoPipeline
from humo.checkpoints.hubs.catalog import LORAS
from humo.errors import CheckpointError
from humo.inference.inputs import GenerationInputs
from humo.plan import GenerationPlan
from tests.comfyui.executor import Comfy
from tests.lora_files import write_lora
from tests.tiny import tiny_pipeline

SHORT: dict[str, Any] = {"width": 96, "height": 64, "frames": 5}


@pytest.fixture
def large() -> HuMoPipeline:
    """A tiny pipeline of the 17B family, as the output of HuMo Load Model."""
    return tiny_pipeline("humo-17b")


@pytest.fixture
def files(comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files in ComfyUI's folder: a style, and the LoRA of the preset under its published name."""
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "models"))
    published = LORAS["lightx2v"].file
    names = {"style.safetensors": 1, f"wan/{published}": 2}
    listed = {name: str(write_lora(tmp_path / name, "humo-17b", seed)) for name, seed in names.items()}
    write_lora(tmp_path / "models" / "loras" / "own.safetensors", "humo-17b", 3)
    monkeypatch.setitem(importlib.import_module("folder_paths").FILES, "loras", {**listed, "old.pt": "old.pt"})
    return listed


def sample(comfy: Comfy, model: HuMoPipeline, **settings: Any) -> torch.Tensor:
    latent, _ = comfy.run("HuMo_Sampler", model=model, prompt="a woman speaks", **{**SHORT, **settings})
    samples: torch.Tensor = latent["samples"]
    return samples


def test_the_node_lists_comfyuis_files_and_installed_loras(comfy: Comfy, files: dict[str, str]) -> None:
    options = vars(comfy.inputs("HuMo_LoRA")["lora"])["options"]
    assert options == [*files, "lightx2v", "own"]


def test_loras_stack_and_leave_no_trace(comfy: Comfy, files: dict[str, str], large: HuMoPipeline) -> None:
    (first,) = comfy.run("HuMo_LoRA", lora="style.safetensors", strength=0.5)
    (both,) = comfy.run("HuMo_LoRA", lora="own", strength=-1.0, earlier=first)
    assert both == ("style.safetensors:0.5", "own:-1")
    plain = sample(comfy, large, steps=1)
    one = sample(comfy, large, steps=1, loras=first)
    two = sample(comfy, large, steps=1, loras=both)
    assert not torch.equal(one, plain)
    assert not torch.equal(two, one)
    assert torch.equal(sample(comfy, large, steps=1), plain)
    other = tiny_pipeline("humo-17b")
    other.load_lora_weights(files["style.safetensors"], "style")
    other.set_adapters("style", 0.5)
    expected = other("a woman speaks", width=96, height=64, num_frames=5, num_inference_steps=1, output_type="latent")
    normalized = importlib.import_module("comfyui.values").from_latent({"samples": one}, large)
    torch.testing.assert_close(normalized, expected.frames, atol=1e-5, rtol=1e-5)


def test_a_preset_finds_its_lora_in_comfyuis_folder(
    comfy: Comfy, files: dict[str, str], large: HuMoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[GenerationPlan] = []
    generate = HuMoPipeline.generate_latents

    def record(self: HuMoPipeline, inputs: GenerationInputs, *arguments: Any) -> torch.Tensor:
        plans.append(inputs.plan)
        return generate(self, inputs, *arguments)

    monkeypatch.setattr(HuMoPipeline, "generate_latents", record)
    filled = comfy.inputs("HuMo_Sampler")["preset"].as_dict()["humo"]["lightx2v"]
    sample(comfy, large, preset="lightx2v")
    sample(comfy, large, **{**filled, "preset": "lightx2v", **SHORT})
    assert plans[0].request == plans[1].request
    assert plans[0].request.loras == (f"{files['wan/' + LORAS['lightx2v'].file]}:1",)
    assert (plans[0].request.steps, plans[0].passes) == (6, 6)
    sample(comfy, large, preset="lightx2v", steps=2)
    assert "steps 2 replaces 6 of the preset lightx2v" in plans[2].notes


def test_a_lora_of_another_network_is_one_line(comfy: Comfy, large: HuMoPipeline, files: dict[str, str]) -> None:
    write_lora(Path(files["style.safetensors"]), "humo-17b", num_attention_heads=4)
    (loras,) = comfy.run("HuMo_LoRA", lora="style.safetensors", strength=1.0)
    with pytest.raises(CheckpointError, match=r"style.safetensors: is for a network of another size") as refused:
        sample(comfy, large, loras=loras)
    assert "\n" not in str(refused.value)
    assert not large.lora_adapters.names
