"""The pipeline end to end at tiny size: every mode of each family, batches, steps and results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from humo import HuMoPipeline
from humo.errors import HuMoError, RequestError
from humo.guidance import MODES, Mode
from humo.inference import predictor
from humo.inference.inputs import GenerationInputs
from humo.plan import resolve
from humo.progress import PHASES, Event
from humo.request import parse_request
from tests.calls import BLUE, FRAMES, GREEN, HEIGHT, RED, STEPS, WIDTH, call, counted, distance, rows, seeded, tone
from tests.tiny import AUDIO_WIDTH, LATENT_CHANNELS, TEXT_LENGTH, TEXT_WIDTH, tiny_pipeline

INPUTS: dict[Mode, dict[str, Any]] = {
    "T": {"images": None, "audio_embeds": None},
    "TI": {"audio_embeds": None},
    "TA": {"images": None},
    "TIA": {},
}
TWO: dict[str, Any] = {
    "prompt": ["a man talks", "a woman"],
    "images": [[RED], [BLUE]],
    "audio_embeds": [rows(), rows(seed=1)],
}
"""Clips of a batch."""


# -- modes, sizes, lengths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_the_passes_of_its_plan(mode: Mode, pipeline: HuMoPipeline) -> None:
    fields: dict[str, Any] = {"prompt": "p", "steps": 4, "mode": mode, "frames": FRAMES}
    if "I" in mode:
        fields["images"] = ["image"]
    if "A" in mode:
        fields["audio"] = "speech"
    plan = resolve(parse_request(fields), pipeline.preset, 640 * FRAMES if "A" in mode else None)
    latents, passes = counted(pipeline, **INPUTS[mode], num_inference_steps=4)
    assert passes == plan.passes
    assert latents.shape == (1, LATENT_CHANNELS, 3, HEIGHT // 8, WIDTH // 8)
    assert torch.isfinite(latents).all()


def test_a_requested_mode_ignores_other_inputs(pipeline: HuMoPipeline) -> None:
    for mode in MODES:
        assert torch.equal(call(pipeline, mode=mode), call(pipeline, **INPUTS[mode])), mode


def test_modes_generate_different_clips(pipeline: HuMoPipeline) -> None:
    clips = [call(pipeline, mode=mode) for mode in MODES]
    for index, one in enumerate(clips):
        for other in clips[:index]:
            assert distance(one, other) > 1e-3


@pytest.mark.parametrize(
    ("width", "height", "frames", "references"),
    [(32, 48, 5, 1), (32, 32, 5, 2), (16, 16, 1, 1), (64, 16, 13, 3), (16, 80, 1, 0)],
    ids=["portrait", "square", "one frame", "three references", "no reference"],
)
def test_any_size_and_number_of_references_gives_a_clip(
    width: int, height: int, frames: int, references: int, pipeline: HuMoPipeline
) -> None:
    images = [RED, BLUE, GREEN][:references] or None
    video = call(pipeline, width=width, height=height, num_frames=frames, images=images, output_type="np")
    assert video.shape == (1, frames, height, width, 3)
    assert np.isfinite(video).all()


def test_a_clip_may_be_longer_than_the_published_blank_videos(large: HuMoPipeline) -> None:
    latents = call(large, width=16, height=16, num_frames=165, num_inference_steps=1)
    assert latents.shape == (1, LATENT_CHANNELS, 42, 2, 2)
    assert torch.isfinite(latents).all()


def test_the_length_follows_the_audio(small: HuMoPipeline) -> None:
    latents = call(small, audio_embeds=None, audio=tone(14.5), num_frames=None, num_inference_steps=1)
    assert latents.shape[2] == 5  # 14.5 frames need 17


def test_audio_and_its_encoder_rows_give_the_same_clip(small: HuMoPipeline) -> None:
    audio = tone(13)
    plan = resolve(parse_request({"prompt": "p", "audio": "speech"}), small.preset, len(audio))
    embeds = small.encode_audio(audio, plan.geometry)
    assert torch.equal(
        call(small, audio_embeds=None, audio=audio, num_frames=13), call(small, audio_embeds=embeds, num_frames=13)
    )


def test_prompts_and_their_embeddings_give_the_same_clip(small: HuMoPipeline) -> None:
    prompt, negative = small.encode_prompt("a man talks"), small.encode_prompt("dull")
    arguments = {"prompt_embeds": prompt, "negative_prompt_embeds": negative}
    assert torch.equal(call(small, prompt=None, **arguments), call(small, negative_prompt="dull"))


# -- inputs change the clip -------------------------------------------------------------------------------------------


def test_the_seed_determines_the_clip(pipeline: HuMoPipeline) -> None:
    assert torch.equal(call(pipeline), call(pipeline))
    assert distance(call(pipeline, generator=seeded(2)), call(pipeline)) > 0.1


def test_the_presets_seed_is_the_default(small: HuMoPipeline) -> None:
    assert torch.equal(call(small, generator=None), call(small, generator=seeded(small.preset.seed)))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a woman sings"},
        {"negative_prompt": "a woman sings"},
        {"images": BLUE},
        {"images": [RED, BLUE]},
        {"audio_embeds": rows(seed=1)},
        {"audio_embeds": rows(seed=0)[:4]},
        {"shift": 3.0},
        {"scale_text": 1.25},
        {"scale_audio": 1.25},
        {"num_inference_steps": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_input_changes_the_clip(change: dict[str, Any], pipeline: HuMoPipeline) -> None:
    assert distance(call(pipeline, **change), call(pipeline)) > 1e-4


def test_the_image_scale_affects_the_small_family_and_the_switch_the_large(
    small: HuMoPipeline, large: HuMoPipeline
) -> None:
    assert distance(call(small, scale_image=1.5), call(small)) > 1e-4
    assert torch.equal(call(large, scale_image=1.5), call(large))
    assert torch.equal(call(small, switch_timestep=100.0), call(small))
    assert distance(call(large, switch_timestep=100.0), call(large)) > 1e-4


def test_the_order_of_references_matters(pipeline: HuMoPipeline) -> None:
    assert distance(call(pipeline, images=[BLUE, RED]), call(pipeline, images=[RED, BLUE])) > 1e-5


def test_a_reference_may_be_a_file_an_array_or_an_image(small: HuMoPipeline, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    RED.save(path)
    expected = call(small)
    for image in (path, str(path), np.asarray(RED), [RED], (path,), np.asarray(RED) / np.float32(255)):
        assert torch.equal(call(small, images=image), expected)


# -- batches ----------------------------------------------------------------------------------------------------------


def test_two_requests_in_one_batch_equal_the_two_alone(pipeline: HuMoPipeline) -> None:
    prompts, images, tracks = ["a man talks", "two women, singing"], [[RED], [BLUE]], [rows(), rows(7, seed=1)]
    both = call(pipeline, prompt=prompts, images=images, audio_embeds=tracks, generator=[seeded(1), seeded(2)])
    assert both.shape[0] == 2
    for index in range(2):
        alone = call(
            pipeline,
            prompt=prompts[index],
            images=images[index],
            audio_embeds=tracks[index],
            generator=seeded(index + 1),
        )
        assert distance(both[index : index + 1], alone) <= 1e-5


@pytest.mark.parametrize("sampler", ["unipc", "lcm"])
def test_a_long_clip_of_a_batch_equals_itself_alone_in_every_window(sampler: str, pipeline: HuMoPipeline) -> None:
    long: dict[str, Any] = {"images": None, "audio_embeds": None, "num_frames": 33, "window": 13, "overlap": 4}
    long["sampler"] = sampler
    for seeds in ([5, 9], [5, 5]):
        both = call(pipeline, **long, prompt=["a", "b"], generator=[seeded(seed) for seed in seeds])
        for number, prompt in enumerate("ab"):
            alone = call(pipeline, **long, prompt=prompt, generator=seeded(seeds[number]))
            assert distance(both[number : number + 1], alone) <= 1e-5


@pytest.mark.parametrize("kind", ["array", "tensor", "tensor with a channel", "tensor and rate"])
def test_audio_may_be_an_array_or_a_tensor(kind: str, small: HuMoPipeline) -> None:
    samples = tone(13)
    sources: dict[str, Any] = {
        "array": samples,
        "tensor": torch.from_numpy(samples),
        "tensor with a channel": torch.from_numpy(samples)[None],
        "tensor and rate": (torch.from_numpy(samples), 16_000),
    }
    assert torch.equal(
        call(small, audio_embeds=None, audio=sources[kind]), call(small, audio_embeds=None, audio=samples)
    )


def test_one_audio_for_two_prompts_is_refused(small: HuMoPipeline) -> None:
    with pytest.raises(RequestError, match=r"^audio: there is not one for each of 2 prompts"):
        call(small, prompt=["a", "b"], images=None, audio_embeds=None, audio=(tone(13), 16_000))


def test_one_generator_for_a_batch_is_drawn_from_in_order(small: HuMoPipeline) -> None:
    generator = seeded(1)
    inputs: dict[str, Any] = {"images": [RED, RED], "audio_embeds": [rows(), rows()]}
    both = call(small, prompt=["a man talks"] * 2, generator=generator, **inputs)
    first, second = (torch.randn(1, 16, 4, 4, 6, generator=seeded(1)) for _ in range(2))
    assert torch.equal(first, second)
    same = seeded(1)
    drawn = torch.cat([torch.randn(1, 16, 4, 4, 6, generator=same) for _ in range(2)])
    assert torch.equal(both, call(small, prompt=["a man talks"] * 2, latents=drawn, **inputs))
    assert distance(both[:1], both[1:]) > 0.1


def test_passes_run_as_one_batch_give_the_same_clip(pipeline: HuMoPipeline) -> None:
    one_by_one, passes = counted(pipeline)
    at_once, calls = counted(pipeline, batch_passes=True)
    assert distance(at_once, one_by_one) <= 1e-5
    preset = pipeline.preset
    assert passes == preset.guidance["TIA"](preset.scales).passes([1] * STEPS) >= 3 * STEPS
    assert calls == STEPS


@pytest.mark.parametrize(("short", "calls", "of_two"), [(23, 3, 3), (24, 1, 3), (48, 1, 1)])
def test_short_passes_run_as_one_batch_by_default(
    small: HuMoPipeline, short: int, calls: int, of_two: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "MAX_BATCHED_TOKENS", short)
    assert counted(small, batch_passes=None)[1] == calls * STEPS
    assert counted(small, batch_passes=None, generator=None, **TWO)[1] == of_two * STEPS, (
        "the tokens of all clips count"
    )


def test_batch_passes_works_with_a_batch_of_clips(pipeline: HuMoPipeline) -> None:
    one_by_one = call(pipeline, **TWO, generator=[seeded(1), seeded(2)])
    at_once = call(pipeline, **TWO, generator=[seeded(1), seeded(2)], batch_passes=True)
    assert distance(at_once, one_by_one) <= 1e-5


def refusal(pipeline: HuMoPipeline, **changes: Any) -> str:
    """Return the error of a call that is refused before the network runs."""
    with pytest.raises(HuMoError) as refused:
        call(pipeline, **changes)
    assert isinstance(refused.value, RequestError)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_batch_of_different_lengths_or_numbers_of_references_is_refused(small: HuMoPipeline) -> None:
    pair = {"prompt": ["one", "two"], "generator": None}
    lengths = {"images": None, "audio_embeds": [rows(9), rows(17)], "num_frames": None}
    assert "must be alike" in refusal(small, **pair, **lengths)
    assert "must be alike" in refusal(small, **pair, images=[[RED], [RED, BLUE]], audio_embeds=[rows(), rows()])
    assert "must be alike" in refusal(small, **pair, images=[[RED], None], audio_embeds=[rows(), rows()])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"generator": [seeded()]}, "generator"),
        ({"generator": [seeded(), seeded(), seeded()]}, "generator"),
        ({"images": [[RED]]}, "images"),
        ({"images": RED}, "images"),
        ({"audio_embeds": [rows()]}, "audio_embeds"),
        ({"audio_embeds": None, "audio": [tone(9)]}, "audio"),
        ({"audio_embeds": None, "audio": "speech.wav"}, "audio"),
        ({"prompt_embeds": torch.zeros(3, 4, TEXT_WIDTH)}, "prompt_embeds"),
        ({"negative_prompt_embeds": torch.zeros(1, 4, TEXT_WIDTH)}, "negative_prompt_embeds"),
        ({"latents": torch.zeros(1, 16, 4, 4, 6)}, "latents"),
    ],
)
def test_a_batch_whose_arguments_do_not_match_is_refused(
    changes: dict[str, Any], field: str, small: HuMoPipeline
) -> None:
    pair = {"prompt": ["one", "two"], "images": [RED, RED], "audio_embeds": [rows(), rows()], "generator": None}
    assert refusal(small, **(pair | changes)).startswith(f"{field}:")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"width": 40}, "width"),
        ({"num_frames": 0}, "frames"),
        ({"mode": "AIT"}, "mode"),
        ({"scale_text": float("nan")}, "scale_text"),
        ({"latents": torch.zeros(1, 16, 3, 4, 6)}, "latents"),
        ({"latents": torch.zeros(1, 16, 4, 6, 4)}, "latents"),
        ({"latents": torch.zeros(1, 16, 4, 4)}, "latents"),
        ({"prompt_embeds": torch.zeros(1, 4, TEXT_WIDTH + 1)}, "prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, TEXT_LENGTH + 1, TEXT_WIDTH)}, "prompt_embeds"),
        ({"negative_prompt_embeds": torch.zeros(1, 0, TEXT_WIDTH)}, "negative_prompt_embeds"),
        ({"audio_embeds": torch.zeros(11, 4, AUDIO_WIDTH)}, "audio_embeds"),
        ({"audio_embeds": torch.zeros(1, 11, 5, AUDIO_WIDTH)}, "audio_embeds"),
        ({"mode": "TA", "audio_embeds": None}, "mode"),
        ({"callback_on_step_end_tensor_inputs": ("noise",)}, "callback_on_step_end_tensor_inputs"),
        ({"output_type": "mp4"}, "output_type"),
    ],
)
def test_an_error_names_the_invalid_argument(changes: dict[str, Any], field: str, small: HuMoPipeline) -> None:
    assert refusal(small, **changes).startswith(f"{field}:")


# -- steps and results ------------------------------------------------------------------------------------------------


def test_the_callback_gets_every_step_with_its_timestep_and_latents(pipeline: HuMoPipeline) -> None:
    calls: list[tuple[int, int, tuple[int, ...]]] = []

    def record(caller: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert caller is pipeline
        calls.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {}

    observed = call(pipeline, num_inference_steps=4, callback_on_step_end=record)
    assert torch.equal(observed, call(pipeline, num_inference_steps=4))
    plan = resolve(parse_request({"prompt": "p", "steps": 4}), pipeline.preset)
    assert calls == [(step, time, (1, 16, 4, 4, 6)) for step, time in enumerate(plan.timesteps)]


def test_the_callback_may_replace_the_latents(small: HuMoPipeline) -> None:
    def replace(_: Any, step: int, __: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.full_like(tensors["latents"], 0.25)} if step == STEPS - 1 else tensors

    assert (call(small, callback_on_step_end=replace) == 0.25).all()


def test_latents_replaced_early_affect_later_steps(small: HuMoPipeline) -> None:
    def nudge(_: Any, step: int, __: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] + 1} if step == 0 else tensors

    assert distance(call(small, callback_on_step_end=nudge), call(small)) > 1e-2


def test_the_callback_gets_only_the_tensors_it_asked_for(small: HuMoPipeline) -> None:
    calls: list[dict[str, Tensor]] = []

    def record(_: Any, __: int, ___: Tensor, tensors: dict[str, Tensor]) -> None:
        calls.append(tensors)

    call(small, callback_on_step_end=record, callback_on_step_end_tensor_inputs=())
    assert calls == [{}] * STEPS


def test_an_interrupt_ends_the_denoising_there_and_not_in_the_next_call(small: HuMoPipeline) -> None:
    steps: list[Tensor] = []

    def stop(caller: Any, step: int, _: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(tensors["latents"])
        caller._interrupt = step == 1
        return tensors

    stopped = call(small, num_inference_steps=5, callback_on_step_end=stop)
    assert len(steps) == 2
    assert torch.equal(stopped, steps[1][:, :, :3])
    assert counted(small, num_inference_steps=5)[1] == 15


def test_every_output_type_holds_the_same_video(small: HuMoPipeline) -> None:
    latents, tensor, array, images = (call(small, output_type=kind) for kind in ("latent", "pt", "np", "pil"))
    assert tensor.shape == (1, FRAMES, 3, HEIGHT, WIDTH)
    assert array.shape == (1, FRAMES, HEIGHT, WIDTH, 3)
    assert float(tensor.min()) >= 0
    assert float(tensor.max()) <= 1
    assert torch.equal(tensor, small.decode_latents(latents).transpose(1, 2) / 2 + 0.5)
    assert np.array_equal(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    assert [len(clip) for clip in images] == [FRAMES]
    assert images[0][0].size == (WIDTH, HEIGHT)
    pixels = np.stack([np.asarray(image) for image in images[0]])
    assert np.abs(pixels - np.floor(array[0] * 255)).max() <= 1


def test_without_return_dict_a_tuple_is_returned(small: HuMoPipeline) -> None:
    arguments: dict[str, Any] = {"prompt": "p", "width": 16, "height": 16, "num_frames": 1, "num_inference_steps": 1}
    result = small(**arguments, output_type="latent", return_dict=False, generator=seeded())
    assert isinstance(result, tuple)
    assert torch.equal(result[0], small(**arguments, output_type="latent", generator=seeded()).frames)


def test_the_blank_video_is_encoded_once_for_clips_of_one_size() -> None:
    """The blank video is encoded in pieces: one frame, then four at a time."""
    pipeline = tiny_pipeline("humo-17b")
    encoded: list[tuple[int, ...]] = []
    pipeline.vae.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(tuple(inputs[0].shape)))
    arguments: dict[str, Any] = {"images": None, "num_inference_steps": 1}
    first = call(pipeline, **arguments)
    assert torch.equal(call(pipeline, **arguments), first)
    assert encoded == [(1, 3, frames, HEIGHT, WIDTH) for frames in (1, 4, 4, 4)]
    call(pipeline, **arguments, width=32)
    assert len(encoded) == 2 * 4
    assert torch.equal(call(pipeline, **arguments), first)


def test_generate_frames_yields_the_frames_of_a_call(pipeline: HuMoPipeline) -> None:
    fields = {"prompt": "a man talks", "images": ["red", "blue"], "audio": "speech", "seed": 5, "steps": STEPS}
    audio = tone(9)
    plan = resolve(parse_request(fields | {"width": WIDTH, "height": HEIGHT}), pipeline.preset, len(audio))
    events: list[Event] = []
    frames = list(pipeline.generate_frames(GenerationInputs(plan, [RED, BLUE], audio), callback=events.append))
    assert len(frames) == FRAMES
    assert {(frame.dtype, frame.shape) for frame in frames} == {(np.dtype(np.uint8), (HEIGHT, WIDTH, 3))}
    called = call(
        pipeline,
        images=[RED, BLUE],
        audio_embeds=None,
        audio=audio,
        num_frames=None,
        generator=seeded(5),
        output_type="pil",
    )
    assert all(np.array_equal(frame, np.asarray(image)) for frame, image in zip(frames, called[0], strict=True))
    assert events == [
        *(Event("encode", done, 3) for done in range(4)),
        *(Event("denoise", done, STEPS) for done in range(STEPS + 1)),
        *(Event("decode", done, 1) for done in range(2)),
    ]
    assert {event.phase for event in events} < set(PHASES)
