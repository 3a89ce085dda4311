"""Runs that are killed, resumed, distributed over processes, or out of disk space."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from humo import HuMoPipeline
from humo.errors import CheckpointError, RequestError
from humo.training.checkpoint import finished_checkpoints, read_checkpoint
from humo.training.train import train
from tests.training.small_dataset import Change, logged_losses, recipe, stages, values

ROOT = Path(__file__).parents[2]


def start(
    output: Path, settings: Change, rank: int = 0, processes: int = 1, port: int = 0, *, resume: bool = False
) -> subprocess.Popen[bytes]:
    """Start a training process with torchrun's environment variables."""
    output.mkdir(exist_ok=True)
    path = output / f"recipe-{rank}.json"
    path.write_text(json.dumps(settings))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    environment |= {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.training.train_process", str(path), *(["--resume"] if resume else [])]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Use one thread, as the other processes do, so that sums are the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()[-3000:]


def test_a_killed_run_is_resumed_bit_for_bit(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Each run is a process of its own, as a user's is: what other tests leave in this process has no influence."""
    changes: Change = {"stages": stages(steps=10), "checkpoints": {"every_minutes": 0}}
    output, luck = tmp_path / "killed", random.Random(time.time_ns())
    finish(start(tmp_path / "whole", values(dataset, tiny_model_folder, tmp_path / "whole", **changes)))
    settings = values(dataset, tiny_model_folder, output, **changes)
    goal = luck.randrange(1, 28)
    process = start(output, settings)
    log, until = output / "log.jsonl", time.monotonic() + 600
    while time.monotonic() < until and process.poll() is None:
        if log.is_file() and log.read_bytes().count(b"\n") > goal:
            time.sleep(luck.random() * 0.05)
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert finished_checkpoints(output / "checkpoints")
    finish(start(output, settings, resume=True))
    assert logged_losses(output) == logged_losses(tmp_path / "whole")
    tensors = [read_checkpoint(finished_checkpoints(one / "checkpoints")[-1]) for one in (output, tmp_path / "whole")]
    for kind in tensors[0]:
        for name, tensor in tensors[0][kind].items():
            assert tensor.equal(tensors[1][kind][name]), name
    assert len(finished_checkpoints(output / "checkpoints")) == 2


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("muon", [False, True])
def test_two_processes_train_as_one(muon: bool, dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """With FSDP, or with replicated weights and Muon's work distributed.

    Sums over a batch have another order: losses agree to 1e-4, weights to 1e-4, or 5e-4 with Muon in bfloat16.
    """
    changes: Change = {"stages": stages(batch_size=4), "compute": {"gradient_accumulation_steps": 2, "fsdp": not muon}}
    changes["optimizer"] = {"muon": muon}
    within = 5e-4 if muon else 1e-4
    runs = [tmp_path / "one", tmp_path / "two"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = values(dataset, tiny_model_folder, runs[1], **changes)
    processes = [start(runs[1], settings, rank, 2, port) for rank in range(2)]
    train(recipe(dataset, tiny_model_folder, runs[0], **changes))
    for process in processes:
        finish(process)
    one, two = map(logged_losses, runs)
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    for name in ("weights", "ema", "optimizer"):
        first_weights, second_weights = (
            read_checkpoint(finished_checkpoints(output / "checkpoints")[-1])[name] for output in runs
        )
        assert first_weights.keys() == second_weights.keys()
        for key, weight in first_weights.items():
            torch.testing.assert_close(second_weights[key], weight, rtol=0, atol=within)
    networks = [HuMoPipeline.from_pretrained(str(output / "model")).transformer for output in runs]
    for first_weight, second_weight in zip(*(one.parameters() for one in networks), strict=True):
        torch.testing.assert_close(first_weight, second_weight, rtol=0, atol=within)


def test_a_finished_run_is_not_overwritten(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = recipe(dataset, tiny_model_folder, tmp_path)
    train(settings)
    before = logged_losses(tmp_path)
    with pytest.raises(RequestError, match="already has a checkpoint; add --resume"):
        train(settings)
    notes: list[str] = []
    train(settings, resume=True, note=notes.append)
    assert logged_losses(tmp_path) == before
    assert notes == ["resuming from step-00000004"]
    network = settings.model.model_copy(
        update={"network": settings.model.network and settings.model.network.model_copy(update={"ffn_dim": 96})}
    )
    with pytest.raises(CheckpointError, match="does not fit this network"):
        train(settings.model_copy(update={"model": network}), resume=True)


def test_a_full_disk_keeps_the_finished_checkpoints(tmp_path: Path) -> None:
    import resource

    from humo.errors import StorageError
    from humo.training.checkpoint import TrainState, save_checkpoint
    from humo.training.tensor_files import write_tensors

    def state(size: int) -> dict[str, dict[str, Tensor]]:
        return {name: {"x": torch.ones(size)} for name in ("weights", "ema", "optimizer")}

    save_checkpoint(tmp_path / "c", TrainState(global_step=1), state(10), keep=1)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a write beyond it fails, as on a full disk
    try:
        with pytest.raises(StorageError, match=r"latest finished checkpoint: step-00000001"):
            save_checkpoint(tmp_path / "c", TrainState(global_step=2), state(100_000), keep=1)
        with pytest.raises(StorageError, match="free some space"):
            write_tensors(tmp_path / "entry.safetensors", {"x": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000001"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert read_checkpoint(tmp_path / "c" / "step-00000001")["weights"]["x"].sum() == 10
