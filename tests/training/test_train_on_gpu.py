"""The program that trains the built-in model on a GPU machine, on a CPU and with a tiny network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from humo.training.checkpoint import finished_checkpoints, read_checkpoint, read_state

PROGRAM = Path(__file__).parents[2] / "scripts" / "train_on_gpu.py"
RENDER = {
    "seed": 3,
    "sizes": [[32, 48]],
    "takes": 1,
    "take_frames": 5,
    "people_per_shard": 2,
    "speeches": 20,
    "identities": 60,
}
TINY = (
    "model.network.num_layers=1",
    "model.network.num_attention_heads=1",
    "model.network.attention_head_dim=16",
    "model.network.ffn_dim=16",
    "compute.device=cpu",
    "compute.compile=false",
    "data.max_speeches=1",
    "stages.0.batch_size=2",
    "stages.1.batch_size=2",
    "stages.1.steps=2",
    "checkpoints.every_minutes=0",
)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_on_gpu", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_trains_both_stages_in_a_folder_that_holds_all_it_needs(program: ModuleType, tmp_path: Path) -> None:
    archive, work, out = tmp_path / "nano.pyz", tmp_path / "work", tmp_path / "out"
    recipe = tomllib.loads(program.RECIPE.read_text())
    recipe["data"] |= {"render": RENDER, "resolutions": RENDER["sizes"]}
    recipe["stages"][1]["frames"] = [5]
    program.pack(archive, recipe, None, (), "3.12")
    command = [
        sys.executable,
        str(archive),
        "train",
        str(work),
        str(out),
        "--seconds",
        "500",
        "--frame-minutes",
        "0.02",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = ["--workers", "1", "--set", *TINY]
    subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, check=True, timeout=600)
    assert (work / "run" / "model" / "transformer").is_dir()
    program.join(out, tmp_path / "run")
    (joined,) = finished_checkpoints(tmp_path / "run" / "checkpoints")
    trained = finished_checkpoints(work / "run" / "checkpoints")[-1]
    assert read_state(joined) == read_state(trained)
    assert read_state(joined).stage == 1
    weights, averages = (read_checkpoint(trained)[name] for name in ("weights", "ema"))
    for name, weight in read_checkpoint(joined)["weights"].items():
        assert weight.equal(weights[name].half().float()), name
    assert read_checkpoint(joined)["ema"].keys() == averages.keys()


def test_large_weights_come_back_in_parts(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_PART_BYTES", 100)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    weights = {"a": torch.arange(500.0), "b": torch.ones(3, 4)}
    for name in ("weights", "ema"):
        save_file(weights, checkpoint / f"{name}.safetensors")
    (checkpoint / "state.json").write_text('{"stage": 0, "step": 7, "global_step": 7}')
    (tmp_path / "run" / "log.jsonl").touch()
    assert program.publish(checkpoint.parent, tmp_path / "out", None) == checkpoint.name
    parts = sorted((tmp_path / "out").glob("*.part"))
    assert len(parts) > 20
    assert max(part.stat().st_size for part in parts) == 100
    program.join(tmp_path / "out", tmp_path / "back")
    (joined,) = finished_checkpoints(tmp_path / "back" / "checkpoints")
    assert all(tensor.equal(weights[name]) for name, tensor in read_checkpoint(joined)["weights"].items())


def test_weights_to_start_from_lose_little(program: ModuleType, tmp_path: Path) -> None:
    weights = {"a": torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)), "b": torch.zeros(4)}
    save_file(weights, tmp_path / "full.safetensors")
    program.write_quantized(tmp_path / "full.safetensors", tmp_path / "small.safetensors")
    read = program.read_quantized(tmp_path / "small.safetensors")
    assert read["b"].equal(weights["b"])
    largest = weights["a"].flatten(1).abs().amax(dim=1)
    assert ((read["a"] - weights["a"]).flatten(1).abs().amax(dim=1) <= largest / 254 * 1.001).all()


def test_the_training_imports_without_the_packages_that_it_does_not_call(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    program.install(tmp_path)
    paths = os.pathsep.join((str(tmp_path / "stubs"), str(PROGRAM.parents[1] / "src")))
    code = "import av, humo.training.train, humo.synthetic.shards; print(av.__file__)"
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
    assert str(tmp_path) in result.stdout
