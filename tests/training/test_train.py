"""A run learns, trains exactly what it says, survives being killed, and is the same in one process or two."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from humo import HuMoPipeline
from humo.checkpoints.hub import open_model_folder
from humo.errors import CheckpointError, RequestError
from humo.training.encoders import Encoders
from humo.training.journal import read_journal
from humo.training.learner import Learner
from humo.training.optimise import divide
from humo.training.parts import PATTERNS, matches
from humo.training.recipefile import parse_recipe
from humo.training.state import finished, read_checkpoint
from humo.training.train import train
from tests.training.made_up import recipe, values

ROOT = Path(__file__).parents[2]

Change = dict[str, Any]
STAGES: list[Change] = [
    {"name": "text to video", "steps": 2, "train": ["all"]},
    {"name": "subject", "steps": 2, "train": ["self_attention"]},
    {"name": "sync", "steps": 2, "train": ["self_attention", "audio", "focus", "lips"], "audio_share": [0.5, 1.0]},
]


def stages(**changes: Any) -> list[Change]:
    return [stage | {"frames": [5, 9], "batch": 2, "learning_rate": 1e-3, "warmup": 0} | changes for stage in STAGES]


def losses(output: Path) -> list[tuple[float, ...]]:
    return [(row["step"], row["loss"], row["focus"], row["lips"], row["gradient"]) for row in read_journal(output)]


def test_the_loss_goes_down_on_one_clip(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = {"name": "all", "steps": 150, "train": ["all", "focus", "lips"], "audio_share": [1, 1], "frames": [5]}
    asked = recipe(
        dataset,
        tiny_model_folder,
        tmp_path,
        data={"folder": str(dataset), "sizes": [[32, 32]], "clips": 1},
        stages=[stage | {"batch": 4, "learning_rate": 5e-3, "warmup": 5, "keep": {"TIA": 1.0}}],
        optimiser={"ema": 0.9},
        loss={"face": 1.0, "mouth": 2.0},
    )
    train(asked)
    rows = read_journal(tmp_path)
    for name, share in (("velocity", 0.7), ("focus", 0.5), ("lips", 0.5)):
        first, last = (sum(row[name] for row in part) / 20 for part in (rows[:20], rows[-20:]))
        assert last < share * first, name


@pytest.mark.parametrize("number", [1, 2])
def test_each_stage_trains_exactly_its_parts(
    number: int, dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    stage = stages()[number]
    asked = recipe(dataset, tiny_model_folder, tmp_path, stages=[stage | {"keep": {"TIA": 1.0}}])
    encoders = Encoders(asked.model)
    start = encoders.network(asked.seed)
    torch.nn.init.normal_(start.proj_out.weight)  # zero at the very start, when nothing else gets a gradient
    block: Any
    for block in start.blocks:
        torch.nn.init.normal_(block.attn_audio.to_out[0].weight)
    before = {f"transformer.{name}": weight.clone() for name, weight in start.named_parameters()}
    start.save_pretrained(str(tmp_path / "start" / "transformer"))
    model = HuMoPipeline.from_pretrained(str(tiny_model_folder))
    model.transformer = start
    model.save_pretrained(str(tmp_path / "start"))
    changed = asked.model_copy(
        update={"model": asked.model.model_copy(update={"network": None, "folder": str(tmp_path / "start")})}
    )
    made = train(changed)
    saved = read_checkpoint(finished(tmp_path / "checkpoints")[-1])["weights"]
    for name, weight in before.items():
        if matches(name, stage["train"]):
            moved = not saved[name].equal(weight)
            assert moved or name.endswith(("to_k.bias", "norm.bias")), f"{name} did not move"
        else:
            assert name not in saved
    exported = HuMoPipeline.from_pretrained(str(made)).transformer
    for name, weight in exported.named_parameters():
        if not matches(f"transformer.{name}", stage["train"]):
            assert weight.equal(before[f"transformer.{name}"]), f"{name} moved"


def test_fresh_parts_begin_anew_and_the_rest_goes_on(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    def network(**changes: Any) -> dict[str, Tensor]:
        model = {"folder": str(tiny_model_folder)} | changes
        asked = recipe(dataset, tiny_model_folder, tmp_path, model=model).model
        return dict(Encoders(asked).network(seed=3).named_parameters())

    whole, partly, again = network(), network(fresh="audio"), network(fresh="audio")
    for name, weight in whole.items():
        assert torch.equal(partly[name], again[name])
        if matches(f"transformer.{name}", ("audio",)):
            assert "to_out.0.weight" not in name or not partly[name].any()
        else:
            assert torch.equal(partly[name], weight)
    drawn = "blocks.0.attn_audio.to_q.weight"
    assert not torch.equal(partly[drawn], whole[drawn])


def test_the_parts_together_are_the_whole_network(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    learner = Learner(Encoders(recipe(dataset, tiny_model_folder, tmp_path).model).network(0))
    parts = [part for part in PATTERNS if part != "all"]
    for name, _ in learner.named_parameters():
        assert sum(matches(name, [part]) for part in parts) == 1, name


def test_a_network_computes_the_same_with_and_without_its_heads(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    network = Encoders(recipe(dataset, tiny_model_folder, tmp_path).model).network(0)
    torch.nn.init.normal_(network.proj_out.weight)
    given = (
        torch.randn(2, 16, 4, 4, 4),
        torch.tensor([300.0, 900.0]),
        torch.randn(2, 7, 24),
        torch.randn(2, 4, 8, 5, 16),
    )
    told = Learner(network)(*given, 3)
    assert told.velocity.equal(network(*given, return_dict=False)[0])
    assert told.focus.shape == (2, 4, 3, 2, 2)
    assert told.lips.shape == (2, 3, 4, 3)
    assert told.identity.shape == (2, 4, 128)


def test_gradient_checkpointing_changes_nothing(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for name in ("plain", "checkpointed"):
        compute = {"gradient_checkpointing": name == "checkpointed"}
        train(recipe(dataset, tiny_model_folder, tmp_path / name, stages=stages()[2:], compute=compute))
    assert losses(tmp_path / "plain") == losses(tmp_path / "checkpointed")


def test_accumulated_passes_are_one_batch(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for passes in (1, 2):
        compute = {"accumulation": passes}
        train(recipe(dataset, tiny_model_folder, tmp_path / str(passes), stages=stages(batch=4), compute=compute))
    for one, two in zip(losses(tmp_path / "1"), losses(tmp_path / "2"), strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_bfloat16_stays_near_float32(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        compute = {"precision": precision}
        train(recipe(dataset, tiny_model_folder, tmp_path / precision, stages=stages(), compute=compute))
    for one, two in zip(losses(tmp_path / "float32"), losses(tmp_path / "bfloat16"), strict=True):
        assert one[:4] == pytest.approx(two[:4], rel=0.03)


@pytest.mark.filterwarnings("ignore")  # those of the compiler's own code
def test_compiled_blocks_compute_the_same(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are traced, forwards and backwards, and the heads still listen; that the code made of it is right, and takes
    minutes to make, is torch's own affair."""
    traced: list[Any] = []
    trace = partial(torch.compile, backend="aot_eager")

    def compiled_so(function: Any) -> Any:
        traced.append(function)
        return trace(function)

    monkeypatch.setattr(torch, "compile", compiled_so)
    for name in ("plain", "compiled"):
        compute = {"compile": name == "compiled"}
        train(recipe(dataset, tiny_model_folder, tmp_path / name, stages=stages()[2:], compute=compute))
    assert traced
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert plain[0][2] > 0
    for one, two in zip(plain, compiled, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_the_face_of_the_picture_is_told(own_dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Pictures without a face, or that are not seen, count nothing."""
    (own_dataset / "reference_image" / "clip0.png").write_bytes((ROOT / "examples" / "woman.png").read_bytes())
    stage = stages(train=["all", "identity"], steps=40)[0]
    asked = recipe(
        own_dataset,
        tiny_model_folder,
        tmp_path,
        data={"folder": str(own_dataset), "sizes": [[32, 32]], "clips": 2},
        stages=[stage | {"keep": {"TIA": 0.7, "TA": 0.3}}],
    )
    train(asked)
    told = [row["identity"] for row in read_journal(tmp_path)]
    assert 0 < sum(one == 0 for one in told) < len(told)  # neither in every batch nor in none


def test_muons_work_is_divided_evenly() -> None:
    matrices = {f"{number}": torch.zeros(64, 64 if number % 3 else 256) for number in range(12)}
    parts = divide(matrices, 2)
    assert sorted(parts[0] + parts[1], key=int) == list(matrices)
    work = [sum(matrices[name].numel() for name in part) for part in parts]
    assert max(work) <= 1.1 * min(work)


def test_the_export_is_a_model_that_generates(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    asked = recipe(
        dataset,
        tiny_model_folder,
        tmp_path,
        model=values(dataset, tiny_model_folder, tmp_path)["model"] | {"preset": "humo-nano"},
        validation={"steps": 2, "clips": 1, "loss_clips": 3, "inference_steps": 1},
        stages=stages()[2:],
        tensorboard=True,
    )
    made = train(asked)
    folder = open_model_folder(made)
    assert folder.preset.name == "humo-nano"
    assert not any("focus" in name or "lips" in name for name in folder.components["transformer"].tensors)
    frames = HuMoPipeline.from_pretrained(str(made))(
        "hello", width=32, height=32, num_frames=5, num_inference_steps=1, output_type="np"
    ).frames
    assert frames.shape == (1, 5, 32, 32, 3)
    validation = [row for row in read_journal(tmp_path) if "validation/loss" in row]
    assert len(validation) == 1
    assert {"validation/loss_own_sound", "validation/loss_other_sound"} < validation[0].keys()
    assert len(list((tmp_path / "validation" / "step-00000002").glob("*.mp4"))) == 1
    assert list((tmp_path / "tensorboard").iterdir())


def test_what_is_learnt_is_said_though_the_folder_did_not_know_the_word(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "older")
    config = folder / "transformer" / "config.json"
    words = json.loads(config.read_text())
    del words["continues"]
    config.write_text(json.dumps(words))
    data = values(dataset, folder, tmp_path / "run")["data"] | {"continued": 0.5}
    asked = recipe(dataset, folder, tmp_path / "run", model={"folder": str(folder)}, data=data, stages=stages()[:1])
    assert open_model_folder(train(asked)).components["transformer"].config["continues"] is True


def test_pictures_beside_the_latents_are_trained_too(
    dataset: Path, tiny_model_folder_17b: Path, tmp_path: Path
) -> None:
    model = {"folder": str(tiny_model_folder_17b)}
    train(recipe(dataset, tiny_model_folder_17b, tmp_path, model=model, stages=stages()))
    assert open_model_folder(tmp_path / "model").preset.name == "humo-17b"
    assert len(losses(tmp_path)) == 6


def test_a_lora_is_trained_and_loads(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = {"folder": str(tiny_model_folder)}
    asked = recipe(dataset, tiny_model_folder, tmp_path, model=model, stages=stages()[1:], lora={"rank": 2})
    made = train(asked)
    saved = read_checkpoint(finished(tmp_path / "checkpoints")[-1])
    assert all(".lora_" in name or not name.startswith("transformer.") for name in saved["weights"])
    pipeline = HuMoPipeline.from_pretrained(str(tiny_model_folder))
    given = (torch.randn(1, 16, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 7, 24), torch.randn(1, 3, 8, 5, 16))
    before = pipeline.transformer(*given, return_dict=False)[0]
    pipeline.load_lora_weights(str(made))
    after = pipeline.transformer(*given, return_dict=False)[0]
    assert not after.equal(before)
    loaded = {name: weight for name, weight in pipeline.transformer.named_parameters() if "lora_" in name}
    for name, weight in loaded.items():
        average = next(tensor for key, tensor in saved["average"].items() if _bare(key) == _bare(f"transformer.{name}"))
        assert weight.equal(average), name


def _bare(name: str) -> str:
    return name.replace(".default_0.", ".").replace(".default.", ".")


# -- going on ---------------------------------------------------------------------------------------------------------


def start(output: Path, asked: Change, rank: int = 0, ranks: int = 1, port: int = 0) -> subprocess.Popen[bytes]:
    """A process of its own, told of the others as torchrun tells it."""
    output.mkdir(exist_ok=True)
    path = output / f"recipe-{rank}.json"
    path.write_text(json.dumps(asked))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    environment |= {"WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.training.run", str(path)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """As many as the processes beside this one have: sums are the same then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()[-3000:]


@pytest.mark.usefixtures("_one_thread")
def test_a_run_that_is_killed_goes_on_bit_for_bit(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    changes: Change = {"stages": stages(steps=10), "checkpoints": {"minutes": 0}}
    train(recipe(dataset, tiny_model_folder, tmp_path / "whole", **changes))
    output, luck = tmp_path / "killed", random.Random(time.time_ns())
    asked = values(dataset, tiny_model_folder, output, **changes)
    goal = luck.randrange(1, 28)
    process = start(output, asked)
    log, until = output / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if log.is_file() and log.read_bytes().count(b"\n") > goal:
            time.sleep(luck.random() * 0.05)
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert finished(output / "checkpoints")
    train(parse_recipe(asked), resume=True)
    assert losses(output) == losses(tmp_path / "whole")
    tensors = [read_checkpoint(finished(one / "checkpoints")[-1]) for one in (output, tmp_path / "whole")]
    for kind in tensors[0]:
        for name, tensor in tensors[0][kind].items():
            assert tensor.equal(tensors[1][kind][name]), name
    assert len(finished(output / "checkpoints")) == 2


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("muon", [False, True])
def test_two_processes_train_as_one(muon: bool, dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """In shards, or each with all weights and a part of Muon's work.

    The sums over a batch are taken in another order: losses to 1e-4, weights to 1e-4, or 5e-4 where Muon rounds to
    bfloat16 on its way.
    """
    changes: Change = {"stages": stages(batch=4), "compute": {"accumulation": 2, "shard": not muon}}
    changes["optimiser"] = {"muon": muon}
    within = 5e-4 if muon else 1e-4
    runs = [tmp_path / "one", tmp_path / "two"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = values(dataset, tiny_model_folder, runs[1], **changes)
    processes = [start(runs[1], asked, rank, 2, port) for rank in range(2)]
    train(recipe(dataset, tiny_model_folder, runs[0], **changes))
    for process in processes:
        finish(process)
    one, two = map(losses, runs)
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    for name in ("weights", "average", "optimiser"):
        first_weights, second_weights = (read_checkpoint(finished(output / "checkpoints")[-1])[name] for output in runs)
        assert first_weights.keys() == second_weights.keys()
        for key, weight in first_weights.items():
            torch.testing.assert_close(second_weights[key], weight, rtol=0, atol=within)
    networks = [HuMoPipeline.from_pretrained(str(output / "model")).transformer for output in runs]
    for first_weight, second_weight in zip(*(one.parameters() for one in networks), strict=True):
        torch.testing.assert_close(first_weight, second_weight, rtol=0, atol=within)


def test_a_finished_folder_is_not_trained_over(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    asked = recipe(dataset, tiny_model_folder, tmp_path)
    train(asked)
    before = losses(tmp_path)
    with pytest.raises(RequestError, match="holds a run already; give --resume"):
        train(asked)
    notes: list[str] = []
    train(asked, resume=True, note=notes.append)
    assert losses(tmp_path) == before
    assert notes == ["goes on from step-00000004: stage 'all', step 4"]
    network = asked.model.model_copy(
        update={"network": asked.model.network and asked.model.network.model_copy(update={"ffn_dim": 96})}
    )
    with pytest.raises(CheckpointError, match="does not fit this network"):
        train(asked.model_copy(update={"model": network}), resume=True)


def test_a_full_disk_loses_no_finished_checkpoint(tmp_path: Path) -> None:
    import resource

    from humo.errors import StorageError
    from humo.training.state import Position, save_checkpoint
    from humo.training.store import write_tensors

    def state(size: int) -> dict[str, dict[str, Tensor]]:
        return {name: {"x": torch.ones(size)} for name in ("weights", "average", "optimiser")}

    save_checkpoint(tmp_path / "c", Position(total=1), state(10), keep=1)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a write beyond it fails, as on a full disk
    try:
        with pytest.raises(StorageError, match=r"the last finished one is step-00000001"):
            save_checkpoint(tmp_path / "c", Position(total=2), state(100_000), keep=1)
        with pytest.raises(StorageError, match="free some space"):
            write_tensors(tmp_path / "entry.safetensors", {"x": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000001"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert read_checkpoint(tmp_path / "c" / "step-00000001")["weights"]["x"].sum() == 10
