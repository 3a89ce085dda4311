"""Real audio and video files for the tests, written by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def tone(seconds: float, rate: int, channels: int = 1, hertz: float = 440.0) -> Array:
    """(channels, n) sines, each channel an octave above the one before, loudness 0.3."""
    clock = np.arange(round(seconds * rate)) / rate
    return np.stack([0.3 * np.sin(2 * np.pi * hertz * 2**c * clock) for c in range(channels)]).astype(np.float32)


def write_audio(
    path: Path, samples: Array, rate: int, *, codec: str, container: str | None = None, start: float = 0.0
) -> Path:
    """Encode (channels, n) samples; whole numbers are written as they are."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    kind = {"float32": "flt", "float64": "dbl", "int16": "s16", "int32": "s32", "uint8": "u8"}[str(samples.dtype)]
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        packed: Any = np.ascontiguousarray(samples.T).reshape(1, -1)
        for first in range(0, samples.shape[1], 1024):
            part = packed[:, first * len(samples) : (first + 1024) * len(samples)]
            frame = av.AudioFrame.from_ndarray(part, format=kind, layout=layout)
            frame.sample_rate = rate
            frame.time_base = Fraction(1, rate)
            frame.pts = first + round(start * rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def to_int16(samples: Array) -> Array:
    """Full scale of 16 bits."""
    return np.round(samples * 32767).astype(np.int16)
