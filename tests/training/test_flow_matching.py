"""Formulas of the objective against plain algebra."""

from __future__ import annotations

import math

import pytest
import torch

from humo.model.seeding import seeded_generator
from humo.training.auxiliary_heads import focus_loss, identity_loss, lips_loss
from humo.training.config import LossConfig, Stage
from humo.training.flow_matching import add_noise, draw_noise_level, timestep_of_level, velocity_loss
from humo.training.optimizer import learning_rate


def test_noise_and_velocity_are_those_of_flow_matching() -> None:
    data, noise = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 5, 2, 2)
    level = torch.tensor([0.25, 1.0])
    noisy = add_noise(data, noise, level[:, None])
    torch.testing.assert_close(noisy[0, :, :4], 0.75 * data[0] + 0.25 * noise[0, :, :4])
    torch.testing.assert_close(noisy[1], noise[1], msg="at s = 1 there is only noise")
    assert timestep_of_level(level).tolist() == [250, 1000]
    each = add_noise(data, noise, torch.tensor([[0.0, 1.0, 0.5, 0.5]]).expand(2, 4))
    assert each[:, :, :2].equal(torch.stack([data[:, :, 0], noise[:, :, 1]], dim=2)), (
        "a level of its own for each frame"
    )
    right = torch.cat([noise[:, :, :4] - data, torch.full((2, 3, 1, 2, 2), 99.0)], dim=2)
    assert velocity_loss(right, data, noise).tolist() == [0, 0], "reference slots have no loss"


def test_a_weighted_loss_is_the_weighted_mean() -> None:
    data, noise, velocity = (torch.randn(1, 2, 2, 2, 2) for _ in range(3))
    weight = torch.rand(1, 2, 2, 2)
    error = ((velocity - (noise - data)) ** 2).mean(dim=1)
    expected = (error * weight).sum() / weight.sum()
    torch.testing.assert_close(velocity_loss(velocity, data, noise, weight)[0], expected)


def test_noise_levels_are_logit_normal_and_shifted() -> None:
    generator = seeded_generator(0)
    levels = torch.tensor([draw_noise_level(LossConfig(), generator) for _ in range(4000)])
    logit = (levels / (1 - levels)).log()
    assert logit.mean() == pytest.approx(0, abs=0.06)
    assert logit.std() == pytest.approx(1, abs=0.05)
    shifted = torch.tensor([draw_noise_level(LossConfig(shift=3.0), seeded_generator(1)) for _ in range(1)])
    plain = draw_noise_level(LossConfig(), seeded_generator(1))
    assert float(shifted) == pytest.approx(3 * plain / (1 + 2 * plain))
    even = torch.tensor([draw_noise_level(LossConfig(uniform_prob=1.0), generator) for _ in range(4000)])
    assert even.var() == pytest.approx(1 / 12, abs=0.005)


def test_the_focus_loss_is_the_published_formula() -> None:
    logits = torch.randn(1, 4, 2, 2, 3)
    mask = torch.zeros(1, 2, 2, 3)
    mask[0, 0, 0, 1] = mask[0, 0, 1, 1] = 1.0
    mask[0, 1] = torch.rand(2, 3)
    expected = 0.0
    for frame in range(2):
        total = 0.0
        for row in range(2):
            for column in range(3):
                chance = sum(1 / (1 + math.exp(-float(logits[0, head, frame, row, column]))) for head in range(4)) / 4
                is_face = float(mask[0, frame, row, column])
                total -= is_face * math.log(chance) + (1 - is_face) * math.log(1 - chance)
        expected += 6 / float(mask[0, frame].sum()) * total / 6 / 2
    assert float(focus_loss(logits, mask)) == pytest.approx(expected, rel=1e-5)


def test_empty_masks_have_no_loss_and_small_faces_count_as_much() -> None:
    logits = torch.zeros(3, 1, 1, 4, 4)
    mask = torch.zeros(3, 1, 4, 4)
    mask[1, 0, 0, 0] = 1
    mask[2, 0, :2] = 1
    empty, small, large = (one * float(mask[number].sum()) for number, one in enumerate(focus_loss(logits, mask)))
    assert float(empty) == 0
    assert float(small) == pytest.approx(float(large)), "loss times face size is the same"


def test_the_focus_loss_is_finite_for_confident_wrong_predictions() -> None:
    logits = torch.full((1, 4, 1, 2, 2), 200.0, requires_grad=True)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    loss = focus_loss(logits, mask)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_unknown_mouth_curves_have_no_loss() -> None:
    true = torch.full((2, 1, 4, 3), float("nan"))
    true[0, 0, 3] = torch.tensor([1.0, 0.0, 0.0])
    assert lips_loss(torch.zeros(2, 1, 4, 3), true).tolist() == [pytest.approx(1 / 3), 0]


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    stage = Stage(
        name="s", steps=100, train=("all",), learning_rate=1.0, warmup_steps=10, lr_scheduler="cosine", decay_start=0.5
    )
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] < 0.01


def test_the_identity_loss_ignores_unknown_faces() -> None:
    true = torch.tensor([[1.0, -1.0], [torch.nan, torch.nan]])
    predicted = torch.tensor([[[0.0, -1.0], [1.0, 1.0]], [[9.0, 9.0], [9.0, 9.0]]])
    assert identity_loss(predicted, true).tolist() == [pytest.approx((1 + 0 + 0 + 4) / 4), 0]
