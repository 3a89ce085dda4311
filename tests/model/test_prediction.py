"""A network that predicts clean data returns the velocity that leads to it, at every noise level."""

from __future__ import annotations

import pytest
import torch

from humo.model.transformer import SIGMA_DATA
from tests.tiny import TEXT_LENGTH, TEXT_WIDTH, tiny_transformer


@pytest.mark.parametrize("level", [0.001, 0.05, 0.3, 0.7, 1.0])
def test_the_velocity_of_a_clean_data_prediction(level: float) -> None:
    plain, other = (tiny_transformer("humo-1.7b", prediction=kind) for kind in ("velocity", "sample"))
    for network in (plain, other):
        torch.manual_seed(5)
        torch.nn.init.normal_(network.proj_out.weight, std=0.1)
    torch.manual_seed(6)
    noisy = torch.randn(2, 16, 3, 4, 4)
    inputs = {
        "hidden_states": noisy,
        "timestep": torch.full((2,), 1000 * level),
        "encoder_hidden_states": torch.randn(2, TEXT_LENGTH, TEXT_WIDTH),
        "audio_hidden_states": torch.randn(2, 3, 8, 5, 16),
    }
    with torch.no_grad():
        output, velocity = plain(**inputs).sample, other(**inputs).sample
    total = level**2 + SIGMA_DATA**2
    data = SIGMA_DATA**2 / total * noisy + level / total**0.5 * output
    torch.testing.assert_close(noisy - level * velocity, data, rtol=1e-4, atol=1e-5)
    assert (velocity - output).abs().max() > 0.1


def test_each_channel_may_have_a_deviation_of_its_own() -> None:
    level, sigma = 0.4, [0.1 * (channel + 1) for channel in range(16)]
    plain, other = (tiny_transformer("humo-1.7b", prediction=kind) for kind in ("velocity", "sample"))
    for network in (plain, other):
        torch.manual_seed(5)
        torch.nn.init.normal_(network.proj_out.weight, std=0.1)
    other.register_to_config(sigma_data=sigma)
    torch.manual_seed(6)
    noisy = torch.randn(2, 16, 3, 4, 4)
    inputs = {
        "hidden_states": noisy,
        "timestep": torch.full((2,), 1000 * level),
        "encoder_hidden_states": torch.randn(2, TEXT_LENGTH, TEXT_WIDTH),
        "audio_hidden_states": torch.randn(2, 3, 8, 5, 16),
    }
    with torch.no_grad():
        output, velocity = plain(**inputs).sample, other(**inputs).sample
    d = torch.tensor(sigma).view(1, 16, 1, 1, 1)
    total = level**2 + d.square()
    data = d.square() / total * noisy + level / total.sqrt() * output
    torch.testing.assert_close(noisy - level * velocity, data, rtol=1e-4, atol=1e-5)
