"""GGUF and fp8 files of HuMo's network: the weights they stand for, and the same network that computes with them."""

from __future__ import annotations

import json
import shutil
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
from tests.calls import call, distance, working_bytes
from tests.quantised_files import (
    is_matrix_of_a_block,
    network,
    ours,
    published,
    save_gguf,
    save_scaled_fp8,
)
from torch import Tensor

from humo import HuMoPipeline, HuMoTransformer3DModel
from humo.checkpoints.convert import ConversionReport, convert
from humo.checkpoints.hub import open_model_folder
from humo.checkpoints.reading import open_weights
from humo.cli import main
from humo.errors import CheckpointError, HumoError, RequestError
from humo.geometry import Geometry
from humo.memory import needs_of
from humo.model.blocks import GGML_BLOCKS, row_bytes
from humo.model.dequantise import SLICE, decode, dequantise
from humo.model.quantised import QuantisedLinear
from humo.placements import offers
from humo.ranks import Crew, Ranks
from humo.request import PlacementName
from humo.runtime import load_pipeline
from humo.streaming import load_quantised, load_streaming, place

Save = Callable[[Path, dict[str, Tensor]], dict[str, Tensor]]


def gguf_of(kind: str, *, other: str = "F32") -> Save:
    """Saves a network with the matrices of its blocks in a type, and all else in another."""

    def save(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        kinds = {name: kind if is_matrix_of_a_block(name, tensor) else other for name, tensor in weights.items()}
        return save_gguf(folder / "network.gguf", weights, kinds.__getitem__, loses_ones=kind in ("Q4_K", "Q6_K"))

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


def dequantised(preset: str, weights: dict[str, Tensor]) -> HuMoPipeline:
    """A pipeline of the same parts, with these weights as they are."""
    pipeline: HuMoPipeline = HuMoPipeline.from_pretrained(str(OTHERS[preset]))
    transformer = network(preset)
    transformer.load_state_dict(weights)
    pipeline.register_modules(transformer=transformer)
    return pipeline


@torch.no_grad()
def passed(transformer: HuMoTransformer3DModel) -> Tensor:
    """What a network makes of some numbers."""
    config = transformer.config
    torch.manual_seed(5)
    inputs = torch.randn(1, config.in_channels, 2, 4, 6)
    text = torch.randn(1, 5, config.text_dim)
    audio = torch.randn(1, 2, config.audio_window, config.audio_bands, config.audio_width)
    (velocity,) = transformer(inputs, torch.tensor([500.0]), text, audio, return_dict=False)
    return velocity  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", GGML_BLOCKS)
def test_blocks_are_the_numbers_that_gguf_says(kind: str) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (500, GGML_BLOCKS[kind].bytes), dtype=np.uint8)
    type_of = gguf.GGMLQuantizationType[kind]
    assert gguf.GGML_QUANT_SIZES[type_of] == GGML_BLOCKS[kind]
    with np.errstate(invalid="ignore"):
        expected = gguf.quants.dequantize(raw, type_of).reshape(-1)
    assert np.array_equal(decode(torch.from_numpy(raw), kind).numpy(), expected, equal_nan=True)


@pytest.mark.parametrize(("kind", "scales"), [("F8_E5M2", 0), ("F8_E4M3", 1), ("F8_E4M3", 9), ("Q8_0", 0)])
def test_a_matrix_is_the_same_whole_and_in_slices(kind: str, scales: int) -> None:
    columns = SLICE // 4
    stored = torch.randint(0, 100, (9, row_bytes(kind, columns)), dtype=torch.uint8)
    scale = torch.rand(scales, 1) if scales else None
    expected = decode(stored, kind).view(9, columns) * (1 if scale is None else scale)
    assert dequantise(stored, kind, columns, torch.float32, scale).equal(expected)
    assert dequantise(stored, kind, columns, torch.bfloat16, scale).equal(expected.bfloat16())


@pytest.mark.parametrize("preset", PUBLISHED)
@pytest.mark.parametrize("name", FILES)
def test_a_network_that_stays_quantised_is_the_dequantised_one(tmp_path: Path, preset: str, name: str) -> None:
    report, weights = brought(tmp_path, preset, FILES[name], keep_quantised=True)
    model = open_model_folder(report.destination)
    matrices = {name for name, tensor in weights.items() if is_matrix_of_a_block(name, tensor)}
    assert model.components["transformer"].quantised.keys() == matrices
    kept = load_quantised(model, torch.float32)
    assert sum(isinstance(module, QuantisedLinear) for module in kept.modules()) == len(matrices)
    plain = network(preset)
    plain.load_state_dict(weights)
    assert passed(kept).equal(passed(plain))
    assert load_quantised(model, torch.bfloat16).dtype is torch.bfloat16


@pytest.mark.parametrize("preset", PUBLISHED)
@pytest.mark.parametrize("name", ["Q4_K", "kijai"])
def test_a_clip_of_a_quantised_network_is_that_of_the_dequantised_one(tmp_path: Path, preset: str, name: str) -> None:
    report, weights = brought(tmp_path, preset, FILES[name], keep_quantised=True)
    kept = load_pipeline(report.destination, device="cpu", dtype="float32")
    assert call(kept).equal(call(dequantised(preset, weights)))
    half = call(load_pipeline(report.destination, device="cpu", dtype="bfloat16"))
    assert distance(half, call(kept)) < 0.05


@pytest.mark.parametrize("name", FILES)
def test_a_converted_network_has_exactly_the_weights_of_the_file(tmp_path: Path, name: str) -> None:
    report, weights = brought(tmp_path, "humo-17b", FILES[name], dtype="fp32")
    found = load_file(report.destination / "transformer" / "diffusion_pytorch_model.safetensors")
    assert found.keys() == weights.keys()
    assert all(found[name].equal(tensor) for name, tensor in weights.items())
    again = convert(report.destination, tmp_path / "bf16", dtype="bf16")
    assert again.parts[0].dtypes == {"BF16": len(weights)}


def test_what_stays_quantised_takes_the_room_of_the_file_and_can_be_undone_later(tmp_path: Path) -> None:
    report, weights = brought(tmp_path, "humo-1.7b", FILES["Q4_K"], keep_quantised=True)
    part = next(part for part in report.parts if part.part == "transformer")
    matrices = [tensor for name, tensor in weights.items() if is_matrix_of_a_block(name, tensor)]
    assert part.dtypes == {"Q4_K": len(matrices), "F32": len(weights) - len(matrices)}
    others = sum(4 * tensor.numel() for name, tensor in weights.items() if not is_matrix_of_a_block(name, tensor))
    assert part.bytes == others + sum(tensor.numel() * 144 // 256 for tensor in matrices)
    convert(report.destination, tmp_path / "undone", dtype="fp32")
    found = load_file(tmp_path / "undone" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(found[name].equal(tensor) for name, tensor in weights.items())
    config = json.loads((tmp_path / "undone" / "transformer" / "config.json").read_text())
    assert "quantization_config" not in config
    for again in (report.destination, report.destination):
        kept = convert(again, tmp_path / "twice", keep_quantised=True, overwrite=True, shard_bytes=200_000)
        assert kept.parts[0].dtypes == part.dtypes
    assert open_model_folder(tmp_path / "twice").bytes == open_model_folder(report.destination).bytes


@pytest.mark.parametrize("name", ["Q3_K", "rows"])
def test_quantised_blocks_are_streamed_from_the_disk_as_they_are(tmp_path: Path, name: str) -> None:
    report, weights = brought(tmp_path, "humo-17b", FILES[name], keep_quantised=True)
    streamed = load_streaming(report.destination, device="cpu", dtype=torch.float32)
    plain = network("humo-17b")
    plain.load_state_dict(weights)
    assert passed(streamed.transformer).equal(passed(plain))
    assert all(weight.is_meta for weight in streamed.transformer.blocks.parameters())


def test_diffusers_alone_takes_no_bytes_for_weights(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["kijai"], keep_quantised=True)
    with pytest.raises(ValueError, match="humo"):
        HuMoPipeline.from_pretrained(str(report.destination))


def test_weights_that_are_quantised_are_not_quantised_again(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["Q8_0"], keep_quantised=True)
    placements: list[PlacementName] = ["fp8", "int8", "int4"]
    for placement in placements:
        with pytest.raises(RequestError, match=f"'{placement}' is for a network that is not quantised"):
            load_pipeline(report.destination, device="cpu", placement=placement)


def test_quantised_weights_are_not_divided_among_processes(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["Q8_0"], keep_quantised=True)
    with pytest.raises(RequestError, match="--shard: divides weights that are not quantised"):
        Crew(Ranks(0, 2), shard=True).load(report.destination, "float32")


def test_a_lora_goes_on_top_of_quantised_weights(tmp_path: Path) -> None:
    report, weights = brought(tmp_path, "humo-1.7b", FILES["Q5_K"], keep_quantised=True)
    layer = "blocks.1.self_attn.q"
    lora = {
        f"diffusion_model.{layer}.lora_A.weight": torch.randn(2, 256),
        f"diffusion_model.{layer}.lora_B.weight": torch.randn(256, 2),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    kept = load_pipeline(report.destination, device="cpu", dtype="float32")
    before = passed(kept.transformer)
    plain = dequantised("humo-1.7b", weights)
    for pipeline in (kept, plain):
        pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"))
    assert passed(kept.transformer).equal(passed(plain.transformer))
    assert not passed(kept.transformer).equal(before)
    with pytest.raises(RuntimeError):  # rather than bytes that mean something else
        kept.fuse_lora(components=["transformer"])


@pytest.mark.parametrize("architecture", ["wan", "pig"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_gguf_file_is_known_by_its_tensors(tmp_path: Path, architecture: str, prefix: str) -> None:
    weights = published(network("humo-17b"))
    kinds = {name: "BF16" if tensor.ndim == 2 else "F16" for name, tensor in weights.items()}
    file = tmp_path / "humo.gguf"
    stands_for = save_gguf(file, weights, kinds.__getitem__, architecture=architecture, prefix=prefix)
    convert(file, tmp_path / "out")
    found = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, tensor in ours(network("humo-17b"), stands_for).items():
        assert found[name].dtype is (torch.bfloat16 if tensor.ndim == 2 else torch.float16)
        assert found[name].float().equal(tensor)


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
    "no GGUF": (lambda data: bytearray(b"GGML") + data[4:], "is not a whole GGUF file; download it again"),
    "a pointer": (lambda data: bytearray(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    "another version": (lambda data: data[:4] + b"\1\0\0\0" + data[8:], "of GGUF's version 1"),
    "another byte order": (lambda data: data[:4] + data[7:3:-1] + data[8:], "processors of another byte order"),
    "cut in its data": (lambda data: data[:-100], "is cut short: .* bytes, and .* ends at"),
    "cut in its header": (lambda data: data[:1000], "damaged GGUF header, or is cut short in it"),
    "too many values": (lambda data: data[:16] + b"\xff" * 8 + data[24:], "damaged GGUF header"),
    "too many tensors": (lambda data: data[:8] + b"\xff" * 8 + data[16:], "damaged GGUF header"),
    "a type of importance": (
        _type_of_first(21),
        r"'patch_embedding.weight' as IQ3_S \(ggml's number 21\).*take a file",
    ),
    "an unknown type": (_type_of_first(99), "a type that is not known .ggml's number 99."),
    "a type that does not fit": (_type_of_first(8), "which Q8_0 of sizes .* cannot have"),
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
    with pytest.raises(CheckpointError, match="is not a part of HuMo"):
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
        ("plain", lambda one: one.update(scaled_fp8=torch.ones(2)), None, "file of scaled fp8 weights, and lacks"),
        ("comfy", lambda one: one.update({f"{Q}.comfy_quant": ROTATED}), None, "int8_tensorwise with rotated weights"),
        ("comfy", lambda one: one.update({f"{Q}.comfy_quant": ROTATED[:9].clone()}), None, "does not say in a form"),
        ("kijai", lambda one: None, PACKED, f"stores '{Q}' as nvfp4, a quantisation that is not read here"),
        ("comfy", lambda one: one.update({f"{Q}.weight_scale": torch.ones(7)}), None, r"by \(7,\), neither one number"),
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
            convert(file, tmp_path / "out", keep_quantised=keep)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_formats_in_the_metadata_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "humo.safetensors"
    weights = save_scaled_fp8(file, published(network("humo-1.7b")), "comfy", torch.float8_e4m3fn)
    told = json.dumps({"layers": {Q: {"format": "float8_e4m3fn"}}})
    _changed(file, lambda one: one.pop(f"{Q}.comfy_quant"), {"_quantization_metadata": told})
    convert(file, tmp_path / "out", dtype="fp32")
    found = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert found["blocks.0.attn1.to_q.weight"].equal(weights[f"{Q}.weight"])


def test_quantised_weights_are_not_for_the_published_layout(tmp_path: Path) -> None:
    with pytest.raises(HumoError, match="keep_quantised: is for a model folder"):
        convert(tmp_path, tmp_path / "out", naming="published", keep_quantised=True)


def test_a_network_that_is_named_itself_is_taken_before_that_of_a_folder(tmp_path: Path) -> None:
    report, _ = brought(tmp_path, "humo-1.7b", FILES["plain"])
    (transformer,) = (part for part in report.parts if part.part == "transformer")
    assert transformer.source.name == "network.safetensors"
    assert [one.reason for one in report.ignored] == ["another transformer was named itself"]


@pytest.mark.parametrize("name", ["Q6_K", "rows"])
def test_a_quantised_network_takes_what_is_said(tmp_path: Path, name: str) -> None:
    report, _ = brought(tmp_path, "humo-17b", FILES[name], keep_quantised=True)
    model = open_model_folder(report.destination)
    kinds = model.components["transformer"].kinds
    geometry = Geometry(96, 64, 9, references=1)
    needs = needs_of(model.structures, geometry, model.preset.reference_entry, torch.float32, 3, kinds=kinds)
    network = load_quantised(model, torch.float32)
    assert needs.weights["transformer"].whole == sum(weight.nbytes for weight in network.parameters())
    assert needs.weights["transformer"].two_blocks == 2 * sum(one.nbytes for one in network.blocks[0].parameters())
    plain = needs_of(model.structures, geometry, model.preset.reference_entry, torch.float32, 3)
    assert plain.weights["transformer"].whole > 2 * needs.weights["transformer"].whole
    assert needs.working["denoise"] == working_bytes(network, geometry)[0]
    assert "fp8" not in {offer.placement.name for offer in offers(needs, "cuda", 2**40, 2**40)}


def test_a_quantised_network_is_streamed_from_the_hosts_memory(tmp_path: Path) -> None:
    report, weights = brought(tmp_path, "humo-1.7b", FILES["comfy"], keep_quantised=True)
    kept = load_pipeline(report.destination, device="cpu", dtype="float32")
    place(kept, "host", "cpu", torch.float32)
    plain = network("humo-1.7b")
    plain.load_state_dict(weights)
    assert passed(kept.transformer).equal(passed(plain))


def test_what_a_quantised_network_takes_is_planned_before_it_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "--model", "humo-17b", "--width", "64", "--height", "64", "--frames", "5", "--memory", "24GB"]
    assert main([*asked, "--host", "64GB", "--quantised", "Q4_K"]) == 0
    said = capsys.readouterr().out
    assert "transformer    weights 10.55 GB, of which a block 0.24 GB" in said
    assert "fp8 " not in said
    assert main([*asked, "--quantised", "q4"]) == 2
    assert "--quantised: 'q4' is not read" in capsys.readouterr().err


def test_a_folder_with_such_a_file_says_how_to_bring_it_in(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "humo-17B-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="holds released weights that are not converted yet"):
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
    words = [str(tmp_path / "network.gguf"), str(OTHERS["humo-1.7b"])]
    assert main(["models", "import", *words, "--name", "small", "--keep-quantised", "--quiet"]) == 0
    video = tmp_path / "out.mp4"
    small = ["--width", "32", "--height", "32", "--frames", "5", "--steps", "1", "--seed", "1"]
    asked = ["generate", "--model", "small", "--prompt", "a man", *small, "--output", str(video), "--quiet"]
    assert main(asked) == 0
    assert video.stat().st_size > 0
    assert main(["convert", *words, str(tmp_path / "model"), "--keep-quantised", "--quiet"]) == 0
    assert open_model_folder(tmp_path / "model").components["transformer"].quantised
