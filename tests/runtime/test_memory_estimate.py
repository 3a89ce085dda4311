"""Estimates equal what is allocated; the fastest placement that fits is chosen, and left where memory runs out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from humo import HuMoPipeline
from humo.checkpoints.hubs.catalog import RELEASED_ARCHITECTURES
from humo.checkpoints.model_folder import open_model_folder
from humo.cli.main import main
from humo.cli.plan import parse_size
from humo.conditioning.image import decode_video, encode_blank
from humo.distributed.parallel_generation import ParallelGeneration
from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.geometry import Geometry
from humo.inference import predictor
from humo.inference.execution import Execution
from humo.inference.inputs import GenerationInputs
from humo.jobs.engine import Engine, LoadedModel
from humo.jobs.generate import prepare_job
from humo.model.autoencoder import StreamingDecoder
from humo.model.tiling import set_tile
from humo.plan import GenerationPlan, resolve
from humo.presets import ReferenceInjection
from humo.request import CacheName, QuantizeName, parse_request
from humo.runtime.allocation_tracker import track_allocations
from humo.runtime.host_blocks import ALIGNMENT
from humo.runtime.loading import load_pipeline
from humo.runtime.memory_estimate import (
    AutoencoderBytes,
    MemoryEstimate,
    NetworkAdditions,
    WeightBytes,
    estimate_memory,
    weight_bytes,
)
from humo.runtime.offload import apply_placement, fall_back
from humo.runtime.placement import GPU_PLACEMENTS, Choice, Placement, candidate_placements, check_placement
from humo.runtime.placement_choice import (
    PROCESS_BYTES,
    choose_placement,
    estimate_placements,
    fastest_placement,
    read_lora_sizes,
)
from tests.calls import HEIGHT, RED, WIDTH, working_bytes
from tests.inference.test_lora_file import _every_kind
from tests.tiny import save_tiny_model, tiny_pipeline, tiny_vae

GIGA = 10**9
EXACT = {str(one): one for one in GPU_PLACEMENTS if one.is_exact}
NO_TILES = 0
CACHES: tuple[CacheName, ...] = ("none", "first-block", "taylorseer")


def test_what_is_made_is_counted_until_it_goes() -> None:
    existing = torch.empty(1000, device="meta")
    with track_allocations([existing]) as stats:
        first = existing + 1
        view = first.view(10, 100)
        assert stats.live == 4000
        del first
        assert stats.live == 4000, "a view keeps what it shows"
        (view.double() * 2).sum()
        del view
    assert stats.live == 0
    assert stats.peak == 4000 + 8000 + 8000


@pytest.mark.parametrize("preset", ["humo-1.7b", "humo-17b"])
def test_a_pass_takes_what_is_said(tmp_path: Path, preset: str) -> None:
    """The same operations with numbers, counted alike."""
    folder = save_tiny_model(tmp_path / "model", preset)
    model = open_model_folder(folder)
    geometry = Geometry(160, 96, 13, references=1)
    estimate = estimate_memory(model.architectures, geometry, model.preset.reference_injection, torch.float32, 3)
    pipeline = HuMoPipeline.from_pretrained(str(folder))
    activations, kv_cache = working_bytes(pipeline.transformer, geometry)
    assert estimate.kv_cache == 2 * kv_cache
    assert estimate.activations["denoise"] == activations
    weights = sum(weight.nbytes for weight in pipeline.transformer.parameters())
    assert estimate.weights["transformer"].total == weights


@pytest.mark.parametrize("placement", [Placement("none"), Placement("group")], ids=str)
def test_loras_of_every_kind_take_what_is_planned(tmp_path: Path, placement: Placement) -> None:
    folder, file = save_tiny_model(tmp_path / "model", "humo-1.7b"), tmp_path / "lora.safetensors"
    model, geometry = open_model_folder(folder), Geometry(160, 96, 13, references=1)
    pipeline = HuMoPipeline.from_pretrained(str(folder))
    save_file(_every_kind(pipeline.transformer), file)
    additions = NetworkAdditions(loras=read_lora_sizes([file], model.architectures["transformer"]))
    injection = model.preset.reference_injection
    plain, estimate = (
        estimate_memory(model.architectures, geometry, injection, torch.float32, 3, one)
        for one in (NetworkAdditions(), additions)
    )
    pipeline.load_lora_weights(str(file))
    (lora,) = (adapter.file for adapter in pipeline.lora_adapters._adapters.values())
    assert estimate.loras == sum(tensor.nbytes for tensor in lora.tensors()) > 0
    assert estimate.activations["denoise"] == working_bytes(pipeline.transformer, geometry, lora.tensors())[0]
    assert estimate.activations["denoise"] > plain.activations["denoise"]
    with_lora, without = (one.phases(streamed=placement.is_streamed)["denoise"] for one in (estimate, plain))
    added = placement.device_bytes(estimate)["denoise"] - placement.device_bytes(plain)["denoise"]
    assert added == estimate.loras + with_lora - without
    assert placement.host_bytes(estimate) == placement.host_bytes(plain) + estimate.loras


def test_a_cache_keeps_something_for_each_branch() -> None:
    """The first block's: what that block makes, what it adds, and what the others add, all of them float32."""
    geometry, architecture = Geometry(64, 64, 9), RELEASED_ARCHITECTURES["humo-1.7b"]
    arguments = architecture, geometry, ReferenceInjection.FRAME_REPLACE, torch.bfloat16, 3
    plain, first, line = (estimate_memory(*arguments, NetworkAdditions(cache)) for cache in CACHES)
    assert plain.step_cache == 0
    assert first.step_cache == 3 * 3 * geometry.tokens * 1536 * 4
    assert 0 < line.step_cache < first.step_cache / 10
    resident = Placement("none")
    assert resident.device_bytes(first)["denoise"] == resident.device_bytes(plain)["denoise"] + first.step_cache
    assert resident.device_bytes(first)["decode"] == resident.device_bytes(plain)["decode"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_take_what_is_said(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = save_tiny_model(tmp_path / "model", "humo-17b")
    architectures = open_model_folder(folder).architectures
    pipeline = load_pipeline(folder, device="cpu", dtype=str(dtype).removeprefix("torch."))
    for name in ("transformer", "text_encoder"):
        estimated = weight_bytes(architectures[name], dtype)
        weights = dict(getattr(pipeline, name).named_parameters())
        assert estimated.total == sum(weight.nbytes for weight in weights.values())
        assert estimated.blocks == 2
        blocks = {key: one for key, one in weights.items() if key.startswith(("blocks.0.", "encoder.block.0."))}
        assert estimated.block == sum(weight.nbytes for weight in blocks.values())


def test_far_more_frames_follow_from_a_few() -> None:
    few, many, more = (
        estimate_memory(
            RELEASED_ARCHITECTURES["humo-1.7b"],
            Geometry(64, 64, frames),
            ReferenceInjection.FRAME_REPLACE,
            torch.bfloat16,
            3,
        )
        .autoencoder(NO_TILES)
        .decode
        for frames in (33, 65, 97)
    )
    assert more - many == many - few > 0


def some_needs(windows: int = 1) -> MemoryEstimate:
    """A network of 10 GB, a text encoder of 4, an autoencoder of 1; a pass computes with 2 GB.

    The autoencoder computes with 5 GB on whole frames, with 2 or 1 in tiles; a window leaves it another.
    """
    weights = {
        "transformer": WeightBytes(outside_blocks=0, block=1 * GIGA, blocks=10, prefetched=GIGA),
        "text_encoder": WeightBytes(outside_blocks=2 * GIGA, block=GIGA, blocks=2, prefetched=GIGA, embedding=2 * GIGA),
        "audio_encoder": WeightBytes(outside_blocks=0, block=0, blocks=0),
        "vae": WeightBytes(outside_blocks=GIGA, block=0, blocks=0),
    }
    activations = {"text": 0, "audio": 0, "denoise": 2 * GIGA}
    stored = {name: one.total for name, one in weights.items()}
    carried = GIGA if windows > 1 else 0

    def autoencoder(tile: int) -> AutoencoderBytes:
        decode = {0: 5 * GIGA, 512: 2 * GIGA}.get(tile, GIGA)
        return AutoencoderBytes(image=GIGA, decode=decode, preview=GIGA, carried=carried)

    return MemoryEstimate(weights, stored, activations, 2 * GIGA, autoencoder, kv_cache=GIGA)


def in_gigabytes(bytes_of_phase: dict[str, int]) -> dict[str, float]:
    return {phase: size / GIGA for phase, size in bytes_of_phase.items()}


def test_what_each_placement_takes() -> None:
    sizes = {name: in_gigabytes(one.device_bytes(some_needs())) for name, one in EXACT.items()}
    everything = 10 + 4 + 1
    assert sizes == {
        "--offload none": {
            "text": everything,
            "audio": everything,
            "image": everything + 1,
            "denoise": everything + 2 + 1,
            "decode": everything + 5,
        },
        "--offload model": {"text": 1 + 2, "audio": 1, "image": 1 + 1, "denoise": 1 + 10 + 2, "decode": 1 + 5},
        "--offload group": {"text": 1 + 2, "audio": 1, "image": 1 + 1, "denoise": 1 + 2 + 2, "decode": 1 + 5},
        "--offload disk": {"text": 1 + 2, "audio": 1, "image": 1 + 1, "denoise": 1 + 2 + 2, "decode": 1 + 5},
    }
    for resident, blocks in {1: 3, 7: 9, 8: 10, 9: 10, 10: 10, 11: 10}.items():
        placement = Placement("group", resident_blocks=resident)
        assert placement.device_bytes(some_needs())["denoise"] == (1 + blocks + 2) * GIGA
    assert Placement("group", tile=512).device_bytes(some_needs())["decode"] == (1 + 2) * GIGA
    for windows in (1, 2):
        carried = windows - 1
        assert {name: one.host_bytes(some_needs(windows)) / GIGA for name, one in EXACT.items()} == {
            "--offload none": carried,
            "--offload model": 15 + carried,
            "--offload group": 15 + carried,
            "--offload disk": 2 + carried,
        }


def test_between_windows_a_cpu_keeps_what_decoding_continues_from() -> None:
    one, two = (Placement("none").device_bytes(some_needs(windows), shared_memory=True) for windows in (1, 2))
    assert {phase: two[phase] - one[phase] for phase in one if two[phase] != one[phase]} == {
        "denoise": GIGA,
        "decode": GIGA,
    }


def test_an_autoencoder_on_a_cpu_takes_nothing_before_it_is_used() -> None:
    """Its file is mapped; the blocks of two parts are at work before it is, the network's after."""
    disk = Placement("disk")
    on_a_gpu, on_a_cpu = disk.device_bytes(some_needs()), disk.device_bytes(some_needs(), shared_memory=True)
    difference = {phase: (on_a_gpu[phase] - on_a_cpu[phase]) // GIGA for phase in on_a_gpu}
    assert difference == {"text": 1, "audio": 1, "image": 0, "denoise": 0, "decode": 0}


@pytest.mark.parametrize(
    ("kind", "device", "host", "chosen"),
    [
        ("cuda", 24, 64, "--offload none"),
        ("cuda", 19, 64, "--offload none --tile 512"),
        ("cuda", 16, 64, "--offload model"),
        ("cuda", 12, 64, "--offload group --resident-blocks 6"),
        ("cuda", 12, 12, "--offload disk --resident-blocks 6"),
        ("cuda", 7, 64, "--offload group --resident-blocks 1"),
        ("cuda", 6, 64, "--offload group --tile 512"),
        ("cpu", 0, 24, "--offload none"),
        ("cpu", 0, 12, "--offload disk --resident-blocks 6"),
        ("cpu", 0, 8, "--offload disk --resident-blocks 2"),
        ("cpu", 0, 6, "--offload disk --tile 512"),
    ],
)
def test_the_fastest_that_fits_is_chosen(kind: str, device: int, host: int, chosen: str) -> None:
    sizes = (kind, device * GIGA, host * GIGA)
    assert str(fastest_placement(estimate_placements(some_needs(), *sizes), *sizes).placement) == chosen


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (Choice(offload="group"), "--offload group --resident-blocks 10"),
        (Choice(offload="group", quantize="none", resident_blocks=3), "--offload group --resident-blocks 3"),
        (Choice(offload="group", resident_blocks=99), "--offload group --resident-blocks 10"),
        (Choice(offload="group", resident_blocks=0, tile=256), "--offload group --tile 256"),
        (Choice(offload="none", tile=384), "--offload none --tile 384"),
        (Choice(tile=0), "--offload none"),
    ],
)
def test_what_a_request_fixes_is_kept(choice: Choice, chosen: str) -> None:
    assert str(estimate_placements(some_needs(), "cuda", 24 * GIGA, 64 * GIGA, choice=choice)[0].placement) == chosen


def test_on_a_cpu_there_is_one_memory() -> None:
    estimates = estimate_placements(some_needs(), "cpu", 0, 24 * GIGA)
    assert [(str(one.placement), one.device) for one in estimates] == [
        ("--offload none", 0),
        ("--offload disk --resident-blocks 10", 0),
    ]
    assert estimates[0].host == 20 * GIGA + PROCESS_BYTES


def test_where_nothing_fits_it_is_said_what_would() -> None:
    sizes = ("cuda", 2 * GIGA, 64 * GIGA)
    with pytest.raises(RequestError) as caught:
        fastest_placement(estimate_placements(some_needs(), *sizes), *sizes)
    assert str(caught.value) == (
        "memory: 2.0 GB on the GPU and 64.0 GB on the host is too little because even --offload disk --tile 384 needs "
        "5.6 GB on the GPU and 2.6 GB on the host; "
        "make a smaller or shorter video, or a long one in shorter windows (--window)"
    )


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_plan_of_a_released_model_needs_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--model", "humo-17b", "--frames", "25", "--memory", "16GB", "--host", "64GiB", "--json"]
    assert main([*arguments, "--width", "320", "--height", "192"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    parts = {one["part"]: one["weights"] for one in events if one["event"] == "part" and "part" in one}
    assert parts["transformer"] == pytest.approx(34.66e9, rel=1e-3)
    assert parts["text_encoder"] == pytest.approx(11.36e9, rel=1e-3)
    fits = {(one["offload"], one["quantize"]): one["fits"] for one in events if one["event"] == "placement"}
    too_large = [("none", "none"), ("model", "none")]
    fitting = [("group", "none"), ("group", "fp8"), ("group", "int8"), ("group", "int4"), ("disk", "none")]
    assert fits == dict.fromkeys(too_large, False) | dict.fromkeys(fitting, True)
    assert (events[-1]["offload"], events[-1]["quantize"]) == ("group", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "humo-18b"], "--model: 'humo-18b' is neither a model folder nor a known name; did you mean"),
        (["--memory", "much"], "--memory: 'much' is not a size; give a number and a unit, as 24GB or 24GiB"),
        (["--memory", "7"], "--memory: '7' has no unit; did you mean 7GB?"),
        (["--lora", "nowhere.safetensors"], "loras: there is no file 'nowhere.safetensors'; check the path"),
        (["--lora", "x:much"], "loras: 'x:much'"),
        (["--host", "0GB"], "--host: '0GB' is not a size"),
        (["--device", "tpu"], "--device: 'tpu' is not allowed; give cuda or cpu"),
        (["--device", "cpu", "--memory", "4GB", "--host", "4GB"], "--memory: is the same as --host on a CPU"),
        (["--dtype", "float16"], "--dtype: 'float16' is not allowed"),
        (["--width", "3"], "width: '3' is not allowed"),
        (["more"], "more: is not an option of humo plan"),
        (
            ["--device", "cpu", "--memory", "1GB", "--width", "64", "--height", "64", "--frames", "5"],
            "memory: 1.0 GB is too little because even --offload disk needs 4.8 GB",
        ),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["plan", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_sizes_are_read_in_both_kinds_of_units() -> None:
    assert [parse_size("x", word) for word in ("24GB", "24 GiB", "1.5tb", "512M", "7kB")] == [
        24 * GIGA,
        24 * 2**30,
        1_500 * GIGA,
        512 * 10**6,
        7_000,
    ]
    with pytest.raises(RequestError, match="has no unit; did you mean 24GB"):
        parse_size("x", "24")


# -- at work --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model", "humo-1.7b")


def plan_of(folder: Path, output: Path, **fields: Any) -> GenerationPlan:
    values = {"model": str(folder), "prompt": "a", "width": WIDTH, "height": HEIGHT, "frames": 5, "steps": 2, "seed": 1}
    return prepare_job(parse_request(values | {"output": str(output)} | fields)).plan


def test_a_model_goes_where_it_fits(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(folder, tmp_path / "a.mp4", device="cpu")
    assert Engine().resolve_runtime(plan).request.offload == "none"
    estimate = estimate_memory(
        open_model_folder(folder).architectures, plan.geometry, ReferenceInjection.FRAME_REPLACE, torch.float32, 2
    )
    least = PROCESS_BYTES + max(Placement("disk").device_bytes(estimate, shared_memory=True).values())
    monkeypatch.setattr("humo.runtime.placement_choice.AMPLE_FACTOR", 10**9)
    for room, offload in ((10 * least, "none"), (least, "disk")):
        monkeypatch.setattr("humo.runtime.device.available_memory", lambda device, room=room: (0, room))
        assert Engine().resolve_runtime(plan).request.offload == offload
    monkeypatch.setattr("humo.runtime.device.available_memory", lambda device: (0, 10_000))
    with pytest.raises(RequestError, match=r"memory: 0\.0 GB is too little"):
        Engine().resolve_runtime(plan)


def test_a_model_that_is_small_beside_the_host_may_be_large_for_the_gpu(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path / "a.mp4")
    model = open_model_folder(folder)
    room = 700 * 2**20  # CUDA itself takes most of it
    assert choose_placement(plan, model, "cuda", "float32", (room, 2**40)) == Placement("none")
    with pytest.raises(RequestError, match=r"memory: .* is too little because"):
        choose_placement(plan, model, "cuda", "float32", (model.bytes, 2**40))


def test_several_processes_place_weights_their_own_way(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path / "a.mp4", device="cpu", offload="disk")
    with pytest.raises(RequestError, match="offload: 'disk' works in a single process only"):
        Engine(ParallelGeneration(ProcessGroup(0, 2))).resolve_runtime(plan)


def test_the_disk_has_the_small_parts_in_float32() -> None:
    """As they are published; the large ones are there in two bytes whatever they compute in."""
    architectures = RELEASED_ARCHITECTURES["humo-1.7b"]
    estimate = estimate_memory(architectures, Geometry(64, 64, 5), ReferenceInjection.FRAME_REPLACE, torch.float32, 3)
    assert estimate.stored["vae"] == estimate.weights["vae"].total
    assert estimate.stored["audio_encoder"] == estimate.weights["audio_encoder"].total
    assert estimate.stored["text_encoder"] * 2 == estimate.weights["text_encoder"].total


@pytest.mark.parametrize("value", ["model", "group"])
def test_what_needs_a_gpu_is_refused_without_one(folder: Path, tmp_path: Path, value: str) -> None:
    plan = plan_of(folder, tmp_path / "a.mp4", device="cpu", offload=value)
    with pytest.raises(RequestError, match=f"offload: '{value}' needs a GPU, and the device is cpu; use --offload "):
        Engine().resolve_runtime(plan)


@pytest.mark.parametrize("quantize", ["fp8", "int8", "int4"])
def test_what_cannot_be_combined_is_refused(quantize: QuantizeName) -> None:
    with pytest.raises(RequestError, match=f"quantize: '{quantize}' cannot be combined with offload 'disk'"):
        check_placement("disk", quantize, "cuda")
    check_placement("group", quantize, "cuda")


def test_tiles_smaller_than_the_field_are_refused_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path / "a.mp4", device="cpu", tile=32)
    with pytest.raises(RequestError, match="tile: 32 pixels leave nothing of a tile beside the autoencoder's field"):
        Engine().resolve_runtime(plan)


def test_the_choice_keeps_what_the_request_fixes() -> None:
    assert candidate_placements("cuda") == list(GPU_PLACEMENTS)
    assert candidate_placements("cuda", Choice(quantize="none")) == [
        Placement(one) for one in ("none", "model", "group", "disk")
    ]
    assert candidate_placements("cuda", Choice(offload="group")) == [
        Placement("group", one) for one in ("none", "fp8", "int8", "int4")
    ]
    assert candidate_placements("cpu", Choice(quantize="int8")) == [Placement("none", "int8")]
    assert candidate_placements("cuda", Choice("none", "int8")) == [Placement("none", "int8")]


def sample(pipeline: HuMoPipeline, execution: Execution | None = None) -> Tensor:
    fields = {
        "prompt": "a man",
        "images": ["red"],
        "width": WIDTH,
        "height": HEIGHT,
        "frames": 9,
        "steps": 3,
        "seed": 3,
    }
    plan = resolve(parse_request(fields), pipeline.preset)
    return pipeline.generate_latents(GenerationInputs(plan, [RED]), execution=execution)


def test_blocks_streamed_from_the_hosts_memory_make_the_same() -> None:
    pipeline = tiny_pipeline("humo-17b")
    expected = sample(pipeline)
    apply_placement(pipeline, Placement("group"), "cpu")
    assert torch.allclose(sample(pipeline), expected, atol=1e-6)


class OutOfMemory:
    """Makes a module run out of memory in one of its calls."""

    def __init__(self, module: torch.nn.Module, failing_call: int) -> None:
        self.calls, self._failing_call = 0, failing_call
        self._hook = module.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1
        if self.calls == self._failing_call:
            self._hook.remove()
            raise torch.OutOfMemoryError("too much")


@dataclass
class Cramped:
    """An engine with a loaded pipeline, and what it says when memory runs out."""

    pipeline: HuMoPipeline
    engine: Engine
    notes: list[str]

    @property
    def placement(self) -> Placement:
        assert self.engine._loaded is not None
        return self.engine._loaded.placement

    @property
    def execution(self) -> Execution:
        plan = resolve(parse_request({"prompt": "a"}), self.pipeline.preset)
        return self.engine.execution(self.pipeline, plan)


@pytest.fixture
def cramped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cramped:
    monkeypatch.setattr(predictor, "MAX_BATCHED_TOKENS", 0)  # one pass after another, of which one is too much
    pipeline = tiny_pipeline("humo-1.7b")
    notes: list[str] = []
    engine = Engine(note=notes.append)
    engine._loaded = LoadedModel((folder, "cpu", "float32"), Placement("none"), pipeline)
    return Cramped(pipeline, engine, notes)


def test_a_clip_continues_where_memory_ran_out(cramped: Cramped) -> None:
    expected = sample(cramped.pipeline)
    passes: list[int] = []
    cramped.pipeline.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    steps = ["--offload none", "--offload model", "--offload group --resident-blocks 1", "--offload group"]
    for before, after in pairwise(steps):
        passes.clear()
        OutOfMemory(cramped.pipeline.transformer, failing_call=4)
        assert torch.allclose(sample(cramped.pipeline, cramped.execution), expected, atol=1e-6)
        assert cramped.notes[-1] == f"GPU memory ran out with {before}; continuing with {after}"
        assert str(cramped.placement) == after
        assert len(passes) == 3 * 3 + 1
    OutOfMemory(cramped.pipeline.transformer, failing_call=1)
    with pytest.raises(RequestError, match="memory: is too small on the GPU for --offload group; make a smaller"):
        sample(cramped.pipeline, cramped.execution)


def test_memory_that_runs_out_within_a_block_leaves_nothing_on_the_device(cramped: Cramped) -> None:
    expected = sample(cramped.pipeline)
    apply_placement(cramped.pipeline, Placement("group", resident_blocks=1), "cpu")
    assert cramped.engine._loaded is not None
    cramped.engine._loaded.placement = Placement("group", resident_blocks=1)
    OutOfMemory(cramped.pipeline.transformer.blocks[1].attn1.to_q, failing_call=2)
    assert torch.allclose(sample(cramped.pipeline, cramped.execution), expected, atol=1e-6)
    assert cramped.placement == Placement("group")


def test_a_video_that_does_not_fit_is_decoded_in_tiles(cramped: Cramped) -> None:
    pipeline = cramped.pipeline

    def frames(execution: Execution | None = None) -> Tensor:
        fields = {"prompt": "a man", "width": 640, "height": 64, "frames": 5, "steps": 1, "seed": 3}
        inputs = GenerationInputs(resolve(parse_request(fields), pipeline.preset))
        return torch.from_numpy(np.stack(list(pipeline.generate_frames(inputs, execution=execution)))).int()

    expected = frames()
    for tile in ("512", "384"):
        OutOfMemory(pipeline.vae.decoder.conv_out, failing_call=1)
        assert (frames(cramped.execution) - expected).abs().max() <= 1
        assert cramped.notes[-1].endswith(f"continuing with --offload none --tile {tile}")
    assert cramped.engine._use_smaller_tiles()
    OutOfMemory(pipeline.vae.decoder.conv_out, failing_call=1)
    with pytest.raises(RequestError, match="memory: is too small on the GPU to decode with --offload none --tile 256"):
        frames(cramped.execution)


def test_there_is_an_end_to_stepping_down() -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    assert fall_back(pipeline, Placement("disk"), "cpu") is None
    OutOfMemory(pipeline.transformer, failing_call=1)  # without an engine nobody makes room
    with pytest.raises(torch.OutOfMemoryError):
        sample(pipeline)


# -- the plan is what is taken --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["humo-1.7b", "humo-17b"])
@pytest.mark.parametrize("tile", [0, 144])
def test_the_autoencoder_takes_what_is_said(tmp_path: Path, family: str, tile: int) -> None:
    model = open_model_folder(save_tiny_model(tmp_path / "model", family))
    geometry = Geometry(192, 176, 9, references=1)
    injection = model.preset.reference_injection
    estimate = estimate_memory(model.architectures, geometry, injection, torch.float32, 3, windows=2)
    expected, vae = estimate.autoencoder(tile), tiny_vae().requires_grad_(False)
    set_tile(vae, tile)
    size = (geometry.latent_height, geometry.latent_width)
    with track_allocations(vae.parameters()) as image:
        encode_blank(geometry.latent_frames if family == "humo-17b" else 1, *size, vae, torch.device("cpu"))
    latents = torch.randn(1, 16, geometry.video_latent_frames, *size)
    with track_allocations(vae.parameters(), (latents,)) as decode:
        decode_video(latents, vae)
    with track_allocations(vae.parameters(), (latents,)) as carried:
        decoder = StreamingDecoder(vae)
        decoder(latents)
        assert (image.peak, decode.peak, carried.live) == (expected.image, expected.decode, expected.carried)


@pytest.mark.parametrize("resident", [0, 1, 2])
def test_a_streamed_pass_takes_what_is_said(tmp_path: Path, resident: int) -> None:
    """On a CPU, which stands for the device: its copies of blocks are counted, those on the host are not."""
    folder = save_tiny_model(tmp_path / "model", "humo-17b")
    model = open_model_folder(folder)
    geometry = Geometry(160, 96, 13, references=1)
    estimate = estimate_memory(model.architectures, geometry, model.preset.reference_injection, torch.float32, 3)
    placement = Placement("group", resident_blocks=resident)
    pipeline = load_pipeline(folder, device="cpu", dtype="float32")
    apply_placement(pipeline, placement, "cpu")
    weights = estimate.weights["transformer"]
    expected = placement.blocks_on_device("transformer", weights) + estimate.streamed_pass
    assert sum(one.nbytes for one in pipeline.transformer.parameters() if not one.is_meta) == weights.outside_blocks
    assert abs(streamed_bytes(pipeline.transformer, geometry) - expected) <= 2 * ALIGNED_TENSORS * ALIGNMENT


ALIGNED_TENSORS = 40
"""More than the tensors of a block, each of which starts at a multiple of bytes."""


@torch.no_grad()
def streamed_bytes(network: Any, geometry: Geometry) -> int:
    """The peak of two passes."""
    config, rows, columns = network.config, geometry.latent_height, geometry.latent_width
    inputs = (
        torch.randn(1, config.in_channels, geometry.latent_frames, rows, columns),
        torch.tensor([500.0]),
        torch.randn(1, config.text_length, config.text_dim),
        torch.randn(1, geometry.latent_frames, config.audio_window, config.audio_bands, config.audio_width),
    )
    outside = [one for one in network.parameters() if not one.is_meta]
    with track_allocations(outside, inputs) as stats:
        for _ in range(2):
            network(*inputs, return_dict=False)
    return stats.peak
