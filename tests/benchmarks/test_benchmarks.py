"""The benchmarks run, compare like with like, and report what they measured; nothing here depends on a time."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PLAIN, ONE_BY_ONE = ["Wan with audio layers", "Wan without audio"], "humo, pass by pass"
RATIO_KEYS = {"name", "against", "median", "lowest", "highest"}


@pytest.fixture(autouse=True)
def _within_the_folder_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # enough for these sizes
    yield
    torch.set_num_threads(threads)


def run(script: str, file: Path, *options: str) -> dict[str, Any]:
    """What a benchmark writes as JSON, at its smallest."""
    arguments = ["--size", "tiny", "--layers", "1", "--rounds", "1", "--threads", "1", "--json", str(file), *options]
    given = importlib.import_module(script).main(arguments)
    written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert written == given
    return written


def check_report(result: dict[str, Any], benchmark: str, against: list[str], bound: float) -> None:
    """The keys are there, outputs agree, every round is timed, and the first is set against each other."""
    assert set(result) == {"benchmark", "environment", "cases"}
    assert result["benchmark"] == benchmark
    assert set(result["environment"]) >= {"threads", "torch", "diffusers", "humo"}
    for case in result["cases"]:
        assert set(case) == {"name", "settings", "differences", "seconds", "medians", "ratios"}
        assert all(0 < apart <= bound for apart in case["differences"].values())
        assert list(case["seconds"]) == list(case["medians"]) == ["humo", *against]
        assert all(len(times) == 1 and times[0] > 0 for times in case["seconds"].values())
        assert [one["against"] for one in case["ratios"]] == against
        assert all(set(one) == RATIO_KEYS and one["name"] == "humo" for one in case["ratios"])


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_a_network_pass_is_timed_against_wan_of_the_same_output(dtype: str, bound: float, tmp_path: Path) -> None:
    result = run("network_pass", tmp_path / "result.json", "--dtype", dtype)
    check_report(result, "network_pass", [*PLAIN, "its matrix products and attention alone"], bound)
    assert result["environment"]["threads"] == 1
    assert [case["settings"]["dtype"] for case in result["cases"]] == [dtype]


def test_a_generation_is_timed_against_the_published_loop_of_the_same_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("generation", tmp_path / "result.json", "--steps", "2")
    check_report(result, "generation", ["published loop", ONE_BY_ONE], 1e-4)
    passes = {
        case["name"]: (case["settings"]["passes"], case["settings"]["published_passes"]) for case in result["cases"]
    }
    assert passes == {
        "generation, humo-17b, 6 passes against 6": (6, 6),
        "generation, humo-1.7b, 6 passes against 8": (6, 8),
    }
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in passes)
    head = importlib.import_module("timing").TABLE_HEAD
    assert head in printed
    assert head in (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_the_model_inside_the_package_is_timed_with_its_own_weights(tmp_path: Path) -> None:
    result = run("generation", tmp_path / "result.json", "--family", "humo-nano", "--steps", "1")
    check_report(result, "generation", ["published loop", ONE_BY_ONE], 1e-4)
    assert [case["name"] for case in result["cases"]] == ["generation, humo-nano, 4 passes against 4"]


@torch.no_grad()
def test_sound_moves_the_output_of_both_networks_alike() -> None:
    network_pass, timing = importlib.import_module("network_pass"), importlib.import_module("timing")
    size = network_pass.SIZES["tiny"]
    network = network_pass.build(size, 2)
    plain = importlib.import_module("plain_wan").with_audio(network)
    latents, time, text, audio = network_pass.inputs(size, network)
    heard, silent = (network(latents, time, text, sound).sample for sound in (audio, torch.zeros_like(audio)))
    assert timing.difference(silent, heard) > 0.05
    assert timing.difference(plain(latents, time, text, torch.zeros_like(audio)), silent) < 1e-5
    with pytest.raises(ArithmeticError, match="nothing to compare"):
        timing.agreed(silent, heard, 1e-4)
    with pytest.raises(ArithmeticError, match="nothing to compare"):
        timing.agreed(torch.full_like(heard, torch.nan), heard, 1e-4)


@pytest.mark.parametrize("family", ["humo-17b", "humo-1.7b"])
def test_a_generation_that_took_a_wrong_condition_would_not_be_timed(family: str) -> None:
    generation = importlib.import_module("generation")
    size = generation.SIZES["tiny"]
    pipeline = generation.build(generation.find_preset(family), size, 1)
    given = generation.inputs(size, pipeline.transformer.config)
    loop = generation.PublishedLoop(pipeline, generation.with_audio(pipeline.transformer), size)
    video = generation.by_pipeline(pipeline, size, 1, given)
    generation.agreed(video, loop(1, given), generation.BOUND)
    for changed in (
        {"picture": given.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)},
        {"text": -given.text},
        {"no_text": -given.no_text},
        {"audio_rows": given.audio_rows.flip(0)},
    ):
        with pytest.raises(ArithmeticError, match="nothing to compare"):
            generation.agreed(video, loop(1, replace(given, **changed)), generation.BOUND)


@pytest.mark.soak  # a service of its own and a whole job: a minute
def test_refusals_and_a_cancel_of_a_running_service_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    options = ["--rounds", "1", "--cancels", "1", "--only", "a WAV cut short", "--json", str(file)]
    given = importlib.import_module("refusals").main(options)
    assert json.loads(file.read_text(encoding="utf-8")) == given
    refused, cancelled, step = given["measured"]
    assert refused["answer"].startswith("audio: it is not sound or video that can be read")
    assert (refused["bytes"], len(refused["seconds"]), len(refused["megabytes"])) == (30, 1, 1)
    assert all(one["seconds"][0] > 0 for one in (refused, cancelled, step))
    printed = capsys.readouterr().out
    assert importlib.import_module("refusals").TABLE_HEAD in printed
    assert "| a WAV cut short | 0 | " in printed


def test_an_autoencoder_is_timed_piece_by_piece_and_its_memory_taken_at_two_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent / "src"))
    file = tmp_path / "result.json"
    options = ["--size", "tiny", "--what", "decoding", "--rounds", "1", "--threads", "1", "--json", str(file)]
    given = importlib.import_module("autoencoder").main(options)
    assert json.loads(file.read_text(encoding="utf-8")) == given
    assert [case["ratios"][0]["against"] for case in given["cases"]] == ["diffusers"]
    assert all(case["differences"]["diffusers"] <= 1e-4 for case in given["cases"])
    assert [row["what"] for row in given["memory"]] == ["decoding"]
    assert all(row["5"] > 0 and row["9"] > 0 for row in given["memory"])
    assert "independent of the length" in capsys.readouterr().out


def test_a_command_is_timed_with_what_is_not_denoising_and_decoding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent / "src"))
    options = ["--rounds", "1", "--steps", "1", "--threads", "1"]
    found = importlib.import_module("whole_command").main(options)["medians"]
    assert found["outside"] == pytest.approx(found["whole"] - found["denoise"] - found["decode"])
    assert 0 < found["load"] + found["encode"] < found["outside"]
    assert "outside denoising and decoding: " in capsys.readouterr().out


def test_real_time_is_told_by_length(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "1", "--steps", "1", "--threads", "1", "--seconds", "0.2", "0.36"]
    found = importlib.import_module("real_time").main(options)["medians"]
    assert [values["plays"] for values in found.values()] == [0.2, 0.36]
    assert all(0 < values["denoise"] < values["whole"] for values in found.values())
    printed = capsys.readouterr().out
    assert "| 0.20 | " in printed
    assert "| 0.36 | " in printed


def test_caches_are_told_by_blocks_time_and_likeness(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "1", "--clips", "1", "--steps", "5", "--frames", "5", "--threads", "1"]
    found = importlib.import_module("caches").main(options)
    assert [row["cache"] for row in found["rows"]] == ["first-block", "taylorseer"]
    assert all(0 < row["blocks"] <= 1 and row["decibels"] > 15 for row in found["rows"])
    assert "| taylorseer | " in capsys.readouterr().out


def test_contestants_take_turns_and_ratios_are_taken_within_a_round() -> None:
    timing = importlib.import_module("timing")
    order: list[str] = []
    seconds = timing.alternate({name: lambda name=name: order.append(name) for name in "abc"}, 3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    case = timing.Case("a case", {}, {}, {"ours": [1.0, 4.0, 9.0], "theirs": [2.0, 4.0, 6.0]})
    assert case.medians == {"ours": 4.0, "theirs": 4.0}
    assert case.ratios == [timing.Ratio("ours", "theirs", median=1.0, lowest=0.5, highest=1.5)]
    assert timing.table_rows(case) == ["| a case | 4.000 | theirs | 4.000 | 1.00 | 0.50 to 1.50 |"]


def test_a_number_of_rounds_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module("network_pass").main(["--rounds", "0"])
    assert "0 is not at least 1" in capsys.readouterr().err
