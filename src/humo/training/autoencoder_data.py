"""Pieces of clips as pixels, with the weight of each place: what an autoencoder is trained on.

Shape suffixes: B batch, F frames, H, W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from humo.geometry import snap_frames
from humo.media.video import read_video
from humo.training.component_config import AutoencoderLoss
from humo.training.dataset import ClipFiles, Truth, read_truth
from humo.training.latent_cache import lower_middle

EYES = (0.28, 0.55)
"""Share of the face's height in which the eyes lie, from the top; over all of its width."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Pixels (3, F, H, W) in [-1, 1] and the weight of each place (F, H, W)."""

    video: Tensor
    weight: Tensor


def read_piece(
    clip: ClipFiles, loss: AutoencoderLoss, frames: int | None = None, crop: int | None = None,
    generator: torch.Generator | None = None,
) -> Piece:  # fmt: skip
    """A piece of a clip.

    Args:
        clip: on the disk.
        loss: that weighs.
        frames: its length; by default all, as far as it is 4k + 1.
        crop: its side in pixels; by default all.
        generator: of its place in time and picture, and of whether it is mirrored; by default the first and none.

    Raises:
        MediaError: the clip or its truth cannot be read.
    """
    shown = read_video(clip.video, field="video").frames
    count = snap_frames(len(shown)) if frames is None else min(frames, snap_frames(len(shown)))
    start = _draw(len(shown) - count, generator)
    window = slice(start, start + count)
    rows, columns = shown.shape[1:3]
    side = (rows, columns) if crop is None else (min(crop, rows), min(crop, columns))
    top, left = _draw(rows - side[0], generator), _draw(columns - side[1], generator)
    place = (slice(top, top + side[0]), slice(left, left + side[1]))
    pixels = torch.from_numpy(np.ascontiguousarray(shown[(window, *place)])).movedim(-1, 0).float() / 127.5 - 1
    truth = Truth() if clip.truth is None else read_truth(clip.truth)
    weight = _weights(truth, loss, window, (rows, columns))[(slice(None), *place)]
    if weight.shape[0] != count:
        weight = torch.ones(count, *side)
    if generator is not None and _draw(1, generator):
        pixels, weight = pixels.flip(-1), weight.flip(-1)
    return Piece(pixels, weight)


def stack_pieces(pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
    """A batch of them: (B, 3, F, H, W) and (B, F, H, W)."""
    return torch.stack([one.video for one in pieces]), torch.stack([one.weight for one in pieces])


def _draw(most: int, generator: torch.Generator | None) -> int:
    """A whole number from 0 to ``most``."""
    return 0 if generator is None else int(torch.randint(most + 1, (), generator=generator))


def _weights(truth: Truth, loss: AutoencoderLoss, window: slice, size: tuple[int, int]) -> Tensor:
    """The weight of every place of some frames, (F, H, W)."""
    weight = torch.ones(window.stop - window.start, *size)
    if truth.face is None:
        return weight
    face = truth.face[window]
    mouth = lower_middle(face) if truth.mouth_area is None else truth.mouth_area[window]
    for mask, added in ((face, loss.face), (mouth, loss.mouth), (upper(face), loss.eyes)):
        if added:
            shown = F.interpolate(torch.from_numpy(mask[:, None].astype(np.float32)), size=size)[:, 0]
            weight[: len(shown)] += added * shown
    return weight


def upper(face: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the eyes of each face mask (F, S, S) lie, as far as its outline tells."""
    area = np.zeros_like(face)
    for frame, mask in enumerate(face):
        rows = np.flatnonzero(mask.any(axis=1))
        if len(rows):
            high = np.ptp(rows) + 1
            down = slice(rows[0] + int(high * EYES[0]), rows[0] + int(np.ceil(high * EYES[1])))
            area[frame, down] = mask[down]
    return area
