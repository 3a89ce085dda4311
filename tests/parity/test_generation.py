"""Whole generations equal the published ones, from the seed to the decoded video, in as many passes or fewer."""

from typing import Any

import pytest
import torch

from tests.parity.published import FAMILIES, Golden, within

PROMPT_TOKENS, NEGATIVE_TOKENS = 19, 11  # of the golden inputs `context_pos`, `context_neg`
RUNS = [(family, mode) for family in FAMILIES for mode in ("TIA", "TA")]


def call(published: Golden, family: str, mode: str, config: Any) -> dict[str, Any]:
    """Return the arguments of the golden generation."""
    run = published.meta[f"generate_{family}_{mode}"]
    scales = run["scales"]
    rows = published.noise("audio_emb", run["frames"] + 3, config.audio_bands, config.audio_width)
    images = [str(published.folder / f"reference_{index}.png") for index in range(run["references"])]
    return {
        "prompt_embeds": published.noise("context_pos", PROMPT_TOKENS, config.text_dim)[None],
        "negative_prompt_embeds": published.noise("context_neg", NEGATIVE_TOKENS, config.text_dim)[None],
        "audio_embeds": rows,
        "images": images or None,
        "width": run["width"],
        "height": run["height"],
        "num_frames": run["frames"],
        "num_inference_steps": run["steps"],
        "shift": run["shift"],
        "scale_audio": scales["scale_a"],
        "scale_text": scales["scale_t"],
        "scale_image": scales.get("scale_i"),
        "switch_timestep": scales.get("step_change"),
        "generator": torch.Generator().manual_seed(published.meta["seed"]),
        "output_type": "latent",
    }


@pytest.mark.parametrize(("family", "mode"), RUNS)
def test_a_generation_equals_the_published_one(published: Golden, family: str, mode: str) -> None:
    pipeline = published.pipeline(family)
    vectors = published.tensors(f"generate_{family}_{mode}")
    passes = []
    pipeline.transformer.register_forward_hook(lambda *_: passes.append(1))
    arguments = call(published, family, mode, pipeline.transformer.config)
    latents = pipeline(**arguments).frames
    assert within(1e-5, f"generation, {family} {mode}: latents", latents[0], vectors["latents"])
    assert within(1e-5, f"generation, {family} {mode}: video", pipeline.decode_latents(latents)[0], vectors["video"])
    assert len(passes) <= published.meta[f"generate_{family}_{mode}"]["dit_calls"]


@pytest.mark.parametrize(("family", "mode"), RUNS)
def test_the_initial_noise_is_the_published_one(published: Golden, family: str, mode: str) -> None:
    pipeline = published.pipeline(family)
    inputs: list[torch.Tensor] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: inputs.append(kwargs["hidden_states"]), with_kwargs=True
    )
    arguments = call(published, family, mode, pipeline.transformer.config)
    pipeline(**arguments)
    noise = published.tensors(f"generate_{family}_{mode}")["initial_noise"]
    slots = max(1, published.meta[f"generate_{family}_{mode}"]["references"])
    untouched = noise.shape[1] - slots  # in the 1.7B family the last slots are replaced before the first pass
    assert torch.equal(inputs[0][0, : noise.shape[0], :untouched], noise[:, :untouched])


@pytest.mark.parametrize(("family", "mode"), RUNS)
def test_passes_in_one_batch_give_the_same_clip(published: Golden, family: str, mode: str) -> None:
    pipeline = published.pipeline(family)
    vectors = published.tensors(f"generate_{family}_{mode}")
    sizes: list[int] = []
    pipeline.transformer.register_forward_hook(lambda *call: sizes.append(len(call[2][0])))
    arguments = call(published, family, mode, pipeline.transformer.config)
    latents = pipeline(**arguments, batch_passes=True).frames
    assert within(1e-5, f"generation, {family} {mode}, batched: latents", latents[0], vectors["latents"])
    assert len(sizes) == published.meta[f"generate_{family}_{mode}"]["steps"]
    assert min(sizes) >= 2
