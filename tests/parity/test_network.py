"""One pass of the network equals the published one; in bfloat16 the residual stream stays float32."""

import pytest
import torch

from tests.parity.published import FAMILIES, Golden, distance, within
from tests.tiny import tiny_transformer

PROMPT_TOKENS = 17  # of the golden input `context`


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_one_pass_equals_the_published_one_at_every_timestep(published: Golden, family: str) -> None:
    network = published.transformer(family)
    config = network.config
    vectors = published.tensors(f"forward_{family}")
    times = [name for name in vectors if name.startswith("out_t")]
    channels, *size = vectors[times[0]].shape
    latents = published.noise("x", channels, *size)
    beside = config.in_channels - channels
    if beside:
        latents = torch.cat([latents, published.noise("y", beside, *size)])
    audio = published.noise("audio", size[0], config.audio_window, config.audio_bands, config.audio_width)
    text = published.noise("context", PROMPT_TOKENS, config.text_dim)
    assert len(times) >= 3
    for name in times:
        timestep = torch.tensor([float(name.removeprefix("out_t"))])
        out = network(latents[None], timestep, text[None], audio[None]).sample[0]
        assert within(5e-6, f"one pass, {family}", out, vectors[name])
    assert within(5e-6, "audio tokens", network.audio_proj(audio[None]), vectors["audio_tokens"])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padding_the_text_before_the_call_or_within_it_is_the_same(published: Golden, family: str) -> None:
    network = published.transformer(family)
    config = network.config
    latents = published.noise("x", 1, config.in_channels, 2, 4, 6)
    audio = published.noise("audio", 1, 2, config.audio_window, config.audio_bands, config.audio_width)
    text = published.noise("context", 1, 5, config.text_dim)
    padded = torch.cat([text, text.new_zeros(1, config.text_length - 5, config.text_dim)], dim=1)
    time = torch.tensor([500.0])
    assert torch.equal(network(latents, time, text, audio).sample, network(latents, time, padded, audio).sample)


@pytest.mark.parametrize("preset", ["humo-17b", "humo-1.7b"])
@torch.no_grad()
def test_thirty_layers_in_bfloat16_stay_near_float32(preset: str) -> None:
    network = tiny_transformer(preset, num_attention_heads=4, ffn_dim=192, num_layers=30)
    config = network.config
    kept = tuple(network._keep_in_fp32_modules)
    for name, parameter in network.named_parameters():
        if not any(part in kept for part in name.split(".")):
            parameter.data.copy_(parameter.data.bfloat16())  # the same rounded weights on both sides
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, config.in_channels, 4, 8, 12, generator=generator)
    text = torch.randn(1, 17, config.text_dim, generator=generator).bfloat16()
    audio = torch.randn(1, 4, config.audio_window, config.audio_bands, config.audio_width, generator=generator)
    time = torch.tensor([700.0])
    exact = network(latents, time, text.float(), audio).sample
    for name, parameter in network.named_parameters():
        if not any(part in kept for part in name.split(".")):
            parameter.data = parameter.data.bfloat16()
    rough = network(latents, time, text, audio).sample
    assert rough.dtype == torch.float32
    assert 1e-4 < distance(rough, exact) <= 4e-3
