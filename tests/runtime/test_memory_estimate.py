"""Estimates equal what is allocated; the fastest placement that fits is chosen, and left where memory runs out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from humo import HuMoPipeline
from humo.checkpoints.hubs.catalog import RELEASED_ARCHITECTURES
from humo.checkpoints.model_folder import open_model_folder
from humo.cli.main import main
from humo.cli.plan import parse_size
from humo.distributed.parallel_generation import ParallelGeneration
from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.geometry import Geometry
from humo.inference import predictor
from humo.inference.execution import Execution
from humo.inference.inputs import GenerationInputs
from humo.jobs.engine import Engine
from humo.jobs.generate import prepare_job
from humo.plan import GenerationPlan, resolve
from humo.presets import ReferenceInjection
from humo.request import OffloadName, QuantizeName, parse_request
from humo.runtime.allocation_tracker import track_allocations
from humo.runtime.loading import load_pipeline
from humo.runtime.memory_estimate import MemoryEstimate, WeightBytes, estimate_memory, weight_bytes
from humo.runtime.offload import apply_placement, fall_back
from humo.runtime.placement import (
    GPU_PLACEMENTS,
    PROCESS_BYTES,
    Placement,
    candidate_placements,
    check_placement,
    choose_placement,
    estimate_placements,
    fastest_placement,
)
from tests.calls import HEIGHT, RED, WIDTH, working_bytes
from tests.tiny import save_tiny_model, tiny_pipeline

GIGA = 10**9
EXACT_OR_FP8 = {str(one): one for one in GPU_PLACEMENTS if one.quant_type is None}


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


def test_a_cache_keeps_something_for_each_branch() -> None:
    """The first block's: what that block makes, what it adds, and what the others add, all of them float32."""
    geometry, architecture = Geometry(64, 64, 9), RELEASED_ARCHITECTURES["humo-1.7b"]
    arguments = architecture, geometry, ReferenceInjection.FRAME_REPLACE, torch.bfloat16, 3
    plain, first, line = (estimate_memory(*arguments, name) for name in ("none", "first-block", "taylorseer"))
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
        ).activations["decode"]
        for frames in (33, 65, 97)
    )
    assert more - many == many - few > 0


def some_needs() -> MemoryEstimate:
    """A network of 10 GB, a text encoder of 4, an autoencoder of 1; a pass computes with 2 GB."""
    weights = {
        "transformer": WeightBytes(outside_blocks=0, block=1 * GIGA, blocks=10, prefetched=GIGA),
        "text_encoder": WeightBytes(outside_blocks=2 * GIGA, block=GIGA, blocks=2, prefetched=GIGA, embedding=2 * GIGA),
        "audio_encoder": WeightBytes(outside_blocks=0, block=0, blocks=0),
        "vae": WeightBytes(outside_blocks=GIGA, block=0, blocks=0),
    }
    activations = {"text": 0, "audio": 0, "image": GIGA, "denoise": 2 * GIGA, "decode": GIGA}
    return MemoryEstimate(weights, {name: one.total for name, one in weights.items()}, activations, kv_cache=GIGA)


def test_what_each_placement_takes() -> None:
    sizes = {name: max(one.device_bytes(some_needs()).values()) / GIGA for name, one in EXACT_OR_FP8.items()}
    assert sizes == {
        "--offload none": 10 + 4 + 1 + 2 + 1,
        "--offload model": 10 + 2 + 1,
        "--offload group": 1 + 2 + 2,
        "--offload model --quantize fp8": 5 + 2 + 1,
        "--offload disk": 1 + 2 + 2,
    }
    assert {name: one.host_bytes(some_needs()) / GIGA for name, one in EXACT_OR_FP8.items()} == {
        "--offload none": 0,
        "--offload model": 15,
        "--offload group": 15,
        "--offload model --quantize fp8": 10,
        "--offload disk": 2,
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
        ("cuda", 16, 64, "--offload model"),
        ("cuda", 12, 64, "--offload group"),
        ("cuda", 12, 12, "--offload model --quantize fp8"),
        ("cuda", 6, 4, "--offload disk"),
        ("cpu", 0, 24, "--offload none"),
        ("cpu", 0, 8, "--offload disk"),
    ],
)
def test_the_fastest_that_fits_is_chosen(kind: str, device: int, host: int, chosen: str) -> None:
    assert fastest_placement(some_needs(), kind, device * GIGA, host * GIGA).placement == EXACT_OR_FP8[chosen]


def test_on_a_cpu_there_is_one_memory() -> None:
    estimates = estimate_placements(some_needs(), "cpu", 0, 24 * GIGA)
    assert [(one.placement, one.device) for one in estimates] == [(Placement("none"), 0), (Placement("disk"), 0)]
    assert estimates[0].host == 18 * GIGA + PROCESS_BYTES


def test_where_nothing_fits_it_is_said_what_would() -> None:
    with pytest.raises(RequestError) as caught:
        fastest_placement(some_needs(), "cuda", 2 * GIGA, 64 * GIGA)
    assert str(caught.value) == (
        "memory: 2.0 GB on the GPU and 64.0 GB on the host is too little because even --offload disk needs "
        "5.6 GB on the GPU and 2.6 GB on the host; "
        "make a smaller or shorter video, or a long one in shorter windows (--window)"
    )


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_plan_of_a_released_model_needs_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--model", "humo-17b", "--frames", "25", "--memory", "16GB", "--host", "64GiB", "--json"]
    assert main([*arguments, "--width", "320", "--height", "192"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    parts = {one["part"]: one["weights"] for one in events if one["event"] == "part" and "part" in one}
    assert parts["transformer"] == pytest.approx(34.66e9, rel=1e-3)
    assert parts["text_encoder"] == pytest.approx(11.36e9, rel=1e-3)
    fits = {(one["offload"], one["quantize"]): one["fits"] for one in events if one["event"] == "placement"}
    too_large = [("none", "none"), ("model", "none"), ("model", "fp8"), ("model", "int8")]
    fitting = [("group", "none"), ("model", "int4"), ("disk", "none")]
    assert fits == dict.fromkeys(too_large, False) | dict.fromkeys(fitting, True)
    assert (events[-1]["offload"], events[-1]["quantize"]) == ("group", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "humo-18b"], "--model: 'humo-18b' is neither a model folder nor a known name; did you mean"),
        (["--memory", "much"], "--memory: 'much' is not a size; give a number and a unit, as 24GB or 24GiB"),
        (["--host", "0GB"], "--host: '0GB' is not a size"),
        (["--device", "tpu"], "--device: 'tpu' is not allowed; give cuda or cpu"),
        (["--device", "cpu", "--memory", "4GB", "--host", "4GB"], "--memory: is the same as --host on a CPU"),
        (["--dtype", "float16"], "--dtype: 'float16' is not allowed"),
        (["--width", "3"], "width: '3' is not allowed"),
        (["more"], "more: is not an option of humo plan"),
        (
            ["--device", "cpu", "--memory", "1GB", "--width", "64", "--height", "64", "--frames", "5"],
            "memory: 1.0 GB is too little because even --offload disk needs 4.7 GB",
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
    assert [parse_size("x", word) for word in ("24GB", "24 GiB", "1.5tb", "512M", "7")] == [
        24 * GIGA,
        24 * 2**30,
        1_500 * GIGA,
        512 * 10**6,
        7,
    ]


# -- at work ----------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr("humo.runtime.placement.AMPLE_FACTOR", 10**9)
    for room, offload in ((10 * least, "none"), (least, "disk")):
        monkeypatch.setattr("humo.runtime.placement.available_memory", lambda device, room=room: (0, room))
        assert Engine().resolve_runtime(plan).request.offload == offload
    monkeypatch.setattr("humo.runtime.placement.available_memory", lambda device: (0, 10_000))
    with pytest.raises(RequestError, match=r"memory: 0\.0 GB is too little"):
        Engine().resolve_runtime(plan)


def test_a_model_that_is_small_beside_the_host_may_be_large_for_the_gpu(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(folder, tmp_path / "a.mp4")
    model = open_model_folder(folder)
    room = 700 * 2**20  # CUDA itself takes most of it
    monkeypatch.setattr("humo.runtime.placement.available_memory", lambda device: (room, 2**40))
    assert choose_placement(plan, model, "cuda", "float32") == Placement("none")
    monkeypatch.setattr("humo.runtime.placement.available_memory", lambda device: (model.bytes, 2**40))
    with pytest.raises(RequestError, match=r"memory: .* is too little because"):
        choose_placement(plan, model, "cuda", "float32")


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


@pytest.mark.parametrize(("field", "value"), [("offload", "model"), ("offload", "group"), ("quantize", "fp8")])
def test_what_needs_a_gpu_is_refused_without_one(folder: Path, tmp_path: Path, field: str, value: str) -> None:
    plan = plan_of(folder, tmp_path / "a.mp4", device="cpu", **{field: value})
    with pytest.raises(RequestError, match=f"{field}: '{value}' needs a GPU, and the device is cpu; use --{field} "):
        Engine().resolve_runtime(plan)


@pytest.mark.parametrize(
    ("offload", "quantize"), [("disk", "fp8"), ("disk", "int8"), ("disk", "int4"), ("group", "fp8")]
)
def test_what_cannot_be_combined_is_refused(offload: OffloadName, quantize: QuantizeName) -> None:
    with pytest.raises(RequestError, match=f"quantize: '{quantize}' cannot be combined with offload '{offload}'"):
        check_placement(offload, quantize, "cuda")


def test_the_choice_keeps_what_the_request_fixes() -> None:
    assert candidate_placements("cuda") == list(GPU_PLACEMENTS)
    assert candidate_placements("cuda", quantize="none") == [
        Placement(one) for one in ("none", "model", "group", "disk")
    ]
    assert candidate_placements("cuda", offload="model") == [
        Placement("model", one) for one in ("none", "fp8", "int8", "int4")
    ]
    assert candidate_placements("cpu", quantize="int8") == [Placement("none", "int8")]
    assert candidate_placements("cuda", "none", "int8") == [Placement("none", "int8")]


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
    apply_placement(pipeline, Placement("group"), "cpu", torch.float32)
    assert torch.allclose(sample(pipeline), expected, atol=1e-6)


class OutOfMemoryInPass:
    """Makes the network run out of memory in one of its passes."""

    def __init__(self, pipeline: HuMoPipeline, failing_pass: int) -> None:
        self.passes, self._failing_pass = 0, failing_pass
        self._hook = pipeline.transformer.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += 1
        if self.passes == self._failing_pass:
            self._hook.remove()
            raise torch.OutOfMemoryError("too much")


def test_a_clip_continues_where_memory_ran_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "MAX_BATCHED_TOKENS", 0)  # one pass after another, of which one is too much
    pipeline = tiny_pipeline("humo-1.7b")
    expected = sample(pipeline)
    notes: list[str] = []
    engine = Engine(note=notes.append)
    engine._pipeline, engine._key = pipeline, (folder, "cpu", "float32", Placement("none"))
    steps = {"none": "group"}  # what lies between needs a GPU
    monkeypatch.setattr("humo.runtime.offload.FALLBACKS", steps)
    execution = Execution(on_out_of_memory=engine._free_memory)
    passes: list[int] = []
    pipeline.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    OutOfMemoryInPass(pipeline, failing_pass=4)
    assert torch.allclose(sample(pipeline, execution), expected, atol=1e-6)
    assert notes == ["GPU memory ran out with --offload none; continuing with --offload group"]
    assert engine._key[3] == Placement("group")
    assert len(passes) == 3 * 3 + 1
    OutOfMemoryInPass(pipeline, failing_pass=1)
    with pytest.raises(RequestError, match="memory: is too small on the GPU for --offload group; make a smaller"):
        sample(pipeline, execution)


def test_there_is_an_end_to_stepping_down() -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    assert fall_back(pipeline, Placement("disk"), "cpu") is None
    with pytest.raises(torch.OutOfMemoryError):
        cramped_alone(pipeline)


def cramped_alone(pipeline: HuMoPipeline) -> Tensor:
    """Without an engine nobody makes room."""
    OutOfMemoryInPass(pipeline, failing_pass=1)
    return sample(pipeline)
