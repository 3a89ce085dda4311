"""Uploads are rewritten; decompression bombs, files of other kinds and truncated files are rejected quickly."""

from __future__ import annotations

import asyncio
import io
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from humo.errors import MediaError
from humo.server.upload_sanitizer import MediaKind, UploadLimits, UploadSanitizer
from tests.server.bombs import black_mp4, png, silent_opus, wav
from tests.server.conftest import EXAMPLES
from tests.server.running import wait_for

MEGABYTE = 2**20


def sanitize(content: bytes, kind: MediaKind, limits: UploadLimits | None = None) -> bytes:
    return asyncio.run(UploadSanitizer(limits or UploadLimits()).sanitize(content, kind, "file"))


def test_an_image_is_rewritten() -> None:
    original = (EXAMPLES / "woman.png").read_bytes()
    hidden = original + b"PK\x03\x04 something else behind it"
    rewritten = sanitize(hidden, "image")
    assert b"PK\x03\x04" not in rewritten
    with Image.open(io.BytesIO(rewritten)) as result, Image.open(EXAMPLES / "woman.png") as original_image:
        assert np.array_equal(np.asarray(result), np.asarray(original_image.convert("RGB")))


def test_audio_is_rewritten() -> None:
    rewritten = sanitize(wav(1.0) + b"<script>", "audio")
    with wave.open(io.BytesIO(rewritten)) as file:
        assert (file.getnframes(), file.getframerate()) == (16_000, 16_000)
    assert b"<script>" not in rewritten


def test_audio_above_the_limits_is_rejected() -> None:
    assert sanitize(wav(2.0), "audio", UploadLimits(audio_seconds=2.0))
    with pytest.raises(MediaError, match="file: is longer than 2 seconds"):
        sanitize(wav(2.1), "audio", UploadLimits(audio_seconds=2.0))
    with pytest.raises(MediaError, match="file: is larger than 1 MiB"):
        sanitize(bytes(MEGABYTE + 1), "audio", UploadLimits(audio_bytes=MEGABYTE))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(lambda: silent_opus(3600), "audio", id="an hour of opus, 700 MB when decoded"),
        pytest.param(lambda: png(20_000, 20_000), "image", id="a PNG of 1.2 GB"),
        pytest.param(lambda: png(12_000, 12_000), "image", id="a PNG of 432 MB"),
        pytest.param(lambda: black_mp4(4096, 100), "audio", id="an MP4 of 5 GB, as audio"),
        pytest.param(lambda: black_mp4(4096, 10), "image", id="an MP4, as an image"),
        pytest.param(lambda: (EXAMPLES / "woman.png").read_bytes()[:3000], "image", id="a truncated PNG"),
        pytest.param(lambda: wav(1.0)[:30], "audio", id="a truncated WAV"),
        pytest.param(lambda: b"GIF89a" + b"\xff" * 100, "image", id="garbage with the signature of a GIF"),
        pytest.param(lambda: b"#EXTM3U\nhttp://127.0.0.1/a\nfile:///etc/passwd\n", "audio", id="a playlist"),
        pytest.param(lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "audio", id="a list of files"),
        pytest.param(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image", id="an SVG"),
        pytest.param(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run", "image", id="a PostScript"),
        pytest.param(lambda: b"\x00" * 1000, "image", id="zeros"),
        pytest.param(lambda: b"\x00" * 1000, "audio", id="zeros, as audio"),
    ],
)
def test_bombs_and_files_of_other_kinds_are_rejected(content: Callable[[], bytes], kind: MediaKind) -> None:
    upload = content()
    process = psutil.Process()
    before = process.memory_info().rss
    with pytest.raises(MediaError) as caught:
        sanitize(upload, kind)
    assert process.memory_info().rss - before < 64 * MEGABYTE
    assert "input" not in str(caught.value)  # the path of the temporary file is not revealed
    assert "/" not in caught.value.problem


def test_a_decoder_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(MediaError, match="cannot be decoded within this service's limits"):
        sanitize(wav(0.1), "audio", UploadLimits(decode_seconds=1))
    assert time.monotonic() - start < 10


def decoders() -> set[int]:
    children = psutil.Process().children()
    return {
        one.pid for one in children if one.status() != "zombie" and "humo.server.sanitizer_process" in one.cmdline()
    }


def test_a_standby_process_decodes_each_file() -> None:
    sanitizer = UploadSanitizer(UploadLimits())
    assert decoders() == set()
    sanitizer.start_standby()
    first = decoders()
    assert len(first) == 1
    assert asyncio.run(sanitizer.sanitize(wav(0.1), "audio", "file"))
    second = decoders()
    assert len(second) == 1
    assert not second & first
    (waiting,) = map(psutil.Process, second)
    waiting.kill()
    wait_for(lambda: waiting.status() == "zombie")
    assert asyncio.run(sanitizer.sanitize(wav(0.1), "audio", "file"))  # a new process is started
    sanitizer.close()
    assert decoders() == set()
