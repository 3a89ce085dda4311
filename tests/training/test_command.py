"""The command ``humo train``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from humo.cli.main import main
from tests.training.small_dataset import values


@pytest.fixture
def recipe_file(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(values(dataset, tiny_model_folder, tmp_path / "out")))
    return path


def test_a_dry_run_reports_what_would_be_trained(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe_file), "--dry-run", "--json", "stages.0.steps=7"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["clips"], plan["stages"][0]["steps"], plan["stages"][0]["samples"]) == (6, 7, 14)
    assert plan["stages"][0]["trained"] == plan["weights"]
    assert not (recipe_file.parent / "out").exists()


def test_a_dry_run_of_an_autoencoder_counts_its_clips(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"output": str(tmp_path / "out"), "data": {"folder": str(dataset)}}))
    assert main(["train", "vae", str(path), "--dry-run", "--json", "steps=7"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["clips"], plan["steps"]) == (6, 7)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["vae", "text"])
def test_a_dry_run_of_a_component_without_data_is_an_error(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = f"recipes/nano-{part}.toml"
    assert main(["train", part, recipe, "--dry-run", f"data.folder={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path) in error


def test_a_run_reports_progress_and_the_model_folder(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe_file), "--json", "stages.0.steps=2"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1] == {"event": "result", "path": str(recipe_file.parent / "out" / "model"), "steps": 2}
    steps = [event for event in events if event.get("phase") == "train"]
    assert [event["done"] for event in steps] == [0, 1, 2]
    assert "seconds_left" in steps[1]


def test_errors_are_one_line_with_exit_code_2(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["nowhere.toml"], "there is no such file"),
        ([str(recipe_file), "--resum"], "--resum: is not an option of humo train; did you mean '--resume'?"),
        (
            [str(recipe_file), "optimizr.max_grad_norm=1"],
            "optimizr: is not a field of a recipe; did you mean 'optimizer'?",
        ),
        ([str(recipe_file), "data.folder=nowhere"], "'nowhere' has no folder 'video'"),
        ([str(recipe_file), "model.vae=nowhere"], "model.vae: 'nowhere' is not a folder"),
    ):
        assert main(["train", *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]
