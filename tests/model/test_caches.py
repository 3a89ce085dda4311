"""Step caches of diffusers: blocks that run, results, separate states of branches, refused combinations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor

from humo import HuMoPipeline
from humo.conditioning.conditions import Conditions
from humo.distributed.parallel_generation import ParallelGeneration
from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.inference.denoise import Denoised, denoise
from humo.inference.execution import Execution, GuidanceParallel
from humo.inference.predictor import PassInputs, VelocityPredictor
from humo.jobs.engine import Engine
from humo.model import caches
from humo.model.caches import CACHES, check_cache
from humo.model.context_parallel import ContextParallel
from humo.model.upstream import apply_group_offloading
from humo.plan import resolve
from humo.request import CacheName, parse_request
from humo.runtime.offload import apply_placement
from humo.runtime.placement import Placement
from tests.calls import FAMILIES, RED, call, distance, seeded
from tests.tiny import LATENT_CHANNELS, tiny_pipeline, tiny_transformer

NAMES: list[CacheName] = sorted(CACHES)
BLOCKS, STEPS = 4, 12


@pytest.fixture(scope="module", params=FAMILIES)
def deep(request: pytest.FixtureRequest) -> HuMoPipeline:
    """Return a pipeline of each family with four blocks, which tests do not change."""
    pipeline = tiny_pipeline(request.param)
    pipeline.transformer = tiny_transformer(request.param, num_layers=BLOCKS)
    return pipeline


@contextmanager
def counting(pipeline: HuMoPipeline) -> Iterator[Counter[int]]:
    """Count the runs of each block by its self-attention; a cache replaces the forward of the block itself."""
    runs: Counter[int] = Counter()
    hooks = [
        block.attn1.register_forward_pre_hook(lambda *_, number=number: runs.update([number]))
        for number, block in enumerate(pipeline.transformer.blocks)
    ]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def run(pipeline: HuMoPipeline, cache: CacheName, **changes: Any) -> tuple[Tensor, list[int]]:
    """Return latents and the number of runs of each block."""
    with counting(pipeline) as runs:  # pass by pass, with a cache or without
        latents = call(pipeline, cache=cache, num_inference_steps=STEPS, batch_passes=False, **changes)
    return latents, [runs[number] for number in range(BLOCKS)]


def test_every_cache_of_a_request_exists() -> None:
    assert set(get_args(CacheName)) == {"none", *CACHES}


@pytest.mark.parametrize("cache", NAMES)
def test_fewer_blocks_run_and_the_clip_changes_little(deep: HuMoPipeline, cache: CacheName) -> None:
    exact, all_runs = run(deep, "none")
    assert len(set(all_runs)) == 1
    cached, runs = run(deep, cache)
    first, *others = runs
    assert first == all_runs[0] if cache == "first-block" else first < 0.75 * all_runs[0]
    assert all(0 < one < 0.75 * all_runs[0] for one in others)
    assert 0 < distance(cached, exact) < 0.1


@pytest.mark.parametrize("cache", NAMES)
def test_a_cache_leaves_no_state_for_the_next_clip(deep: HuMoPipeline, cache: CacheName) -> None:
    before, runs = run(deep, "none")
    first, fewer = run(deep, cache)
    repeated, same = run(deep, cache)
    after, all_runs = run(deep, "none")
    assert torch.equal(before, after)
    assert runs == all_runs
    assert torch.equal(first, repeated), "a generation begins with an empty cache"
    assert fewer == same
    assert not deep.transformer.is_cache_enabled
    predictor = VelocityPredictor(deep.transformer, conditions_of(deep), deep.preset.reference_injection)
    assert predictor.prepare("TIA").cross_attention_kv is not None, "text and audio are computed once as before"


def conditions_of(pipeline: HuMoPipeline) -> Conditions:
    """Return the conditions of a short clip."""
    fields = {"prompt": "p", "images": ["red"], "frames": 5, "width": 32, "height": 32}
    plan = resolve(parse_request(fields), pipeline.preset)
    from humo.inference.inputs import GenerationInputs

    return pipeline.prepare_conditions(GenerationInputs(plan, [RED]))


@pytest.mark.parametrize("speed", ["exact", "balanced", "fast"])
@pytest.mark.parametrize("cache", NAMES)
def test_each_branch_has_its_own_cache_state(
    deep: HuMoPipeline, cache: CacheName, speed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passes of a branch do not depend on other branches, nor on steps that skip the branch."""
    passes: list[tuple[str, Tensor, Tensor, PassInputs, Tensor]] = []
    run_pass = VelocityPredictor._run_pass

    def record(predictor: VelocityPredictor, latents: Tensor, timestep: Tensor, inputs: PassInputs) -> Tensor:
        velocity = run_pass(predictor, latents, timestep, inputs)
        passes.append((inputs.branch, latents, timestep, inputs, velocity))
        return velocity

    monkeypatch.setattr(VelocityPredictor, "_run_pass", record)
    run(deep, cache, speed=speed)
    monkeypatch.setattr(VelocityPredictor, "_run_pass", run_pass)
    predictor = VelocityPredictor(deep.transformer, conditions_of(deep), deep.preset.reference_injection)
    branches = {branch for branch, *_ in passes}
    assert len(branches) >= 3
    assert branches == ({"", "I", "TI", "TIA"} if deep.preset.name == "humo-17b" else branches)
    with torch.no_grad():
        for branch in branches:
            with caches.caching(deep.transformer, cache):
                for _, latents, timestep, inputs, velocity in [one for one in passes if one[0] == branch]:
                    assert torch.equal(predictor._run_pass(latents, timestep, inputs), velocity)
        with caches.caching(deep.transformer, cache):
            shared = [
                torch.equal(predictor._run_pass(latents, timestep, inputs._replace(branch="one")), velocity)
                for _, latents, timestep, inputs, velocity in passes
            ]
    assert not all(shared), "which shows that it matters"


@pytest.mark.parametrize("cache", NAMES)
def test_each_window_of_a_long_clip_starts_with_an_empty_cache(
    cache: CacheName, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tiny_pipeline("humo-1.7b")
    pipeline.transformer = tiny_transformer("humo-1.7b", num_layers=BLOCKS)
    windows: list[list[int]] = []

    def counted_denoise(*args: Any, **kwargs: Any) -> Denoised:
        with counting(pipeline) as runs:
            result = denoise(*args, **kwargs)
        windows.append([runs[number] for number in range(BLOCKS)])
        return result

    monkeypatch.setattr("humo.inference.pipeline.denoise", counted_denoise)
    long: dict[str, Any] = {"num_frames": 17, "window": 9, "overlap": 4, "audio_embeds": None}
    run(pipeline, cache, **long)
    cached = windows.copy()
    windows.clear()
    run(pipeline, "none", **long)
    assert len(cached) == len(windows) == 3
    assert all(one[-1] < all_runs[-1] for one, all_runs in zip(cached, windows, strict=True))
    if cache == "taylorseer":  # the steps that it spares are always the same ones
        assert cached[0] == cached[1] == cached[2]


def test_a_cache_enabled_on_the_network_works_and_is_reset(deep: HuMoPipeline) -> None:
    expected, runs = run(deep, "first-block")
    deep.transformer.enable_cache(FirstBlockCacheConfig(threshold=caches.FIRST_BLOCK_THRESHOLD))
    try:
        for _ in range(2):
            latents, same = run(deep, "none")
            assert torch.allclose(latents, expected, atol=1e-5)
            assert same == runs
        with pytest.raises(RequestError, match="or with another cache"):
            run(deep, "taylorseer")
    finally:
        deep.transformer.disable_cache()


def test_a_cache_works_with_a_batch_of_clips(deep: HuMoPipeline) -> None:
    inputs: dict[str, Any] = {"prompt": ["a", "b"], "images": [RED, RED], "audio_embeds": None}
    latents, runs = run(deep, "taylorseer", **inputs, generator=[seeded(1), seeded(2)])
    assert latents.shape[:2] == (2, LATENT_CHANNELS)
    assert runs[0] < run(deep, "none", **inputs, generator=[seeded(1), seeded(2)])[1][0]


# -- combinations that are refused ------------------------------------------------------------------------------------


def refusal(pipeline: HuMoPipeline, **changes: Any) -> str:
    """Return the error of a call with a cache that is refused before the network runs."""
    with counting(pipeline) as runs, pytest.raises(RequestError) as refused:
        call(pipeline, cache="first-block", **changes)
    assert not runs
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_batched_passes_are_refused() -> None:
    assert refusal(tiny_pipeline(), batch_passes=True) == (
        "cache: 'first-block' needs separate passes and cannot be combined with batch_passes; "
        "drop the cache, or batch_passes"
    )


def test_several_processes_are_refused() -> None:
    pipeline = tiny_pipeline()
    pipeline.execution = Execution(guidance_parallel=GuidanceParallel(0, 2))
    expected = "cache: 'first-block' is for one process, and there are 2; drop --cache, or start one process"
    assert refusal(pipeline) == expected
    pipeline = tiny_pipeline()
    pipeline.execution = Execution(context_parallel=ContextParallel(0, 2))
    assert refusal(pipeline) == expected
    engine = Engine(ParallelGeneration(ProcessGroup(0, 2)))
    plan = resolve(parse_request({"prompt": "p", "cache": "first-block"}), pipeline.preset)
    with pytest.raises(RequestError, match="is for one process, and there are 2"):
        engine.resolve_runtime(plan)


def test_hooks_of_diffusers_are_refused() -> None:
    pipeline = tiny_pipeline()
    apply_group_offloading(
        pipeline.transformer, torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )
    assert refusal(pipeline) == (
        "cache: 'first-block' cannot be combined with diffusers' group offloading or with another cache; "
        "remove those, or drop the cache"
    )


@pytest.mark.parametrize("cache", ["first-block", "taylorseer"])
@pytest.mark.parametrize("placement", [Placement("model"), Placement("group"), Placement("group", resident_blocks=1)])
def test_streamed_blocks_are_cached_alike(cache: CacheName, placement: Placement) -> None:
    whole, streamed = tiny_pipeline(), tiny_pipeline()
    apply_placement(streamed, placement, "cpu")
    expected = call(whole, cache=cache, num_inference_steps=8)
    assert torch.allclose(call(streamed, cache=cache, num_inference_steps=8), expected, atol=1e-5)
    assert not torch.allclose(expected, call(whole, num_inference_steps=8), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # those of the compiler's own code
def test_compiled_blocks_are_refused() -> None:
    expected = (
        "cache: 'first-block' cannot be combined with compiled blocks; drop the cache, or do not compile the network"
    )
    pipeline = tiny_pipeline()
    pipeline.transformer.compile_repeated_blocks(backend="eager")
    assert refusal(pipeline) == expected
    pipeline = tiny_pipeline()
    pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")
    assert refusal(pipeline) == expected


def test_a_network_of_one_block_is_refused() -> None:
    pipeline = tiny_pipeline()
    pipeline.transformer = tiny_transformer("humo-1.7b", num_layers=1)
    assert refusal(pipeline) == "cache: 'first-block' needs more than the one block of this network; drop --cache"


def test_without_a_cache_every_combination_is_allowed() -> None:
    check_cache("none", processes=4, batched=True, hooked=True, compiled=True, blocks=1)


def test_out_of_memory_in_a_cached_pass_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline()

    def cramped(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(pipeline.transformer, "forward", cramped)
    pipeline.execution = Execution(on_out_of_memory=lambda: True)  # which would place weights block by block
    with pytest.raises(RequestError) as refused:
        call(pipeline, cache="first-block")
    assert str(refused.value) == (
        "memory: the device ran out of memory in a pass with a step cache; "
        "drop --cache, which lets weights be offloaded during the run"
    )
    assert not pipeline.transformer.is_cache_enabled


def test_a_plan_keeps_the_requested_cache() -> None:
    plan = resolve(parse_request({"prompt": "p", "cache": "taylorseer"}), tiny_pipeline().preset)
    assert replace(plan).request.cache == "taylorseer"
    with pytest.raises(RequestError, match="cache: 'magcache' is not known"):
        parse_request({"prompt": "p", "cache": "magcache"})
