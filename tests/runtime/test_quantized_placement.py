"""Networks that are quantized when they are loaded: the numbers, what becomes of a clip, what is planned."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from humo.checkpoints.convert import convert
from humo.checkpoints.model_folder import open_model_folder
from humo.cli.main import main
from humo.geometry import Geometry
from humo.jobs.engine import Engine
from humo.jobs.generate import prepare_job
from humo.quantization.dequantize import dequantize
from humo.quantization.formats import FP8_TYPES
from humo.quantization.linear import QuantizedLinear
from humo.quantization.quantize import WEIGHTS_PER_SLICE, quantize, quantize_fp8
from humo.request import QuantizeName, parse_request
from humo.runtime.host_blocks import ALIGNMENT
from humo.runtime.loading import load_pipeline
from humo.runtime.memory_estimate import estimate_memory
from humo.runtime.offload import adjust_placement, stream_from_host
from humo.runtime.placement import QUANT_TYPE_OF, Placement
from humo.runtime.placement_choice import PROCESS_BYTES, estimate_placements, estimate_quantized_placements
from tests.calls import call, distance, working_bytes
from tests.quantized_files import network, published

SHARES = {"fp8": 32 / 128, "int8": 34 / 128, "int4": 18 / 128}
"""Bytes of a quantized matrix, as a share of those in float32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A model whose network has rows of whole blocks, in float32."""
    folder = tmp_path_factory.mktemp("wide")
    save_file(published(network("humo-1.7b")), folder / "network.safetensors")
    return convert([folder / "network.safetensors", tiny_model_folder], folder / "model", dtype="fp32").destination


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-6, 0.02, 1.0, 300.0]))
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_matrices_become_the_bytes_that_gguf_makes(kind: str, seed: int, size: float) -> None:
    weight = (np.random.default_rng(seed).standard_normal((5, 96)) * size).astype(np.float32)
    weight[0, :32] = 0
    weight[1] = np.round(weight[1], 1)
    quantized = quantize(torch.from_numpy(weight), kind)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(quantized.numpy().view(np.uint8), expected)


@pytest.mark.parametrize(("name", "bound"), [("int8", 0.006), ("int4", 0.1)])
def test_a_large_matrix_is_much_the_same_afterwards(name: str, bound: float) -> None:
    weight = torch.randn(3, WEIGHTS_PER_SLICE // 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    quantized = quantize(weight, QUANT_TYPE_OF[name])
    assert quantized.nbytes == pytest.approx(SHARES[name] * weight.nbytes * 2)
    assert quantized.equal(torch.cat([quantize(row[None], QUANT_TYPE_OF[name]) for row in weight]))
    assert (
        distance(dequantize(quantized, QUANT_TYPE_OF[name], WEIGHTS_PER_SLICE // 2, torch.float32), weight.float())
        < bound
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-6, 0.02, 1.0, 300.0]))
@pytest.mark.parametrize("kind", FP8_TYPES)
def test_scaled_fp8_is_the_nearest_number_of_the_type(kind: str, seed: int, size: float) -> None:
    weight = torch.randn(5, 96, generator=torch.Generator().manual_seed(seed)) * size
    quantized, scale = quantize_fp8(weight, kind)
    values = dequantize(quantized, kind, 96, torch.float32, scale)
    assert float(values.abs().max()) == pytest.approx(float(weight.abs().max()), rel=1e-6)
    mantissa = {"F8_E4M3": 3, "F8_E5M2": 2}[kind]
    normal = weight.abs() > scale * 2.0**-6
    assert bool(((values - weight).abs() <= weight.abs() * 2.0 ** -(mantissa + 1) * 1.001)[normal].all())
    zeros, one = quantize_fp8(torch.zeros(2, 32), kind)
    assert not zeros.any()
    assert float(one) == 1


@pytest.mark.parametrize(("quantize_to", "bound"), [("fp8", 0.05), ("int8", 0.02), ("int4", 0.3)])
def test_a_clip_is_much_the_same(folder: Path, quantize_to: QuantizeName, bound: float) -> None:
    exact = load_pipeline(folder, device="cpu", dtype="float32")
    quantized = load_pipeline(folder, device="cpu", dtype="float32", quantize=quantize_to)
    matrices = [one for one in quantized.transformer.modules() if isinstance(one, QuantizedLinear)]
    assert {one.quant_type for one in matrices} == {QUANT_TYPE_OF[quantize_to]}
    assert 0 < distance(call(quantized), call(exact)) < bound
    block, packed_block = (sum(one.nbytes for one in net.transformer.blocks.parameters()) for net in (exact, quantized))
    assert packed_block < (SHARES[quantize_to] + 0.05) * block


@pytest.mark.parametrize("quantize_to", QUANT_TYPE_OF)
@pytest.mark.parametrize("resident", [0, 1])
def test_quantized_blocks_are_streamed_packed(folder: Path, quantize_to: QuantizeName, resident: int) -> None:
    quantized = load_pipeline(folder, device="cpu", dtype="float32", quantize=quantize_to)
    expected = call(quantized)
    block = sum(weight.nbytes for weight in quantized.transformer.blocks[0].parameters())
    stream_from_host(quantized, torch.device("cpu"))
    adjust_placement(quantized, Placement("group", quantize_to, resident_blocks=resident))
    assert torch.allclose(call(quantized), expected, atol=1e-6)
    sources = [one._source for one in quantized.execution.streamed._networks]  # type: ignore[union-attr]
    assert [block <= one.host_bytes / 2 < block + 100 * ALIGNMENT for one in sources] == [True]


@pytest.mark.parametrize("quantize_to", QUANT_TYPE_OF)
def test_what_is_planned_is_taken(folder: Path, quantize_to: QuantizeName) -> None:
    model, geometry = open_model_folder(folder), Geometry(96, 64, 9, references=1)
    architecture = model.architectures["transformer"]
    estimate = estimate_memory(model.architectures, geometry, model.preset.reference_injection, torch.float32, 3)
    quantized = estimate_quantized_placements(estimate, architecture, geometry, torch.float32)[quantize_to]
    net = load_pipeline(folder, device="cpu", dtype="float32", quantize=quantize_to).transformer
    assert quantized.weights["transformer"].total == sum(weight.nbytes for weight in net.parameters())
    assert quantized.weights["text_encoder"] == estimate.weights["text_encoder"]
    assert quantized.activations["denoise"] == working_bytes(net, geometry)[0]


def test_on_a_cpu_they_come_between_all_weights_as_they_are_and_the_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"model": str(folder), "prompt": "a", "width": 96, "height": 64, "frames": 9, "steps": 1, "device": "cpu"}
    plan = prepare_job(parse_request(fields | {"output": str(tmp_path / "a.mp4")})).plan
    model = open_model_folder(folder)
    sizes = model.architectures, plan.geometry, model.preset.reference_injection, torch.float32
    estimate = estimate_memory(*sizes, 2)
    quantized = estimate_quantized_placements(estimate, sizes[0]["transformer"], sizes[1], torch.float32)
    takes = {one.placement: one.host for one in estimate_placements(estimate, "cpu", 0, 0, quantized=quantized)}
    int8 = Placement("none", "int8")
    assert list(takes) == [Placement("none"), int8, Placement("none", "int4"), Placement("disk", resident_blocks=0)]
    whole, eight = (sum(one.total for one in some.weights.values()) for some in (estimate, quantized["int8"]))
    assert takes[int8] == PROCESS_BYTES + eight + max(quantized["int8"].phases().values())
    assert eight < whole
    monkeypatch.setattr("humo.runtime.placement_choice.AMPLE_FACTOR", 10**9)
    for placement, size in sorted(takes.items(), key=lambda one: one[1]):
        monkeypatch.setattr("humo.runtime.device.available_memory", lambda device, size=size: (0, size))
        request = Engine().resolve_runtime(plan).request
        assert Placement(request.offload, request.quantize) == placement


def test_the_command_makes_a_video_with_one(folder: Path, tmp_path: Path) -> None:
    small = ["--width", "32", "--height", "32", "--frames", "5", "--steps", "1", "--device", "cpu"]
    arguments = ["generate", "--model", str(folder), "--prompt", "a man", *small, "--quantize", "int4"]
    assert main([*arguments, "--output", str(tmp_path / "out.mp4"), "--quiet"]) == 0
    assert (tmp_path / "out.mp4").stat().st_size > 0
