"""The gate: every picture and sound from outside passes here, and only what we have written anew goes further in.

A child process with little memory and little time decodes it (`humo.server.sanitizer_process`), so that whatever a
file does to a decoder it does to nobody else. What comes out is a plain PNG or WAV: what was hidden behind or inside
the original is gone, and no later reader sees a byte of a stranger's file.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from humo.errors import HuMoError, MediaError, RequestError, StorageError
from humo.files import storage_error
from humo.limits import MAX_AUDIO_SECONDS, MAX_IMAGE_PIXELS

MediaKind = Literal["image", "audio"]

SANITIZED_SUFFIXES: dict[MediaKind, str] = {"image": ".png", "audio": ".wav"}
"""Of what is written anew."""

_DATA_ADDRESS = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w=.+-]+)*;base64,", re.ASCII)


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What is taken at most.

    Args:
        body_bytes: of a whole request.
        image_bytes, audio_bytes: of a file as it comes.
        image_pixels, audio_seconds: of what it holds.
        images: pictures a request.
        memory_bytes, seconds: of the process that decodes.
    """

    body_bytes: int = 64 * 2**20
    image_bytes: int = 20 * 2**20
    audio_bytes: int = 25 * 2**20
    image_pixels: int = min(32_000_000, MAX_IMAGE_PIXELS)
    audio_seconds: float = min(60.0, MAX_AUDIO_SECONDS)
    images: int = 4
    memory_bytes: int = 2 * 2**30
    seconds: int = 60

    def file_bytes(self, kind: MediaKind) -> int:
        """Of a file of a kind."""
        return self.image_bytes if kind == "image" else self.audio_bytes


class UploadSanitizer:
    """Lets files in, a few at a time.

    Args:
        limits: of each.
        at_once: files that are decoded at the same time.
    """

    def __init__(self, limits: UploadLimits, at_once: int = 2) -> None:
        self.limits = limits
        self._turns = asyncio.Semaphore(at_once)
        self._ready: subprocess.Popen[bytes] | None = None
        self._keeps_ready = False
        self._lock = threading.Lock()

    def start_standby(self) -> None:
        """Have a decoder started before its file comes, from now on: most of its time goes into starting."""
        with self._lock:
            self._keeps_ready, self._ready = True, self._ready or _start()

    def close(self) -> None:
        """Let the decoder go that waits."""
        with self._lock:
            self._keeps_ready = False
            if self._ready is not None:
                _end(self._ready)
                self._ready = None

    async def sanitize(self, content: bytes, kind: MediaKind, field: str) -> bytes:
        """A file, written anew.

        Args:
            content: as it came.
            kind: what it shall be.
            field: the client's word for it.

        Raises:
            MediaError: it is too large, not of that kind, or damaged.
            StorageError: there is no room to look at it.
        """
        most = self.limits.file_bytes(kind)
        if len(content) > most:
            raise MediaError(field, f"is larger than {most // 2**20} MiB", "give a smaller file")
        if not content:
            raise MediaError(field, "is empty", "give a file")
        async with self._turns:
            return await asyncio.to_thread(self._decode, content, kind, field)

    def _decode(self, content: bytes, kind: MediaKind, field: str) -> bytes:
        with _folder() as folder:
            source, target = folder / "given", folder / f"made{SANITIZED_SUFFIXES[kind]}"
            source.write_bytes(content)
            told = {
                "kind": kind,
                "field": field,
                "folder": str(folder),
                "source": str(source),
                "target": str(target),
                "pixels": self.limits.image_pixels,
                "seconds": self.limits.audio_seconds,
                "memory_bytes": self.limits.memory_bytes,
                "processor_seconds": self.limits.seconds,
            }
            child = self._take()
            try:
                said, _ = child.communicate(json.dumps(told).encode() + b"\n", timeout=self.limits.seconds)
            except subprocess.TimeoutExpired:
                said = b""
            finally:
                _end(child)
                self._renew()
            if child.returncode == 0 and target.is_file():
                return target.read_bytes()
            raise _refusal(said, field)

    def _take(self) -> subprocess.Popen[bytes]:
        """A decoder, for one file."""
        with self._lock:
            found, self._ready = self._ready, None
        if found is not None and found.poll() is not None:  # it ended while it waited
            _end(found)
            found = None
        return found or _start()

    def _renew(self) -> None:
        with self._lock:
            if self._keeps_ready and self._ready is None:
                self._ready = _start()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "humo.server.sanitizer_process"],
        stdin=subprocess.PIPE,  # it ends when this process is gone
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """However it is doing."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was written there is nobody's any more
                pipe.close()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for a file while it is looked at.

    Raises:
        StorageError: there is no room for it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="humo-") as folder:
            yield Path(folder)
    except OSError as error:
        raise storage_error(error) from error


def _refusal(said: bytes, field: str) -> HuMoError:
    """What the child said of a file, or that it died of it."""
    try:
        told = json.loads(said)
        if "no_room" in told:
            return StorageError("data", str(told["no_room"]), "make room in the folder for temporary files")
        return MediaError(field, str(told["problem"]), str(told["remedy"]))
    except (ValueError, KeyError, TypeError):
        return MediaError(field, "cannot be decoded within this service's limits", "give another file")


def decode_data_url(text: str, most: int, field: str) -> bytes:
    """The content of a ``data:...;base64,...`` address.

    Args:
        text: the address.
        most: bytes allowed.
        field: the client's word for it.

    Raises:
        RequestError: it is none, or holds too much.
    """
    head = _DATA_ADDRESS.match(text)
    if head is None:
        raise RequestError(field, "is not a data: address in base64", "upload the file, or send data:...;base64,...")
    if (len(text) - head.end()) * 3 // 4 > most + 2:
        raise RequestError(field, f"is larger than {most // 2**20} MiB", "give a smaller file")
    try:
        return base64.b64decode(text[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(field, "is not base64", "encode the file anew") from None
