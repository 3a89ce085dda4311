"""Training samples of an autoencoder: segments of clips as pixels, with the loss weight of each pixel.

Shape suffixes: B batch, F frames, H height, W width, S side of a mask.
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
from humo.training.component_config import AutoencoderLoss
from humo.training.dataset import ClipFiles, GroundTruth, read_training_clip, read_truth
from humo.training.latent_cache import estimate_mouth_mask

EYES = (0.28, 0.55)
"""Range of a face's height, as fractions from the top, in which its eyes are assumed."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment of a clip.

    Args:
        video: pixels (3, F, H, W) in [-1, 1].
        weight: loss weight of each pixel, (F, H, W).
    """

    video: Tensor
    weight: Tensor


def read_segment(
    clip: ClipFiles, loss: AutoencoderLoss, frames: int | None = None, crop: int | None = None,
    generator: torch.Generator | None = None,
) -> Segment:  # fmt: skip
    """Read a segment of a clip, cropped in space.

    Args:
        clip: files of the clip.
        loss: weights of face, mouth and eyes.
        frames: number of frames; by default the largest 4k + 1 that the clip has.
        crop: side in pixels; by default the whole frame.
        generator: draws the position in time and space, and whether the segment is flipped; by default the segment is
            the first one and not flipped.

    Raises:
        MediaError: the clip or its ground truth cannot be read.
    """
    video = read_training_clip(clip).frames
    count = snap_frames(len(video)) if frames is None else min(frames, snap_frames(len(video)))
    start = _draw_offset(len(video) - count, generator)
    window = slice(start, start + count)
    rows, columns = video.shape[1:3]
    side = (rows, columns) if crop is None else (min(crop, rows), min(crop, columns))
    top, left = _draw_offset(rows - side[0], generator), _draw_offset(columns - side[1], generator)
    region = (slice(top, top + side[0]), slice(left, left + side[1]))
    pixels = torch.from_numpy(np.ascontiguousarray(video[(window, *region)])).movedim(-1, 0).float() / 127.5 - 1
    truth = GroundTruth() if clip.truth is None else read_truth(clip.truth)
    weight = _weights(truth, loss, window, (rows, columns))[(slice(None), *region)]
    if weight.shape[0] != count:
        weight = torch.ones(count, *side)
    if generator is not None and _draw_offset(1, generator):
        pixels, weight = pixels.flip(-1), weight.flip(-1)
    return Segment(pixels, weight)


def stack_segments(pieces: Sequence[Segment]) -> tuple[Tensor, Tensor]:
    """Stack segments to pixels (B, 3, F, H, W) and weights (B, F, H, W)."""
    return torch.stack([piece.video for piece in pieces]), torch.stack([piece.weight for piece in pieces])


def _draw_offset(most: int, generator: torch.Generator | None) -> int:
    """Draw a whole number from 0 to ``most``; 0 without a generator."""
    return 0 if generator is None else int(torch.randint(most + 1, (), generator=generator))


def _weights(truth: GroundTruth, loss: AutoencoderLoss, window: slice, size: tuple[int, int]) -> Tensor:
    """Return the loss weight of each pixel of a range of frames, (F, H, W)."""
    weight = torch.ones(window.stop - window.start, *size)
    if truth.face is None:
        return weight
    face = truth.face[window]
    mouth = estimate_mouth_mask(face) if truth.mouth_area is None else truth.mouth_area[window]
    for mask, added in ((face, loss.face), (mouth, loss.mouth), (estimate_eye_mask(face), loss.eyes)):
        if added:
            resized = F.interpolate(torch.from_numpy(mask[:, None].astype(np.float32)), size=size)[:, 0]
            weight[: len(resized)] += added * resized
    return weight


def estimate_eye_mask(face: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Estimate the eye masks of face masks (F, S, S): a band of each face."""
    area = np.zeros_like(face)
    for frame, mask in enumerate(face):
        rows = np.flatnonzero(mask.any(axis=1))
        if len(rows):
            high = np.ptp(rows) + 1
            down = slice(rows[0] + int(high * EYES[0]), rows[0] + int(np.ceil(high * EYES[1])))
            area[frame, down] = mask[down]
    return area
