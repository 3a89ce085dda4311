"""Decode every uploaded image and audio file in a confined process, and pass on only a newly written PNG or WAV.

A child process with limited memory and time decodes the file (`humo.server.sanitizer_process`), so that a malicious
file can harm nothing but that process. The new file has no metadata and no appended data, and no later reader handles
bytes that came from a client.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from humo.errors import HuMoError, MediaError, RequestError, StorageError
from humo.files import storage_error
from humo.limits import MAX_AUDIO_SECONDS, MAX_IMAGE_PIXELS

MediaKind = Literal["image", "audio"]

SANITIZED_SUFFIXES: dict[MediaKind, str] = {"image": ".png", "audio": ".wav"}
"""Suffix of the newly written file."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Upper limits of uploads.

    Args:
        body_bytes: size of a request's body.
        image_bytes, audio_bytes: size of an uploaded file.
        image_pixels, audio_seconds: size of its decoded content.
        images: images in a request.
        decode_memory_bytes, decode_seconds: memory and time of the decoding process.
    """

    body_bytes: int = 64 * 2**20
    image_bytes: int = 20 * 2**20
    audio_bytes: int = 25 * 2**20
    image_pixels: int = min(32_000_000, MAX_IMAGE_PIXELS)
    audio_seconds: float = min(60.0, MAX_AUDIO_SECONDS)
    images: int = 4
    decode_memory_bytes: int = 2 * 2**30
    decode_seconds: int = 60

    def file_bytes(self, kind: MediaKind) -> int:
        """Largest size of an uploaded file of a kind."""
        return self.image_bytes if kind == "image" else self.audio_bytes


class UploadSanitizer:
    """Decodes uploads in child processes and returns newly written files.

    Args:
        limits: upper limits of each upload.
        max_parallel: files that are decoded at the same time.
    """

    def __init__(self, limits: UploadLimits, max_parallel: int = 2) -> None:
        self.limits = limits
        self._slots = asyncio.Semaphore(max_parallel)
        self._standby: subprocess.Popen[bytes] | None = None
        self._has_standby = False
        self._lock = threading.Lock()

    def start_standby(self) -> None:
        """Keep one process started ahead of the next file from now on; most of a decoder's time is its start."""
        with self._lock:
            self._has_standby, self._standby = True, self._standby or _start_process()

    def close(self) -> None:
        """End the standby process."""
        with self._lock:
            self._has_standby = False
            if self._standby is not None:
                _end_process(self._standby)
                self._standby = None

    async def sanitize(self, content: bytes, kind: MediaKind, field: str) -> bytes:
        """Decode a file and return it as a newly written PNG or WAV.

        Args:
            content: bytes of the uploaded file.
            kind: what the file must be.
            field: the client's name of the file, for messages.

        Raises:
            MediaError: the file is too large, of another kind, or damaged.
            StorageError: the disk for temporary files is full.
        """
        max_bytes = self.limits.file_bytes(kind)
        if len(content) > max_bytes:
            raise MediaError(field, f"is larger than {max_bytes // 2**20} MiB", "send a smaller file")
        if not content:
            raise MediaError(field, "is empty", "send a file with content")
        async with self._slots:
            return await asyncio.to_thread(self._decode, content, kind, field)

    def _decode(self, content: bytes, kind: MediaKind, field: str) -> bytes:
        with _temporary_folder() as folder:
            source, target = folder / "input", folder / f"output{SANITIZED_SUFFIXES[kind]}"
            source.write_bytes(content)
            task = {
                "kind": kind,
                "field": field,
                "folder": str(folder),
                "source": str(source),
                "target": str(target),
                "max_pixels": self.limits.image_pixels,
                "max_seconds": self.limits.audio_seconds,
                "memory_bytes": self.limits.decode_memory_bytes,
                "cpu_seconds": self.limits.decode_seconds,
            }
            process = self._take_process()
            try:
                reply, _ = process.communicate(json.dumps(task).encode() + b"\n", timeout=self.limits.decode_seconds)
            except subprocess.TimeoutExpired:
                reply = b""
            finally:
                _end_process(process)
                self._refill_standby()
            if process.returncode == 0 and target.is_file():
                return target.read_bytes()
            raise _error_of_reply(reply, field)

    def _take_process(self) -> subprocess.Popen[bytes]:
        """Return a started process, which decodes one file."""
        with self._lock:
            process, self._standby = self._standby, None
        if process is not None and process.poll() is not None:  # it died while it waited
            _end_process(process)
            process = None
        return process or _start_process()

    def _refill_standby(self) -> None:
        with self._lock:
            if self._has_standby and self._standby is None:
                self._standby = _start_process()


def _start_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "humo.server.sanitizer_process"],
        stdin=subprocess.PIPE,  # closes with this process, and the child exits
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # unread data in the pipe is discarded
                pipe.close()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Create a folder and remove it afterwards.

    Raises:
        StorageError: the disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="humo-") as folder:
            yield Path(folder)
    except OSError as error:
        raise storage_error(error) from error


def _error_of_reply(reply: bytes, field: str) -> HuMoError:
    """Return the error that the child process printed, or a general one if it died."""
    try:
        message = json.loads(reply)
        if "disk_full" in message:
            return StorageError("data", str(message["disk_full"]), "free space on the server's temporary disk")
        return MediaError(field, str(message["problem"]), str(message["remedy"]))
    except (ValueError, KeyError, TypeError):
        return MediaError(field, "cannot be decoded within this service's limits", "send another file")


def decode_data_url(url: str, max_bytes: int, field: str) -> bytes:
    """Return the content of a ``data:...;base64,...`` URL, with any parameters, in lines or in one, padded or not.

    Args:
        url: the URL.
        max_bytes: largest content.
        field: the client's name of the file, for messages.

    Raises:
        RequestError: it is not such a URL, or its content is too large.
    """
    head, comma, text = url.partition(",")
    scheme, *parameters = head.split(";")
    if not comma or scheme[:5].lower() != "data:" or not parameters or parameters[-1].strip().lower() != "base64":
        remedy = "upload the file, or send data:...;base64,..."
        raise RequestError(field, "is not a data: URL in base64", remedy)
    text = "".join(unquote(text).split())  # clients wrap lines, and some encode + and / for an address
    if len(text) * 3 // 4 > max_bytes + 2:
        raise RequestError(field, f"is larger than {max_bytes // 2**20} MiB", "send a smaller file")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(field, "is not valid base64", "encode the file again") from None
