"""LoRAs, presets, samplers and noise levels of a request, before any file is read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humo.errors import RequestError
from humo.guidance import TWO_PASSES
from humo.loras import MAX_STRENGTH, LoraChoice, parse_lora
from humo.plan import GenerationPlan, resolve
from humo.presets import HUMO_1_7B, HUMO_17B, HUMO_NANO, Distillation, Preset
from humo.request import GenerateRequest, parse_request
from humo.request_presets import BUILTIN_PRESETS, PRESET_FIELDS, find_request_preset, read_presets
from humo.schedule import SPACINGS, published_schedule, simple_schedule

DISTILLED = HUMO_17B.distilled(Distillation(4, 5.0, {"text": (1, 5), "audio": (1, 5), "image": (1, 1)}))


def plan_for(family: Preset = HUMO_17B, /, **fields: Any) -> GenerationPlan:
    return resolve(parse_request({"prompt": "a man talks"} | fields), family)


@pytest.mark.parametrize(
    ("text", "name", "strength"),
    [
        ("style", "style", 1.0),
        ("style:0.8", "style", 0.8),
        ("a/b.safetensors:-1", "a/b.safetensors", -1.0),
        (r"C:\loras\x.safetensors", r"C:\loras\x.safetensors", 1.0),
        (r"C:\loras\x.safetensors:2", r"C:\loras\x.safetensors", 2.0),
        ("a:b.safetensors", "a:b.safetensors", 1.0),
        ("a:1:0.5", "a:1", 0.5),
    ],
)
def test_a_lora_is_a_name_and_a_strength(text: str, name: str, strength: float) -> None:
    assert parse_lora(text) == LoraChoice(name, strength)


@given(name=st.text(min_size=1).filter(str.strip), strength=st.floats(-MAX_STRENGTH, MAX_STRENGTH))
def test_the_text_of_a_choice_is_read_as_the_same_choice(name: str, strength: float) -> None:
    choice = LoraChoice(name, float(f"{strength:.6g}"))
    assert parse_lora(str(choice)) == choice


@pytest.mark.parametrize("text", ["", ":0.5", " ", "style:101", "style:nan", "style:inf"])
def test_a_lora_without_a_name_or_with_an_impossible_strength_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"^loras") as refused:
        parse_request({"prompt": "x", "loras": [text]})
    assert "\n" not in str(refused.value)


def test_one_lora_may_be_given_as_text() -> None:
    assert parse_request({"prompt": "x", "loras": "style"}).loras == ("style:1",)


def test_sigmas_are_read_from_text_and_lists_without_the_final_zero() -> None:
    for given_sigmas in ("1, 0.9,0.5", "1 0.9 0.5 0", [1, 0.9, 0.5, 0.0]):
        assert parse_request({"prompt": "x", "sigmas": given_sigmas}).sigmas == (1.0, 0.9, 0.5)


def test_sigmas_decide_steps_and_timesteps() -> None:
    plan = plan_for(sigmas=[1, 0.9, 0.5], shift=7.0)
    assert plan.request.steps == 3
    assert plan.schedule.sigmas == (1.0, 0.9, 0.5)
    assert plan.timesteps == (1000.0, 900.0, 500.0)
    assert "shift has no effect: sigmas are given" in plan.notes
    resolved = resolve(plan.request, HUMO_17B)
    assert resolved.schedule == plan.schedule


@pytest.mark.parametrize("sigmas", [[0.5, 0.9], [1, 1], [0], [], [1.2, 0.5], [1, -0.1], ["a"]])
def test_sigmas_that_do_not_fall_or_lie_outside_are_refused(sigmas: list[Any]) -> None:
    with pytest.raises(RequestError, match=r"^sigmas") as refused:
        parse_request({"prompt": "x", "sigmas": sigmas})
    assert "\n" not in str(refused.value)


@given(steps=st.integers(1, 300), shift=st.floats(0.5, 20))
def test_every_spacing_falls_from_near_one_to_above_zero(steps: int, shift: float) -> None:
    for spacing in SPACINGS.values():
        for sampler in ("unipc", "comfy-unipc"):
            sigmas = spacing(steps, shift, sampler).sigmas
            assert len(sigmas) == steps
            assert 0.98 < sigmas[0] <= 1
            assert all(before > after > 0 for before, after in pairwise(sigmas))


def test_open_fields_are_the_published_sampler_spacing_and_guidance() -> None:
    for preset in (HUMO_17B, HUMO_1_7B, HUMO_NANO):
        plan = plan_for(preset)
        request = plan.request
        assert (request.sampler, request.spacing, request.guidance) == ("unipc", "published", "published")
        assert plan.schedule == published_schedule(preset.steps, preset.shift)
    assert plan_for(DISTILLED).request.sampler == "euler"


def test_the_preset_of_the_common_workflow_runs_one_pass_a_step() -> None:
    plan = plan_for(preset="lightx2v", images=["a.png"])
    assert plan.passes == 6
    assert plan.schedule == simple_schedule(6, 8.0, "comfy-unipc")
    assert plan.request.loras == ("lightx2v:1",)
    assert plan.request.preset is None, "a resolved request holds the preset's values, not its name"
    assert plan.notes == ()


def test_fields_of_the_request_replace_those_of_the_preset_with_a_note() -> None:
    plan = plan_for(preset="lightx2v", steps=8, shift=8.0, loras=["style:0.5", "lightx2v:0.7"], sampler="euler")
    assert plan.request.steps == 8
    assert plan.request.loras == ("style:0.5", "lightx2v:0.7")
    assert [note for note in plan.notes if "replace" in note] == [
        "loras lightx2v:0.7 replaces that of the preset lightx2v",
        "steps 8 replaces 6 of the preset lightx2v",
        "sampler euler replaces comfy-unipc of the preset lightx2v",
    ]


def test_explicit_sigmas_take_the_place_of_a_presets_steps_and_the_reverse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(preset="lightx2v", sigmas=[1, 0.9, 0.5])
    assert plan.schedule.sigmas == (1.0, 0.9, 0.5)
    assert [note for note in plan.notes if "dropped" in note] == [
        "steps 6 of the preset lightx2v is dropped for sigmas",
        "shift 8 of the preset lightx2v is dropped for sigmas",
        "spacing simple of the preset lightx2v is dropped for sigmas",
    ]
    path = tmp_path / "presets.toml"
    monkeypatch.setenv("HUMO_PRESETS", str(path))
    path.write_text("[four]\nsigmas = [1.0, 0.94, 0.83, 0.63]\n")
    assert plan_for(preset="four").request.steps == 4
    replaced = plan_for(preset="four", steps=9)
    assert (replaced.request.steps, replaced.request.sigmas) == (9, None)
    assert "sigmas 1,0.94,0.83,0.63 of the preset four is dropped for steps" in replaced.notes


def test_loras_of_the_request_are_added_to_those_of_the_preset() -> None:
    assert plan_for(preset="lightx2v", loras=["style:0.5"]).request.loras == ("lightx2v:1", "style:0.5")


@pytest.mark.parametrize("preset", [HUMO_1_7B, HUMO_NANO])
def test_a_preset_of_another_family_is_refused(preset: Preset) -> None:
    with pytest.raises(RequestError, match="is for humo-17b, and the model is"):
        plan_for(preset, preset="lightx2v")


def test_every_built_in_preset_resolves_with_its_family() -> None:
    for name, one in BUILTIN_PRESETS.items():
        assert one.fields.keys() <= set(PRESET_FIELDS)
        assert plan_for(HUMO_17B, preset=name)
    assert set(PRESET_FIELDS) < GenerateRequest.model_fields.keys()


def test_presets_are_read_from_a_toml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "presets.toml"
    monkeypatch.setenv("HUMO_PRESETS", str(path))
    path.write_text('[a]\nsteps = 7\nloras = ["x:0.5"]\n[b]\nfamily = "humo-1.7b"\ndescription = "mine"\n')
    assert plan_for(preset="a").request.steps == 7
    assert find_request_preset("b").description == "mine"
    assert find_request_preset("lightx2v").fields["steps"] == 6


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a]\nstep = 7\n", r"presets.toml: a.step: is not a field that a preset may set; did you mean 'steps'"),
        ("[a]\noutput = 'x'\n", "is not a field that a preset may set"),
        ("[a]\nfamily = 'humo'\n", "is not a model family"),
        ("steps = 7\n", "is not a table"),
        ("[a\n", "is not TOML"),
    ],
)
def test_a_wrong_file_of_presets_is_one_line(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "presets.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=problem) as refused:
        read_presets(path)
    assert "\n" not in str(refused.value)


def test_comfyuis_guidance_is_two_passes_with_one_scale_and_one_reference() -> None:
    plan = plan_for(guidance="comfy", images=["a.png", "b.png"], scale_text=4.0, scale_image=3.0)
    assert plan.preset.guidance is TWO_PASSES
    assert [(rung.keep, rung.scale) for rung in plan.guidance.early] == [("", 1.0), ("TI", 4.0)]
    assert plan.geometry.references == 1
    assert "images: guidance comfy uses one reference, a.png; the others are not used" in plan.notes
    assert "scale_image has no effect in mode TI of HuMo-17B" in plan.notes


def test_a_distilled_network_keeps_its_guidance() -> None:
    with pytest.raises(RequestError, match="guidance: 'comfy' needs a network that was not distilled"):
        plan_for(DISTILLED, guidance="comfy")
