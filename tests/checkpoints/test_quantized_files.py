"""GGUF and fp8 files that are read, and those that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from humo.checkpoints.convert import convert
from humo.checkpoints.formats.open import open_weights
from humo.errors import CheckpointError
from tests.quantized_files import (
    network,
    ours,
    published,
    save_gguf,
    save_scaled_fp8,
)


@pytest.mark.parametrize("architecture", ["wan", "pig"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_gguf_file_is_known_by_its_tensors(tmp_path: Path, architecture: str, prefix: str) -> None:
    weights = published(network("humo-17b"))
    kinds = {name: "BF16" if tensor.ndim == 2 else "F16" for name, tensor in weights.items()}
    file = tmp_path / "humo.gguf"
    stands_for = save_gguf(file, weights, kinds.__getitem__, architecture=architecture, prefix=prefix)
    convert(file, tmp_path / "out")
    converted = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, tensor in ours(network("humo-17b"), stands_for).items():
        assert converted[name].dtype is (torch.bfloat16 if tensor.ndim == 2 else torch.float16)
        assert converted[name].float().equal(tensor)


def test_a_flat_matrix_has_the_sizes_that_are_written_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "flat.gguf"
    writer = gguf.GGUFWriter(path, "wan")
    values = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    writer.add_array("comfy.gguf.orig_shape.a", [8, 32])
    writer.add_array("comfy.gguf.orig_shape.b", [8, 16])
    data = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("a", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    weights = open_weights(path)
    assert (weights.tensors["a"].dtype, weights.tensors["a"].shape) == ("Q8_0", (8, 32))
    raw = b"".join(bytes(chunk) for chunk in weights.chunks("a", 50))
    assert raw == data.tobytes()


def _damage(path: Path, change: Callable[[bytearray], bytearray]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def _type_of_first(number: int) -> Callable[[bytearray], bytearray]:
    """The first tensor's type replaced: it stands between its sizes and its offset of 0."""

    def change(data: bytearray) -> bytearray:
        name = b"patch_embedding.weight"
        place = data.index(name) + len(name) + 4 + 5 * 8
        data[place : place + 4] = number.to_bytes(4, "little")
        return data

    return change


DAMAGES: dict[str, tuple[Callable[[bytearray], bytearray], str]] = {
    "no GGUF": (lambda data: bytearray(b"GGML") + data[4:], "is not a complete GGUF file; download it again"),
    "a pointer": (lambda data: bytearray(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    "another version": (lambda data: data[:4] + b"\1\0\0\0" + data[8:], "has GGUF version 1"),
    "another byte order": (lambda data: data[:4] + data[7:3:-1] + data[8:], "another byte order"),
    "cut in its data": (lambda data: data[:-100], "is truncated: it has .* bytes, but .* ends at"),
    "cut in its header": (lambda data: data[:1000], "damaged or truncated GGUF header"),
    "too many values": (lambda data: data[:16] + b"\xff" * 8 + data[24:], "damaged or truncated GGUF header"),
    "too many tensors": (lambda data: data[:8] + b"\xff" * 8 + data[16:], "damaged or truncated GGUF header"),
    "a type of importance": (
        _type_of_first(21),
        r"'patch_embedding.weight' as IQ3_S \(number 21 of ggml\).*take a file",
    ),
    "an unknown type": (_type_of_first(99), r"an unknown type \(number 99 of ggml\), which is not supported"),
    "a type that does not fit": (_type_of_first(8), "which Q8_0 stored as .* cannot have"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_gguf_file_that_cannot_be_read_is_refused_in_a_line(tmp_path: Path, name: str) -> None:
    change, problem = DAMAGES[name]
    file = tmp_path / "humo.gguf"
    save_gguf(file, published(network("humo-1.7b")), lambda _: "F32")
    _damage(file, change)
    with pytest.raises(CheckpointError, match=problem) as caught:
        convert(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 500), byte=st.integers(0, 255))
def test_a_changed_byte_in_a_gguf_header_is_an_error_or_harmless(
    position: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "weights.gguf"
    save_gguf(path, {f"blocks.{number}.weight": torch.ones(4, 64) for number in range(5)}, lambda _: "Q8_0")

    def change(data: bytearray) -> bytearray:
        data[position] = byte
        return data

    _damage(path, change)
    with suppress(CheckpointError):  # and nothing else
        weights = open_weights(path)
        for name in weights.tensors:
            assert sum(len(chunk) for chunk in weights.chunks(name)) == weights.tensors[name].bytes


def test_a_gguf_file_of_another_network_is_called_by_its_name(tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in published(network("humo-17b")).items() if "audio" not in name}
    save_gguf(tmp_path / "wan2.1-i2v.gguf", weights, lambda _: "F16")
    with pytest.raises(CheckpointError, match=r"is Wan2\.1 without HuMo's audio layers; take HuMo-17B or"):
        convert(tmp_path / "wan2.1-i2v.gguf", tmp_path / "out")
    save_gguf(tmp_path / "llama.gguf", {"token_embd.weight": torch.ones(3, 32)}, lambda _: "F16")
    with pytest.raises(CheckpointError, match="is not a component of HuMo"):
        convert(tmp_path / "llama.gguf", tmp_path / "out")


def _changed(path: Path, change: Callable[[dict[str, Tensor]], object], metadata: dict[str, str] | None = None) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


Q = "blocks.0.self_attn.q"
ROTATED = torch.frombuffer(bytearray(b'{"format": "int8_tensorwise", "convrot": true}'), dtype=torch.uint8)
PACKED = {"_quantization_metadata": json.dumps({"layers": {Q: {"format": "nvfp4"}}})}


@pytest.mark.parametrize(
    ("style", "change", "metadata", "problem"),
    [
        ("kijai", lambda one: one.pop(f"{Q}.scale_weight"), None, f"lacks the scale of '{Q}.weight'"),
        ("comfy", lambda one: one.pop(f"{Q}.weight_scale"), None, f"lacks the scale of '{Q}.weight'"),
        ("plain", lambda one: one.update(scaled_fp8=torch.ones(2)), None, "has scaled fp8 weights but lacks"),
        ("comfy", lambda one: one.update({f"{Q}.comfy_quant": ROTATED}), None, "int8_tensorwise with rotated weights"),
        (
            "comfy",
            lambda one: one.update({f"{Q}.comfy_quant": ROTATED[:9].clone()}),
            None,
            "describes its quantization in an unknown form",
        ),
        ("kijai", lambda one: None, PACKED, f"stores '{Q}' as nvfp4, a quantization that is not supported"),
        (
            "comfy",
            lambda one: one.update({f"{Q}.weight_scale": torch.ones(7)}),
            None,
            r"of shape \(7,\).* neither one scale",
        ),
    ],
)
def test_an_fp8_file_that_cannot_be_read_is_refused_in_a_line(
    tmp_path: Path,
    style: str,
    change: Callable[[dict[str, Tensor]], object],
    metadata: dict[str, str] | None,
    problem: str,
) -> None:
    file = tmp_path / "humo.safetensors"
    save_scaled_fp8(file, published(network("humo-1.7b")), style, torch.float8_e4m3fn)
    _changed(file, change, metadata)
    for keep in (False, True):
        with pytest.raises(CheckpointError, match=problem) as caught:
            convert(file, tmp_path / "out", keep_quantized=keep)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_formats_in_the_metadata_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "humo.safetensors"
    weights = save_scaled_fp8(file, published(network("humo-1.7b")), "comfy", torch.float8_e4m3fn)
    metadata = json.dumps({"layers": {Q: {"format": "float8_e4m3fn"}}})
    _changed(file, lambda one: one.pop(f"{Q}.comfy_quant"), {"_quantization_metadata": metadata})
    convert(file, tmp_path / "out", dtype="fp32")
    converted = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert converted["blocks.0.attn1.to_q.weight"].equal(weights[f"{Q}.weight"])
