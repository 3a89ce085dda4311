"""A dataset from raw videos, from end to end: built, built again, filtered again, checked, read by the trainer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from humo.cli.main import main
from humo.data.check import check_dataset
from humo.data.child_process import ChildProcess
from humo.data.report import COSTS
from humo.media.clip_reader import read_clip
from humo.training.config import DataConfig
from humo.training.dataset import scan_corpus
from tests.data.raw_videos import Reel, Shot, damage

ROOT = Path(__file__).parents[2]

RECIPE = """
[shots]
min_frames = 29
max_frames = 33
second_look = false
[video]
lines = 96
[thresholds]
min_seconds = 1
min_lines = 64
min_speech_rate = "off"
min_sync = 0.1
min_sync_margin = 0
max_identity_spread = "off"
[reference]
max_distance = 0.6
[captions]
text = "A person who does not exist talks to the camera in front of a plain background, seen from the shoulders up."
"""

QUICK = """
[shots]
min_frames = 25
second_look = false
[thresholds]
min_seconds = 1
min_lines = 32
[limits]
memory_gb = 1
"""
"""Recipe for videos without faces, of which nothing passes the scan."""


def _shot(name: str, *, mirrored: bool = False) -> Shot:
    clip = read_clip(ROOT / "docs" / f"nano-{name}.mp4")
    assert clip.audio is not None
    frames = np.ascontiguousarray(clip.frames[:, :, ::-1] // 2 + 60) if mirrored else clip.frames
    samples = np.resize(clip.audio.samples[0], len(frames) * 640)
    return Shot(name, 0, frames, samples, True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    Reel().add(_shot("woman")).add(_shot("woman", mirrored=True)).write(folder / "one.mp4")
    Reel().add(_shot("man")).write(folder / "alone.mp4")
    shutil.copy(folder / "one.mp4", folder / "twice.mp4")
    Reel().add(_shot("man")).write(folder / "broken.mp4")
    damage(folder / "broken.mp4", "cut")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "build.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def dataset(videos: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "dataset"
    before = checksums(videos)
    assert main(["data", "build", str(videos), str(folder), "--recipe", str(recipe), "--workers", "1", "--quiet"]) == 0
    assert checksums(videos) == before
    return folder


def checksums(folder: Path) -> dict[str, str]:
    """Return the checksums of all published files, except for CPU times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "work" not in path.parts)
    files = (path for path in files if path.name != COSTS)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def test_accepted_clips_have_video_reference_and_caption(dataset: Path) -> None:
    accepted = {row["id"] for row in _rows(dataset / "scores.parquet") if row["passed"]}
    assert accepted
    assert {path.stem for path in (dataset / "video").iterdir()} == accepted
    assert {path.stem for path in (dataset / "reference_image").iterdir()} == accepted
    assert {row["id"] for row in _rows(dataset / "video_caption.parquet")} == accepted
    for name in accepted:
        clip = read_clip(dataset / "video" / f"{name}.mp4")
        assert clip.audio is not None
        assert len(clip.frames) % 4 == 1


def test_every_item_has_a_reason(dataset: Path, videos: Path) -> None:
    rows = _rows(dataset / "scores.parquet")
    assert all(row["passed"] is not bool(row["reason"]) for row in rows)
    assert {row["reason"] for row in rows} >= {"no-partner"}
    sources = {Path(row["source"]).name: row["reason"] for row in _rows(dataset / "sources.parquet")}
    assert sources["twice.mp4"] == "duplicate-file"
    (broken,) = _rows(dataset / "quarantine.parquet")
    assert (Path(broken["item"]).name, broken["stage"]) == ("broken.mp4", "inventory")
    assert broken["reason"]


def test_references_are_from_other_shots(dataset: Path) -> None:
    spans = {row["id"]: (row["source"], row["start"]) for row in _rows(dataset / "scores.parquet")}
    pairs = _rows(dataset / "pairs.parquet")
    assert pairs
    assert all(spans[pair["id"]] != spans[pair["reference"]] for pair in pairs)


def test_the_report_needs_nothing_from_outside(dataset: Path) -> None:
    page = (dataset / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "data:image/jpeg" in page
    assert "<svg" in page
    assert "rejected: duplicate-file" in page
    assert "at least 0.1</span>" in page
    summary = json.loads((dataset / "report.json").read_text())
    assert summary["judge_of_sync"] == ["mesh and implied jaw"]
    assert summary["funnel"][-1]["clips"] == summary["accepted"]


def test_a_second_run_does_nothing_and_changes_nothing(
    dataset: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checksums(dataset)
    journal = (dataset / "work" / "journal.jsonl").read_bytes()
    monkeypatch.setattr(ChildProcess, "command", ("no-such-program",))
    assert main(["data", "build", str(videos), str(dataset), "--quiet"]) == 0
    assert checksums(dataset) == before
    assert (dataset / "work" / "journal.jsonl").read_bytes() == journal


def test_the_trainer_reads_it_and_the_check_is_clean(dataset: Path) -> None:
    corpus = scan_corpus(DataConfig(folder=str(dataset)))
    assert not corpus.bad
    assert sum(map(len, corpus.clips.values())) == len([*(dataset / "video").iterdir()])
    report = check_dataset(dataset, open_videos=True, progress=lambda *_: None)
    assert report.is_clean, report.text()


def test_other_thresholds_need_no_source(
    dataset: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(dataset, folder)
    strict = tmp_path / "strict.toml"
    strict.write_text(RECIPE.replace("min_seconds = 1", "min_seconds = 1\nmin_luminance = 209"))
    assert main(["data", "refilter", str(folder), "--recipe", str(strict), "--quiet"]) == 0
    assert not [*(folder / "video").iterdir()]
    assert {row["reason"] for row in _rows(folder / "scores.parquet")} == {"dark"}
    assert main(["data", "refilter", str(folder), "--recipe", str(recipe), "--report"]) == 0
    assert checksums(folder) == checksums(dataset)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("after shots")
    assert str(folder / "report.html") in lines[-2]


def test_another_recipe_is_refused_in_one_line(
    dataset: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, remedy in (
        (RECIPE.replace("lines = 96", "lines = 128"), "use a new folder"),
        (RECIPE.replace("min_sync = 0.1", "min_sync = 0.3"), "humo data refilter"),
    ):
        other = tmp_path / "other.toml"
        other.write_text(text)
        assert main(["data", "build", str(videos), str(dataset), "--recipe", str(other), "--quiet"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("humo: --recipe: ")
        assert remedy in line


# -- runs of which nothing passes the scan: inventory, scan, resuming, faults ------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Path, Path]:
    """Five videos of noise, and the recipe for them."""
    folder = tmp_path / "videos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        frames = random.integers(0, 255, (30, 32, 32, 3)).astype(np.uint8)
        Reel().add(Shot("noise", 0, frames, np.zeros(30 * 640, np.float32), False)).write(folder / f"{number}.mp4")
    path = tmp_path / "quick.toml"
    path.write_text(QUICK)
    return folder, path


def _build(videos: Path, out: Path, recipe: Path, *more: str) -> int:
    return main(["data", "build", str(videos), str(out), "--recipe", str(recipe), "--quiet", *more])


def _finished(out: Path) -> list[tuple[str, str]]:
    path = out / "work" / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line["stage"], line["item"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize("fault", ["crash", "hog"])
def test_a_poisonous_video_is_quarantined_and_the_others_are_not(
    fault: str, plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChildProcess, "command", (sys.executable, "-m", "tests.data.faulty_process"))
    videos, recipe = plain
    (videos / "3.mp4").rename(videos / f"{fault}.mp4")
    assert _build(videos, tmp_path / "out", recipe, "--workers", "2") == 0
    (row,) = _rows(tmp_path / "out" / "quarantine.parquet")
    assert (Path(row["item"]).stem, row["stage"], row["tries"]) == (fault, "inventory", 2)
    assert len(_rows(tmp_path / "out" / "sources.parquet")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("videos", "videos/out"), "OUT: 'videos/out' is in the input 'videos'"),
        (("videos/0.mp4", "videos"), "OUT: 'videos' contains the input 'videos/0.mp4'"),
        (("videos", "out", "--captions", "localhost/v1", "--caption-model", "m"), "--captions: 'localhost/v1'"),
    ],
)
def test_a_refused_run_writes_nothing(
    arguments: Sequence[str], message: str, plain: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    videos, _ = plain
    monkeypatch.chdir(videos.parent)
    before = sorted(videos.parent.rglob("*"))
    assert main(["data", "build", *arguments, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(videos.parent.rglob("*")) == before


def test_a_full_disk_is_refused_before_anything_is_written(
    plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("humo.data.build.shutil.disk_usage", lambda _: usage._replace(free=2_000_000))
    assert main(["data", "build", str(plain[0]), str(tmp_path / "new" / "out"), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 MB free" in line
    assert not (tmp_path / "new").exists()


def test_a_disk_that_becomes_full_stops_the_run_in_one_line_and_the_next_run_resumes(
    plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, recipe = plain
    assert _build(videos, tmp_path / "undisturbed", recipe) == 0
    out, write = tmp_path / "out", os.write
    lines: list[bytes] = []

    def fill(file: int, data: bytes) -> int:
        if data.startswith(b'{"stage"'):
            lines.append(data)
            if len(lines) == 2:
                return write(file, data[: len(data) // 2])
        return write(file, data)

    with monkeypatch.context() as patched:
        patched.setattr("humo.data.journal.os.write", fill)
        assert _build(videos, out, recipe, "--workers", "1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert len(_finished(out)) == len(set(_finished(out))) > 0
    assert _build(videos, out, recipe) == 0
    assert checksums(out) == checksums(tmp_path / "undisturbed")


def test_the_number_of_workers_changes_no_byte(plain: tuple[Path, Path], tmp_path: Path) -> None:
    videos, recipe = plain
    for workers in ("1", "2"):
        _build(videos, tmp_path / workers, recipe, "--workers", workers)
    assert checksums(tmp_path / "1") == checksums(tmp_path / "2")


def test_a_killed_run_loses_nothing_and_does_nothing_twice(plain: tuple[Path, Path], tmp_path: Path) -> None:
    videos, recipe = plain
    out = tmp_path / "out"
    command = [sys.executable, "-m", "humo", "data", "build", str(videos), str(out), "--recipe", str(recipe)]
    for wanted in (2, 7):
        run = subprocess.Popen([*command, "--workers", "2", "--quiet"], env=os.environ, start_new_session=True)
        try:
            while run.poll() is None and (
                not (out / "work" / "journal.jsonl").exists() or len(_finished(out)) < wanted
            ):
                time.sleep(0.05)
        finally:
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
    assert _build(videos, out, recipe, "--workers", "2") == 0
    finished = _finished(out)
    assert len(finished) == len(set(finished)) == 10
    assert not [*out.rglob("*.part")]


def test_a_folder_that_another_run_writes_is_refused(
    plain: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from humo.data.folder import open_folder

    videos, _ = plain
    with open_folder(tmp_path / "out", None, create=True):
        code = main(["data", "build", str(videos), str(tmp_path / "out"), "--quiet"])
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "another run" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "only"], "OUT: is missing"),
        (["build", "nowhere", "out"], "there is no file or folder 'nowhere'"),
        (["build", ".", "../out"], "no video in"),
        (["build", ".", "../out", "--captions", "http://x/v1"], "--caption-model: is missing"),
        (["build", ".", "s3://bucket/out"], "datasets are written to folders"),
        (["refilter", "nowhere"], "holds no dataset"),
        (["check", "nowhere"], "holds no dataset"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: Sequence[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not [*tmp_path.iterdir()]
