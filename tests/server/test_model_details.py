"""Details of a model for a client: defaults, ranges, shapes, qualities, presets and LoRAs."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from humo.geometry import SIZE_MULTIPLE
from humo.presets import HUMO_1_7B, HUMO_17B, HUMO_NANO, Preset
from humo.server.model_details import SHAPES, qualities, setting_ranges, size_of_shape


@pytest.mark.parametrize("preset", [HUMO_17B, HUMO_1_7B, HUMO_NANO], ids=lambda preset: preset.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_about_the_models_pixels(preset: Preset, shape: str) -> None:
    width, height = size_of_shape(SHAPES[shape], preset)
    assert width % SIZE_MULTIPLE == height % SIZE_MULTIPLE == 0
    assert width / height == pytest.approx(SHAPES[shape], rel=0.05)
    assert width * height == pytest.approx(preset.width * preset.height, rel=0.3)


def test_the_models_own_size_is_kept_for_its_shape() -> None:
    assert size_of_shape(SHAPES["16:9"], HUMO_17B) == (832, 480)
    assert size_of_shape(SHAPES["9:16"], HUMO_17B) == (480, 832)
    assert size_of_shape(SHAPES["1:1"], HUMO_NANO) == (96, 96)


def test_better_qualities_take_more_passes() -> None:
    draft, good, best = qualities("humo-17b", HUMO_17B, None)
    assert draft.passes < good.passes < best.passes
    assert (draft.steps, good.steps, best.steps) == (25, 50, 50)
    assert best.fields == {"speed": "exact"}


def test_a_distilled_model_is_improved_by_its_teacher_alone(client: TestClient) -> None:
    student = client.get("/v1/models").json()["data"][0]["humo"]
    assert [(one["name"], one["steps"]) for one in student["qualities"]] == [("draft", 3), ("good", 6)]
    assert "shift" not in student["settings"]  # has no effect
    assert student["negative_prompt"] is None
    assert student["settings"]["scale_audio"] == {"default": 3, "low": 2, "high": 4, "step": 0.1}


def test_every_default_is_within_its_range() -> None:
    for preset in (HUMO_17B, HUMO_1_7B, HUMO_NANO):
        for field, setting in setting_ranges(preset).items():
            assert setting.low <= setting.default <= setting.high, (preset.name, field)


def test_published_models_are_listed_with_what_they_need(client: TestClient) -> None:
    published = {one["id"]: one for one in client.get("/v1/models").json()["published"]}
    assert published["humo-17b-q5"]["gigabytes"] == 20.1
    assert "GPU" in published["humo-17b-q5"]["needs"]


def test_examples_have_a_prompt_and_files(client: TestClient) -> None:
    examples = client.get("/v1/examples").json()["data"]
    assert [one["id"] for one in examples] == ["woman", "man", "glasses", "elder", "beard", "words"]
    types = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}
    for example in examples:
        assert example["prompt"]
        for part, media_type in types.items():
            if example["id"] == "words" and part == "image":
                assert example[part] is None
                assert client.get("/v1/examples/words/image").status_code == 400
            else:
                assert client.get(example[part]).headers["content-type"] == media_type
