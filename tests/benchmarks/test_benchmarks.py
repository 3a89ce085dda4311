"""The benchmarks run, check that outputs agree, and report their measurements; no test depends on a time."""

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
BASELINES, ONE_PASS_AT_A_TIME = ["Wan with audio layers", "Wan without audio"], "humo, one pass at a time"
RATIO_KEYS = {"name", "against", "median", "lowest", "highest"}


@pytest.fixture(autouse=True)
def _within_the_folder_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # enough for these sizes
    yield
    torch.set_num_threads(threads)


def run(script: str, file: Path, *options: str) -> dict[str, Any]:
    """Run a benchmark at its smallest size, and return the JSON that it writes."""
    arguments = ["--size", "tiny", "--layers", "1", "--rounds", "1", "--threads", "1", "--json", str(file), *options]
    report = importlib.import_module(script).main(arguments)
    written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert written == report
    return written


def check_report(result: dict[str, Any], benchmark: str, against: list[str], bound: float) -> None:
    """Check the keys, that outputs agree, that every round is timed, and the ratios."""
    assert set(result) == {"benchmark", "environment", "cases"}
    assert result["benchmark"] == benchmark
    assert set(result["environment"]) >= {"threads", "torch", "diffusers", "humo"}
    for case in result["cases"]:
        assert set(case) == {"name", "settings", "differences", "seconds", "medians", "ratios"}
        assert all(0 < error <= bound for error in case["differences"].values())
        assert list(case["seconds"]) == list(case["medians"]) == ["humo", *against]
        assert all(len(times) == 1 and times[0] > 0 for times in case["seconds"].values())
        assert [one["against"] for one in case["ratios"]] == against
        assert all(set(one) == RATIO_KEYS and one["name"] == "humo" for one in case["ratios"])


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_a_network_pass_is_compared_with_wan_of_the_same_output(dtype: str, bound: float, tmp_path: Path) -> None:
    result = run("network_pass", tmp_path / "result.json", "--dtype", dtype)
    check_report(result, "network_pass", [*BASELINES, "its matrix products and attention alone"], bound)
    assert result["environment"]["threads"] == 1
    assert [case["settings"]["dtype"] for case in result["cases"]] == [dtype]


def test_a_generation_is_compared_with_the_published_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("generation", tmp_path / "result.json", "--steps", "2")
    check_report(result, "generation", ["published loop", ONE_PASS_AT_A_TIME], 1e-4)
    passes = {
        case["name"]: (case["settings"]["passes"], case["settings"]["published_passes"]) for case in result["cases"]
    }
    assert passes == {
        "generation, humo-17b, 6 passes compared with 6": (6, 6),
        "generation, humo-1.7b, 6 passes compared with 8": (6, 8),
    }
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in passes)
    head = importlib.import_module("timing").TABLE_HEAD
    assert head in printed
    assert head in (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_the_built_in_model_is_timed_with_its_weights(tmp_path: Path) -> None:
    result = run("generation", tmp_path / "result.json", "--family", "humo-nano", "--steps", "1")
    check_report(result, "generation", ["published loop", ONE_PASS_AT_A_TIME], 1e-4)
    assert [case["name"] for case in result["cases"]] == ["generation, humo-nano, 4 passes compared with 4"]


@torch.no_grad()
def test_audio_changes_the_output_of_both_networks_equally() -> None:
    network_pass, timing = importlib.import_module("network_pass"), importlib.import_module("timing")
    size = network_pass.SIZES["tiny"]
    network = network_pass.build(size, 2)
    plain = importlib.import_module("diffusers_baseline").with_audio(network)
    latents, time, text, audio = network_pass.inputs(size, network)
    with_audio, silent = (network(latents, time, text, samples).sample for samples in (audio, torch.zeros_like(audio)))
    assert timing.difference(silent, with_audio) > 0.05
    assert timing.difference(plain(latents, time, text, torch.zeros_like(audio)), silent) < 1e-5
    with pytest.raises(ArithmeticError, match="nothing is timed"):
        timing.check_equal(silent, with_audio, 1e-4)
    with pytest.raises(ArithmeticError, match="nothing is timed"):
        timing.check_equal(torch.full_like(with_audio, torch.nan), with_audio, 1e-4)


@pytest.mark.parametrize("family", ["humo-17b", "humo-1.7b"])
def test_a_generation_with_a_wrong_condition_is_not_timed(family: str) -> None:
    generation = importlib.import_module("generation")
    size = generation.SIZES["tiny"]
    pipeline = generation.build(generation.find_preset(family), size, 1)
    inputs = generation.random_inputs(size, pipeline.transformer.config)
    loop = generation.PublishedLoop(pipeline, generation.with_audio(pipeline.transformer), size)
    video = generation.run_pipeline(pipeline, size, 1, inputs)
    generation.check_equal(video, loop(1, inputs), generation.BOUND)
    for changed in (
        {"image": inputs.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)},
        {"prompt_embeds": -inputs.prompt_embeds},
        {"negative_prompt_embeds": -inputs.negative_prompt_embeds},
        {"audio_embeds": inputs.audio_embeds.flip(0)},
    ):
        with pytest.raises(ArithmeticError, match="nothing is timed"):
            generation.check_equal(video, loop(1, replace(inputs, **changed)), generation.BOUND)


@pytest.mark.soak  # a service of its own and a whole job: a minute
def test_rejections_and_a_cancel_of_a_running_service_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    options = ["--rounds", "1", "--cancels", "1", "--only", "a truncated WAV", "--json", str(file)]
    report = importlib.import_module("upload_rejection").main(options)
    assert json.loads(file.read_text(encoding="utf-8")) == report
    rejected, cancelled, step = report["measured"]
    assert rejected["message"].startswith("audio: it is not audio or video that can be read")
    assert (rejected["bytes"], len(rejected["seconds"]), len(rejected["mebibytes"])) == (30, 1, 1)
    assert all(one["seconds"][0] > 0 for one in (rejected, cancelled, step))
    printed = capsys.readouterr().out
    assert importlib.import_module("upload_rejection").TABLE_HEAD in printed
    assert "| a truncated WAV | 0 | " in printed


def test_an_autoencoder_is_timed_and_its_memory_measured_at_two_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent / "src"))
    file = tmp_path / "result.json"
    options = ["--size", "tiny", "--what", "decoding", "--rounds", "1", "--threads", "1", "--json", str(file)]
    report = importlib.import_module("autoencoder").main(options)
    assert json.loads(file.read_text(encoding="utf-8")) == report
    assert [case["ratios"][0]["against"] for case in report["cases"]] == ["diffusers"]
    assert all(case["differences"]["diffusers"] <= 1e-4 for case in report["cases"])
    assert [row["what"] for row in report["memory"]] == ["decoding"]
    assert all(row["5"] > 0 and row["9"] > 0 for row in report["memory"])
    assert "independent of the length" in capsys.readouterr().out


def test_a_command_is_timed_outside_denoising_and_decoding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent / "src"))
    options = ["--rounds", "1", "--steps", "1", "--threads", "1"]
    medians = importlib.import_module("command_overhead").main(options)["medians"]
    assert medians["outside"] == pytest.approx(medians["total"] - medians["denoise"] - medians["decode"])
    assert 0 < medians["load"] + medians["encode"] < medians["outside"]
    assert "outside denoising and decoding: " in capsys.readouterr().out


def test_real_time_is_reported_by_length(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "1", "--steps", "1", "--threads", "1", "--seconds", "0.2", "0.36"]
    medians = importlib.import_module("real_time").main(options)["medians"]
    assert [values["length"] for values in medians.values()] == [0.2, 0.36]
    assert all(0 < values["denoise"] < values["total"] for values in medians.values())
    printed = capsys.readouterr().out
    assert "| 0.20 | " in printed
    assert "| 0.36 | " in printed


def test_caches_report_blocks_time_and_psnr(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "1", "--clips", "1", "--steps", "5", "--frames", "5", "--threads", "1"]
    report = importlib.import_module("caches").main(options)
    assert [row["cache"] for row in report["rows"]] == ["first-block", "taylorseer"]
    assert all(0 < row["blocks"] <= 1 and row["psnr"] > 15 for row in report["rows"])
    assert "| taylorseer | " in capsys.readouterr().out


def test_candidates_alternate_and_ratios_are_taken_within_a_round() -> None:
    timing = importlib.import_module("timing")
    order: list[str] = []
    seconds = timing.alternate({name: lambda name=name: order.append(name) for name in "abc"}, 3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    case = timing.Case("a case", {}, {}, {"ours": [1.0, 4.0, 9.0], "theirs": [2.0, 4.0, 6.0]})
    assert case.medians == {"ours": 4.0, "theirs": 4.0}
    assert case.ratios == [timing.Ratio("ours", "theirs", median=1.0, lowest=0.5, highest=1.5)]
    assert timing.table_rows(case) == ["| a case | 4.000 | theirs | 4.000 | 1.00 | 0.50 to 1.50 |"]


def test_a_number_of_rounds_below_one_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module("network_pass").main(["--rounds", "0"])
    assert "0 is not at least 1" in capsys.readouterr().err
