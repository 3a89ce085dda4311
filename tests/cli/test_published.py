"""A published configuration: its settings are used, and every other key is named once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from humo.errors import RequestError
from humo.jobs.published_files import FIELD_OF_KEY, item_fields, parse_overrides, read_published_config
from humo.jobs.request_files import read_request_file
from tests.cli.published_files import published_configuration, write_yaml


def leaves(tree: Mapping[str, Any], start: str = "") -> list[str]:
    names = []
    for key, value in tree.items():
        names += leaves(value, f"{start}{key}.") if isinstance(value, Mapping) else [f"{start}{key}"]
    return names


def read(tmp_path: Path, values: object, *overrides: str) -> Any:
    return read_request_file(write_yaml(tmp_path / "generate.yaml", values), overrides)


def test_what_it_sets_becomes_fields_of_the_request(tmp_path: Path) -> None:
    job = read(tmp_path, published_configuration())
    assert job.fields == {
        "mode": "TIA", "seed": 666666, "frames": 97, "height": 720, "width": 1280,
        "scale_text": 7.5, "scale_image": 4.0, "scale_audio": 7.5, "steps": 50, "shift": 5.0,
        "negative_prompt": "overexposed, still", "model": "weights/HuMo/HuMo-1.7B/ema.pth",
    }  # fmt: skip
    assert job.output_folder == "output"
    assert job.items == Path("examples/test_case.json")
    assert job.family == "humo-1.7b"


def test_the_large_family_is_reported_by_its_weights_and_switches_by_timestep(tmp_path: Path) -> None:
    job = read(tmp_path, published_configuration("17B", step_change=970))
    assert job.family == "humo-17b"
    assert job.fields["switch_timestep"] == 970


def test_the_overrides_of_the_published_script_are_laid_over_it(tmp_path: Path) -> None:
    overrides = "dit.sp_size=1 generation.scale_t=7.0 generation.mode=TA generation.height=480 generation.width=832"
    more = "diffusion.timesteps.sampling.steps=30 generation.output.dir=./elsewhere generation.sample_neg_prompt='a=b'"
    job = read(tmp_path, published_configuration(), *overrides.split(), *more.split())
    assert (job.fields["scale_text"], job.fields["mode"], job.fields["steps"]) == (7.0, "TA", 30)
    assert (job.fields["width"], job.fields["height"]) == (832, 480)
    assert job.output_folder == "./elsewhere"
    assert job.fields["negative_prompt"] == "a=b"
    assert job.fields["scale_image"] == 4.0


@pytest.mark.parametrize("family", ["17B", "1.7B"])
def test_every_key_without_effect_is_named_once_and_no_other(tmp_path: Path, family: str) -> None:
    values = published_configuration(family, surprise=3)
    (note,) = read(tmp_path, values).notes
    used = {*FIELD_OF_KEY, "generation.positive_prompt", "generation.output.dir", "generation.fps"}
    named = re.findall(r"[\w.]+", re.sub(r"\([^)]*\)", "", note).split("keys without effect: ")[1])
    assert sorted(named) == sorted(set(leaves(values)) - used)
    assert "generation.surprise (unknown)" in note
    assert "\n" not in note


def test_overrides_that_have_no_effect_are_named_too(tmp_path: Path) -> None:
    (note,) = read(tmp_path, published_configuration(), "generation.sequence_parallel=8", "foo.bar=1").notes
    assert "generation.sequence_parallel" in note
    assert "foo.bar (unknown)" in note


def test_a_configuration_that_inherits_another_lies_over_it(tmp_path: Path) -> None:
    write_yaml(tmp_path / "base" / "generate.yaml", published_configuration())
    mine = {"__inherit__": "base/generate.yaml", "generation": {"seed": 7, "mode": "TA"}}
    fields = read(tmp_path, mine, "generation.mode=TIA").fields
    assert (fields["seed"], fields["mode"], fields["width"]) == (7, "TIA", 1280)


def test_an_inherited_file_that_is_not_there_matters_only_outside_the_network(tmp_path: Path) -> None:
    assert read(tmp_path, published_configuration()).fields["steps"] == 50
    with pytest.raises(RequestError, match="no such file"):
        read(tmp_path, {"__inherit__": "gone.yaml", "generation": {"seed": 7}})


def test_a_configuration_that_inherits_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="inherits from itself"):
        read(tmp_path, {"__inherit__": str(tmp_path / "generate.yaml")})


@pytest.mark.parametrize("seed", ["null", "-1"])
def test_any_seed_is_drawn_and_said(tmp_path: Path, seed: str) -> None:
    job = read(tmp_path, published_configuration(), f"generation.seed={seed}")
    assert 0 <= job.fields["seed"] < 2**31
    assert str(job.fields["seed"]) in job.notes[0]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("generation.fps=30", "set it to 25"),
        ("generation.positive_prompt=a man speaks", "not a .json file"),
        ("generation.seed=${other.key}", "refers to another key"),
        ("generation.seed", "not key=value"),
        ("=3", "not key=value"),
        ("generation.seed=[1", "not YAML"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, override: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        read(tmp_path, published_configuration(), override)


def test_overrides_are_yaml_by_dotted_key() -> None:
    tree = parse_overrides(["a.b=1", "a.c=[1, 2]", "d=yes", "a.b=2.5", "e=", "f=x=y"])
    assert tree == {"a": {"b": 2.5, "c": [1, 2]}, "d": True, "e": None, "f": "x=y"}


def test_the_prompt_of_an_item_is_cleaned_as_published() -> None:
    item = {"prompt": ' "A_man speaks, "hello"" ', "img_paths": ["a.png"], "audio_path": "b.wav"}
    assert item_fields(item) == {"prompt": 'A man speaks, "hello', "images": ["a.png"], "audio": "b.wav"}


def test_a_key_may_be_null_and_is_then_left_to_the_model(tmp_path: Path) -> None:
    job = read_published_config(published_configuration(scale_t=None, positive_prompt=None), tmp_path / "generate.yaml")
    assert "scale_text" not in job.fields
    assert job.items is None
