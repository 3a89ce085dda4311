"""Reference images are concatenated as channels, or replace the last latent frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from humo.model.reference import MASK_CHANNELS, network_input, with_references, without_references
from humo.presets import ReferenceInjection

CHANNELS, LATENTS, HEIGHT, WIDTH = 16, 6, 4, 2
BESIDE, OVERWRITE = ReferenceInjection.CHANNEL_CONCAT, ReferenceInjection.FRAME_REPLACE


def some(*shape: int, seed: int = 0) -> Tensor:
    """Return a random tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_channel_concatenation_has_a_mask_and_image_latents(slots: int, batch: int) -> None:
    references = some(batch, CHANNELS, slots, HEIGHT, WIDTH)
    blank = some(batch, CHANNELS, LATENTS, HEIGHT, WIDTH, seed=1)
    image = with_references(BESIDE, references, blank)
    assert image.shape == (batch, MASK_CHANNELS + CHANNELS, LATENTS, HEIGHT, WIDTH)
    mask, latents = image[:, :MASK_CHANNELS], image[:, MASK_CHANNELS:]
    assert not mask[:, :, : LATENTS - slots].any()
    assert (mask[:, :, LATENTS - slots :] == 1).all()
    assert torch.equal(latents[:, :, : LATENTS - slots], blank[:, :, : LATENTS - slots])
    assert torch.equal(latents[:, :, LATENTS - slots :], references)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_without_references_the_mask_stays_and_the_slots_are_blank(slots: int) -> None:
    references = some(1, CHANNELS, slots, HEIGHT, WIDTH)
    blank = some(1, CHANNELS, LATENTS, HEIGHT, WIDTH, seed=1)
    absent = without_references(BESIDE, references, blank)
    assert torch.equal(absent[:, :MASK_CHANNELS], with_references(BESIDE, references, blank)[:, :MASK_CHANNELS])
    assert torch.equal(absent[:, MASK_CHANNELS:], blank)


def test_frame_replacement_uses_clean_latents_or_zeros() -> None:
    references = some(2, CHANNELS, 2, HEIGHT, WIDTH)
    assert torch.equal(with_references(OVERWRITE, references, None), references)
    absent = without_references(OVERWRITE, references, None)
    assert absent.shape == references.shape
    assert not absent.any()


def test_the_input_channels_are_latents_mask_and_image_latents() -> None:
    latents = some(2, CHANNELS, LATENTS, HEIGHT, WIDTH)
    image = some(2, MASK_CHANNELS + CHANNELS, LATENTS, HEIGHT, WIDTH, seed=1)
    joined = network_input(BESIDE, latents, image)
    assert joined.shape[1] == 36
    assert torch.equal(joined[:, :CHANNELS], latents)
    assert torch.equal(joined[:, CHANNELS:], image)


@pytest.mark.parametrize("slots", [1, 3])
def test_only_the_last_latent_frames_are_replaced(slots: int) -> None:
    latents = some(2, CHANNELS, LATENTS, HEIGHT, WIDTH)
    noisy = latents.clone()
    references = some(2, CHANNELS, slots, HEIGHT, WIDTH, seed=1)
    joined = network_input(OVERWRITE, latents, references)
    assert joined.shape == latents.shape
    assert torch.equal(joined[:, :, : LATENTS - slots], latents[:, :, : LATENTS - slots])
    assert torch.equal(joined[:, :, LATENTS - slots :], references)
    assert torch.equal(latents, noisy)
