"""Provenance: on by default, read by `humo verify`, changes are detected, left out only on demand."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humo.cli.main import main
from humo.errors import StorageError
from humo.media.credentials import CERTIFICATES_FILE, KEY_FILE, open_identity, sign_video
from humo.media.video import VideoFormat, read_video, write_video


def make(folder: Path, output: Path, *more: str) -> None:
    arguments = ["generate", "--model", str(folder), "--prompt", "A man speaks.", "--width", "96", "--height", "96"]
    assert main([*arguments, "--frames", "5", "--steps", "1", "--output", str(output), *more]) == 0


def run_verify(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["verify", str(path), "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def video(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("marked") / "a.mp4"
    make(tiny_model_folder, path)
    return path


def test_a_video_generated_here_has_its_provenance(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, values = run_verify(capsys, video)
    assert code == 0
    assert values["intact"]
    assert values["credentials"]["state"] == "Valid"
    assert values["credentials"]["is_ai_generated"]
    assert values["credentials"]["assertion"]["watermark"] == values["watermark"]["payload"]
    assert values["record"]["request"]["provenance"] is True
    assert main(["verify", str(video)]) == 0
    assert "all three are present" in capsys.readouterr().out


def test_a_changed_byte_is_found(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 1  # in the middle of the frames
    (tmp_path / "b.mp4").write_bytes(data)
    code, values = run_verify(capsys, tmp_path / "b.mp4")
    assert code == 1
    assert values["credentials"]["state"] == "Invalid"
    assert values["from_humo"]
    assert not values["intact"]


def test_the_watermark_outlives_another_encoding(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "c.mp4", read_video(video).frames, VideoFormat(96, 96, crf=18), metadata={})
    code, values = run_verify(capsys, tmp_path / "c.mp4")
    assert code == 1
    assert values["record"] is None
    assert values["credentials"] is None
    assert values["watermark"]["payload"] is not None


def test_provenance_is_left_out_on_demand_and_that_is_recorded(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tiny_model_folder, tmp_path / "d.mp4", "--no-provenance")
    code, values = run_verify(capsys, tmp_path / "d.mp4")
    assert code == 1
    assert values["credentials"] is None
    assert values["watermark"]["payload"] is None
    assert values["record"]["request"]["provenance"] is False


def test_a_video_of_others_is_none_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gray = [np.full((64, 64, 3), 90, np.uint8)] * 3
    write_video(tmp_path / "e.mp4", gray, VideoFormat(64, 64), metadata={})
    code, values = run_verify(capsys, tmp_path / "e.mp4")
    assert code == 1
    assert not values["from_humo"]


def test_a_replayed_video_has_the_same_frames_and_provenance(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--replay", str(video), "--output", str(tmp_path / "again.mp4")]) == 0
    assert np.array_equal(read_video(video).frames, read_video(tmp_path / "again.mp4").frames)
    assert run_verify(capsys, tmp_path / "again.mp4")[0] == 0


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = open_identity(tmp_path / "own")
    assert stat.S_IMODE((tmp_path / "own" / KEY_FILE).stat().st_mode) == 0o600
    assert open_identity(tmp_path / "own") == first
    assert open_identity(tmp_path / "other").private_key != first.private_key


def test_a_key_that_does_not_fit_or_cannot_be_made_is_reported(tmp_path: Path) -> None:
    first, second = open_identity(tmp_path / "a"), open_identity(tmp_path / "b")
    (tmp_path / "a" / CERTIFICATES_FILE).write_bytes(second.certificates)
    video = tmp_path / "v.mp4"
    write_video(video, [np.zeros((32, 32, 3), np.uint8)], VideoFormat(32, 32), metadata={})
    before = video.read_bytes()
    del first
    with pytest.raises(StorageError, match=r"identity: cannot sign"):
        sign_video(video, open_identity(tmp_path / "a"), "v", {}, version="1")
    assert video.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"HUMO_IDENTITY to another folder, or add --no-provenance"):
        open_identity(tmp_path / "file" / "below")


def test_without_a_place_for_the_key_nothing_is_made(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HUMO_IDENTITY", str(tmp_path / "file" / "below"))
    arguments = [
        "generate",
        "--model",
        str(tiny_model_folder),
        "--prompt",
        "A man.",
        "--output",
        str(tmp_path / "f.mp4"),
    ]
    assert main(arguments) == 2
    assert "--no-provenance" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["file"]
