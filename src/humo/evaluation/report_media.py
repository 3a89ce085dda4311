"""Small media for a page: frames side by side, a clip that plays, references and waveforms, as data addresses."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from humo.analysis.mesh_track import Frames
from humo.errors import HuMoError
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import AudioSamples, load_audio
from humo.media.clip_reader import TimedClip, read_clip
from humo.media.image import load_image
from humo.media.video import VideoFormat, write_video

STRIP_FRAMES, STRIP_SIDE = 8, 96
"""Frames of a strip, and the height of each in pixels."""

CLIP_SIDE, CLIP_SECONDS, CLIP_CRF = 176, 12, 27
"""Largest shorter side in pixels, length and x264's rate factor of a clip on a page."""

REFERENCE_SIDE = 128
"""Height of a reference in pixels."""

WAVE_POINTS = 240
"""Points of a waveform."""

WEBP_QUALITY = 72


def strip(frames: Frames) -> str:
    """Return evenly spaced frames side by side as a WebP image."""
    numbers = np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)
    width = max(1, round(frames.shape[2] * STRIP_SIDE / frames.shape[1]))
    joined = Image.new("RGB", (width * len(numbers), STRIP_SIDE))
    for place, number in enumerate(numbers):
        small = Image.fromarray(frames[number]).resize((width, STRIP_SIDE), Image.Resampling.BICUBIC)
        joined.paste(small, (place * width, 0))
    return _webp(joined)


def playable(clip: TimedClip) -> str:
    """Return the beginning of a clip as a small MP4 with its audio."""
    frames = clip.frames[: CLIP_SECONDS * FRAMES_PER_SECOND]
    scale = min(1.0, CLIP_SIDE / min(frames.shape[1:3]))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frames.shape[2], frames.shape[1]))
    small = (np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)) for frame in frames)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        video_format = VideoFormat(width, height, FRAMES_PER_SECOND, CLIP_CRF)
        write_video(path, small, video_format, metadata={}, track=clip.audio)
        return _address("video/mp4", path.read_bytes())


def reference(path: Path) -> str | None:
    """Return a reference image, small; None if it cannot be read."""
    try:
        image = load_image(path)
    except HuMoError:
        return None
    image.thumbnail((4 * REFERENCE_SIDE, REFERENCE_SIDE))
    return _webp(image)


def waveform(samples: AudioSamples) -> list[float]:
    """Return the largest absolute value of each part of audio, 0..1, over the loudest."""
    parts = np.array_split(np.abs(samples), min(WAVE_POINTS, max(1, len(samples))))
    levels = np.array([float(part.max()) if len(part) else 0.0 for part in parts])
    return [round(float(level), 3) for level in levels / max(1e-6, levels.max())]


def case_waveform(audio: Path | None, seconds: float) -> list[float] | None:
    """Return the waveform of a case's audio; None without one, or if it cannot be read."""
    if audio is None:
        return None
    try:
        return waveform(load_audio(audio)[: round(seconds * 16_000)])
    except HuMoError:
        return None


def clip_media(path: Path) -> tuple[TimedClip | None, str]:
    """Return a video and why it cannot be shown; one of the two is empty."""
    try:
        return read_clip(path), ""
    except HuMoError as error:
        return None, str(error)


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=WEBP_QUALITY, method=4)
    return _address("image/webp", buffer.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
