"""Videos whose timestamps differ from their frame counts: frames and audio keep their places in time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from humo.errors import MediaError
from humo.media.clip_reader import Span, TimedClip, read_clip, read_span

RATE = 48_000
HEIGHT, WIDTH = 48, 64
TICKS = 90_000
SECONDS = 4
EVENTS = (1.0, 2.0, 3.0)
"""Seconds at which a clip flashes white and clicks."""

TOLERANCE = 0.0401
"""Seconds between flash and click that nobody notices: one frame."""


def _write(
    path: Path,
    times: Sequence[float],
    *,
    audio_from: float = 0.0,
    audio_hole: tuple[float, float] = (0.0, 0.0),
    pixels_at: Callable[[float], np.ndarray] | None = None,
    keyframes: int = 250,
) -> Path:
    """A video whose frames are shown at ``times``, white for 0.1 s from each event on; a click at each event."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "12", "bf": "0", "g": str(keyframes)})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for time in times:
            white = any(event <= time + 1e-6 < event + 0.1 for event in EVENTS)
            pixels = (
                np.full((HEIGHT, WIDTH, 3), 235 if white else 20, np.uint8) if pixels_at is None else pixels_at(time)
            )
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = np.zeros(SECONDS * RATE, np.float32)
        for event in EVENTS:
            samples[round(event * RATE) : round(event * RATE) + 240] = 0.9
        for start in range(round(audio_from * RATE), len(samples) - 1023, 1024):
            if audio_hole[0] * RATE <= start < audio_hole[1] * RATE:
                continue
            chunk = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            chunk.sample_rate, chunk.time_base, chunk.pts = RATE, Fraction(1, RATE), start
            container.mux(audio.encode(chunk))
        container.mux(audio.encode(None))
    return path


def _offsets(clip: TimedClip) -> list[float]:
    """Seconds from each click to the nearest flash."""
    assert clip.audio is not None
    bright = clip.frames.reshape(len(clip.frames), -1).mean(axis=1) > 128
    flashes = [(number + 1) / 25 for number in np.flatnonzero(np.diff(bright.astype(int)) > 0)]
    loud = np.flatnonzero(np.abs(clip.audio.samples[0]) > 0.3)
    clicks = loud[np.concatenate([[True], np.diff(loud) > RATE // 2])] / clip.audio.sample_rate
    assert len(clicks) == len(flashes) == len(EVENTS)
    return [flash - click for flash, click in zip(flashes, clicks, strict=True)]


def _steady(rate: float, start: float = 0.0, end: float = SECONDS) -> list[float]:
    return [float(time) for time in np.arange(start, end - 1e-9, 1 / rate)]


@pytest.mark.parametrize(
    "times",
    [
        _steady(25),
        _steady(30),
        _steady(60),
        _steady(24000 / 1001),
        _steady(60, 0, 1.5) + _steady(15, 1.5),
        [time for time in _steady(30) if not 1.3 <= time < 1.9],
    ],
    ids=["25", "30", "60", "24", "60-then-15", "dropped"],
)
def test_flash_and_click_stay_together_at_every_frame_rate(times: list[float], tmp_path: Path) -> None:
    clip = read_clip(_write(tmp_path / "clip.mp4", times))
    assert abs(len(clip.frames) - 25 * SECONDS) <= 1
    assert max(map(abs, _offsets(clip))) <= TOLERANCE
    assert clip.audio is not None
    assert clip.audio.seconds == pytest.approx(len(clip.frames) / 25, abs=1e-3)


def test_frames_that_fill_a_gap_are_counted(tmp_path: Path) -> None:
    whole = read_clip(_write(tmp_path / "whole.mp4", _steady(25)))
    holed = read_clip(_write(tmp_path / "holed.mp4", [time for time in _steady(25) if not 1.3 <= time < 2.3]))
    assert whole.timing.held_fraction == 0
    assert holed.timing.held_fraction == pytest.approx(0.9 / SECONDS, abs=0.04)


@pytest.mark.parametrize("start", [0.4, 0.8])
def test_audio_that_begins_late_is_preceded_by_silence(start: float, tmp_path: Path) -> None:
    clip = read_clip(_write(tmp_path / "late.mp4", _steady(25), audio_from=start))
    assert clip.timing.audio_start == pytest.approx(start, abs=0.05)
    assert max(map(abs, _offsets(clip))) <= TOLERANCE


def test_a_video_that_begins_late_begins_with_its_first_frame(tmp_path: Path) -> None:
    clip = read_clip(_write(tmp_path / "late.mp4", _steady(25, start=0.5)))
    assert clip.timing.audio_start == pytest.approx(-0.5, abs=0.05)
    assert len(clip.frames) == round(25 * (SECONDS - 0.5))
    assert max(map(abs, _offsets(clip))) <= TOLERANCE


def test_a_hole_in_the_audio_track_is_filled_with_silence(tmp_path: Path) -> None:
    clip = read_clip(_write(tmp_path / "hole.mp4", _steady(25), audio_hole=(1.3, 1.9)))
    assert clip.timing.audio_gaps == pytest.approx(0.6, abs=0.05)
    assert max(map(abs, _offsets(clip))) <= TOLERANCE


def test_only_the_part_asked_for_is_read(tmp_path: Path) -> None:
    clip = read_clip(_write(tmp_path / "clip.mp4", _steady(30)), max_seconds=1.2)
    assert len(clip.frames) == 30
    assert clip.audio is not None
    assert clip.audio.seconds == pytest.approx(1.2)


MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "upright": ((1, 0, 0, 1), lambda image: image),
    "turned right": ((0, 1, -1, 0), lambda image: np.rot90(image, 3)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "turned left": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
}
"""Display matrix (a, b, c, d) -> what a player does: (x, y) goes to (a x + c y, b x + d y), moved back into view."""


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_and_mirroring_of_the_track_header_are_applied(name: str, tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2, 0] = 250
    pixels[: HEIGHT // 2, WIDTH // 2 :, 1] = 250
    pixels[HEIGHT // 2 :, : WIDTH // 2, 2] = 250
    path = _write(tmp_path / "clip.mp4", _steady(25, end=0.4), pixels_at=lambda _: pixels)
    matrix, displayed = MATRICES[name]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layer ... of version 0
    a, b, c, d = (value * 65536 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frame = read_clip(path).frames[5].astype(int)
    expected = displayed(pixels).astype(int)
    assert frame.shape == expected.shape
    assert np.abs(frame - expected).mean() < 12


def test_a_file_without_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no video stream"):
        read_clip(path)


@pytest.mark.parametrize("rate", [25, 30, 60, 24000 / 1001])
def test_a_part_equals_that_part_of_the_whole(rate: float, tmp_path: Path) -> None:
    path = _write(tmp_path / "clip.mp4", _steady(rate), keyframes=12)
    whole = read_clip(path)
    part = read_span(path, Span(Fraction(0), first=40, count=30))
    np.testing.assert_array_equal(part.frames, whole.frames[40:70])
    assert part.audio is not None
    assert whole.audio is not None
    step = whole.audio.sample_rate // 25
    difference = part.audio.samples - whole.audio.samples[:, 40 * step : 70 * step]
    assert np.abs(difference).max() < 1e-3


def test_large_frames_are_scaled_while_they_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "clip.mp4", _steady(25))
    assert read_span(path, Span(count=3), max_lines=24).frames.shape == (3, 24, 32, 3)
