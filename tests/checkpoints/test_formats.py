"""Damaged files, files with code in them and files that are something else are refused in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from humo.checkpoints.convert import convert
from humo.checkpoints.formats import torch_file
from humo.checkpoints.formats.open import open_weights
from humo.checkpoints.formats.safetensors_file import SafetensorsFile
from humo.checkpoints.formats.torch_file import TorchFile
from humo.errors import CheckpointError

TENSORS = {
    "bf16": torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "fp32": torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "integers": torch.arange(5),
    "fp8": torch.ones(6).to(torch.float8_e4m3fn),
}


class Code:
    """Runs a command when it is unpickled, if anybody lets it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("chunk_bytes", [8, 24, 2**20])
def test_pieces_put_together_are_the_tensor(suffix: str, chunk_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    weights = open_weights(path)
    assert weights.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        raw = b"".join(bytes(chunk) for chunk in weights.chunks(name, chunk_bytes))
        assert raw == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert weights.tensors[name].bytes == len(raw)
        assert weights.tensors[name].shape == tuple(tensor.shape)


def test_a_torch_file_is_mapped_again_without_losing_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {str(index): torch.randn(100, 10) for index in range(6)}
    tensors["transposed"] = torch.randn(10, 100).t()
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "weights.pt")
    monkeypatch.setattr(torch_file, "MAPPED_BYTES", 5000)
    file = TorchFile(tmp_path / "weights.pt")
    assert file.non_tensors == ("epoch",)
    for name, tensor in tensors.items():
        raw = b"".join(bytes(chunk) for chunk in file.chunks(f"state_dict.{name}", 1000))
        assert raw == tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01, 0.0])
def test_a_safetensors_file_cut_short_is_noticed(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CheckpointError, match=r"is truncated|not a complete") as caught:
        SafetensorsFile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.1])
def test_a_torch_file_cut_short_is_noticed(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CheckpointError, match="damaged or truncated torch file") as caught:
        TorchFile(path)
    assert "\n" not in str(caught.value)


def test_pickled_code_is_named_and_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    torch.save({"a.weight": torch.ones(2), "payload": Code(marker)}, tmp_path / "ema.pth")
    with pytest.raises(CheckpointError, match=r"ema\.pth: contains pickled code .*never run") as caught:
        convert(tmp_path / "ema.pth", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
        (b"<!doctype html><html>not found</html>", "not a"),
        (pickle.dumps({"a": 1}), "not a"),
        (b"", "not a"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".gguf"])
def test_a_file_with_a_wrong_suffix_is_refused(data: bytes, problem: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=problem):
        open_weights(path)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_changed_byte_in_the_header_is_an_error_or_harmless(
    position: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "weights.safetensors"
    save_file({"a.weight": torch.zeros(4, 4), "b.weight": torch.zeros(3)}, path)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data)
    try:
        weights = open_weights(path)
    except CheckpointError:
        return
    for name in weights.tensors:
        assert sum(chunk.nbytes for chunk in weights.chunks(name)) == weights.tensors[name].bytes


def test_an_index_with_a_missing_shard_names_it(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors"):
        open_weights(tmp_path / "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match="is one shard of several"):
        convert(tmp_path / "model-00001-of-00002.safetensors", tmp_path / "out")


def test_a_tensor_in_two_shards_is_an_error(tmp_path: Path) -> None:
    for name in ("x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"):
        save_file({"a": torch.ones(2)}, tmp_path / name)
    table = {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointError, match="has 'a' in both"):
        open_weights(tmp_path / "x.safetensors.index.json")
