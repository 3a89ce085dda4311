"""Videos are measured once, results survive kills, bad videos stop no other, and files are the same every time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humo.cli.main import main
from humo.evaluation import runner
from humo.evaluation.case_sources import CaseSet, Video
from humo.evaluation.cases import Case
from humo.evaluation.metric import value_text
from humo.evaluation.registry import METRICS, SUITES, select_metrics
from humo.evaluation.results import VideoResult, read_evaluation, read_result
from humo.evaluation.runner import RunReport, check_available, run_evaluation
from humo.media.audio import AudioTrack
from humo.media.video import VideoFormat, write_video
from tests.evaluation import crashing

FAST = ("face_detection_rate", "temporal_flicker", "color_drift")


@pytest.fixture(scope="module")
def outcome(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, measured with every metric that needs no weights."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    assert main(["evaluate", "run", str(corpus), str(folder), "--suite", "rendered", "--workers", "1"]) == 0
    return folder


def test_every_metric_has_a_value_for_true_clips(outcome: Path) -> None:
    evaluation = read_evaluation(outcome)
    assert len(evaluation.results) == 6
    means = {}
    for name in SUITES["rendered"].metrics:
        values = [result.scores[name].value for result in evaluation.results]
        means[name] = np.mean([value for value in values if value is not None]) if any(values) else None
    assert means["face_detection_rate"] == 1.0
    assert means["mouth_true_jaw_corr"] is not None
    assert means["mouth_true_jaw_corr"] > 0.5
    assert means["id_dlib"] is not None
    assert means["id_dlib"] < 0.4
    assert means["id_top1_dlib"] == 1.0
    assert means["flicker_ratio"] == pytest.approx(1.0)
    assert means["psnr"] is not None
    assert means["psnr"] > 80
    scores = evaluation.results[0].scores
    assert scores["mouth_motion_in_silence"].status == "not applicable"
    assert scores["speaker_margin"].reason == "the case does not say who of several people speaks"


def test_tables_hold_every_score_and_the_values_over_time(outcome: Path) -> None:
    import pyarrow.parquet

    scores = pyarrow.parquet.read_table(outcome / "scores.parquet").to_pylist()
    stored = json.loads((outcome / "scores.json").read_text())["scores"]
    assert len(scores) == len(stored) == 6 * len(SUITES["rendered"].metrics)
    frames = pyarrow.parquet.read_table(outcome / "frames.parquet").to_pylist()
    mouth = [row for row in frames if row["metric"] == "mouth_true_jaw_corr" and row["curve"] == "mouth"]
    assert len(mouth) % 25 == 0
    assert {row["frame"] for row in mouth} == set(range(25))
    report = json.loads((outcome / "report.json").read_text())
    assert report["metrics"]["id_dlib"]["protocol"]["frames"] == 8


def test_the_same_videos_give_the_same_bytes(outcome: Path, corpus: Path, tmp_path: Path) -> None:
    rerun = tmp_path / "out"
    assert main(["evaluate", "run", str(corpus), str(rerun), "--suite", "rendered", "--workers", "2"]) == 0
    names = sorted(path.relative_to(outcome).as_posix() for path in outcome.rglob("*") if path.is_file())
    assert [name for name in names if "results/" not in name] == [
        "cases.jsonl",
        "evaluation.json",
        "frames.parquet",
        "report.json",
        "scores.json",
        "scores.parquet",
        "timing.jsonl",
    ]
    for name in names:
        if name not in ("timing.jsonl", "cases.jsonl"):  # paths of the cases are relative to the folder
            first, second = ((folder / name).read_bytes() for folder in (outcome, rerun))
            first = first.replace(os.path.relpath(corpus, outcome).encode(), b"CORPUS")
            second = second.replace(os.path.relpath(corpus, rerun).encode(), b"CORPUS")
            assert name.endswith(".parquet") or first == second, name


def simple(tmp_path: Path, count: int = 3) -> tuple[CaseSet, list[Video]]:
    """Cases with small videos of noise."""
    cases, videos = [], []
    for number in range(count):
        path = tmp_path / "videos" / f"{'abcdefgh'[number] * (number + 1)}.mp4"
        frames = np.random.default_rng(number).integers(0, 255, (6, 32, 48, 3), dtype=np.uint8)
        write_video(path, frames, VideoFormat(48, 32), metadata={})
        cases.append(Case(path.stem))
        videos.append(Video(cases[-1], None, path))
    return CaseSet("test", tuple(cases), tmp_path / "videos", {case.id: (case.id,) for case in cases}), videos


def run(source: CaseSet, videos: list[Video], folder: Path, *metrics: object) -> RunReport:
    return run_evaluation(source, videos, check_available(metrics), folder, label="test")  # type: ignore[arg-type]


def measure_in_this_process(tasks: Sequence[Any], workers: int) -> Iterator[tuple[Any, VideoResult]]:
    """Replace the pool where no test is about processes."""
    return ((task, runner._measure(task)) for task in tasks)


def test_only_what_is_missing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_run_pool", measure_in_this_process)
    source, videos = simple(tmp_path)
    log, folder = tmp_path / "log", tmp_path / "out"
    counting = crashing.metric("counting", crashing.count, log=str(log))
    assert run(source, videos, folder, counting).measured == 3
    assert run(source, videos, folder, counting).measured == 0
    assert log.read_text().split() == ["a", "bb", "ccc"]
    assert run(source, videos, folder, counting, METRICS["color_drift"]).measured == 3
    assert log.read_text().split() == ["a", "bb", "ccc"], "the other metric alone was measured"
    shutil.copy(videos[0].path, videos[1].path)
    assert run(source, videos, folder, counting).measured == 1
    assert log.read_text().split()[3:] == ["bb"], "the video has changed"
    changed = replace(counting, version=2)
    assert run(source, videos, folder, changed).measured == 3


def test_a_crash_in_one_video_costs_that_video(tmp_path: Path) -> None:
    source, videos = simple(tmp_path, 4)
    crashing_metric = crashing.metric("crashing", crashing.crash, victim="bb")
    selection = check_available([crashing_metric])
    report = run_evaluation(source, videos, selection, tmp_path / "out", label="test", workers=2)
    assert (report.measured, report.invalid) == (4, 1)
    scores = {result.case: result.scores["crashing"] for result in read_evaluation(tmp_path / "out").results}
    assert scores.pop("bb").reason.startswith("measuring it ends the process: a crash in the decoder")
    assert [score.value for score in scores.values()] == [1.0, 1.0, 1.0]


def test_bad_videos_have_a_reason_and_stop_no_other(tmp_path: Path) -> None:
    source, videos = simple(tmp_path, 4)
    videos[0].path.write_bytes(b"not a video")
    videos[1].path.write_bytes(b"")
    with videos[2].path.open("r+b") as stream:
        stream.truncate(200)
    notes: list[str] = []
    report = run_evaluation(
        source,
        videos,
        check_available(select_metrics("offline", FAST)),
        tmp_path / "out",
        label="test",
        on_problem=lambda name, text: notes.append(f"{name}: {text}"),
    )
    assert report.invalid == 9
    assert len(notes) == 3
    assert notes[0].startswith("a: video: 'a.mp4' is not a video that can be read; give")
    assert notes[1].startswith("bb: video: 'bb.mp4' is empty; give another file")
    (last,) = [one for one in read_evaluation(tmp_path / "out").results if one.case == "dddd"]
    assert last.scores["face_detection_rate"].value == 0.0
    assert last.scores["temporal_flicker"].value is not None


def test_an_unexpected_error_is_a_reason(tmp_path: Path) -> None:
    source, videos = simple(tmp_path, 1)
    run(source, videos, tmp_path / "out", crashing.metric("failing", crashing.fail))
    (result,) = read_evaluation(tmp_path / "out").results
    assert result.scores["failing"].reason == "ZeroDivisionError: by zero"


def test_videos_of_other_rates_without_audio_or_reference_say_so(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (30, 32, 48, 3), dtype=np.uint8)
    track = AudioTrack(np.zeros((1, 16_000), np.float32), 16_000)
    folder = tmp_path / "videos"
    write_video(folder / "silent.mp4", frames, VideoFormat(48, 32), metadata={})
    write_video(folder / "quick.mp4", frames, VideoFormat(48, 32, 50), metadata={}, track=track)
    assert main(["evaluate", "run", str(folder), str(tmp_path / "out"), "--workers", "1"]) == 3
    silent, quick = (read_result(tmp_path / "out" / "results" / f"{name}.json") for name in ("silent", "quick"))
    assert silent is not None
    assert quick is not None
    assert silent.scores["mouth_jaw_corr"].reason == "neither the video nor the case has audio"
    assert silent.scores["id_dlib"].reason == "the case has no reference"
    assert silent.scores["temporal_flicker"].frames == 30
    assert quick.scores["temporal_flicker"].frames == 15, "of 0.6 s at 25 a second"
    assert quick.scores["mouth_jaw_corr"].reason == "the audio implies no motion of the jaw: nobody speaks in it"


def test_killed_at_once_costs_at_most_one_video(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["evaluate", "run", str(corpus), str(out), "--metrics", ",".join(FAST), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "humo", *argv], start_new_session=True)
    results = out / "results"
    while not (results.is_dir() and len(list(results.glob("[!.]*.json"))) >= 2):
        assert process.poll() is None, "it finished before two videos were stored"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stored = {path.name: path.stat().st_mtime_ns for path in results.glob("[!.]*.json")}
    assert len(stored) >= 2
    assert main(argv) == 0
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("[!.]*.json")}
    assert len(after) == 6
    assert all(after[name] == changed for name, changed in stored.items()), "complete results are kept as they are"


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["SOURCE", "OUT", "--suite", "papers"], "--suite: 'papers' is unknown; did you mean 'paper'?"),
        (["SOURCE", "OUT", "--metrics", "id_dilb"], "--metrics: 'id_dilb' is unknown; did you mean 'id_dlib'?"),
        (
            ["SOURCE", "OUT", "--frames", "none"],
            "--frames: 'none' is not allowed; give a whole number from 1 to 100000",
        ),
        (["SOURCE"], "SOURCE OUT: 1 paths are given, not 2; humo evaluate run SOURCE OUT"),
        (["nowhere", "OUT"], "SOURCE: there is no 'nowhere'; give a folder of videos, or a file of cases"),
        (
            ["SOURCE", "OUT", "--videos", "empty"],
            "SOURCE: none of its cases has a video; name the folder of the videos",
        ),
        (
            ["SOURCE", "OUT", "--judge", "http://x/v1"],
            "--judge: needs --judge-model, and the other way round; give both",
        ),
        (["SOURCE", "OUT", "--seeds", "0"], "--seeds: '0' is not allowed; give a whole number from 1 to 10000"),
        (["SOURCE", "SOURCE"], "OUT: 'SOURCE' is the folder of the cases or videos, which must not be"),
        (["SOURCE", "empty", "--videos", "empty"], "OUT: 'empty' is the folder of the cases or videos"),
        (
            ["SOURCE/a.mp4", "OUT"],
            "SOURCE: 'SOURCE/a.mp4' is one video; give its folder, or run `humo evaluate video SOURCE/a.mp4`",
        ),
        (["SOURCE", "file"], "OUT: 'file/cases.jsonl' cannot be written (File exists); choose a folder you may"),
        (
            ["SOURCE", "OUT", "--model", "humo-nanno"],
            "model: 'humo-nanno' is not a folder or the name of a model",
        ),
        (["SOURCE", "OUT", "--device", "gpu"], "device: "),
        (["SOURCE", "/proc/none"], "OUT: '/proc/none/cases.jsonl' cannot be written ("),
        (["SOURCE", "OUT", "steps=4"], "steps=4: sets a field of a request; add run and --model NAME"),
        (
            ["SOURCE", "OUT", "--metrics", "iqa.musiq_spaq"],
            "iqa.musiq_spaq: its weights are missing (musiq_spaq); run `humo evaluate weights get iqa.musiq_spaq`",
        ),
    ],
)
def test_wrong_arguments_are_one_line(
    argv: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HUMO_EVAL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    simple(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "videos").rename(tmp_path / "SOURCE")
    before = sorted(tmp_path.rglob("*"))
    assert main(["evaluate", "run", *argv]) == 2
    assert error in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_metrics_whose_weights_are_missing_are_named_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HUMO_EVAL_WEIGHTS", str(tmp_path / "weights"))
    _, videos = simple(tmp_path, 1)
    names = "color_drift,sync_c.mocha"
    argv = ["evaluate", "run", str(videos[0].path.parent), str(tmp_path / "out"), "--metrics", names, "--workers", "1"]
    assert main(argv) == 3
    captured = capsys.readouterr()
    assert "sync_c.mocha is not measured: its weights are missing (syncnet_v2, sfd_face); run `humo" in captured.err
    assert "color_drift" in captured.out


def test_fractions_are_percent_for_people_and_fractions_in_json() -> None:
    assert value_text(0.98, "fraction") == "98 %"
    assert value_text(0.98, "fraction", (0.9, 1.0)) == "98 [90, 100] %"
    assert value_text(-0.125, "fraction", (-0.2, 0.05), signed=True) == "-12.5 [-20, +5] percentage points"
    assert value_text(0.98, "") == "0.98"
    assert value_text(0.0, "", (-0.0, 0.5), signed=True) == "0 [0, +0.5]"
    assert value_text(1.5, "frames", (1.0, 2.0)) == "1.5 [1, 2] frames"
    assert {name for name, one in METRICS.items() if one.unit == "fraction" and "attribute" not in name} == {
        "face_detection_rate",
        "id_top1_dlib",
    }


@pytest.fixture(scope="module")
def without_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos of noise, without audio."""
    folder = tmp_path_factory.mktemp("noise") / "videos"
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        frames = random.integers(0, 255, (10, 32, 48, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", frames, VideoFormat(48, 32), metadata={})
    return folder


def test_a_video_without_a_face_is_one_line_and_its_other_values_are_printed(
    without_faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", "video", str(without_faces / "a.mp4")]
    assert main(argv) == 1
    captured = capsys.readouterr()
    assert captured.err == "humo: no face is detected in any of 10 frames of a.mp4\n"
    assert "face_detection_rate  0 % (fraction of frames with a face)" in captured.out
    assert "temporal_flicker" in captured.out
    assert main([*argv, "--json"]) == 1
    values = json.loads(capsys.readouterr().out.splitlines()[0])
    assert values["face_detection_rate"] == 0.0
    assert values["sharpness"] is None
    assert main([*argv, "--metrics", "color_drift"]) == 0, "a metric of other things than faces"


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--image", "humo: --image: there is no file 'missing'; check the path"),
        ("--audio", "humo: --audio: there is no file 'missing'; check the path"),
    ],
)
def test_a_missing_input_of_one_video_is_refused(
    option: str, error: str, without_faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "video", str(without_faces / "a.mp4"), option, "missing"]) == 2
    assert capsys.readouterr().err.strip() == error


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [("sharpness", "no face is detected"), ("id_dlib,mouth_jaw_corr", "the case has no reference")],
)
def test_a_run_without_any_value_fails_and_says_why(
    metrics: str, reason: str, without_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["evaluate", "run", str(without_faces), str(out), "--metrics", metrics, "--workers", "1"]
    assert main(argv) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"humo: no video has a value of any metric: {reason}"
    scores = json.loads((out / "scores.json").read_text())["scores"]
    assert len(scores) == 2 * len(metrics.split(",")), "the reasons are kept"


def test_suites_and_metrics_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", "--suite", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SUITES)
    assert main(["evaluate", "run", "--metrics", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} == METRICS.keys()
