"""GGUF and fp8 files of HuMo's network: the weights they stand for, and the same network that computes with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from humo import HuMoPipeline, HuMoTransformer3DModel
from humo.checkpoints.convert import ConversionReport, convert
from humo.checkpoints.model_folder import open_model_folder
from humo.cli.main import main
from humo.distributed.parallel_generation import ParallelGeneration
from humo.distributed.process_group import ProcessGroup
from humo.errors import CheckpointError, HuMoError, RequestError
from humo.geometry import Geometry
from humo.quantization.dequantize import WEIGHTS_PER_SLICE, dequantize, unpack
from humo.quantization.formats import GGML_TYPES, row_bytes
from humo.quantization.linear import QuantizedLinear
from humo.request import QuantizeName
from humo.runtime.loading import load_component, load_pipeline, load_streamed
from humo.runtime.memory_estimate import estimate_memory, weight_bytes
from humo.runtime.offload import apply_placement
from humo.runtime.placement import Placement
from humo.runtime.placement_choice import estimate_placements
from tests.calls import call, distance, working_bytes
from tests.comfyui_files import AUDIO, NETWORK, TEXT, VAE, save_comfyui_models
from tests.quantized_files import (
    is_matrix_of_a_block,
    network,
    ours,
    published,
    save_gguf,
    save_scaled_fp8,
)
from tests.tiny import tiny_text_encoder

Save = Callable[[Path, dict[str, Tensor]], dict[str, Tensor]]


def gguf_of(kind: str, *, other: str = "F32") -> Save:
    """Saves a network with the matrices of its blocks in a type, and all else in another."""

    def save(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        quant_types = {name: kind if is_matrix_of_a_block(name, tensor) else other for name, tensor in weights.items()}
        return save_gguf(folder / "network.gguf", weights, quant_types.__getitem__, loses_ones=kind in ("Q4_K", "Q6_K"))

    return save


def fp8_of(style: str, dtype: torch.dtype = torch.float8_e4m3fn) -> Save:
    """Saves a network with the matrices of its blocks in eight bits."""
    return lambda folder, weights: save_scaled_fp8(folder / "network.safetensors", weights, style, dtype)


FILES: dict[str, Save] = {
    **{kind: gguf_of(kind) for kind in ("Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")},
    **{style: fp8_of(style) for style in ("kijai", "comfy", "rows", "plain")},
    "kijai e5m2": fp8_of("kijai", torch.float8_e5m2),
}


PUBLISHED = ("humo-17b", "humo-1.7b")

OTHERS: dict[str, Path] = {}
"""Family -> a model folder, of which the other parts are taken."""


@pytest.fixture(autouse=True)
def _others(tiny_model_folder: Path, tiny_model_folder_17b: Path) -> None:
    OTHERS.update({"humo-1.7b": tiny_model_folder, "humo-17b": tiny_model_folder_17b})


def brought(tmp_path: Path, preset: str, save: Save, **changes: object) -> tuple[ConversionReport, dict[str, Tensor]]:
    """A model folder with such a network and the other parts of a folder; and the weights that the file stands for."""
    transformer = network(preset)
    stands_for = save(tmp_path, published(transformer))
    file = next(path for path in tmp_path.iterdir() if path.stem == "network")
    report = convert([file, OTHERS[preset]], tmp_path / "model", **changes)  # type: ignore[arg-type]
    return report, ours(transformer, stands_for)


def dequantized(preset: str, weights: dict[str, Tensor]) -> HuMoPipeline:
    """A pipeline of the same parts, with these weights as they are."""
    pipeline: HuMoPipeline = HuMoPipeline.from_pretrained(str(OTHERS[preset]))
    transformer = network(preset)
    transformer.load_state_dict(weights)
    pipeline.register_modules(transformer=transformer)
    return pipeline


@torch.no_grad()
def passed(transformer: HuMoTransformer3DModel) -> Tensor:
    """Return the output of a network for random inputs."""
    config = transformer.config
    torch.manual_seed(5)
    inputs = torch.randn(1, config.in_channels, 2, 4, 6)
    text = torch.randn(1, 5, config.text_dim)
    audio = torch.randn(1, 2, config.audio_window, config.audio_bands, config.audio_width)
    (velocity,) = transformer(inputs, torch.tensor([500.0]), text, audio, return_dict=False)
    return velocity  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", GGML_TYPES)
def test_blocks_are_the_numbers_that_gguf_says(kind: str) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (500, GGML_TYPES[kind].type_size), dtype=np.uint8)
    type_of = gguf.GGMLQuantizationType[kind]
    assert gguf.GGML_QUANT_SIZES[type_of] == GGML_TYPES[kind]
    with np.errstate(invalid="ignore"):
        expected = gguf.quants.dequantize(raw, type_of).reshape(-1)
    assert np.array_equal(unpack(torch.from_numpy(raw), kind).numpy(), expected, equal_nan=True)


@pytest.mark.parametrize(("kind", "scales"), [("F8_E5M2", 0), ("F8_E4M3", 1), ("F8_E4M3", 9), ("Q8_0", 0)])
def test_a_matrix_is_the_same_whole_and_in_slices(kind: str, scales: int) -> None:
    columns = WEIGHTS_PER_SLICE // 4
    stored = torch.randint(0, 100, (9, row_bytes(kind, columns)), dtype=torch.uint8)
    scale = torch.rand(scales, 1) if scales else None
    expected = unpack(stored, kind).view(9, columns) * (1 if scale is None else scale)
    assert dequantize(stored, kind, columns, torch.float32, scale).equal(expected)
    assert dequantize(stored, kind, columns, torch.bfloat16, scale).equal(expected.bfloat16())


@pytest.mark.parametrize("preset", PUBLISHED)
@pytest.mark.parametrize("name", FILES)
def test_a_network_that_stays_quantized_is_the_dequantized_one(tmp_path: Path, preset: str, name: str) -> None:
    report, weights = brought(tmp_path, preset, FILES[name], keep_quantized=True)
    model = open_model_folder(report.destination)
    matrices = {name for name, tensor in weights.items() if is_matrix_of_a_block(name, tensor)}
    assert model.components["transformer"].quantized.keys() == matrices
    kept = load_component(model, "transformer", torch.float32)
    assert sum(isinstance(module, QuantizedLinear) for module in kept.modules()) == len(matrices)
    plain = network(preset)
    plain.load_state_dict(weights)
    assert passed(kept).equal(passed(plain))
    assert load_component(model, "transformer", torch.bfloat16).dtype is torch.bfloat16


@pytest.mark.parametrize("preset", PUBLISHED)
@pytest.mark.parametrize("name", ["Q4_K", "kijai"])
def test_a_clip_of_a_quantized_network_is_that_of_the_dequantized_one(tmp_path: Path, preset: str, name: str) -> None:
    report, weights = brought(tmp_path, preset, FILES[name], keep_quantized=True)
    kept = load_pipeline(report.destination, device="cpu", dtype="float32")
    assert call(kept).equal(call(dequantized(preset, weights)))
    half = call(load_pipeline(report.destination, device="cpu", dtype="bfloat16"))
    assert distance(half, call(kept)) < 0.05


@pytest.mark.parametrize("name", FILES)
def test_a_converted_network_has_exactly_the_weights_of_the_file(tmp_path: Path, name: str) -> None:
    report, weights = brought(tmp_path, "humo-17b", FILES[name], dtype="fp32")
    stored = load_file(report.destination / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == weights.keys()
    assert all(stored[name].equal(tensor) for name, tensor in weights.items())
    converted = convert(report.destination, tmp_path / "bf16", dtype="bf16")
    assert converted.components[0].dtypes == {"BF16": len(weights)}


def test_what_stays_quantized_takes_the_room_of_the_file_and_can_be_undone_later(tmp_path: Path) -> None:
    report, weights = brought(tmp_path, "humo-1.7b", FILES["Q4_K"], keep_quantized=True)
    part = next(part for part in report.components if part.component == "transformer")
    matrices = [tensor for name, tensor in weights.items() if is_matrix_of_a_block(name, tensor)]
    assert part.dtypes == {"Q4_K": len(matrices), "F32": len(weights) - len(matrices)}
    others = sum(4 * tensor.numel() for name, tensor in weights.items() if not is_matrix_of_a_block(name, tensor))
    assert part.bytes == others + sum(tensor.numel() * 144 // 256 for tensor in matrices)
    convert(report.destination, tmp_path / "undone", dtype="fp32")
    stored = load_file(tmp_path / "undone" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(stored[name].equal(tensor) for name, tensor in weights.items())
    config = json.loads((tmp_path / "undone" / "transformer" / "config.json").read_text())
    assert "quantization_config" not in config
    for source in (report.destination, report.destination):
        kept = convert(source, tmp_path / "twice", keep_quantized=True, overwrite=True, shard_bytes=200_000)
        assert kept.components[0].dtypes == part.dtypes
    assert open_model_folder(tmp_path / "twice").bytes == open_model_folder(report.destination).bytes


@pytest.mark.parametrize("name", ["Q3_K", "rows"])
def test_quantized_blocks_are_streamed_from_the_disk_as_they_are(tmp_path: Path, name: str) -> None:
    report, weights = brought(tmp_path, "humo-17b", FILES[name], keep_quantized=True)
    streamed = load_streamed(report.destination, device="cpu", dtype=torch.float32)
    plain = network("humo-17b")
    plain.load_state_dict(weights)
    assert passed(streamed.transformer).equal(passed(plain))
    assert all(weight.is_meta for weight in streamed.transformer.blocks.parameters())


def test_diffusers_alone_takes_no_bytes_for_weights(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["kijai"], keep_quantized=True)
    with pytest.raises(ValueError, match="humo"):
        HuMoPipeline.from_pretrained(str(report.destination))


def test_weights_that_are_quantized_are_not_quantized_again(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["Q8_0"], keep_quantized=True)
    values: list[QuantizeName] = ["fp8", "int8", "int4"]
    for quantize in values:
        with pytest.raises(RequestError, match=f"quantize: '{quantize}' cannot be applied to a network whose weights"):
            load_pipeline(report.destination, device="cpu", quantize=quantize)


def test_quantized_weights_are_not_divided_among_processes(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["Q8_0"], keep_quantized=True)
    with pytest.raises(RequestError, match="--fsdp: cannot shard the weights of a network that is stored quantized"):
        ParallelGeneration(ProcessGroup(0, 2), fsdp=True).load(report.destination, "float32")


def test_a_lora_is_added_to_quantized_weights(tmp_path: Path) -> None:
    report, weights = brought(tmp_path, "humo-1.7b", FILES["Q5_K"], keep_quantized=True)
    layer = "blocks.1.self_attn.q"
    lora = {
        f"diffusion_model.{layer}.lora_A.weight": torch.randn(2, 256),
        f"diffusion_model.{layer}.lora_B.weight": torch.randn(256, 2),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    kept = load_pipeline(report.destination, device="cpu", dtype="float32")
    before = passed(kept.transformer)
    plain = dequantized("humo-1.7b", weights)
    for pipeline in (kept, plain):
        pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"))
    assert passed(kept.transformer).equal(passed(plain.transformer))
    assert not passed(kept.transformer).equal(before)
    with pytest.raises(HuMoError, match="is quantized"):  # rather than bytes that mean something else
        kept.fuse_lora(components=["transformer"])


def test_quantized_weights_are_not_for_the_published_layout(tmp_path: Path) -> None:
    with pytest.raises(HuMoError, match="keep_quantized: cannot be combined with the published layout"):
        convert(tmp_path, tmp_path / "out", naming="published", keep_quantized=True)


def test_a_network_that_is_named_itself_is_taken_before_that_of_a_folder(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["plain"])
    (transformer,) = (part for part in report.components if part.component == "transformer")
    assert transformer.source.name == "network.safetensors"
    assert [one.reason for one in report.ignored] == ["another transformer file was named as a source"]


@pytest.mark.parametrize("name", ["Q6_K", "rows"])
def test_a_quantized_network_takes_what_is_said(tmp_path: Path, name: str) -> None:
    report, _ = brought(tmp_path, "humo-17b", FILES[name], keep_quantized=True)
    model = open_model_folder(report.destination)
    quant_types = {"transformer": model.components["transformer"].quant_types}
    geometry = Geometry(96, 64, 9, references=1)
    estimate = estimate_memory(
        model.architectures, geometry, model.preset.reference_injection, torch.float32, 3, quant_types=quant_types
    )
    network = load_component(model, "transformer", torch.float32)
    assert estimate.weights["transformer"].total == sum(weight.nbytes for weight in network.parameters())
    assert estimate.weights["transformer"].streaming == 2 * sum(one.nbytes for one in network.blocks[0].parameters())
    plain = estimate_memory(model.architectures, geometry, model.preset.reference_injection, torch.float32, 3)
    assert plain.weights["transformer"].total > 2 * estimate.weights["transformer"].total
    assert estimate.activations["denoise"] == working_bytes(network, geometry)[0]
    assert all(one.placement.is_exact for one in estimate_placements(estimate, "cuda", 2**40, 2**40))


def test_a_quantized_network_is_streamed_from_the_hosts_memory(tmp_path: Path) -> None:
    report, weights = brought(tmp_path, "humo-1.7b", FILES["comfy"], keep_quantized=True)
    kept = load_pipeline(report.destination, device="cpu", dtype="float32")
    apply_placement(kept, Placement("group"), "cpu")
    plain = network("humo-1.7b")
    plain.load_state_dict(weights)
    assert passed(kept.transformer).equal(passed(plain))


@pytest.fixture(scope="module")
def home_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that points to files as ComfyUI's users have them, with umT5 in scaled fp8."""
    folder = tmp_path_factory.mktemp("home")
    files = [save_comfyui_models(folder / "comfyui") / name for name in (NETWORK, TEXT, AUDIO, VAE)]
    return convert(files, folder / "model", keep_quantized=True).destination


def test_a_text_encoder_in_fp8_stays_so_and_encodes_as_the_dequantized_one(home_model: Path) -> None:
    model = open_model_folder(home_model)
    quant_types = model.components["text_encoder"].quant_types
    assert set(quant_types.values()) == {("F8_E4M3", 1)}
    encoder = load_component(model, "text_encoder", torch.float32)
    matrices = [module for module in encoder.modules() if isinstance(module, QuantizedLinear)]
    assert len(matrices) == len(quant_types) == sum("layer" in name for name in quant_types) > 0
    state = encoder.state_dict()
    for name, layer in encoder.named_modules():
        if isinstance(layer, QuantizedLinear):
            state[f"{name}.weight"] = layer.dequantized_weight(torch.float32)
            del state[f"{name}.weight_scale"]
    plain = tiny_text_encoder()
    plain.load_state_dict(state)
    ids = torch.tensor([[5, 9, 21, 3, 1]])
    with torch.no_grad():
        assert encoder(ids).last_hidden_state.equal(plain(ids).last_hidden_state)
    estimated = weight_bytes(model.architectures["text_encoder"], torch.float32, quant_types)
    assert estimated.total == sum(weight.nbytes for weight in encoder.parameters())


@pytest.mark.parametrize("placement", ["none", "group", "disk"])
def test_a_model_of_home_files_encodes_the_same_on_every_placement(home_model: Path, placement: str) -> None:
    expected = load_pipeline(home_model, device="cpu", dtype="float32").encode_prompt("a man talks")
    pipeline = load_pipeline(
        home_model, device="cpu", dtype="float32", offload="disk" if placement == "disk" else "none"
    )
    if placement == "group":
        apply_placement(pipeline, Placement("group"), "cpu")
    for _ in range(2):
        assert torch.allclose(pipeline.encode_prompt("a man talks"), expected, atol=1e-6)
    half = load_pipeline(home_model, device="cpu", dtype="bfloat16").encode_prompt("a man talks")
    assert half.dtype == torch.bfloat16
    assert distance(half.float(), expected) < 0.03


def test_what_a_quantized_network_takes_is_planned_before_it_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--model", "humo-17b", "--width", "64", "--height", "64", "--frames", "5", "--memory", "24GB"]
    assert main([*arguments, "--host", "64GB", "--quantized", "Q4_K"]) == 0
    output = capsys.readouterr().out
    assert "transformer    weights 10.55 GB, per block 0.24 GB" in output
    assert "fp8 " not in output
    assert main([*arguments, "--quantized", "q4"]) == 2
    assert "--quantized: 'q4' is not supported" in capsys.readouterr().err


def test_a_folder_with_such_a_file_says_how_to_bring_it_in(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "humo-17B-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="contains released weights that are not converted yet"):
        open_model_folder(tmp_path / "downloads")
    model = shutil.copytree(OTHERS["humo-17b"], tmp_path / "model")
    (model / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    (model / "transformer" / "humo.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"humo\.gguf: is not converted yet; run `humo convert"):
        open_model_folder(model)


def test_the_commands_bring_in_a_gguf_file_and_make_a_video_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = published(network("humo-1.7b"))
    save = gguf_of("Q8_0")
    save(tmp_path, weights)
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "models"))
    sources = [str(tmp_path / "network.gguf"), str(OTHERS["humo-1.7b"])]
    assert main(["models", "import", *sources, "--name", "small", "--keep-quantized", "--quiet"]) == 0
    video = tmp_path / "out.mp4"
    small = ["--width", "32", "--height", "32", "--frames", "5", "--steps", "1", "--seed", "1"]
    arguments = ["generate", "--model", "small", "--prompt", "a man", *small, "--output", str(video), "--quiet"]
    assert main(arguments) == 0
    assert video.stat().st_size > 0
    assert main(["convert", *sources, str(tmp_path / "model"), "--keep-quantized", "--quiet"]) == 0
    assert open_model_folder(tmp_path / "model").components["transformer"].quantized
