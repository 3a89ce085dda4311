"""Conditions are replaced by their null conditions, for a whole batch or for some items, and stacked to batches."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import pytest
import torch
from torch import Tensor

from humo.conditioning.conditions import Conditions, pad_text, stack


def conditions(batch: int = 1, text: int = 5, no_text: int = 3, seed: int = 0) -> Conditions:
    """Return random conditions with texts of those lengths and 4 latent frames, the last one a reference slot."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    audio = some(4, 8, 5, 6)
    audio[:, -1] = 0
    return Conditions(some(text, 7), some(no_text, 7), some(20, 4, 2, 2), some(20, 4, 2, 2), audio)


def assert_equal(one: Conditions, other: Conditions) -> None:
    """Check that conditions are equal bit for bit."""
    for field in fields(Conditions):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize(("text", "image", "audio"), [*product((True, False), repeat=3)])
def test_a_condition_is_kept_or_replaced_by_its_null_condition(text: bool, image: bool, audio: bool) -> None:
    original = conditions()
    kept = original.keep(text=text, image=image, audio=audio)
    assert torch.equal(kept.text, original.text if text else pad_text(original.null_text, 5))
    assert torch.equal(kept.image, original.image if image else original.null_image)
    assert torch.equal(kept.audio, original.audio if audio else torch.zeros_like(original.audio))


def test_all_conditions_are_kept_by_default() -> None:
    original = conditions()
    assert_equal(original.keep(), original)


def test_keep_does_not_change_the_original_conditions() -> None:
    original, untouched = conditions(), conditions()
    original.keep(text=False, image=False, audio=False)
    assert_equal(original, untouched)


def test_a_tensor_of_booleans_selects_for_each_item_of_a_batch() -> None:
    original = conditions(batch=3)
    kept = original.keep(
        text=torch.tensor([True, False, True]),
        image=torch.tensor([False, False, True]),
        audio=torch.tensor([True, True, False]),
    )
    for index, (text, image, audio) in enumerate([(True, False, True), (False, False, True), (True, True, False)]):
        alone = Conditions(*(getattr(original, field.name)[index : index + 1] for field in fields(Conditions)))
        expected = alone.keep(text=text, image=image, audio=audio)
        assert torch.equal(kept.text[index : index + 1], expected.text)
        assert torch.equal(kept.image[index : index + 1], expected.image)
        assert torch.equal(kept.audio[index : index + 1], expected.audio)


def test_equal_booleans_in_a_tensor_act_as_one_boolean() -> None:
    original = conditions(batch=2)
    for truth in (True, False):
        switch = torch.full((2,), truth)
        assert_equal(
            original.keep(text=switch, image=switch, audio=switch), original.keep(text=truth, image=truth, audio=truth)
        )


def test_null_conditions_replace_nan_as_well() -> None:
    original = conditions(batch=2)
    original.audio[0] = torch.nan
    assert torch.isfinite(original.keep(audio=torch.tensor([False, True])).audio).all()
    assert torch.isfinite(original.keep(audio=False).audio).all()


def test_texts_of_different_lengths_are_padded_with_zeros_to_the_longest() -> None:
    one, other = conditions(text=5, no_text=3), conditions(text=2, no_text=9, seed=1)
    both = stack([one, other])
    assert both.text.shape == both.null_text.shape == (2, 9, 7)
    assert torch.equal(both.text[0, :5], one.text[0])
    assert not both.text[0, 5:].any()
    assert torch.equal(both.text[1, :2], other.text[0])
    assert not both.text[1, 2:].any()
    assert torch.equal(both.null_text[1], other.null_text[0])


def test_a_stack_keeps_the_order_of_its_conditions() -> None:
    items = [conditions(seed=seed) for seed in range(3)]
    both = stack(items)
    for name in ("image", "null_image", "audio"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(item, name) for item in items]))


def test_guidance_passes_with_texts_of_different_lengths_stack() -> None:
    original = conditions(text=2, no_text=6)
    passes = stack([original.keep(), original.keep(text=False), original.keep(image=False)])
    assert passes.text.shape == (3, 6, 7)
    assert torch.equal(passes.text[0], passes.text[2])
    assert torch.equal(passes.text[1], original.null_text[0])
    assert torch.equal(passes.image[2], original.null_image[0])


def test_padding_to_the_same_length_changes_nothing() -> None:
    text = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pad_text(text, 4), text)
    assert pad_text(text, 6).shape == (2, 6, 3)
