"""Other pictures of the same person: a reference mirrored and nearer, and a clip's own faces, cut out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

NEARER = (0.075, 0.04, 0.925, 0.89)
"""Left, top, right, bottom of the nearer view, in shares of the picture: heads are above the middle."""

FACES = 4
"""Cut out of each clip."""

AROUND = 0.06
"""Of the picture's width: what is kept around a face, so that some of the hair and the chin come along."""

SCALES = (0.8, 1.25)
SHIFT = 0.1
"""How much larger and how far aside (shares of a side) a face that was cut out may stand: to be found, not copied."""


def views(picture: Image.Image, count: int) -> list[Image.Image]:
    """A picture as it is, mirrored, nearer, and nearer and mirrored: the first ``count`` of these."""
    left, top, right, bottom = (round(share * side) for share, side in zip(NEARER, picture.size * 2, strict=True))
    near = picture.crop((left, top, right, bottom))
    return [picture, ImageOps.mirror(picture), near, ImageOps.mirror(near)][:count]


def faces(frames: NDArray[np.uint8], masks: NDArray[np.bool_], generator: torch.Generator) -> list[Image.Image]:
    """`FACES` faces of a clip, from frames evenly over it, each alone on a plain colour, moved, scaled, some mirrored.

    Nothing but the face is the clip's own: clothes and background stay a matter of the words.

    Args:
        frames: (F, H, W, 3).
        masks: of the face, (at least F, S, S), over the whole picture at any resolution.
        generator: of places, sizes and colours.
    """
    numbers = np.linspace(0, len(frames) - 1, FACES).round().astype(int)
    return [cut_out(frames[number], masks[number], generator) for number in numbers]


def cut_out(frame: NDArray[np.uint8], mask: NDArray[np.bool_], generator: torch.Generator) -> Image.Image:
    """A face alone on a plain colour, moved, scaled, in half of the cases mirrored.

    Args:
        frame: (H, W, 3).
        mask: of the face, (S, S), over the whole picture at any resolution.
        generator: of place, size and colour.
    """
    height, width = frame.shape[:2]
    scale, across, down, flip, *colour = torch.rand(7, generator=generator).tolist()
    around = Image.fromarray(mask).convert("L").resize((width, height))
    around = around.filter(ImageFilter.MaxFilter(2 * round(AROUND * width) + 1)).filter(ImageFilter.GaussianBlur(1))
    plain = Image.new("RGB", (width, height), tuple(int(255 * one) for one in colour))
    alone = Image.composite(Image.fromarray(frame), plain, around)
    zoom = 1 / (SCALES[0] * (SCALES[1] / SCALES[0]) ** scale)
    left = (width - width * zoom) / 2 + (2 * across - 1) * SHIFT * width
    top = (height - height * zoom) / 2 + (2 * down - 1) * SHIFT * height
    placed = alone.transform(
        alone.size,
        Image.Transform.AFFINE,
        (zoom, 0, left, 0, zoom, top),
        Image.Resampling.BICUBIC,
        fillcolor=plain.getpixel((0, 0)),
    )
    return ImageOps.mirror(placed) if flip < 0.5 else placed
