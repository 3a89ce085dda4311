"""Damaged weights of the right size: zeros, NaN and infinity are named, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from humo.checkpoints.convert import convert
from humo.errors import CheckpointError
from tests.tiny import save_tiny_model

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def damaged(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    model = save_tiny_model(folder / "model", "humo-1.7b")
    tensors = safetensors.torch.load_file(model / WEIGHTS)
    change(tensors)
    safetensors.torch.save_file(tensors, model / WEIGHTS)
    return model


def test_a_file_whose_second_half_is_zeros_is_refused(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "humo-1.7b")
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(CheckpointError, match=r"\d+ of \d+ matrices are zeros, '.*' among them; download"):
        convert(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    name = "blocks.1.attn1.to_q.weight"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name].to(dtype)
        tensors[name][-1, -1] = value

    with pytest.raises(CheckpointError, match=rf"'{name}' has values that are NaN or infinite"):
        convert(damaged(tmp_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_single_matrix_of_zeros_is_a_note(tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["blocks.1.attn1.to_q.weight"].zero_()

    report = convert(damaged(tmp_path, change), tmp_path / "out")
    assert any("matrices are zeros, 'blocks.1.attn1.to_q.weight' among them" in note for note in report.notes)
    whole = convert(save_tiny_model(tmp_path / "whole", "humo-1.7b"), tmp_path / "other")
    assert not any("zeros" in note for note in whole.notes)
