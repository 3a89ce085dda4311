"""A recipe is checked field by field before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from humo.errors import RequestError
from humo.training.component_config import AutoencoderRecipe, TextEncoderRecipe
from humo.training.config import PUBLISHED_STAGES, Recipe, RecipeTable
from humo.training.recipe_file import parse_recipe, read_recipe, read_table
from tests.training.made_up import values

NOWHERE = Path("nowhere")


def refusal(**changes: Any) -> str:
    with pytest.raises(RequestError) as failure:
        parse_recipe(values(NOWHERE, NOWHERE, NOWHERE, **changes))
    return str(failure.value)


STAGE: dict[str, Any] = values(NOWHERE, NOWHERE, NOWHERE)["stages"][0]


def test_a_recipe_as_written_is_accepted_and_frozen() -> None:
    recipe = parse_recipe(values(NOWHERE, NOWHERE, NOWHERE))
    assert recipe.steps == 4
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


TINY = {"num_attention_heads": 1, "attention_head_dim": 6, "ffn_dim": 1, "num_layers": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sed": 1}, "sed: is not a field of a recipe; did you mean 'seed'?"),
        ({"loss": {"focuss": 1}}, "loss.focuss: is not a field of a recipe; did you mean 'focus'?"),
        ({"stages": [STAGE | {"step": 1}]}, "stages.0.step: is not a field of a recipe; did you mean 'steps'?"),
        ({"stages": [STAGE | {"train": ["audi"]}]}, "stages.0.train.0: 'audi' is not known; did you mean 'audio'?"),
        ({"stages": [STAGE | {"frames": [8]}]}, "8 frames are not 4k + 1; the nearest below is 5"),
        ({"stages": [STAGE | {"keep": {"TIA": 0.5}}]}, "the shares add up to 0.5, and must to 1"),
        ({"stages": [STAGE | {"steps": 0}]}, "stages.0.steps: 0 is not allowed; it should be greater than"),
        ({"stages": [{"published": 3}]}, "there is no published stage 3; known are 0, 1, 2"),
        ({"stages": []}, "stages: [] is not allowed"),
        ({"compute": {"accumulation": 3}}, "(2) cannot be divided into 3 accumulated passes"),
        ({"compute": {"precision": "float8"}}, "compute.precision: 'float8' is not known; did you mean 'float32'?"),
        ({"optimiser": {"ema": 1.0}}, "optimiser.ema: 1.0 is not allowed"),
        ({"data": {"folder": "x", "sizes": [[30, 32]]}}, "data.sizes.0.0: 30 is not allowed"),
        ({"model": {"folder": "x", "fresh": "audio", "network": TINY}}, "fresh is for the network of a folder"),
        ({"model": {"network": None}}, "without a model folder, preset, network, vae"),
        ({"model": {"folder": "x", "preset": "humo-2b"}}, "preset 'humo-2b' is not known; did you mean"),
        ({"seed": -1}, "seed: -1 is not allowed"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(**changes)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(RequestError, match="output: is missing"):
        parse_recipe({name: value for name, value in values(NOWHERE, NOWHERE, NOWHERE).items() if name != "output"})


def test_the_published_stages_are_as_published() -> None:
    assert (PUBLISHED_STAGES[1].train, PUBLISHED_STAGES[1].audio_prob, PUBLISHED_STAGES[1].steps) == (
        ("self_attention",),
        (0, 0),
        40_000,
    )
    assert PUBLISHED_STAGES[2].train == ("self_attention", "audio", "focus")
    assert PUBLISHED_STAGES[2].audio_prob == (0.2, 0.5)


def test_a_stage_may_be_a_published_one_with_changes() -> None:
    recipe = parse_recipe(values(NOWHERE, NOWHERE, NOWHERE, stages=[{"published": 2, "steps": 7}]))
    assert recipe.stages[0] == PUBLISHED_STAGES[2].model_copy(update={"steps": 7})


RECIPE = """
output = "out"
[model]
folder = "m"
[data]
folder = "d"
[[stages]]
published = 1
"""


def read(tmp_path: Path, *overrides: str) -> Recipe:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return read_recipe(tmp_path / "recipe.toml", overrides)


def test_words_change_fields(tmp_path: Path) -> None:
    recipe = read(tmp_path, "stages.0.steps=3", "data.sizes=[[96, 96]]", "output=elsewhere", "loss.face=0.5")
    assert (recipe.stages[0].steps, recipe.data.resolutions, recipe.output) == (3, ((96, 96),), "elsewhere")
    assert recipe.loss.face == 0.5


@pytest.mark.parametrize("word", ["stages.1.steps=3", "output.x=1", "steps"])
def test_words_that_change_nothing_are_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(RequestError, match=r"is not a field of this recipe|is not key=value"):
        read(tmp_path, word)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml")), ids=lambda path: path.name
)
def test_every_recipe_that_ships_is_valid(path: Path) -> None:
    kinds: dict[str, type[RecipeTable]] = {"nano-vae": AutoencoderRecipe, "nano-text": TextEncoderRecipe}
    assert read_table(path, kinds.get(path.stem, Recipe))
