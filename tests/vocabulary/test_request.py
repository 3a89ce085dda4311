"""Requests are checked, invalid ones are reported in one line, and valid ones are resolved to complete plans."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from humo.errors import HuMoError, RequestError
from humo.guidance import GuidanceScales
from humo.plan import GenerationPlan, resolve
from humo.presets import HUMO_1_7B, HUMO_17B, NEGATIVE_PROMPT, Preset, find_preset
from humo.request import GenerateRequest, describe_limits, parse_request

FRAME = 640  # samples of 16 kHz audio
FAMILIES = [HUMO_17B, HUMO_1_7B]


def plan_for(preset: Preset = HUMO_17B, *, audio_samples: int | None = None, **fields: Any) -> GenerationPlan:
    """Return the plan of a request; ``audio_samples`` is the length of the audio at 16 kHz."""
    if audio_samples is not None:
        fields["audio"] = "speech.wav"
    return resolve(parse_request({"prompt": "a man talks"} | fields), preset, audio_samples)


def refusal(**fields: Any) -> RequestError:
    """Return the error of an invalid request."""
    with pytest.raises(RequestError) as refused:
        parse_request({"prompt": "a man talks"} | fields)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "prompt": ("", "x" * 10_001, 5, None),
        "width": (0, -16, 8, 481, 8208, 480.5, "wide", math.nan),
        "height": (0, 24, 8200),
        "frames": (0, -1, 90_001, 4.5),
        "seconds": (0.0, 0.039, 3600.1, math.nan, math.inf, "long"),
        "steps": (0, 1001, 1.5),
        "shift": (0.0, 100.5, math.nan),
        "seed": (-1, 2**63, "lucky"),
        "negative_prompt": ("x" * 10_001, 3),
        "scale_text": (-0.1, 50.5, math.nan, math.inf, -math.inf, "strong"),
        "scale_audio": (-1, 51, math.nan),
        "scale_image": (-1, 1e9, math.nan),
        "switch_timestep": (-1, 1001, math.nan),
        "mode": ("TAI", "tia", "", 3),
        "device": ("gpu", 0),
        "dtype": ("fp16", 16),
        "images": (3, [4], {"a": 1}, "", ["a.png", ""]),
        "audio": (3, ["a.wav"], ""),
        "model": (3, ""),
        "vocal_separator": (3, ""),
        "output": ("", 3),
        "sidecar": ("perhaps",),
    }.items(),
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_an_error_names_the_field_whose_value_is_beyond_its_limits(field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        assert refusal(**{field: value}).field.split(".")[0] == field


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "width": (16, 8192, 720),
        "frames": (1, 2, 90_000),
        "seconds": (0.04, 3600.0),
        "steps": (1, 1000),
        "shift": (0.1, 100),
        "seed": (0, 2**63 - 1),
        "scale_text": (0, 50),
        "switch_timestep": (0, 1000),
        "mode": ("T", "TI", "TA", "TIA"),
    }.items(),
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_value_at_its_limits_is_accepted(field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        assert getattr(parse_request({"prompt": "p", field: value}), field) == value


def test_limits_are_described() -> None:
    assert str(refusal(width=481)) == "width: 481 is not allowed; allowed: a whole number, 16 to 8192, a multiple of 16"
    assert str(refusal(scale_text=99)) == "scale_text: 99 is not allowed; allowed: a number, 0 to 50"
    assert str(refusal(seconds=math.nan)) == "seconds: nan is not allowed; allowed: a number, 0.04 to 3600"
    assert describe_limits("dtype") == "one of auto, float32, bfloat16, float16"
    assert describe_limits("prompt") == "text, 1 to 10000 characters"


def test_a_missing_prompt_is_reported() -> None:
    with pytest.raises(RequestError, match=r"^prompt: is missing"):
        parse_request({})


@pytest.mark.parametrize(
    ("word", "meant"), [("promt", "prompt"), ("image", "images"), ("scale_txt", "scale_text"), ("sed", "seed")]
)
def test_the_error_of_an_unknown_field_has_the_nearest_one(word: str, meant: str) -> None:
    assert str(refusal(**{word: 1})) == f"{word}: is not a field of a request; did you mean {meant!r}?"


def test_the_error_of_a_field_unlike_any_other_lists_all() -> None:
    assert "known are aspect, attention, audio, cache, compile" in str(refusal(zzzzzz=1))


def test_the_error_of_an_unknown_choice_has_the_nearest_one() -> None:
    assert str(refusal(dtype="bfloat61")) == "dtype: 'bfloat61' is not known; did you mean 'bfloat16'?"


def test_frames_and_seconds_together_are_refused() -> None:
    assert "not both" in str(refusal(frames=9, seconds=1.0))


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(str(refusal(negative_prompt="x" * 20_000))) < 200


def test_an_invalid_request_is_a_humo_error() -> None:
    refused = refusal(width=1)
    assert isinstance(refused, HuMoError)
    assert refused.problem == "1 is not allowed"
    assert "multiple of 16" in refused.remedy


def test_a_request_cannot_be_changed() -> None:
    request = parse_request({"prompt": "p"})
    with pytest.raises(ValidationError, match="frozen"):
        request.prompt = "q"


def test_a_single_image_needs_no_list() -> None:
    assert parse_request({"prompt": "p", "images": "a.png"}).images == ("a.png",)
    assert parse_request({"prompt": "p", "images": ["a.png", "b.png"]}).images == ("a.png", "b.png")


def test_a_request_can_be_stored_as_json() -> None:
    request = parse_request({"prompt": "ein „Mann“", "images": ["a.png"], "audio": "b.wav", "frames": 9, "shift": 3})
    assert GenerateRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize("preset", FAMILIES, ids=lambda preset: preset.name)
@pytest.mark.parametrize(
    ("mode", "inputs"),
    [
        ("T", {}),
        ("TI", {"images": ["a.png"]}),
        ("TA", {"audio_samples": 9 * FRAME}),
        ("TIA", {"images": ["a.png", "b.png"], "audio_samples": 9 * FRAME}),
    ],
)
def test_the_mode_follows_from_the_inputs(mode: str, inputs: dict[str, Any], preset: Preset) -> None:
    plan = plan_for(preset, **inputs)
    assert plan.request.mode == mode
    assert plan.geometry.references == len(inputs.get("images", ()))
    assert plan.guidance == preset.guidance[plan.request.mode](preset.scales)


@pytest.mark.parametrize(
    ("mode", "unused"), [("T", ("images", "audio")), ("TI", ("audio",)), ("TA", ("images",)), ("TIA", ())]
)
def test_inputs_that_the_requested_mode_does_not_use_are_noted(mode: str, unused: tuple[str, ...]) -> None:
    plan = plan_for(images=["a.png"], audio_samples=9 * FRAME, mode=mode, vocal_separator="separator.onnx")
    assert [note for note in plan.notes if "not used" in note] == [
        f"mode {mode}: {field} given but not used" for field in unused
    ]
    assert plan.request.images == (() if "images" in unused else ("a.png",))
    assert plan.request.audio == (None if "audio" in unused else "speech.wav")
    assert plan.request.vocal_separator == (None if "audio" in unused else "separator.onnx")
    assert plan.geometry.frames == (97 if "audio" in unused else 9)


@pytest.mark.parametrize(
    ("mode", "missing"), [("TI", "images"), ("TA", "audio"), ("TIA", "images")], ids=["TI", "TA", "TIA"]
)
def test_a_requested_mode_without_its_input_is_refused(mode: str, missing: str) -> None:
    with pytest.raises(RequestError, match=f"^mode: {mode} needs {missing}"):
        plan_for(mode=mode)


def test_a_clip_is_as_long_as_its_audio() -> None:
    plan = plan_for(audio_samples=61 * FRAME)
    assert plan.geometry.frames == 61
    assert plan.notes == ()


@pytest.mark.parametrize("samples", [61 * FRAME + 1, 62 * FRAME, 63 * FRAME - 5, 65 * FRAME])
def test_a_clip_holds_the_whole_audio(samples: int) -> None:
    plan = plan_for(audio_samples=samples)
    assert plan.geometry.frames == 65
    lasts = -(-samples // FRAME)
    assert plan.notes == ((f"{lasts} frames became 65: the model makes 4k + 1",) if lasts < 65 else ())


def test_seconds_are_rounded_up_and_frames_down() -> None:
    assert plan_for(seconds=8).geometry.frames == 201
    assert plan_for(seconds=8, audio_samples=200 * FRAME).geometry.frames == 201
    assert plan_for(seconds=3.88).geometry.frames == 97
    assert plan_for(frames=200).geometry.frames == 197


def test_a_clip_is_as_long_as_its_audio_and_notes_its_windows() -> None:
    plan = plan_for(audio_samples=250 * FRAME)
    assert plan.geometry.frames == 253
    assert plan.notes == (
        "250 frames became 253: the model makes 4k + 1",
        "253 frames are generated in 3 windows of 97, each sharing 16 with the next",
    )
    assert plan.passes == 3 * plan_for(audio_samples=97 * FRAME).passes


@pytest.mark.parametrize("samples", [0, 1, 639])
def test_audio_shorter_than_a_frame_is_rejected(samples: int) -> None:
    with pytest.raises(RequestError, match=r"^audio: is shorter than one frame; give at least 0\.04 s"):
        plan_for(audio_samples=samples)


def test_one_frame_of_audio_gives_one_frame() -> None:
    assert plan_for(audio_samples=FRAME).geometry.frames == 1


def test_without_audio_a_clip_has_the_trained_length() -> None:
    assert plan_for().geometry.frames == 97
    assert plan_for().notes == ()


@given(wanted=st.integers(1, 97))
def test_requested_frames_are_snapped_with_a_note(wanted: int) -> None:
    plan = plan_for(frames=wanted)
    assert plan.geometry.frames == plan.request.frames == (wanted - 1) // 4 * 4 + 1
    snapped = f"{wanted} frames became {plan.geometry.frames}: the model makes 4k + 1"
    assert plan.notes == (() if wanted % 4 == 1 else (snapped,))


def test_seconds_become_frames() -> None:
    plan = plan_for(seconds=2.6)
    assert plan.geometry.frames == plan.request.frames == 65
    assert plan.request.seconds is None
    assert plan.notes == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 101}, r"^window: 101 frames are more than HuMo-1\.7B supports; use at most 97$"),
        ({"window": 50}, r"^window: 50 frames are not 4k \+ 1; use 49$"),
        ({"window": 25, "overlap": 24}, r"^overlap: 24 frames leave no new frames in windows of 25; use at most 20$"),
        ({"overlap": 6}, r"^overlap: 6 is not allowed; allowed: .*a multiple of 4"),
    ],
)
def test_an_unsupported_window_is_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan_for(HUMO_1_7B, frames=161, **fields)


def test_windows_may_be_shorter_than_the_training_clips() -> None:
    plan = plan_for(HUMO_1_7B, frames=41, window=25, overlap=8)
    assert [(one.start, one.latent_frames, one.overlap) for one in plan.windows] == [(0, 7, 0), (4, 7, 2)]
    assert plan.window_geometry.frames == 25
    assert plan_for(HUMO_1_7B, frames=9, window=5).request.overlap == 0, "what fits, where less than the preset's does"


def test_a_vocal_separator_without_audio_is_noted() -> None:
    assert plan_for(vocal_separator="voice.onnx", frames=5).notes == (
        "vocal_separator given but not used: there is no audio",
    )
    assert plan_for(vocal_separator="voice.onnx", audio_samples=5 * FRAME).notes == ()


def test_a_clip_longer_than_its_audio_is_noted() -> None:
    assert plan_for(frames=21, audio_samples=13 * FRAME).notes == (
        "the audio ends after 13 frames; the rest of the clip is silent",
    )


@pytest.mark.parametrize(
    ("preset", "fields", "field", "effective"),
    [
        (HUMO_17B, {"images": ["a.png"], "audio_samples": 9 * FRAME}, "scale_image", False),
        (HUMO_17B, {"images": ["a.png"], "audio_samples": 9 * FRAME}, "switch_timestep", True),
        (HUMO_17B, {"audio_samples": 9 * FRAME}, "switch_timestep", False),
        (HUMO_17B, {"images": ["a.png"]}, "scale_audio", False),
        (HUMO_17B, {}, "scale_text", True),
        (HUMO_1_7B, {"images": ["a.png"], "audio_samples": 9 * FRAME}, "scale_image", True),
        (HUMO_1_7B, {"images": ["a.png"], "audio_samples": 9 * FRAME}, "switch_timestep", False),
        (HUMO_1_7B, {"audio_samples": 9 * FRAME}, "scale_image", False),
        (HUMO_1_7B, {"audio_samples": 9 * FRAME}, "scale_audio", True),
    ],
)
def test_a_scale_without_effect_is_noted_and_one_with_effect_is_not(
    preset: Preset, fields: dict[str, Any], field: str, effective: bool
) -> None:
    plan = plan_for(preset, **(fields | {field: 3.0}))
    note = f"{field} has no effect in mode {plan.request.mode} of {preset.title}"
    assert (note in plan.notes) is not effective
    assert (plan.guidance != preset.guidance[plan.request.mode](preset.scales)) is effective  # type: ignore[index]


@pytest.mark.parametrize("preset", FAMILIES, ids=lambda preset: preset.name)
def test_open_fields_get_the_values_of_the_preset(preset: Preset) -> None:
    request = plan_for(preset, images=["a.png"], audio_samples=9 * FRAME).request
    assert (request.width, request.height, request.steps, request.shift, request.seed) == (832, 480, 50, 5.0, 666666)
    assert request.negative_prompt == NEGATIVE_PROMPT
    scales = GuidanceScales(
        text=request.scale_text or 0,
        audio=request.scale_audio or 0,
        image=request.scale_image or 0,
        switch_timestep=request.switch_timestep or 0,
    )
    assert scales == preset.scales
    assert not {name for name, value in request if value is None} - {
        "aspect",
        "model",
        "preset",
        "resident_blocks",
        "seconds",
        "sigmas",
        "tile",
        "vocal_separator",
    }


def test_the_published_defaults_are_those_of_the_published_configurations() -> None:
    assert HUMO_17B.scales == GuidanceScales(text=5.0, audio=5.5, switch_timestep=980.0)
    assert HUMO_1_7B.scales == GuidanceScales(text=7.5, audio=7.5, image=4.0)


def test_zero_is_a_value() -> None:
    request = plan_for(
        images=["a.png"],
        audio_samples=9 * FRAME,
        seed=0,
        scale_text=0,
        scale_audio=0,
        scale_image=0,
        switch_timestep=0,
    ).request
    assert (request.seed, request.scale_text, request.scale_audio, request.scale_image) == (0, 0, 0, 0)
    assert request.switch_timestep == 0


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_negative_prompt_is_the_default_one_as_published(empty: str | None) -> None:
    assert plan_for(negative_prompt=empty).request.negative_prompt == NEGATIVE_PROMPT
    assert plan_for(negative_prompt="blurred").request.negative_prompt == "blurred"


@pytest.mark.parametrize("preset", FAMILIES, ids=lambda preset: preset.name)
def test_resolving_a_resolved_request_changes_nothing(preset: Preset) -> None:
    plan = plan_for(preset, images=["a.png"], audio_samples=33 * FRAME, steps=7, height=64)
    resolved = resolve(plan.request, preset, 33 * FRAME)
    assert resolved.request == plan.request
    assert (resolved.geometry, resolved.guidance) == (plan.geometry, plan.guidance)


def test_a_plan_counts_its_timesteps_and_passes() -> None:
    plan = plan_for(HUMO_1_7B, images=["a.png"], audio_samples=9 * FRAME, steps=10)
    assert len(plan.timesteps) == 10
    assert plan.timesteps[0] == 999
    assert plan.passes == 30
    assert plan_for(HUMO_1_7B, audio_samples=9 * FRAME, steps=10).passes == 20
    assert plan_for(HUMO_1_7B, audio_samples=9 * FRAME, steps=10, scale_text=7.0).passes == 30


@pytest.mark.parametrize("field", ["seed", "frames", "steps", "scale_text", "width"])
def test_a_boolean_is_not_a_number(field: str) -> None:
    with pytest.raises(RequestError, match=rf"{field}: True is not allowed; allowed: a (whole )?number"):
        parse_request({"prompt": "x", field: True})


def test_a_prompt_of_white_space_alone_is_refused() -> None:
    with pytest.raises(RequestError, match="prompt"):
        parse_request({"prompt": " \n\t "})


@pytest.mark.parametrize(
    ("preset", "aspect", "size"),
    [
        ("humo-17b", "16:9", (832, 480)),
        ("humo-17b", "9:16", (480, 832)),
        ("humo-17b", "1:1", (640, 640)),
        ("humo-17b", "4:3", (736, 544)),
        ("humo-nano", "1:1", (96, 96)),
        ("humo-nano", "16:9", (128, 80)),
    ],
)
def test_a_shape_chooses_the_size(preset: str, aspect: str, size: tuple[int, int]) -> None:
    plan = resolve(parse_request({"prompt": "a", "aspect": aspect}), find_preset(preset))
    assert (plan.geometry.width, plan.geometry.height) == size
    assert plan.request.aspect is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"aspect": "16x9"}, "aspect"),
        ({"aspect": "0:9"}, "aspect"),
        ({"aspect": "1:1", "width": 96}, "give aspect, or width and height"),
    ],
)
def test_a_shape_that_is_none_is_refused(fields: dict[str, Any], text: str) -> None:
    assert text in str(refusal(**fields))


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"prompt": "Eine Frau spricht in einem Park."}, "prompt: HuMo nano reads English only"),
        ({"prompt": "женщина говорит"}, "prompt: HuMo nano reads English only"),
        ({"prompt": "A woman talks in a park."}, None),
        ({"prompt": "red hair"}, None),
        (
            {"prompt": "A woman talks.", "width": 512, "height": 512},
            "512 x 512: HuMo nano was not trained at this size",
        ),
        ({"prompt": "A woman talks.", "width": 96, "height": 128}, None),
        ({"prompt": "A red-haired lady with sunglasses sings at the beach."}, None),
        ({"prompt": "A woman rides a dragon to the moon."}, "prompt: HuMo nano does not know rides, dragon, moon"),
        ({"prompt": "A man talks.", "images": ["a.png"]}, "image: HuMo nano knows rendered people"),
    ],
)
def test_the_built_in_model_says_what_it_cannot_do(fields: dict[str, Any], note: str | None) -> None:
    notes = resolve(parse_request(fields), find_preset("humo-nano")).notes
    assert notes == () if note is None else note in notes[0]


def test_random_draws_a_seed() -> None:
    seeds = {parse_request({"prompt": "a", "seed": "random"}).seed for _ in range(8)}
    assert len(seeds) > 1
    assert all(isinstance(seed, int) for seed in seeds)
