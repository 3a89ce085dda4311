"""Read images with Pillow, HEIC among them, as upright RGB, letterbox them on white and scale them for the network."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from humo.errors import MediaError
from humo.files import check_file
from humo.limits import MAX_IMAGE_PIXELS

PADDING_COLOR = (255, 255, 255)
"""RGB around a letterboxed image and under transparency: white, as in training."""

_EXTERNAL_FORMATS = frozenset({"EPS"})
"""Formats that Pillow passes to another program (Ghostscript); they are refused."""

_PILLOW_LOCK = threading.Lock()
"""Held while Pillow's warnings are off, because Python's warning filters belong to the whole process."""

ImageSource = str | Path | Image.Image | npt.NDArray[np.generic]


def load_image(source: ImageSource, *, field: str = "image", max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    The EXIF orientation is applied and transparency is composited over white. An animation gives its first frame, and
    16-bit gray is scaled to 8 bits. Color profiles are not applied.

    Args:
        source: a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), either uint8 or
            float in [0, 1].
        field: name of the input in error messages.
        max_pixels: maximum number of pixels; a file's header is checked before it is decoded.

    Raises:
        MediaError: missing, empty, damaged or cut short, not an image, or too large.
    """
    if isinstance(source, np.ndarray):
        return _flatten_alpha(_from_array(source, field, max_pixels))
    if isinstance(source, Image.Image):
        with _no_pillow_warnings(), _media_errors(field, "the given image", max_pixels):
            return _decode(source, field, "the given image", max_pixels)
    path = Path(source)
    name = repr(path.name)
    check_file(path, field)
    with _no_pillow_warnings(), _media_errors(field, name, max_pixels):
        Image.init()
        register_heif_opener()
        with Image.open(path, formats=[known for known in Image.ID if known not in _EXTERNAL_FORMATS]) as image:
            return _decode(image, field, name, max_pixels)


def letterbox(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fit an image inside ``width`` x ``height`` with its aspect ratio kept, centered on white.

    Args:
        image: RGB.
        width: pixels of the result.
        height: pixels of the result.

    **Source:** ``Generator.load_image_latent_ref_id`` in ``humo/generate.py`` of the published code: sizes are floored,
    the filter is Lanczos, and an odd pixel of padding goes right or below.
    """
    ratio = image.width / image.height
    wider = ratio > width / height
    fitted = (width, max(1, int(width / ratio))) if wider else (max(1, int(height * ratio)), height)
    canvas = Image.new("RGB", (width, height), PADDING_COLOR)
    corner = ((width - fitted[0]) // 2, (height - fitted[1]) // 2)
    canvas.paste(image.resize(fitted, Image.Resampling.LANCZOS), corner)
    return canvas


def to_pixels(image: Image.Image) -> npt.NDArray[np.float32]:
    """Convert an RGB image to (3, H, W) float32 in [-1, 1].

    **Source:** ``Generator.load_image_latent_ref_id``: ``(x / 255 - 0.5) / 0.5`` in float32.
    """
    scaled = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    return np.ascontiguousarray((scaled - np.float32(0.5)) / np.float32(0.5))


def _decode(image: Image.Image, field: str, name: str, max_pixels: int) -> Image.Image:
    _check_size(*image.size, field, name, max_pixels)
    image.load()
    return _flatten_alpha(_to_eight_bits(ImageOps.exif_transpose(image), field, name))


def _flatten_alpha(image: Image.Image) -> Image.Image:
    """Convert to RGB, with transparency composited over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, (*PADDING_COLOR, 255)), layers).convert("RGB")


def _to_eight_bits(image: Image.Image, field: str, name: str) -> Image.Image:
    """Scale gray of more than 8 bits, which Pillow's own conversion would clip."""
    if image.mode == "F":
        return _from_array(np.asarray(image), field, image.width * image.height, name)
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    gray = np.asarray(image.convert("I"))
    if gray.min() < 0 or gray.max() > 0xFFFF:
        raise MediaError(
            field, f"{name} has gray values {gray.min()}..{gray.max()}", "save it with 8 or 16 bits per channel"
        )
    return Image.fromarray(np.round(gray / 257).astype(np.uint8))


def _from_array(
    array: npt.NDArray[np.generic], field: str, max_pixels: int, name: str = "the given array"
) -> Image.Image:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise MediaError(field, f"{name} has shape {array.shape}", "give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    _check_size(array.shape[1], array.shape[0], field, name, max_pixels)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(np.min(array)), float(np.max(array))
        if not (low >= 0.0 and high <= 1.0):
            raise MediaError(field, f"{name} has values {low:.6g}..{high:.6g}", "scale floats to [0, 1]")
        array = np.round(array.astype(np.float64) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(field, f"{name} has type {array.dtype}", "give uint8, or float in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def _check_size(width: int, height: int, field: str, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise MediaError(field, f"{name} is {width} x {height} pixels", "give an image that is not empty")
    if width * height > max_pixels:
        size = f"{name} is {width} x {height} = {width * height / 1e6:.1f} megapixels"
        raise MediaError(field, size, f"scale it down to at most {max_pixels / 1e6:g} megapixels")


@contextmanager
def _no_pillow_warnings() -> Iterator[None]:
    """Turn off Pillow's warnings (damaged EXIF data, its own size limit); a MediaError reports such problems."""
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _media_errors(field: str, name: str, max_pixels: int) -> Iterator[None]:
    """Raise a MediaError for any error of Pillow's decoders on a damaged file."""
    try:
        yield
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(field, f"{name} is not an image that can be read", "give a PNG, JPEG or WebP file") from error
    except Image.DecompressionBombError as error:
        remedy = f"scale it down to at most {max_pixels / 1e6:g} megapixels"
        raise MediaError(field, f"{name} is far too large", remedy) from error
    except Exception as error:
        remedy = "save it again as PNG or JPEG; it may be damaged or cut short"
        raise MediaError(field, f"{name} cannot be decoded ({error})", remedy) from error
