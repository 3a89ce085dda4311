"""Images of every kind become upright RGB, or an error of one line."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from humo.errors import MediaError
from humo.limits import MAX_IMAGE_PIXELS
from humo.media.image import letterbox, load_image, to_pixels


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([columns * 6, rows * 10, columns + rows], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [("png", 0), ("bmp", 0), ("tiff", 0), ("webp", 0), ("ppm", 0), ("jpg", 6), ("heic", 8)]
)
def test_a_file_of_each_common_format_gives_its_pixels(tmp_path: Path, suffix: str, tolerance: int) -> None:
    path = tmp_path / f"image.{suffix}"
    register_heif_opener()
    gradient().save(path, lossless=True, quality=98, subsampling=0)
    loaded = load_image(str(path))
    assert loaded.mode == "RGB"
    assert np.abs(np.asarray(loaded, int) - np.asarray(gradient(), int)).max() <= tolerance


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    for suffix in ("gif", "webp"):
        path = tmp_path / f"moving.{suffix}"
        red.save(path, save_all=True, append_images=[blue], duration=40)
        assert np.asarray(load_image(path))[4, 4, 0] > 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_a_camera_noted_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), (255, 255, 255))
    upright.paste((200, 0, 0), (0, 0, 24, 16))
    undo = {
        1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270",
    }[orientation]  # fmt: skip
    stored = upright if undo is None else upright.transpose(Image.Transpose[undo])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "camera.png", exif=exif)
    loaded = load_image(tmp_path / "camera.png")
    assert loaded.tobytes() == upright.tobytes()
    assert load_image(loaded).tobytes() == upright.tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGB with a transparent color"])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "clear.png"
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 4))
    if mode == "P":
        indexed = Image.new("P", (8, 4), 0)
        indexed.putpalette([0, 0, 0, 9, 9, 9])
        indexed.paste(1, (4, 0, 8, 4))
        indexed.save(path, transparency=bytes([255, 0]))
    elif mode == "PA":
        path = tmp_path / "clear.gif"
        image.save(path)
    elif mode == "LA":
        image.convert("LA").save(path)
    elif mode == "RGBA":
        image.save(path)
    else:
        plain = Image.new("RGB", (8, 4), (0, 0, 0))
        plain.paste((1, 2, 3), (4, 0, 8, 4))
        plain.save(path, transparency=(1, 2, 3))
    loaded = load_image(path)
    assert loaded.getpixel((1, 1)) == (0, 0, 0)
    assert loaded.getpixel((6, 1)) == (255, 255, 255)


def test_half_transparent_is_mixed_with_white() -> None:
    array = np.zeros((2, 2, 4), np.uint8)
    array[..., 3] = 128
    assert load_image(array).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(4, 0)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(deep).save(path)
    loaded = np.asarray(load_image(path))
    assert np.array_equal(loaded[0, :, 0], np.arange(256))
    assert np.array_equal(loaded[..., 0], loaded[..., 2])


def test_float_gray_in_zero_to_one_is_scaled_and_other_floats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32)[None]).save(tmp_path / "unit.tiff")
    assert np.array_equal(np.asarray(load_image(tmp_path / "unit.tiff"))[0, :, 1], np.arange(256))
    Image.fromarray(np.linspace(0, 900, 256, dtype=np.float32)[None]).save(tmp_path / "heat.tiff")
    with pytest.raises(MediaError, match=r"heat\.tiff.*0\.\.900.*\[0, 1\]"):
        load_image(tmp_path / "heat.tiff")


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "YCbCr", "LAB"])
def test_other_color_models_are_converted(tmp_path: Path, mode: str) -> None:
    white = (
        Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
        if mode != "LAB"
        else Image.new("LAB", (8, 8), (255, 128, 128))
    )
    assert np.asarray(load_image(white)).min() > 250
    if mode != "YCbCr":  # which Pillow 12 writes as TIFF, and cannot read again
        white.save(tmp_path / "colors.tiff")
        assert np.asarray(load_image(tmp_path / "colors.tiff")).min() > 250


def test_arrays_of_bytes_and_of_floats_are_images() -> None:
    pixels = np.asarray(gradient())
    assert np.array_equal(np.asarray(load_image(pixels)), pixels)
    assert np.array_equal(np.asarray(load_image(pixels.astype(np.float32) / 255)), pixels)
    assert np.array_equal(np.asarray(load_image(pixels[..., :1]))[..., 2], pixels[..., 0])
    assert np.array_equal(np.asarray(load_image(pixels[..., 0])), np.asarray(load_image(pixels[..., :1])))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((4, 0, 3), np.uint8), "0 x 4"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 1.5), "1.5"),
        (np.full((4, 4, 3), np.nan), "nan"),
    ],
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_image(array, field="image 2")


def test_missing_empty_folder_and_foreign_files_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "letter.png").write_text("Dear all,")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for name, message in [
        ("absent.png", "no file"), (".", "folder"), ("empty.png", "is empty"), ("letter.png", "not an image"),
        ("drawing.eps", "not an image"), ("no\0name", "cannot be opened"),
    ]:  # fmt: skip
        with pytest.raises(MediaError, match=message) as caught:
            load_image(tmp_path / name, field="image")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("image: ")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp", "gif"])
def test_a_file_cut_short_or_scrambled_gives_one_line(tmp_path: Path, suffix: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, {"jpg": "JPEG", "tiff": "TIFF"}.get(suffix, suffix.upper()))
    whole = buffer.getvalue()
    path = tmp_path / f"damaged.{suffix}"
    for part in (len(whole) // 2, 20, 3):
        path.write_bytes(whole[:part])
        with pytest.raises(MediaError, match=r"damaged\.") as caught:
            load_image(path)
        assert "\n" not in str(caught.value)
    scrambled = bytearray(whole)
    generator = np.random.default_rng(1)
    for _ in range(60):
        for place in generator.integers(4, len(scrambled), 12):
            scrambled[place] = generator.integers(256)
        path.write_bytes(scrambled)
        try:
            load_image(path)
        except MediaError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_the_size_is_checked_from_the_header_before_anything_is_decoded(tmp_path: Path) -> None:
    for side in (9_000, 12_000, 60_000):
        header = io.BytesIO()
        Image.new("1", (8, 8)).save(header, "PNG")
        claims = bytearray(header.getvalue())
        claims[16:24] = side.to_bytes(4, "big") * 2
        claims[29:33] = zlib.crc32(bytes(claims[12:29])).to_bytes(4, "big")
        (tmp_path / "bomb.png").write_bytes(claims)
        with pytest.raises(MediaError, match=r"bomb\.png.*(64 megapixels|smaller)"):
            load_image(tmp_path / "bomb.png")
    assert MAX_IMAGE_PIXELS == 64_000_000
    with pytest.raises(MediaError, match="megapixels"):
        load_image(np.zeros((10, 10, 3), np.uint8), max_pixels=99)


@pytest.mark.parametrize(
    ("width", "height"), [(40, 24), (24, 40), (833, 480), (7, 2000), (2000, 7), (1, 5000), (5000, 1)]
)
def test_letterbox_fits_inside_keeps_the_aspect_and_pads_white(width: int, height: int) -> None:
    boxed = np.asarray(letterbox(Image.new("RGB", (width, height), (10, 20, 30)), 96, 64))
    assert boxed.shape == (64, 96, 3)
    dark = np.argwhere(boxed[..., 0] < 128)
    top, left = dark.min(0)
    bottom, right = dark.max(0) + 1
    ratio = width / height
    expected = (96, max(1, int(96 / ratio))) if ratio > 96 / 64 else (max(1, int(64 * ratio)), 64)
    assert (right - left, bottom - top) == expected
    assert (left, top) == ((96 - expected[0]) // 2, (64 - expected[1]) // 2)
    outside = np.ones((64, 96), bool)
    outside[top:bottom, left:right] = False
    assert (boxed[outside] == 255).all()


def test_a_image_of_the_target_size_is_untouched_by_letterbox() -> None:
    assert letterbox(gradient(), 40, 24).tobytes() == gradient().tobytes()


def test_pixels_are_scaled_to_minus_one_to_one_in_float32() -> None:
    gray = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2))
    pixels = to_pixels(gray)
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, 1, 256)
    expected = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(pixels[1, 0], expected)
    assert (pixels[0, 0, 0], pixels[0, 0, 255]) == (-1.0, 1.0)
