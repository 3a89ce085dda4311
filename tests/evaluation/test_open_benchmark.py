"""The open benchmark: 200 cases, the same on every machine, with files that every part of the program reads."""

from __future__ import annotations

import json
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from humo.cli.main import main
from humo.evaluation.case_sources import find_videos, read_source
from humo.evaluation.cases import Case
from humo.evaluation.open_benchmark import recordings
from humo.evaluation.open_benchmark.objects import OBJECTS, render_object
from humo.evaluation.open_benchmark.plan import LANGUAGES, plan_benchmark
from humo.jobs.request_files import read_rows
from humo.media.clip_reader import read_clip
from humo.request import parse_request

PLANS = plan_benchmark()


def test_there_are_200_cases_in_seven_parts() -> None:
    counts = {"subject": 40, "audio": 40, "together": 60, "edit": 20, "speakers": 20, "long": 10, "trap": 10}
    assert Counter(plan.category for plan in PLANS) == counts
    assert len({plan.id for plan in PLANS}) == 200
    spoken = {plan.audio.language for plan in PLANS if plan.audio is not None}
    assert spoken == set(LANGUAGES)
    kinds = {plan.audio.kind for plan in PLANS if plan.audio is not None}
    assert kinds >= {"song", "song with music", "whisper", "shout", "pause", "music under speech", "silence", "noise"}
    assert Counter(len(plan.references) for plan in PLANS if plan.category == "subject").keys() == {1, 2, 3}
    assert sorted(plan.seconds for plan in PLANS)[-4:] == [120.0] * 4


def test_plans_are_the_same_every_time_and_differ_with_the_seed() -> None:
    assert plan_benchmark() == PLANS
    other = plan_benchmark(1)
    assert all(a.prompt != b.prompt for a, b in zip(PLANS, other, strict=True) if a.category == "together")


def test_edits_change_the_text_and_nothing_else() -> None:
    edits = [plan for plan in PLANS if plan.category == "edit"]
    for start in range(0, 20, 4):
        group = edits[start : start + 4]
        assert len({plan.actors[0].seed for plan in group}) == 1
        assert len({plan.actors[0].reference_outfit for plan in group}) == 1
        assert len({plan.audio for plan in group}) == 1
        assert len({plan.prompt for plan in group}) == 4


def test_references_show_other_clothes_and_another_place() -> None:
    for plan in PLANS:
        for actor in plan.actors:
            assert actor.appearance.clothes != actor.reference_appearance.clothes
            assert actor.appearance.background != actor.reference_appearance.background


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_spoken(language: str) -> None:
    recording = recordings.speak(language, "woman", 0, 2.0)
    assert recording.frames == 50
    assert np.abs(recording.audio).max() == pytest.approx(recordings.PEAK)
    assert sum(bool(phoneme.symbol) for phoneme in recording.phonemes) > 10


def test_styles_differ_and_music_has_no_voice() -> None:
    plain, whisper, shout = (
        recordings.speak("en", "man", 0, 2.0, style=style) for style in ("speech", "whisper", "shout")
    )
    assert np.abs(whisper.audio).max() < 0.3 < np.abs(plain.audio).max()
    assert shout.audio.std() > 1.3 * plain.audio.std()
    paused = recordings.speak("en", "man", 0, 7.0, pause=2.0)
    quiet = np.convolve(np.abs(paused.audio) < 1e-4, np.ones(16_000), mode="valid").max()
    assert quiet >= 16_000, "a second without any sample"
    song = recordings.sing("woman", 0, 3.0, accompanied=True)
    assert not np.array_equal(song.audio, song.speech)
    assert recordings.without_voice(recordings.music(1.0)).phonemes == ()
    assert not recordings.silence(1.0).any()


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_stand_in_the_middle(name: str) -> None:
    image = render_object(OBJECTS[name], 48, 0.5).astype(int)
    background = np.abs(image - image[0, 0]).sum(axis=-1) < 60
    assert not background[24, 24]
    assert background[:2].all()
    assert 0.05 < 1 - background.mean() < 0.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven cases, one of each category."""
    path = tmp_path_factory.mktemp("open") / "benchmark"
    assert main(["evaluate", "benchmark", str(path), "--limit", "7"]) == 0
    return path


@pytest.fixture(scope="module")
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases of a few seconds with true clips; that of a long case would be rendered for minutes."""
    path = tmp_path_factory.mktemp("short") / "benchmark"
    assert main(["evaluate", "benchmark", str(path), "--limit", "3", "--truth", "64"]) == 0
    return path


def cases_of(folder: Path) -> dict[str, Case]:
    return {case.category: case for case in read_source(folder).cases}


def test_files_are_written_and_named_in_the_cases(folder: Path) -> None:
    cases = cases_of(folder)
    assert len(cases) == 7
    for case in cases.values():
        for reference in case.references:
            with Image.open(reference) as image:
                assert max(image.size) == 384
        if case.audio is not None:
            with wave.open(str(case.audio)) as stream:
                assert stream.getframerate() == 16_000
        assert case.license == "CC0-1.0"
    assert cases["subject"].audio is None
    assert cases["audio"].references == ()
    assert cases["speakers"].attributes["speaker"] == "0"
    assert cases["trap"].objects == (0,)
    assert cases["trap"].truth is None
    card = (folder / "DATA_CARD.md").read_text()
    assert "| cases | 7:" in card
    assert "CC0-1.0" in card


def test_jobs_are_requests_that_batch_accepts(folder: Path) -> None:
    rows = read_rows(folder / "jobs.json")
    assert len(rows) == 7
    for row in rows:
        assert row.problem is None
        parse_request({**row.fields, "output": "x.mp4"})
        assert all(Path(path).is_file() for path in row.fields.get("images", []))


def test_true_clips_speak_with_the_audio(short_folder: Path, tmp_path: Path) -> None:
    case = cases_of(short_folder)["together"]
    assert case.truth_video is not None
    clip = read_clip(case.truth_video)
    assert len(clip.frames) == case.request["frames"]
    assert clip.audio is not None
    names = "mouth_true_jaw_corr,mouth_jaw_corr,attribute.glasses"
    out = tmp_path / "out"
    argv = ["evaluate", "run", str(short_folder), str(out), "--videos", str(short_folder / "truth"), "--metrics", names]
    assert main([*argv, "--limit", "3", "--workers", "1"]) in (0, 3)
    scores = json.loads((out / "scores.json").read_text())["scores"]
    (lips,) = [one["value"] for one in scores if one["case"] == case.id and one["metric"] == "mouth_true_jaw_corr"]
    assert lips > 0.3


def test_writing_again_keeps_files_and_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    text = (folder / "cases.jsonl").read_bytes()
    assert main(["evaluate", "benchmark", str(folder), "--limit", "7"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before
    assert (folder / "cases.jsonl").read_bytes() == text
    other = tmp_path / "other"
    assert main(["evaluate", "benchmark", str(other), "--limit", "2"]) == 0
    for path in other.rglob("*.png"):
        assert path.read_bytes() == (folder / path.relative_to(other)).read_bytes()


def test_cases_without_videos_are_named(folder: Path) -> None:
    source = read_source(folder)
    videos, missing = find_videos(source, folder / "videos")
    assert (len(videos), len(missing)) == (0, 7)


def test_wrong_sizes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "benchmark", str(tmp_path / "x"), "--truth", "97"]) == 2
    assert "--truth: 97 is not a multiple of 4; give 100" in capsys.readouterr().err
