"""Training and export of a network: losses fall, and exactly the chosen parameter groups change."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from humo import HuMoPipeline
from humo.checkpoints.model_folder import open_model_folder
from humo.training.checkpoint import finished_checkpoints, read_checkpoint
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.metrics_log import read_log
from humo.training.optimizer import partition
from humo.training.train import train
from humo.training.trainable import PARAMETER_PATTERNS, in_groups
from humo.training.training_model import TrainingModel
from tests.training.small_dataset import logged_losses, recipe, stages, values


def test_losses_fall_on_one_clip(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = {"name": "all", "steps": 150, "train": ["all", "focus", "lips"], "audio_prob": [1, 1], "frames": [5]}
    settings = recipe(
        dataset,
        tiny_model_folder,
        tmp_path,
        data={"folder": str(dataset), "resolutions": [[32, 32]], "max_clips": 1},
        stages=[stage | {"batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 5, "condition_probs": {"TIA": 1.0}}],
        optimizer={"ema_decay": 0.9},
        loss={"face": 1.0, "mouth": 2.0},
    )
    train(settings)
    rows = read_log(tmp_path)
    for name, share in (("loss_velocity", 0.7), ("loss_focus", 0.5), ("loss_lips", 0.5)):
        first, last = (sum(row[name] for row in part) / 20 for part in (rows[:20], rows[-20:]))
        assert last < share * first, name


@pytest.mark.parametrize("number", [1, 2])
def test_each_stage_trains_exactly_its_parameter_groups(
    number: int, dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    stage = stages()[number]
    settings = recipe(dataset, tiny_model_folder, tmp_path, stages=[stage | {"condition_probs": {"TIA": 1.0}}])
    encoders = FrozenEncoders(settings.model)
    start = encoders.build_network(settings.seed)
    torch.nn.init.normal_(start.proj_out.weight)  # zero at the very start, when nothing else gets a gradient
    block: Any
    for block in start.blocks:
        torch.nn.init.normal_(block.attn_audio.to_out[0].weight)
    before = {f"transformer.{name}": weight.clone() for name, weight in start.named_parameters()}
    start.save_pretrained(str(tmp_path / "start" / "transformer"))
    model = HuMoPipeline.from_pretrained(str(tiny_model_folder))
    model.transformer = start
    model.save_pretrained(str(tmp_path / "start"))
    changed = settings.model_copy(
        update={"model": settings.model.model_copy(update={"network": None, "folder": str(tmp_path / "start")})}
    )
    path = train(changed)
    saved = read_checkpoint(finished_checkpoints(tmp_path / "checkpoints")[-1])["weights"]
    for name, weight in before.items():
        if in_groups(name, stage["train"]):
            moved = not saved[name].equal(weight)
            assert moved or name.endswith(("to_k.bias", "norm.bias")), f"{name} did not move"
        else:
            assert name not in saved
    exported = HuMoPipeline.from_pretrained(str(path)).transformer
    for name, weight in exported.named_parameters():
        if not in_groups(f"transformer.{name}", stage["train"]):
            assert weight.equal(before[f"transformer.{name}"]), f"{name} moved"


def test_reinitialized_groups_are_new_and_the_others_stay(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    def network(**changes: Any) -> dict[str, Tensor]:
        model = {"folder": str(tiny_model_folder)} | changes
        settings = recipe(dataset, tiny_model_folder, tmp_path, model=model).model
        return dict(FrozenEncoders(settings).build_network(seed=3).named_parameters())

    whole, partly, repeated = network(), network(reinitialize="audio"), network(reinitialize="audio")
    for name, weight in whole.items():
        assert torch.equal(partly[name], repeated[name])
        if in_groups(f"transformer.{name}", ("audio",)):
            assert "to_out.0.weight" not in name or not partly[name].any()
        else:
            assert torch.equal(partly[name], weight)
    drawn = "blocks.0.attn_audio.to_q.weight"
    assert not torch.equal(partly[drawn], whole[drawn])


def test_every_parameter_is_in_exactly_one_group(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = TrainingModel(FrozenEncoders(recipe(dataset, tiny_model_folder, tmp_path).model).build_network(0))
    parts = [part for part in PARAMETER_PATTERNS if part != "all"]
    for name, _ in model.named_parameters():
        assert sum(in_groups(name, [part]) for part in parts) == 1, name


def test_auxiliary_heads_do_not_change_the_network(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    network = FrozenEncoders(recipe(dataset, tiny_model_folder, tmp_path).model).build_network(0)
    torch.nn.init.normal_(network.proj_out.weight)
    inputs = (
        torch.randn(2, 16, 4, 4, 4),
        torch.tensor([300.0, 900.0]),
        torch.randn(2, 7, 24),
        torch.randn(2, 4, 8, 5, 16),
    )
    output = TrainingModel(network)(*inputs, 3)
    assert output.velocity.equal(network(*inputs, return_dict=False)[0])
    assert output.focus.shape == (2, 4, 3, 2, 2)
    assert output.lips.shape == (2, 3, 4, 3)
    assert output.identity.shape == (2, 4, 128)


def test_gradient_checkpointing_changes_nothing(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for name in ("plain", "checkpointed"):
        compute = {"gradient_checkpointing": name == "checkpointed"}
        train(recipe(dataset, tiny_model_folder, tmp_path / name, stages=stages()[2:], compute=compute))
    assert logged_losses(tmp_path / "plain") == logged_losses(tmp_path / "checkpointed")


def test_accumulated_passes_equal_one_batch(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for passes in (1, 2):
        compute = {"gradient_accumulation_steps": passes}
        train(recipe(dataset, tiny_model_folder, tmp_path / str(passes), stages=stages(batch_size=4), compute=compute))
    for one, two in zip(logged_losses(tmp_path / "1"), logged_losses(tmp_path / "2"), strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_bfloat16_stays_near_float32(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        compute = {"dtype": precision}
        train(recipe(dataset, tiny_model_folder, tmp_path / precision, stages=stages(), compute=compute))
    for one, two in zip(logged_losses(tmp_path / "float32"), logged_losses(tmp_path / "bfloat16"), strict=True):
        assert one[:4] == pytest.approx(two[:4], rel=0.03)


@pytest.mark.filterwarnings("ignore")  # those of the compiler's own code
def test_compiled_blocks_compute_the_same(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are traced forward and backward, and activations are still captured. The compiler itself is torch's."""
    traced: list[Any] = []
    trace = partial(torch.compile, backend="aot_eager")

    def compile_eagerly(function: Any) -> Any:
        traced.append(function)
        return trace(function)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    for name in ("plain", "compiled"):
        compute = {"compile": name == "compiled"}
        train(recipe(dataset, tiny_model_folder, tmp_path / name, stages=stages()[2:], compute=compute))
    assert traced
    plain, compiled = logged_losses(tmp_path / "plain"), logged_losses(tmp_path / "compiled")
    assert plain[0][2] > 0
    for one, two in zip(plain, compiled, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_the_identity_loss_uses_the_references_face(own_dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """References without a face, and references that are dropped, have no identity loss."""
    (own_dataset / "reference_image" / "clip0.png").write_bytes(
        (Path(__file__).parents[2] / "examples" / "woman.png").read_bytes()
    )
    stage = stages(train=["all", "identity"], steps=40)[0]
    settings = recipe(
        own_dataset,
        tiny_model_folder,
        tmp_path,
        data={"folder": str(own_dataset), "resolutions": [[32, 32]], "max_clips": 2},
        stages=[stage | {"condition_probs": {"TIA": 0.7, "TA": 0.3}}],
    )
    train(settings)
    losses_of_steps = [row["loss_identity"] for row in read_log(tmp_path)]
    assert 0 < sum(one == 0 for one in losses_of_steps) < len(losses_of_steps)  # neither in every batch nor in none


def test_muons_work_is_distributed_evenly() -> None:
    matrices = {f"{number}": torch.zeros(64, 64 if number % 3 else 256) for number in range(12)}
    parts = partition(matrices, 2)
    assert sorted(parts[0] + parts[1], key=int) == list(matrices)
    work = [sum(matrices[name].numel() for name in part) for part in parts]
    assert max(work) <= 1.1 * min(work)


def test_the_export_is_a_model_that_generates(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = recipe(
        dataset,
        tiny_model_folder,
        tmp_path,
        model=values(dataset, tiny_model_folder, tmp_path)["model"] | {"preset": "humo-nano"},
        validation={"every_steps": 2, "num_videos": 1, "loss_clips": 3, "inference_steps": 1},
        stages=stages()[2:],
        tensorboard=True,
    )
    path = train(settings)
    folder = open_model_folder(path)
    assert folder.preset.name == "humo-nano"
    assert not any("focus" in name or "lips" in name for name in folder.components["transformer"].tensors)
    frames = HuMoPipeline.from_pretrained(str(path))(
        "hello", width=32, height=32, num_frames=5, num_inference_steps=1, output_type="np"
    ).frames
    assert frames.shape == (1, 5, 32, 32, 3)
    validation = [row for row in read_log(tmp_path) if "validation/loss" in row]
    assert len(validation) == 1
    assert {"validation/loss_matched_audio", "validation/loss_mismatched_audio"} < validation[0].keys()
    assert len(list((tmp_path / "validation" / "step-00000002").glob("*.mp4"))) == 1
    assert list((tmp_path / "tensorboard").iterdir())


def test_continuation_is_recorded_though_the_old_configuration_lacks_it(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "older")
    config = folder / "transformer" / "config.json"
    config_values = json.loads(config.read_text())
    del config_values["continuation"]
    config.write_text(json.dumps(config_values))
    data = values(dataset, folder, tmp_path / "run")["data"] | {"continuation_prob": 0.5}
    settings = recipe(dataset, folder, tmp_path / "run", model={"folder": str(folder)}, data=data, stages=stages()[:1])
    assert open_model_folder(train(settings)).components["transformer"].config["continuation"] is True


def test_a_family_with_concatenated_references_is_trained_too(
    dataset: Path, tiny_model_folder_17b: Path, tmp_path: Path
) -> None:
    model = {"folder": str(tiny_model_folder_17b)}
    train(recipe(dataset, tiny_model_folder_17b, tmp_path, model=model, stages=stages()))
    assert open_model_folder(tmp_path / "model").preset.name == "humo-17b"
    assert len(logged_losses(tmp_path)) == 6


def test_a_lora_is_trained_and_loads(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = {"folder": str(tiny_model_folder)}
    settings = recipe(dataset, tiny_model_folder, tmp_path, model=model, stages=stages()[1:], lora={"rank": 2})
    path = train(settings)
    saved = read_checkpoint(finished_checkpoints(tmp_path / "checkpoints")[-1])
    assert all(".lora_" in name or not name.startswith("transformer.") for name in saved["weights"])
    pipeline = HuMoPipeline.from_pretrained(str(tiny_model_folder))
    inputs = (torch.randn(1, 16, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 7, 24), torch.randn(1, 3, 8, 5, 16))
    before = pipeline.transformer(*inputs, return_dict=False)[0]
    pipeline.load_lora_weights(str(path))
    after = pipeline.transformer(*inputs, return_dict=False)[0]
    assert not after.equal(before)
    loaded = {name: weight for name, weight in pipeline.transformer.named_parameters() if "lora_" in name}
    for name, weight in loaded.items():
        average = next(tensor for key, tensor in saved["average"].items() if _bare(key) == _bare(f"transformer.{name}"))
        assert weight.equal(average), name


def _bare(name: str) -> str:
    return name.replace(".default_0.", ".").replace(".default.", ".")
