"""The separator gives the network input as in its training, and joins the chunks without a seam."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from humo.conditioning import vocal_separation
from humo.conditioning.vocal_separation import COMPENSATION, VocalSeparator
from humo.errors import CheckpointError, DependencyError, MediaError

FFT, BINS, COLUMNS = 2048, 1025, 16


def network(
    path: Path, *, kept_bins: int = BINS, bins: int = BINS, columns: int | str = COLUMNS, channels: int = 4
) -> Path:
    """Write a network of the separators' shape that keeps its lowest bins and silences the others."""
    shape = ["batch", channels, bins, columns]
    mask = (np.arange(bins) < kept_bins).astype(np.float32)[None, None, :, None]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "mask"], ["output"])],
        "mask",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [helper.make_tensor("mask", TensorProto.FLOAT, mask.shape, mask.ravel())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def tones(length: int, rate: int, *hertz: float) -> npt.NDArray[np.float32]:
    """Return tones (2, n); those on the right are half as loud and shifted in phase."""
    clock = np.arange(length) / rate
    left = sum(0.2 * np.sin(2 * np.pi * h * clock) for h in hertz)
    right = sum(0.1 * np.sin(2 * np.pi * h * clock + 1) for h in hertz)
    return np.stack([left, right]).astype(np.float32)


@pytest.mark.parametrize("length", [1, 700, 15_360, 44_100, 100_003])
def test_chunks_are_joined_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(vocal_separation, "SILENT_BINS", 0)
    separator = VocalSeparator(network(tmp_path / "a.onnx"), fft_size=FFT, compensation=1.0)
    audio = np.random.default_rng(0).normal(0, 0.2, (2, length)).astype(np.float32)
    voice = separator.separate(audio, 44_100)
    assert voice.shape == audio.shape
    assert voice.dtype == np.float32
    assert np.abs(voice - audio).max() < 1e-6


def test_only_the_lowest_bins_are_silenced_in_the_input(tmp_path: Path) -> None:
    separator = VocalSeparator(network(tmp_path / "a.onnx"), fft_size=FFT, compensation=1.0)
    rumble, music = tones(100_000, 44_100, 15), tones(100_000, 44_100, 2_500, 5_000)
    voice = separator.separate(rumble + music, 44_100)[:, 4_000:-4_000]
    assert np.abs(voice - music[:, 4_000:-4_000]).max() < 0.1 * np.abs(rumble).max()
    assert np.abs(separator.separate(music, 44_100) - music)[:, 4_000:-4_000].max() < 1e-4


def test_the_loudness_of_the_result_is_compensated(tmp_path: Path) -> None:
    audio = tones(44_100, 44_100, 700)
    path = network(tmp_path / "a.onnx")
    plain = VocalSeparator(path, fft_size=FFT, compensation=1.0).separate(audio, 44_100)
    assert np.allclose(VocalSeparator(path, fft_size=FFT).separate(audio, 44_100), plain * COMPENSATION, atol=1e-6)


def test_the_bins_of_the_network_are_frequencies_from_low_to_high(tmp_path: Path) -> None:
    cut = 2_000
    path = network(tmp_path / "low.onnx", kept_bins=round(cut / 44_100 * FFT))
    separator = VocalSeparator(path, fft_size=FFT, compensation=1.0)
    low, high = tones(60_000, 44_100, 500, 1_500), tones(60_000, 44_100, 3_000, 9_000)
    assert np.abs(separator.separate(low + high, 44_100) - low)[:, 4_000:-4_000].max() < 1e-3


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
def test_the_result_has_the_sample_rate_of_the_recording(tmp_path: Path, rate: int) -> None:
    separator = VocalSeparator(network(tmp_path / "a.onnx"), fft_size=FFT, compensation=1.0)
    audio = tones(rate + 13, rate, 440, 2_500)
    voice = separator.separate(audio, rate)
    assert voice.shape == audio.shape
    assert np.abs(voice - audio)[:, 2_000:-2_000].max() < 1e-3


def test_the_result_of_mono_audio_is_mono(tmp_path: Path) -> None:
    separator = VocalSeparator(network(tmp_path / "a.onnx"), fft_size=FFT, compensation=1.0)
    audio = tones(44_100, 44_100, 440)
    assert np.allclose(separator.separate(audio[:1], 44_100), separator.separate(audio, 44_100)[:1], atol=1e-6)


@pytest.mark.parametrize("columns", [256, "columns"])
def test_the_published_size_determines_the_fft_size(tmp_path: Path, columns: int | str) -> None:
    separator = VocalSeparator(network(tmp_path / "Kim_Vocal_2.onnx", kept_bins=3072, bins=3072, columns=columns))
    assert (separator.fft_size, separator.bins, separator.chunk) == (7680, 3072, 261_120)
    audio = tones(300_000, 44_100, 300, 5_000)
    voice = separator.separate(audio, 44_100)
    assert np.abs(voice - COMPENSATION * audio)[:, 8_000:-8_000].max() < 1e-4


def test_a_missing_file_and_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("not a network\n" * 9)
    whole = network(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    network(tmp_path / "two.onnx", channels=2)
    for name, problem in [
        ("absent.onnx", "no file"),
        ("empty.onnx", "not an ONNX"),
        ("text.onnx", "not an ONNX"),
        ("cut.onnx", "not an ONNX"),
        ("two.onnx", "inputs and outputs"),
    ]:
        with pytest.raises(CheckpointError, match=problem) as caught:
            VocalSeparator(tmp_path / name, fft_size=FFT)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "fft_size", "problem"),
    [({}, None, "give fft_size"), ({}, 2046, "2046"), ({}, 2049, "2049"), ({"columns": 3}, FFT, "3 columns")],
)
def test_sizes_that_do_not_fit_are_refused(
    tmp_path: Path, form: dict[str, Any], fft_size: int | None, problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        VocalSeparator(network(tmp_path / "a.onnx", **form), fft_size=fft_size)


@pytest.mark.parametrize("shape", [(44_100,), (3, 44_100), (2, 0)])
def test_audio_of_another_shape_is_rejected(tmp_path: Path, shape: tuple[int, ...]) -> None:
    separator = VocalSeparator(network(tmp_path / "a.onnx"), fft_size=FFT)
    with pytest.raises(MediaError, match="shape"):
        separator.separate(np.zeros(shape, np.float32), 44_100)


def test_without_onnxruntime_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"pip install 'humo-video\[vocals\]'"):
        VocalSeparator(tmp_path / "a.onnx")


def test_nothing_is_printed(tmp_path: Path) -> None:
    network(tmp_path / "a.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08garbage")
    script = (
        "import sys, numpy as np; from humo.errors import HuMoError\n"
        "from humo.conditioning.vocal_separation import VocalSeparator\n"
        "VocalSeparator(sys.argv[1], fft_size=2048).separate(np.ones((2, 9999), np.float32), 16000)\n"
        "try: VocalSeparator(sys.argv[2])\n"
        "except HuMoError: pass\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "a.onnx"), str(tmp_path / "bad.onnx")]
    ran = subprocess.run(arguments, capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"", b"")
