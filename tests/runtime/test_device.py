"""Device and precision are chosen in one place; a model folder loads accordingly."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from humo.errors import CheckpointError, DependencyError
from humo.runtime.device import choose_device, choose_dtype, gc_paused
from humo.runtime.loading import load_pipeline

ABSENT = [
    name
    for name, available in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
    if not available
]


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_is_chosen(cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == chosen


def test_the_device_asked_for_is_chosen_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cpu") == "cpu"
    assert choose_device("cuda") == "cuda"


@pytest.mark.parametrize("device", ABSENT)
def test_an_absent_device_is_refused_with_those_that_are_there(device: str) -> None:
    with pytest.raises(DependencyError, match=rf"device: '{device}' is not available on this machine; use .*cpu"):
        choose_device(device)


@pytest.mark.parametrize(
    ("requested", "device", "chosen"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda", "bfloat16"),
        ("auto", "mps", "bfloat16"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float32", "cuda", "float32"),
        ("float16", "mps", "float16"),
    ],
)
def test_precision_is_what_was_asked_for_or_fits_the_device(requested: str, device: str, chosen: str) -> None:
    assert choose_dtype(requested, device) == chosen


@pytest.mark.parametrize("family", ["humo-1.7b", "humo-17b"])
def test_a_model_folder_loads_on_its_device_in_its_precision(
    family: str, tiny_model_folder: Path, tiny_model_folder_17b: Path
) -> None:
    folder = tiny_model_folder if family == "humo-1.7b" else tiny_model_folder_17b
    pipeline = load_pipeline(folder, device="cpu", dtype="float32")
    assert pipeline.preset.name == family
    for part in ("transformer", "vae", "text_encoder", "audio_encoder"):
        module = getattr(pipeline, part)
        assert not module.training
        assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_in_bfloat16_the_ends_of_the_network_and_both_other_encoders_stay_float32(tiny_model_folder: Path) -> None:
    pipeline = load_pipeline(tiny_model_folder, device="cpu", dtype="bfloat16")
    kept = set(pipeline.transformer._keep_in_fp32_modules)
    dtypes = {name: parameter.dtype for name, parameter in pipeline.transformer.named_parameters()}
    for name, dtype in dtypes.items():
        assert dtype == (torch.float32 if kept & set(name.split(".")) else torch.bfloat16), name
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    assert pipeline.transformer.dtype == torch.bfloat16
    assert pipeline.text_encoder.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in pipeline.vae.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in pipeline.audio_encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("device", ABSENT)
def test_a_pipeline_for_an_absent_device_is_refused(device: str, tiny_model_folder: Path) -> None:
    with pytest.raises(DependencyError, match=f"'{device}' is not available"):
        load_pipeline(tiny_model_folder, device=device)


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_pipeline(tmp_path, device="cpu")
    with pytest.raises(CheckpointError):
        load_pipeline(tmp_path / "missing", device="cpu")


def test_unreachable_objects_are_looked_for_again_after_a_pause_that_failed() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), gc_paused():
        _fail_uncollected()
    assert gc.isenabled()


def _fail_uncollected() -> None:
    assert not gc.isenabled()
    raise ImportError


def test_a_pause_within_a_pause_does_not_end_it() -> None:
    with gc_paused():
        with gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
