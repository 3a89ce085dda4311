"""Training on shards: batches, folders to which shards are added, resumed runs, and rendering during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humo.distributed.process_group import ProcessGroup
from humo.errors import CheckpointError, RequestError
from humo.geometry import Geometry
from humo.synthetic.shards import render_shards
from humo.training.config import Recipe
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.metrics_log import read_log
from humo.training.recipe_file import parse_recipe
from humo.training.shard_preparation import build_shard_config, check_shards
from humo.training.shard_source import ShardFolderReader, to_pixels
from humo.training.train import LOSS_NAMES, train
from tests.small_shards import SMALL_SHARDS
from tests.training.small_dataset import NETWORK, recipe


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: portraits, and squares at twice their size."""
    folder = tmp_path_factory.mktemp("people")
    assert len(list(render_shards(folder, SMALL_SHARDS, shards=2))) == 2
    return folder


STAGE = {
    "name": "frames",
    "steps": 4,
    "train": ["all", "focus", "lips", "identity"],
    "audio_prob": [1, 1],
    "frames": [1, 5],
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
}


def shard_recipe(
    folder: Path, model: Path, output: Path, /, data: dict[str, Any] | None = None, **changes: Any
) -> Recipe:
    """A recipe of one stage of single frames and short takes, with every head."""
    values = {
        "folder": str(folder),
        "horizontal_flip": True,
        "reference_augmentations": 4,
        "self_reference_prob": 0.3,
        "paraphrase_prob": 0.5,
    } | (data or {})
    loss = {"face": 1.0, "mouth": 1.0, "eyes": 1.0}
    return recipe(folder, model, output, data=values, loss=loss, **({"stages": [STAGE]} | changes))


def losses_of(output: Path) -> list[float]:
    return [row["loss"] for row in read_log(output)]


def test_a_resumed_run_repeats_the_losses(shards: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    whole = shard_recipe(shards, tiny_model_folder, tmp_path / "whole", checkpoints={"every_minutes": 0})
    path = train(whole)
    assert (path / "transformer" / "config.json").is_file()
    rows = read_log(tmp_path / "whole")
    assert all(np.isfinite(row[name]) for row in rows for name in LOSS_NAMES)
    assert any(row["loss_lips"] > 0 for row in rows)
    assert any(row["loss_focus"] > 0 for row in rows)
    stopped = tmp_path / "stopped"
    train(shard_recipe(shards, tiny_model_folder, stopped, stages=[STAGE | {"steps": 2}]))
    train(shard_recipe(shards, tiny_model_folder, stopped), resume=True)
    assert losses_of(stopped) == losses_of(tmp_path / "whole")


def test_the_loss_goes_down(shards: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = {"name": "one", "steps": 30, "train": ["all"], "frames": [1], "batch_size": 4, "learning_rate": 5e-3}
    train(
        shard_recipe(
            shards, tiny_model_folder, tmp_path, stages=[stage | {"warmup_steps": 5, "condition_probs": {"TIA": 1.0}}]
        )
    )
    rows = losses_of(tmp_path)
    assert sum(rows[-8:]) < 0.8 * sum(rows[:8])


def test_added_and_removed_shards_are_noticed(shards: Path, tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    endless = render_shards(growing, SMALL_SHARDS)
    next(endless)
    reader = ShardFolderReader(growing)
    reader.refresh(ProcessGroup())
    assert list(reader.shards) == [0]
    next(endless)
    reader.refresh(ProcessGroup())
    assert list(reader.shards) == [0, 1]
    (growing / "shard-00000.safetensors").unlink()
    reader.refresh(ProcessGroup())
    assert list(reader.shards) == [1]


def test_shards_are_rendered_during_training_and_old_ones_deleted(tiny_model_folder: Path, tmp_path: Path) -> None:
    render = {"sizes": [[32, 32]], "takes": 1, "people_per_shard": 1, "speeches": 20, "identities": 60, "keep_last": 2}
    stage = {"name": "frames", "steps": 3, "train": ["all"], "frames": [1], "batch_size": 2, "warmup_steps": 0}
    folder = tmp_path / "people"
    plan = shard_recipe(folder, tiny_model_folder, tmp_path / "run", data={"render": render}, stages=[stage])
    train(plan)
    assert len(losses_of(tmp_path / "run")) == 3
    assert 1 <= len(list(folder.glob("shard-*.safetensors"))) <= 3
    assert not list(folder.glob(".*.part"))


def test_takes_shorter_than_a_stage_are_an_error(shards: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = {"name": "long", "steps": 1, "train": ["all"], "frames": [9], "batch_size": 2}
    plan = shard_recipe(shards, tiny_model_folder, tmp_path, stages=[stage])
    with pytest.raises(RequestError, match="9 frames"):
        check_shards(plan.data, plan.stages)
    with pytest.raises(RequestError, match="9 frames"):
        train(plan)


def test_double_shards_are_reduced_to_their_size(shards: Path) -> None:
    reader = ShardFolderReader(shards)
    reader.refresh(ProcessGroup())
    frames = reader.shards[1].file.get_slice("frames")[0:1][0].numpy()
    assert frames.shape[1:3] == (64, 64)
    pixels = to_pixels(frames, Geometry(32, 32, 5))
    assert pixels.shape == (3, 5, 32, 32)
    mean = frames[0, :2, :2, 0].astype(np.float64).mean() / 127.5 - 1
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(mean, abs=1e-5)


def test_a_recipe_configures_the_shards() -> None:
    values = {"folder": "x", "render": {"sizes": [[96, 128]], "takes": 3}}
    plan = parse_recipe(
        {
            "output": "y",
            "model": {"folder": "z"},
            "data": values,
            "stages": [{"name": "a", "steps": 1, "train": ["all"]}],
        }
    )
    assert plan.data.render is not None
    assert build_shard_config(plan.data.render).sizes == ((96, 128),)
    assert build_shard_config(plan.data.render).takes == 3


def test_sigma_data_is_a_share_of_each_channel(tiny_model_folder: Path, tmp_path: Path) -> None:
    network = NETWORK | {"prediction": "sample", "sigma_data_ratio": 0.5}
    model = {"folder": str(tiny_model_folder), "preset": "humo-1.7b", "network": network}
    plan = recipe(tmp_path, tiny_model_folder, tmp_path / "out", model=model)
    encoders = FrozenEncoders(plan.model)
    with pytest.raises(CheckpointError, match="channel_std"):
        encoders.build_network(0)
    assert encoders._sigma_data({"channel_std": [2.0, 0.5, 0.0]}, 0.5) == [1.0, 0.25, 0.01]
    with pytest.raises(RequestError, match="sigma_data_ratio"):
        recipe(tmp_path, tiny_model_folder, tmp_path, model=model | {"network": network | {"prediction": "velocity"}})
