"""What comes through the gate is ours; bombs, lies and things cut short stay outside, soon and cheaply."""

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


def admit(content: bytes, kind: MediaKind, limits: UploadLimits | None = None) -> bytes:
    return asyncio.run(UploadSanitizer(limits or UploadLimits()).sanitize(content, kind, "file"))


def test_a_picture_is_written_anew() -> None:
    original = (EXAMPLES / "woman.png").read_bytes()
    hidden = original + b"PK\x03\x04 something else behind it"
    made = admit(hidden, "image")
    assert b"PK\x03\x04" not in made
    with Image.open(io.BytesIO(made)) as ours, Image.open(EXAMPLES / "woman.png") as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs.convert("RGB")))


def test_a_sound_is_written_anew() -> None:
    made = admit(wav(1.0) + b"<script>", "audio")
    with wave.open(io.BytesIO(made)) as file:
        assert (file.getnframes(), file.getframerate()) == (16_000, 16_000)
    assert b"<script>" not in made


def test_more_than_the_longest_sound_is_refused() -> None:
    assert admit(wav(2.0), "audio", UploadLimits(audio_seconds=2.0))
    with pytest.raises(MediaError, match="file: the sound is longer than 2 seconds"):
        admit(wav(2.1), "audio", UploadLimits(audio_seconds=2.0))
    with pytest.raises(MediaError, match="file: is larger than 1 MiB"):
        admit(bytes(MEGABYTE + 1), "audio", UploadLimits(audio_bytes=MEGABYTE))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(lambda: silent_opus(3600), "audio", id="an hour of opus, 700 MB when decoded"),
        pytest.param(lambda: png(20_000, 20_000), "image", id="a PNG of 1.2 GB"),
        pytest.param(lambda: png(12_000, 12_000), "image", id="a PNG of 432 MB"),
        pytest.param(lambda: black_mp4(4096, 100), "audio", id="an MP4 of 5 GB, as a sound"),
        pytest.param(lambda: black_mp4(4096, 10), "image", id="an MP4, as a picture"),
        pytest.param(lambda: (EXAMPLES / "woman.png").read_bytes()[:3000], "image", id="a PNG cut short"),
        pytest.param(lambda: wav(1.0)[:30], "audio", id="a WAV cut short"),
        pytest.param(lambda: b"GIF89a" + b"\xff" * 100, "image", id="a GIF that is none"),
        pytest.param(lambda: b"#EXTM3U\nhttp://127.0.0.1/a\nfile:///etc/passwd\n", "audio", id="a playlist"),
        pytest.param(lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "audio", id="a list of files"),
        pytest.param(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image", id="an SVG"),
        pytest.param(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run", "image", id="a PostScript"),
        pytest.param(lambda: b"\x00" * 1000, "image", id="zeros"),
        pytest.param(lambda: b"\x00" * 1000, "audio", id="zeros, as a sound"),
    ],
)
def test_bombs_and_lies_are_refused(content: Callable[[], bytes], kind: MediaKind) -> None:
    given = content()
    process = psutil.Process()
    before = process.memory_info().rss
    with pytest.raises(MediaError) as caught:
        admit(given, kind)
    assert process.memory_info().rss - before < 64 * MEGABYTE
    assert "given" not in str(caught.value)  # of where it was looked at, nothing is told
    assert "/" not in caught.value.problem


def test_a_decoder_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(MediaError, match="cannot be decoded within this service's limits"):
        admit(wav(0.1), "audio", UploadLimits(seconds=1))
    assert time.monotonic() - began < 10


def decoders() -> set[int]:
    found = psutil.Process().children()
    return {one.pid for one in found if one.status() != "zombie" and "humo.server.sanitizer_process" in one.cmdline()}


def test_a_decoder_waits_for_each_file_and_dies_with_it() -> None:
    gate = UploadSanitizer(UploadLimits())
    assert decoders() == set()
    gate.start_standby()
    first = decoders()
    assert len(first) == 1
    assert asyncio.run(gate.sanitize(wav(0.1), "audio", "file"))
    second = decoders()
    assert len(second) == 1
    assert not second & first
    (waiting,) = map(psutil.Process, second)
    waiting.kill()
    wait_for(lambda: waiting.status() == "zombie")
    assert asyncio.run(gate.sanitize(wav(0.1), "audio", "file"))  # another takes its place
    gate.close()
    assert decoders() == set()
