"""Decodes one file from outside, in a process of its own that can do little harm.

``python -m humo.server.sanitizer_process`` loads what it needs, then reads a line of JSON that says what to do: exit
code 0 and a file written anew, or 1 and ``{"problem", "remedy"}`` or ``{"no_room"}``. Without a line it ends.
"""

from __future__ import annotations

import json
import os
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np

from humo.errors import HuMoError
from humo.files import DISK_FULL_ERRORS, storage_error
from humo.media.audio import load_audio_track, probe_audio
from humo.media.image import load_image

FULL_SCALE = 32767
"""Of a 16-bit sample."""


def confine(memory_bytes: int, processor_seconds: int) -> None:
    """Take away what decoding does not need; where the system cannot, the caller's clock is what is left."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, processor_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def picture(source: Path, target: Path, field: str, pixels: int) -> None:
    """A picture as PNG, upright, without anything but its pixels."""
    load_image(source, field=field, max_pixels=pixels).save(target, format="PNG", compress_level=1)


def sound(source: Path, target: Path, field: str, seconds: float) -> None:
    """A sound as WAV of 16 bits at its own rate, one or two channels."""
    length = probe_audio(source, field=field, max_seconds=seconds).seconds
    track = load_audio_track(source, seconds=length, field=field)
    samples = np.round(track.samples.clip(-1.0, 1.0) * FULL_SCALE).astype("<i2")
    with wave.open(str(target), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(track.sample_rate)
        file.writeframes(samples.T.tobytes())


def main(told: dict[str, Any]) -> int:
    """Do what the gate asks for.

    Returns:
        the exit code.
    """
    os.chdir(told["folder"])
    confine(told["memory_bytes"], told["processor_seconds"])
    source, target, field = Path(told["source"]), Path(told["target"]), told["field"]
    try:
        if told["kind"] == "image":
            picture(source, target, field, told["pixels"])
        else:
            sound(source, target, field, told["seconds"])
    except HuMoError as error:
        print(json.dumps({"problem": error.problem.replace(repr(source.name), "it"), "remedy": error.remedy}))
        return 1
    except OSError as error:
        if error.errno not in DISK_FULL_ERRORS:
            raise
        print(json.dumps({"no_room": storage_error(error).problem}))
        return 1
    except MemoryError:
        print(json.dumps({"problem": "needs more memory than is allowed", "remedy": "give a smaller file"}))
        return 1
    return 0


if __name__ == "__main__":
    line = sys.stdin.readline()
    sys.exit(main(json.loads(line)) if line else 0)
