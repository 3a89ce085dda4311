"""Validation of recipes: the first wrong field is named before any data are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from humo.errors import RequestError
from humo.training.component_config import AutoencoderRecipe, DecoderRecipe, TextEncoderRecipe
from humo.training.config import PUBLISHED_STAGES, Recipe, RecipeTable
from humo.training.recipe_file import parse_recipe, read_recipe, read_table
from tests.training.small_dataset import values

NOWHERE = Path("nowhere")


def refusal(**changes: Any) -> str:
    with pytest.raises(RequestError) as failure:
        parse_recipe(values(NOWHERE, NOWHERE, NOWHERE, **changes))
    return str(failure.value)


STAGE: dict[str, Any] = values(NOWHERE, NOWHERE, NOWHERE)["stages"][0]


def test_a_valid_recipe_is_accepted_and_frozen() -> None:
    recipe = parse_recipe(values(NOWHERE, NOWHERE, NOWHERE))
    assert recipe.steps == 4
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


TINY = {"num_attention_heads": 1, "attention_head_dim": 6, "ffn_dim": 1, "num_layers": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "sed: is not a field of a recipe; did you mean 'seed'?"),
        ({"loss": {"focuss": 1}}, "loss.focuss: is not a field of a recipe; did you mean 'focus'?"),
        ({"stages": [STAGE | {"step": 1}]}, "stages.0.step: is not a field of a recipe; did you mean 'steps'?"),
        ({"stages": [STAGE | {"train": ["audi"]}]}, "stages.0.train.0: 'audi' is not known; did you mean 'audio'?"),
        ({"stages": [STAGE | {"frames": [8]}]}, "8 is not 4k + 1; give 5 or 9"),
        (
            {"stages": [STAGE | {"condition_probs": {"TIA": 0.5}}]},
            "the probabilities add up to 0.5; change them so that the sum is 1",
        ),
        ({"stages": [STAGE | {"steps": 0}]}, "stages.0.steps: 0 is not allowed; it should be greater than"),
        ({"stages": [{"published_stage": 3}]}, "published_stage 3 is unknown; choose among 0, 1, 2"),
        ({"stages": []}, "stages: [] is not allowed"),
        (
            {"compute": {"gradient_accumulation_steps": 3}},
            "is not a multiple of compute.gradient_accumulation_steps 3; change one of them",
        ),
        ({"compute": {"dtype": "float8"}}, "compute.dtype: 'float8' is not known; did you mean 'float32'?"),
        ({"optimizer": {"ema_decay": 1.0}}, "optimizer.ema_decay: 1.0 is not allowed"),
        ({"data": {"folder": "x", "resolutions": [[30, 32]]}}, "data.resolutions.0.0: 30 is not allowed"),
        (
            {"model": {"folder": "x", "reinitialize": "audio", "network": TINY}},
            "reinitialize cannot be combined with network",
        ),
        (
            {"model": {"network": None}},
            "preset, network, vae, text_encoder, tokenizer, audio_encoder, feature_extractor must be set",
        ),
        ({"model": {"folder": "x", "preset": "humo-2b"}}, "preset 'humo-2b' is unknown; did you mean"),
        ({"seed": -1}, "seed: -1 is not allowed"),
    ],
)
def test_the_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(**changes)


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


def test_a_stage_can_change_fields_of_a_published_stage() -> None:
    recipe = parse_recipe(values(NOWHERE, NOWHERE, NOWHERE, stages=[{"published_stage": 2, "steps": 7}]))
    assert recipe.stages[0] == PUBLISHED_STAGES[2].model_copy(update={"steps": 7})


RECIPE = """
output = "out"
[model]
folder = "m"
[data]
folder = "d"
[[stages]]
published_stage = 1
"""


def read(tmp_path: Path, *overrides: str) -> Recipe:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return read_recipe(tmp_path / "recipe.toml", overrides)


def test_overrides_change_fields(tmp_path: Path) -> None:
    recipe = read(tmp_path, "stages.0.steps=3", "data.resolutions=[[96, 96]]", "output=elsewhere", "loss.face=0.5")
    assert (recipe.stages[0].steps, recipe.data.resolutions, recipe.output) == (3, ((96, 96),), "elsewhere")
    assert recipe.loss.face == 0.5


@pytest.mark.parametrize("word", ["stages.1.steps=3", "output.x=1", "steps"])
def test_overrides_of_unknown_fields_are_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(RequestError, match=r"is not a field of this recipe|is not key=value"):
        read(tmp_path, word)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml")), ids=lambda path: path.name
)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    kinds: dict[str, type[RecipeTable]] = {
        "nano-vae": AutoencoderRecipe,
        "nano-decoder": DecoderRecipe,
        "nano-text": TextEncoderRecipe,
    }
    assert read_table(path, kinds.get(path.stem, Recipe))
