"""A small image, a second of audio, and the command run in this process."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from humo.cli.main import main
from tools.docs_reference.messages import Message, messages

SMALL = ["--width", "96", "--height", "64", "--frames", "5", "--steps", "1"]
"""Options of a video that takes a moment."""


@dataclass(frozen=True)
class CommandResult:
    """Output and exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of ``--json``."""
        return [json.loads(line) for line in self.out.splitlines()]

    def only(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == kind]


Humo = Callable[..., CommandResult]


@pytest.fixture
def humo(capsys: pytest.CaptureFixture[str]) -> Humo:
    """The command ``humo``, run in this process."""

    def run(*arguments: object) -> CommandResult:
        capsys.readouterr()
        code = main([str(word) for word in arguments])
        output = capsys.readouterr()
        return CommandResult(code, output.out, output.err)

    return run


@pytest.fixture(scope="session")
def known_messages() -> tuple[Message, ...]:
    """Every message that the page of errors has."""
    return messages()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an image ``face.png`` and a second of audio ``a.wav``."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (80, 60), (200, 30, 30)).save("face.png")
    write_audio(Path("a.wav"), seconds=1.0)
    return tmp_path


def write_audio(path: Path, seconds: float, pitch: float = 440.0) -> None:
    """A tone, 16 kHz."""
    samples = np.sin(np.arange(round(16_000 * seconds)) * 2 * np.pi * pitch / 16_000) * 9000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.astype("<i2").tobytes())
