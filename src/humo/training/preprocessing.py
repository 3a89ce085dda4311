"""Preprocessing of videos and reference images: frame rate, resolution, augmentations, faces cut out of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

ZOOM_BOX = (0.075, 0.04, 0.925, 0.89)
"""Left, top, right, bottom of a zoomed reference, as fractions of the image; heads are above its center."""

SELF_REFERENCES_PER_CLIP = 4
"""Number of faces that are cut out of a clip."""

MASK_DILATION = 0.06
"""Dilation of a face mask, as a fraction of the frame's width, so that it includes some hair and the chin."""

SCALE_RANGE = (0.8, 1.25)
"""Smallest and largest factor that a cut-out face is scaled by, so that the network cannot copy it."""

MAX_SHIFT = 0.1
"""Largest shift of a cut-out face, as a fraction of the frame's sides."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def nearest_size(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the size whose aspect ratio is nearest; the first of equally near ones."""
    return min(sizes, key=lambda size: abs(np.log(size[0] / size[1] * height / width)))


def center_crop_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """Return the largest centered box with the aspect ratio of ``size`` in an image, in its pixels."""
    scale = min(width / size[0], height / size[1])
    across, down = scale * size[0], scale * size[1]
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def resize_and_center_crop(frame: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """Resize a frame to fill a size and crop it at its center."""
    image = Image.fromarray(frame)
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, box=center_crop_box(*image.size, size))


def augment_reference(image: Image.Image, count: int) -> list[Image.Image]:
    """Return the first ``count`` of four augmentations: the image itself, flipped, zoomed, zoomed and flipped."""
    left, top, right, bottom = (round(end * side) for end, side in zip(ZOOM_BOX, image.size * 2, strict=True))
    zoomed = image.crop((left, top, right, bottom))
    return [image, ImageOps.mirror(image), zoomed, ImageOps.mirror(zoomed)][:count]


def cut_out_faces(frames: NDArray[np.uint8], masks: NDArray[np.bool_], generator: torch.Generator) -> list[Image.Image]:
    """Cut `SELF_REFERENCES_PER_CLIP` faces out of evenly spaced frames of a clip.

    An image shows nothing of the clip but the face, so that clothes and background remain determined by the text.

    Args:
        frames: (F, H, W, 3).
        masks: face masks of at least F frames, (F, S, S), over the whole frame at any resolution.
        generator: draws positions, scales and colors.
    """
    numbers = np.linspace(0, len(frames) - 1, SELF_REFERENCES_PER_CLIP).round().astype(int)
    return [cut_out_face(frames[number], masks[number], generator) for number in numbers]


def cut_out_face(frame: NDArray[np.uint8], mask: NDArray[np.bool_], generator: torch.Generator) -> Image.Image:
    """Place a face on a plain color, shifted and scaled, and flipped with probability 0.5.

    Args:
        frame: (H, W, 3).
        mask: face mask, (S, S), over the whole frame at any resolution.
        generator: draws position, scale and color.
    """
    height, width = frame.shape[:2]
    scale, across, down, flip, *color = torch.rand(7, generator=generator).tolist()
    dilated = Image.fromarray(mask).convert("L").resize((width, height))
    dilated = dilated.filter(ImageFilter.MaxFilter(2 * round(MASK_DILATION * width) + 1))
    dilated = dilated.filter(ImageFilter.GaussianBlur(1))
    background = Image.new("RGB", (width, height), tuple(int(255 * value) for value in color))
    face = Image.composite(Image.fromarray(frame), background, dilated)
    zoom = 1 / (SCALE_RANGE[0] * (SCALE_RANGE[1] / SCALE_RANGE[0]) ** scale)
    left = (width - width * zoom) / 2 + (2 * across - 1) * MAX_SHIFT * width
    top = (height - height * zoom) / 2 + (2 * down - 1) * MAX_SHIFT * height
    placed = face.transform(
        face.size,
        Image.Transform.AFFINE,
        (zoom, 0, left, 0, zoom, top),
        Image.Resampling.BICUBIC,
        fillcolor=background.getpixel((0, 0)),
    )
    return ImageOps.mirror(placed) if flip < 0.5 else placed
