"""Injection of reference images into the network's input: beside the noisy latents, or in place of the last frames.

For both families, the conditions with and without references are one tensor each. Guidance and training dropout select
one of the two, and `network_input` joins it with the latents.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence, R reference slots, H, W latent size.

**Source:** paper (arXiv 2509.08519), minimal-invasive image injection; ``humo/generate.py``, ``Generator.inference``
(``msk``, ``y_c``, ``y_null``) and ``humo/generate_1_7B.py``, ``forward_tia`` (``latents_ref``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo.presets import ReferenceInjection

MASK_CHANNELS = 4
"""Channels of the mask of ``CHANNEL_CONCAT``, one for each frame of a latent frame."""


def with_references(injection: ReferenceInjection, references_BCRHW: Tensor, blank_BCLHW: Tensor | None) -> Tensor:
    """Return the image condition with references.

    Args:
        injection: how references enter the network's input.
        references_BCRHW: clean reference latents.
        blank_BCLHW: latents of a mid-gray video as long as the whole sequence; ``FRAME_REPLACE`` needs none.

    Returns:
        channels: (B, 4 + C, L, H, W), mask and image latents; ``FRAME_REPLACE``: (B, C, R, H, W).
    """
    if injection is ReferenceInjection.FRAME_REPLACE:
        return references_BCRHW
    assert blank_BCLHW is not None
    slots = references_BCRHW.shape[2]
    image = torch.cat([blank_BCLHW[:, :, : blank_BCLHW.shape[2] - slots], references_BCRHW], dim=2)
    return torch.cat([_mask(image, slots), image], dim=1)


def without_references(injection: ReferenceInjection, references_BCRHW: Tensor, blank_BCLHW: Tensor | None) -> Tensor:
    """Return the image condition without references, in the same shape; the slots and their mask stay.

    Args and shapes as `with_references`; only the shape of the references is used.
    """
    if injection is ReferenceInjection.FRAME_REPLACE:
        return torch.zeros_like(references_BCRHW)
    assert blank_BCLHW is not None
    return torch.cat([_mask(blank_BCLHW, references_BCRHW.shape[2]), blank_BCLHW], dim=1)


def network_input(injection: ReferenceInjection, latents_BCLHW: Tensor, image: Tensor) -> Tensor:
    """Return the transformer's input: noisy latents joined with an image condition.

    Returns:
        channels: (B, C + 4 + C, L, H, W); ``FRAME_REPLACE``: (B, C, L, H, W).
    """
    if injection is ReferenceInjection.FRAME_REPLACE:
        return torch.cat([latents_BCLHW[:, :, : -image.shape[2]], image], dim=2)
    if injection is ReferenceInjection.CLEAN_CHANNEL_CONCAT:
        latents_BCLHW = latents_BCLHW * (1 - image[:, :1])  # the mask is 1 on reference slots
    return torch.cat([latents_BCLHW, image], dim=1)


def _mask(image_BCLHW: Tensor, slots: int) -> Tensor:
    """Return a mask (B, 4, L, H, W): 0 on video frames, 1 on reference slots."""
    batch, _, latents, height, width = image_BCLHW.shape
    mask = image_BCLHW.new_zeros(batch, MASK_CHANNELS, latents, height, width)
    mask[:, :, latents - slots :] = 1
    return mask
