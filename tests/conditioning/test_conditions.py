"""Conditions are switched off one by one, for a whole batch or for some of it, and stacked to batches."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import pytest
import torch
from torch import Tensor

from humo.conditioning.conditions import Conditions, pad_text, stack


def conditions(batch: int = 1, text: int = 5, no_text: int = 3, seed: int = 0) -> Conditions:
    """Any conditions: texts of those lengths, 4 latent frames of which the last is a reference slot."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    audio = some(4, 8, 5, 6)
    audio[:, -1] = 0
    return Conditions(some(text, 7), some(no_text, 7), some(20, 4, 2, 2), some(20, 4, 2, 2), audio)


def assert_equal(one: Conditions, other: Conditions) -> None:
    """Bit for bit, texts padded to the same length."""
    for field in fields(Conditions):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize(("text", "image", "audio"), [*product((True, False), repeat=3)])
def test_what_is_kept_stays_and_what_is_not_becomes_its_absence(text: bool, image: bool, audio: bool) -> None:
    given = conditions()
    kept = given.keep(text=text, image=image, audio=audio)
    assert torch.equal(kept.text, given.text if text else pad_text(given.null_text, 5))
    assert torch.equal(kept.image, given.image if image else given.null_image)
    assert torch.equal(kept.audio, given.audio if audio else torch.zeros_like(given.audio))


def test_everything_is_kept_unless_said_otherwise() -> None:
    given = conditions()
    assert_equal(given.keep(), given)


def test_the_given_conditions_are_not_changed() -> None:
    given, untouched = conditions(), conditions()
    given.keep(text=False, image=False, audio=False)
    assert_equal(given, untouched)


def test_a_switch_a_clip_chooses_for_each_of_a_batch() -> None:
    given = conditions(batch=3)
    kept = given.keep(
        text=torch.tensor([True, False, True]),
        image=torch.tensor([False, False, True]),
        audio=torch.tensor([True, True, False]),
    )
    for index, (text, image, audio) in enumerate([(True, False, True), (False, False, True), (True, True, False)]):
        alone = Conditions(*(getattr(given, field.name)[index : index + 1] for field in fields(Conditions)))
        expected = alone.keep(text=text, image=image, audio=audio)
        assert torch.equal(kept.text[index : index + 1], expected.text)
        assert torch.equal(kept.image[index : index + 1], expected.image)
        assert torch.equal(kept.audio[index : index + 1], expected.audio)


def test_switches_of_one_truth_are_that_truth() -> None:
    given = conditions(batch=2)
    for truth in (True, False):
        switch = torch.full((2,), truth)
        assert_equal(
            given.keep(text=switch, image=switch, audio=switch), given.keep(text=truth, image=truth, audio=truth)
        )


def test_absence_that_is_switched_off_hides_even_values_that_are_not_numbers() -> None:
    given = conditions(batch=2)
    given.audio[0] = torch.nan
    assert torch.isfinite(given.keep(audio=torch.tensor([False, True])).audio).all()
    assert torch.isfinite(given.keep(audio=False).audio).all()


def test_texts_of_different_lengths_are_padded_with_zeros_to_the_longest() -> None:
    one, other = conditions(text=5, no_text=3), conditions(text=2, no_text=9, seed=1)
    both = stack([one, other])
    assert both.text.shape == both.null_text.shape == (2, 9, 7)
    assert torch.equal(both.text[0, :5], one.text[0])
    assert not both.text[0, 5:].any()
    assert torch.equal(both.text[1, :2], other.text[0])
    assert not both.text[1, 2:].any()
    assert torch.equal(both.null_text[1], other.null_text[0])


def test_a_stack_holds_its_parts_in_order() -> None:
    parts = [conditions(seed=seed) for seed in range(3)]
    both = stack(parts)
    for name in ("image", "null_image", "audio"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(part, name) for part in parts]))


def test_passes_of_different_texts_stack() -> None:
    given = conditions(text=2, no_text=6)
    passes = stack([given.keep(), given.keep(text=False), given.keep(image=False)])
    assert passes.text.shape == (3, 6, 7)
    assert torch.equal(passes.text[0], passes.text[2])
    assert torch.equal(passes.text[1], given.null_text[0])
    assert torch.equal(passes.image[2], given.null_image[0])


def test_padding_to_the_present_length_changes_nothing() -> None:
    text = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pad_text(text, 4), text)
    assert pad_text(text, 6).shape == (2, 6, 3)
