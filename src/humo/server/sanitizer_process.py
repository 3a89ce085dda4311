"""Decode one uploaded file in a confined process and write it again in a plain format.

``python -m humo.server.sanitizer_process`` imports the decoders, then reads one line of JSON with the task. It exits
with 0 after writing the file, or with 1 after printing ``{"problem", "remedy"}`` or ``{"disk_full"}``. If the standard
input closes without a line, it exits.
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

INT16_MAX = 32767


def limit_resources(memory_bytes: int, cpu_seconds: int) -> None:
    """Limit this process's memory and CPU time, and disable core dumps; does nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def sanitize_image(source: Path, target: Path, field: str, max_pixels: int) -> None:
    """Write an image as PNG: pixels in upright orientation, without metadata."""
    load_image(source, field=field, max_pixels=max_pixels).save(target, format="PNG", compress_level=1)


def sanitize_audio(source: Path, target: Path, field: str, max_seconds: float) -> None:
    """Write an audio file as 16-bit WAV at its own sample rate, mono or stereo."""
    seconds = probe_audio(source, field=field, max_seconds=max_seconds).seconds
    track = load_audio_track(source, seconds=seconds, field=field)
    samples = np.round(track.samples.clip(-1.0, 1.0) * INT16_MAX).astype("<i2")
    with wave.open(str(target), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(track.sample_rate)
        file.writeframes(samples.T.tobytes())


def main(task: dict[str, Any]) -> int:
    """Run the task that `UploadSanitizer` sent.

    Returns:
        exit code.
    """
    os.chdir(task["folder"])
    limit_resources(task["memory_bytes"], task["cpu_seconds"])
    source, target, field = Path(task["source"]), Path(task["target"]), task["field"]
    try:
        if task["kind"] == "image":
            sanitize_image(source, target, field, task["max_pixels"])
        else:
            sanitize_audio(source, target, field, task["max_seconds"])
    except HuMoError as error:
        print(json.dumps({"problem": error.problem.replace(repr(source.name), "it"), "remedy": error.remedy}))
        return 1
    except OSError as error:
        if error.errno not in DISK_FULL_ERRORS:
            raise
        print(json.dumps({"disk_full": storage_error(error).problem}))
        return 1
    except MemoryError:
        print(json.dumps({"problem": "needs more memory to decode than is allowed", "remedy": "send a smaller file"}))
        return 1
    return 0


if __name__ == "__main__":
    line = sys.stdin.readline()
    sys.exit(main(json.loads(line)) if line else 0)
