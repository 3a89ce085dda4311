"""Samplers, spacing and guidance equal those of ComfyUI; the values were computed by its own code (data/README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from humo.geometry import Geometry
from humo.inference.samplers import SAMPLERS, make_scheduler
from humo.schedule import SamplerName, simple_schedule
from tests.parity.fill import noise
from tests.parity.published import FAMILIES, Golden, within
from tests.parity.test_generation import NEGATIVE_TOKENS, PROMPT_TOKENS

DATA = Path(__file__).parent / "data" / "comfyui"
OURS: dict[str, SamplerName] = {"uni_pc": "comfy-unipc", "euler": "euler"}
RUNS = sorted(
    name.removeprefix("final_") for name in load_file(DATA / "samplers.safetensors") if name.startswith("final_")
)


def solve(scheduler: Any) -> torch.Tensor:
    """Return the end of the run of which ComfyUI's result is kept."""
    latents, target = noise("sched", (1, 4, 1, 3, 5), 1), noise("target", (1, 4, 1, 3, 5), 1)
    for timestep in scheduler.timesteps:
        pull = 0.5 + 0.5 * torch.cos(timestep / 300)
        velocity = (latents - target) * pull + 0.1 * torch.sin(3 * latents)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("run", RUNS)
def test_samplers_with_simple_spacing_equal_comfyuis_ksampler(run: str) -> None:
    values = load_file(DATA / "samplers.safetensors")
    name, steps, shift = run.rsplit("_", 2)
    schedule = simple_schedule(int(steps), float(shift), OURS[name])
    sigmas = torch.tensor([*schedule.sigmas, 0.0])
    assert within(1e-6, "ComfyUI: noise levels", sigmas, values[f"sigmas_{run}"])
    assert within(1e-6, "ComfyUI: timesteps", torch.tensor(schedule.timesteps), values[f"timesteps_{run}"])
    end = solve(make_scheduler(None, schedule, "cpu", OURS[name]))
    assert within(1e-5, f"ComfyUI: end of {name}", end, values[f"final_{run}"])


def test_runs_of_both_samplers_and_shifts_are_kept() -> None:
    kept = {(run.rsplit("_", 2)[0], run.rsplit("_", 1)[1]) for run in RUNS}
    assert kept == {(sampler, shift) for sampler in OURS for shift in ("5", "8")}


@pytest.mark.parametrize("sampler", [sampler for sampler in SAMPLERS if sampler != "lcm"])
def test_every_solver_approaches_the_same_end(sampler: SamplerName) -> None:
    """The sampler lcm is no solver: it adds new noise in each step."""
    exact = solve(make_scheduler(None, simple_schedule(1000, 5.0), "cpu", "euler"))
    ends = [solve(make_scheduler(None, simple_schedule(steps, 5.0, sampler), "cpu", sampler)) for steps in (10, 40)]
    far, near = (float((end - exact).norm() / exact.norm()) for end in ends)
    assert near < 0.02
    assert near < far / 2


def comfy_call(published: Golden, family: str, mode: str, scale: float) -> dict[str, Any]:
    """Return the arguments of a generation with ComfyUI's guidance, as its node and its KSampler got them."""
    latents = load_file(DATA / "guidance.safetensors")["noise"]
    return {
        "prompt_embeds": published.noise("context_pos", PROMPT_TOKENS, 48)[None],
        "negative_prompt_embeds": published.noise("context_neg", NEGATIVE_TOKENS, 48)[None],
        "audio_embeds": published.noise("audio_emb", 16, 5, 1280),
        "images": [str(published.folder / "reference_0.png")] if "I" in mode else None,
        "width": 96,
        "height": 64,
        "num_frames": 13,
        "num_inference_steps": 4,
        "shift": 5.0,
        "guidance": "comfy",
        "sampler": "comfy-unipc",
        "spacing": "simple",
        "scale_text": scale,
        "latents": F.pad(latents, (0, 0, 0, 0, 0, 1)),
        "output_type": "latent",
    }


GENERATIONS = [(family, mode) for family in FAMILIES for mode in ("TIA", "TA")]


@pytest.mark.parametrize(("family", "mode"), GENERATIONS)
def test_passes_with_comfyuis_guidance_equal_those_of_its_node(published: Golden, family: str, mode: str) -> None:
    pipeline = published.pipeline(family)
    values = load_file(DATA / "guidance.safetensors")
    key = f"{family}_{mode}_cfg4.5"
    passes: list[tuple[dict[str, Any], torch.Tensor]] = []
    pipeline.transformer.register_forward_hook(
        lambda _, __, inputs, output: passes.append((inputs, output[0])), with_kwargs=True
    )
    pipeline(**comfy_call(published, family, mode, 4.5), batch_passes=False)
    assert len(passes) == 8
    for name, (inputs, velocity) in zip(("unconditional", "conditional"), passes[2:4], strict=True):
        assert within(1e-6, "ComfyUI: timestep", inputs["timestep"], values[f"pass_time_{key}"])
        latents = inputs["hidden_states"][:, :16, :4]
        assert within(1e-4, "ComfyUI: latents of a pass", latents, values[f"pass_input_{key}"])
        assert within(1e-4, f"ComfyUI: {name} pass, {family}", velocity[:, :, :4], values[f"{name}_{key}"])


@pytest.mark.parametrize("scale", [4.5, 1.0])
@pytest.mark.parametrize(("family", "mode"), GENERATIONS)
def test_a_generation_with_comfyuis_guidance_equals_its_workflow(
    published: Golden, family: str, mode: str, scale: float
) -> None:
    pipeline = published.pipeline(family)
    latents = pipeline(**comfy_call(published, family, mode, scale)).frames
    expected = load_file(DATA / "guidance.safetensors")[f"latents_{family}_{mode}_cfg{scale:g}"]
    assert within(1e-4, f"ComfyUI: generation, {family}", latents, expected)


def test_comfyuis_guidance_draws_the_noise_that_its_sampler_draws(published: Golden) -> None:
    pipeline = published.pipeline("humo_17b")
    noise = pipeline.prepare_latents(Geometry(96, 64, 13), torch.Generator().manual_seed(1), "comfy")
    expected = load_file(DATA / "guidance.safetensors")["noise"]
    assert torch.equal(noise[:, :, :4], expected)
    assert not noise[:, :, 4:].any()
