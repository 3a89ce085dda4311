"""Attention kernels, compiled blocks and TF32: equal results, on every placement and with LoRAs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from humo import HuMoPipeline
from humo.cli import doctor
from humo.cli.doctor import examine
from humo.cli.main import main
from humo.errors import DependencyError, RequestError
from humo.inference.adapters import LoraAdapters
from humo.inference.lora_file import read_lora
from humo.model import attention_backends
from humo.model.attention import Attention
from humo.model.attention_backends import BACKENDS, check_attention, is_installed, set_attention
from humo.model.caches import is_compiled
from humo.model.upstream import AttentionBackendName
from humo.request import AttentionName, parse_request
from humo.runtime.acceleration import accelerate, compile_blocks, run_eagerly
from humo.runtime.loading import load_pipeline
from humo.runtime.offload import adjust_placement, stream_from_host
from humo.runtime.placement import Placement
from tests.calls import call
from tests.inference.test_lora_file import _every_kind, architecture, predict
from tests.tiny import save_tiny_model, tiny_pipeline, tiny_transformer

PACKAGES = {"flash", "flash3", "sage", "xformers"}


@pytest.fixture(autouse=True)
def _settings_of_torch_are_restored() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    torch.compiler.reset()


# -- attention ------------------------------------------------------------------------------------------------------


def test_an_own_backend_gives_the_same() -> None:
    """A kernel that works on a CPU, so that the network really uses what is chosen."""
    pipeline = tiny_pipeline("humo-17b")
    expected = call(pipeline)
    set_attention(pipeline.transformer, "sdpa")
    assert call(pipeline).equal(expected)
    chosen = AttentionBackendName._NATIVE_MATH
    layers = [one for one in pipeline.transformer.modules() if isinstance(one, Attention)]
    for layer in layers:
        layer.processor._attention_backend = chosen
    assert torch.allclose(call(pipeline), expected, atol=1e-5)
    assert len(layers) == 3 * len(pipeline.transformer.blocks)


@pytest.mark.parametrize("name", sorted(PACKAGES - {one for one in BACKENDS if is_installed(one)}))
def test_a_backend_that_is_not_installed_is_one_line(name: AttentionName, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DependencyError, match=f"attention: '{name}' is not installed"):
        check_attention(name, "cuda", "bfloat16")
    arguments = ["generate", "--prompt", "a", "--attention", name, "--output", "never.mp4"]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert f"attention: '{name}' is not installed, or its version is not supported; install " in printed
    assert "or use --attention sdpa" in printed
    assert len([line for line in printed.splitlines() if line.startswith("humo: ")]) == 1
    assert not Path("never.mp4").exists()


def test_a_backend_for_gpus_is_refused_on_a_cpu_and_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "is_installed", lambda name: True)
    with pytest.raises(RequestError, match="attention: 'cudnn' needs an NVIDIA GPU, and the device is cpu; use --att"):
        check_attention("cudnn", "cpu", "float32")
    with pytest.raises(RequestError, match="attention: 'flash' does not support float32; use --dtype bfloat16, or --"):
        check_attention("flash", "cuda", "float32")
    check_attention("efficient", "cuda", "float32")
    check_attention("flash", "cuda", "bfloat16")
    check_attention("sdpa", "cpu", "float32")


def test_the_doctor_lists_the_backends() -> None:
    (finding,) = (one for one in examine() if one.check == "attention")
    assert finding.severity is doctor.Severity.GOOD
    assert finding.text.startswith("--attention sdpa, efficient, cudnn")
    assert all(name in finding.text for name in BACKENDS)


def test_an_unknown_backend_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "a", "--attention", "flesh"]) == 2
    assert "attention: 'flesh' is not known; did you mean 'flash'?" in capsys.readouterr().err


# -- compiled blocks ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # those of the compiler's own code
def test_blocks_are_compiled_once_for_all_and_stay_so_when_they_are_streamed() -> None:
    pipeline, counter = tiny_pipeline("humo-1.7b"), CompileCounter()
    expected = predict(pipeline.transformer)
    compile_blocks(pipeline.transformer, counter)
    assert is_compiled(pipeline.transformer)
    assert torch.allclose(predict(pipeline.transformer), expected, atol=1e-5)
    stream_from_host(pipeline, torch.device("cpu"))
    for resident in (0, 1, 2):
        adjust_placement(pipeline, Placement("group", resident_blocks=resident))
        assert torch.allclose(predict(pipeline.transformer), expected, atol=1e-5)
    assert counter.frame_count == 1
    run_eagerly(pipeline.transformer)
    assert not is_compiled(pipeline.transformer)
    assert predict(pipeline.transformer).equal(expected)


@pytest.mark.filterwarnings("ignore")
def test_loras_that_come_and_go_have_their_effect_on_compiled_blocks() -> None:
    compiled, eager = tiny_transformer("humo-1.7b", num_layers=6), tiny_transformer("humo-1.7b", num_layers=6)
    counter = CompileCounter()
    compile_blocks(compiled, counter)
    plain = predict(eager)
    lora = read_lora(_every_kind(eager), architecture(eager))
    of_compiled, of_eager = LoraAdapters(compiled), LoraAdapters(eager)
    for adapters in (of_compiled, of_eager):
        adapters.add("style", lora)
    assert torch.allclose(predict(compiled), predict(eager), atol=1e-5)
    for adapters in (of_compiled, of_eager):
        adapters.set_strengths({"style": 0.5})
    assert torch.allclose(predict(compiled), predict(eager), atol=1e-5)
    assert not torch.allclose(predict(eager), plain, atol=1e-3)
    for adapters in (of_compiled, of_eager):
        adapters.clear()
    assert torch.allclose(predict(compiled), plain, atol=1e-5)
    assert counter.frame_count < 8, "each more is a minute; from eight on nothing is compiled any more"


@pytest.mark.filterwarnings("ignore")
def test_quantized_blocks_can_be_compiled(tmp_path: Path) -> None:
    from tests.quantized_files import WIDE

    pipeline = tiny_pipeline("humo-1.7b")
    pipeline.register_modules(transformer=tiny_transformer("humo-1.7b", **WIDE))
    pipeline.save_pretrained(str(tmp_path / "model"))
    for quantize in ("fp8", "int4"):
        quantized = load_pipeline(tmp_path / "model", device="cpu", dtype="float32", quantize=quantize)
        expected, counter = predict(quantized.transformer), CompileCounter()
        compile_blocks(quantized.transformer, counter)
        assert torch.allclose(predict(quantized.transformer), expected, atol=1e-5)
        assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore")
def test_a_request_switches_each_on_and_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humo.runtime.acceleration.COMPILER", "eager")
    pipeline = tiny_pipeline("humo-1.7b")
    expected = call(pipeline)
    for fields, precision in (
        ({"compile": True, "tf32": True}, "high"),
        ({"compile": True}, "highest"),
        ({}, "highest"),
        ({"compile": True}, "highest"),
    ):
        accelerate(pipeline, parse_request({"prompt": "a", **fields}))
        assert is_compiled(pipeline.transformer) == bool(fields)
        assert torch.get_float32_matmul_precision() == precision
        assert torch.allclose(call(pipeline), expected, atol=1e-5)


# -- LoRAs on every placement ---------------------------------------------------------------------------------------

PLACEMENTS = [
    Placement("none"),
    Placement("model"),
    Placement("group"),
    Placement("group", resident_blocks=1),
    Placement("disk"),
    Placement("disk", resident_blocks=1),
]


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
def test_every_kind_of_lora_works_on_every_placement(tmp_path: Path, placement: Placement) -> None:
    folder = save_tiny_model(tmp_path / "model", "humo-1.7b")
    whole = load_pipeline(folder, device="cpu", dtype="float32")
    placed = _placed(folder, placement)
    state = _every_kind(whole.transformer)
    plain = predict(whole.transformer)
    for one in (placed, whole):
        one.load_lora_weights(dict(state), adapter_name="style")
    expected = predict(whole.transformer)
    assert not torch.allclose(expected, plain, atol=1e-2)
    for _ in range(2):
        assert torch.allclose(predict(placed.transformer), expected, atol=1e-5)
    if placement.is_streamed or placement.offload == "model":
        with pytest.raises(RequestError, match="fuse_lora: cannot change weights that are offloaded or streamed"):
            placed.fuse_lora()
    placed.unload_lora_weights()
    assert torch.allclose(predict(placed.transformer), plain, atol=1e-6)


def test_a_lora_that_is_loaded_first_is_streamed_with(tmp_path: Path) -> None:
    """As when memory runs out in the middle of a clip."""
    folder = save_tiny_model(tmp_path / "model", "humo-1.7b")
    pipeline = load_pipeline(folder, device="cpu", dtype="float32")
    pipeline.load_lora_weights(_every_kind(pipeline.transformer), adapter_name="style")
    expected = predict(pipeline.transformer)
    stream_from_host(pipeline, torch.device("cpu"))
    assert torch.allclose(predict(pipeline.transformer), expected, atol=1e-5)


def _placed(folder: Path, placement: Placement) -> HuMoPipeline:
    if placement.offload in ("none", "disk"):
        options: dict[str, Any] = {"offload": placement.offload, "resident_blocks": placement.resident_blocks}
        return load_pipeline(folder, device="cpu", dtype="float32", **options)
    pipeline = load_pipeline(folder, device="cpu", dtype="float32")
    stream_from_host(pipeline, torch.device("cpu"))
    adjust_placement(pipeline, placement)
    return pipeline


def test_loras_change_outputs_in_place_only_without_gradients() -> None:
    network = tiny_transformer("humo-1.7b")
    LoraAdapters(network).add("style", read_lora(_every_kind(network), architecture(network)))
    layer = network.get_submodule("blocks.0.ffn.net.2")
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    output: Tensor = layer(x)
    output.sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert torch.allclose(layer(x), output, atol=1e-6)
