"""Stage ``inventory``: checksum, streams, size, orientation and length of a source, without decoding it.

All packets are read, because a file that was cut short often has an intact header.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from humo.data.remote_files import local_copy
from humo.data.sources import IMAGE_SUFFIXES
from humo.data.tasks import Values
from humo.errors import MediaError
from humo.files import hash_file
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import default_audio_stream, open_media
from humo.media.clip_reader import orientation_of, timed_frames
from humo.media.image import load_image

MISSING_FRACTION = 0.05
"""Part of its stated length that a source may lack: containers round it, and streams end at different times."""

MISSING_SECONDS = 0.5
"""Seconds that it may lack in any case."""


def inspect_source(payload: Values) -> Values:
    """Return what is known of a source.

    Args:
        payload: ``path``.

    Returns:
        ``sha256``, ``bytes``, ``seconds``, ``width``, ``height`` (upright), ``rate`` (frames a second), ``origin``
        (time of the first frame as two integers), ``turns``, ``codec``, ``audio_tracks``, ``audio_rate``,
        ``audio_channels``, ``language`` (of the audio track, where the file says so).

    Raises:
        MediaError: the file is damaged, cut short, or has no video.
    """
    with local_copy(payload["path"]) as path:
        values = _probe_image(path) if path.suffix.lower() in IMAGE_SUFFIXES else _probe(path)
        return {"sha256": hash_file(path), "bytes": path.stat().st_size, **values}


def _probe(path: Path) -> Values:
    with open_media(path, "source", is_video=True) as container:
        videos = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not videos:
            raise MediaError("source", "has no video stream", "repair it, or leave it out")
        try:
            time, _, decoded = next(timed_frames(container))
        except StopIteration:
            raise MediaError("source", "has a video stream without frames", "repair it, or leave it out") from None
        turns, _ = orientation_of(decoded)
        size = (decoded.width, decoded.height)
        width, height = size[::-1] if turns % 2 else size
        values: Values = {
            "width": width,
            "height": height,
            "turns": turns,
            "origin": [time.numerator, time.denominator],
            "codec": videos[0].codec_context.name,
            **_audio_values(container),
        }
    count, seconds = _measure(path, time)
    stated = _stated_seconds(path)
    if stated - seconds > max(MISSING_SECONDS, MISSING_FRACTION * stated):
        raise MediaError("source", f"is cut short: it ends after {seconds:.1f} of {stated:.1f} s", "download it again")
    return {**values, "seconds": round(seconds, 3), "rate": round(count / seconds, 3) if seconds else 0.0}


def _probe_image(path: Path) -> Values:
    """Return the values of an image: a source of one frame."""
    width, height = load_image(path, field="source").size
    silent = {"audio_tracks": 0, "audio_rate": 0, "audio_channels": 0, "language": ""}
    frame = {"origin": [0, 1], "seconds": 1 / FRAMES_PER_SECOND, "rate": float(FRAMES_PER_SECOND)}
    return {"width": width, "height": height, "turns": 0, "codec": "image", **frame, **silent}


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _audio_values(container: InputContainer) -> Values:
    tracks = len(container.streams.audio)
    if not tracks:
        return {"audio_tracks": 0, "audio_rate": 0, "audio_channels": 0, "language": ""}
    stream = default_audio_stream(container)
    language = stream.language or ""
    return {
        "audio_tracks": tracks,
        "audio_rate": stream.sample_rate or 0,
        "audio_channels": stream.channels or 0,
        "language": "" if language == "und" else language,
    }


def _measure(path: Path, first: Fraction) -> tuple[int, float]:
    """Return the number of frames and the seconds from the first frame to the end of the last one."""
    count, end = 0, first
    with open_media(path, "source", is_video=True) as container:
        stream = container.streams.video[0]
        base = Fraction(stream.time_base or 1)
        for packet in container.demux(stream):
            if packet.pts is not None:
                count += 1
                end = max(end, (packet.pts + (packet.duration or 0)) * base)
    return count, float(end - first)


def _stated_seconds(path: Path) -> float:
    """Return the length that the header gives; 0 if it gives none."""
    with open_media(path, "source", is_video=True) as container:
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return float((container.duration or 0) / av.time_base)
