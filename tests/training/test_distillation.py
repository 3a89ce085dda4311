"""Distillation: a student learns its teacher's trajectories, takes guidance scales as inputs, and generates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from humo import HuMoPipeline
from humo.checkpoints.model_folder import open_model_folder
from humo.errors import CheckpointError, HuMoError, RequestError
from humo.inference.samplers import make_scheduler
from humo.plan import resolve
from humo.presets import HUMO_1_7B, HUMO_17B, Distillation, read_distillation
from humo.request import parse_request
from humo.schedule import published_schedule
from humo.training.distillation import STATES, TrajectoryDataset, mode_of_conditions
from humo.training.metrics_log import read_log
from humo.training.recipe_file import parse_recipe
from humo.training.tensor_files import read_tensors
from humo.training.train import train
from tests.training.small_dataset import SIDE, values

DISTILL = {
    "steps": 3,
    "teacher_steps_per_step": 2,
    "trajectories": 4,
    "guidance_ranges": {"text": [1, 4], "audio": [1, 5]},
}
STUDENT = Distillation(3, 5.0, {"text": (1.0, 4.0), "audio": (1.0, 5.0), "image": (2.0, 2.0)})


def student_recipe(dataset: Path, teacher: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe of a student, as plain values."""
    stage = {"name": "steps", "steps": 3, "train": ["all"], "frames": [9], "batch_size": 2, "learning_rate": 1e-3}
    stage |= {"audio_prob": [1, 1], "condition_probs": {"TIA": 0.5, "TA": 0.25, "T": 0.25}, "warmup_steps": 0}
    return values(dataset, teacher, output, model={"folder": str(teacher)}, stages=[stage], distill=DISTILL) | changes


@pytest.mark.parametrize("family", ["1.7b", "17b"])
def test_a_student_needs_one_pass_a_step(
    family: str, dataset: Path, tiny_model_folder: Path, tiny_model_folder_17b: Path, tmp_path: Path
) -> None:
    teacher = tiny_model_folder if family == "1.7b" else tiny_model_folder_17b
    path = train(parse_recipe(student_recipe(dataset, teacher, tmp_path)))
    folder = open_model_folder(path)
    assert folder.preset.distillation is not None
    assert (folder.preset.distillation.steps, folder.preset.steps) == (3, 3)
    pipeline = HuMoPipeline.from_pretrained(str(path))
    scales: list[list[float]] = []
    pipeline.transformer.guidance_embedder.register_forward_pre_hook(
        lambda _, inputs: scales.append(inputs[0][0].tolist())
    )
    frames = pipeline("hello", width=SIDE, height=SIDE, num_frames=5, scale_text=3.0, output_type="np").frames
    assert frames.shape == (1, 5, SIDE, SIDE, 3)
    assert len(scales) == 3
    assert scales[0][0] == 3.0


def test_steps_lead_from_one_state_of_a_trajectory_to_the_next(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The input is a state of the trajectory, and the target leads to the next state by a straight step."""
    recipe_ = parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path))
    calls: list[Any] = []

    def record(self: TrajectoryDataset, bucket: Any, steps: Any) -> Any:
        batch = make(self, bucket, steps)
        calls.append((steps, batch, self.noise_levels))
        return batch

    make = TrajectoryDataset.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrajectoryDataset, "__call__", record)
        train(recipe_)
    scheduler = make_scheduler(None, published_schedule(3, 5.0), "cpu", "euler")
    for steps, batch, levels in calls:
        for number, step in enumerate(steps):
            states = read_tensors(step.trajectory.path)[STATES]
            assert len(states) == 4
            data, noise = batch.data[number], batch.noise[number, :, : states.shape[2]]
            level = levels[step.step]
            assert float(batch.noise_level[number]) == pytest.approx(level)
            torch.testing.assert_close((1 - level) * data + level * noise, states[step.step], atol=1e-4, rtol=0)
            scheduler = make_scheduler(None, published_schedule(3, 5.0), "cpu", "euler")
            scheduler.set_begin_index(step.step)
            stepped = scheduler.step(noise - data, scheduler.timesteps[step.step], states[step.step])[0]
            torch.testing.assert_close(stepped, states[step.step + 1], atol=1e-4, rtol=0)
            assert torch.equal(batch.guidance[number], torch.tensor(step.trajectory.scales))


def test_a_trajectory_ends_at_the_teachers_clip(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """The last state of a trajectory is the clip that a request with its words, scales and noise gets."""
    drawn: list[Any] = []

    def record(self: TrajectoryDataset, teacher: HuMoPipeline, bucket: Any, trajectory: Any) -> Any:
        states = take(self, teacher, bucket, trajectory)
        drawn.append((self.collate(bucket, [trajectory.spec]), trajectory, states))
        return states

    take = TrajectoryDataset._sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrajectoryDataset, "_sample", record)
        train(parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path)))
    teacher = HuMoPipeline.from_pretrained(str(tiny_model_folder))
    assert len({trajectory.scales for _, trajectory, _ in drawn}) == 4
    for batch, trajectory, states in drawn:
        text, audio, image = trajectory.scales
        assert 1 <= text <= 4
        assert 1 <= audio <= 5
        assert image == HUMO_1_7B.scales.image
        mode = mode_of_conditions(batch.kept_conditions[0], has_audio=trajectory.spec.has_audio)
        fields: dict[str, Any] = {
            "prompt": "hello",
            "images": ["one.png"] * ("I" in mode),
            "audio": "tone" if "A" in mode else None,
        }
        fields |= {"steps": 6, "frames": 9, "width": SIDE, "height": SIDE, "mode": mode}
        fields |= {"scale_text": text, "scale_audio": audio, "scale_image": image}
        plan = resolve(parse_request(fields), HUMO_1_7B, 16_000)
        # a batch has a slot for a reference in every mode
        plan = plan if "I" in mode else _with_a_slot(plan)
        denoised = teacher.denoise(plan, batch.conditions, batch.noise)
        torch.testing.assert_close(denoised[0], states[-1], atol=1e-5, rtol=0)


def _with_a_slot(plan: Any) -> Any:
    from dataclasses import replace

    return replace(plan, geometry=replace(plan.geometry, references=1))


def test_trajectories_are_sampled_once(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    cache = {"data": {"folder": str(dataset), "resolutions": [[SIDE, SIDE]], "cache": str(tmp_path / "cache")}}
    train(parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path / "first", **cache)))
    files = sorted((tmp_path / "cache" / "trajectories").rglob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in files]
    more = cache | {"distill": DISTILL | {"trajectories": 5}}
    train(parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path / "second", **more)))
    assert len(files) == 4
    assert [path.stat().st_mtime_ns for path in files] == times
    assert len(sorted((tmp_path / "cache" / "trajectories").rglob("*.safetensors"))) == 5


def test_the_loss_of_a_student_goes_down(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = student_recipe(dataset, tiny_model_folder, tmp_path)["stages"][0] | {
        "steps": 60,
        "learning_rate": 3e-3,
        "batch_size": 4,
    }
    train(parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path, stages=[stage])))
    losses = [row["loss"] for row in read_log(tmp_path)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_lora_makes_a_student_of_its_teacher(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    path = train(parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path, lora={"rank": 2})))
    pipeline = HuMoPipeline.from_pretrained(str(tiny_model_folder))
    guided = pipeline.preset
    pipeline.load_lora_weights(str(path))
    assert pipeline.preset.distillation == read_distillation(
        {"distillation": {**DISTILL, "shift": 5.0, "scales": _ranges()}}
    )
    stored = load_file(next(path.glob("*.safetensors")))
    for name, weight in pipeline.transformer.guidance_embedder.state_dict().items():
        assert weight.equal(stored[f"transformer.guidance_embedder.{name}"])
    assert pipeline("hello", width=SIDE, height=SIDE, num_frames=5, output_type="np").frames.shape[1] == 5
    repr(pipeline)
    pipeline.unload_lora_weights()
    assert pipeline.preset == guided
    assert pipeline.transformer.guidance_embedder is None


def _ranges() -> dict[str, list[float]]:
    image = HUMO_1_7B.scales.image
    return {"text": [1, 4], "audio": [1, 5], "image": [image, image]}


def test_untrained_scales_change_nothing(dataset: Path, tiny_model_folder: Path) -> None:
    network = HuMoPipeline.from_pretrained(str(tiny_model_folder)).transformer
    inputs = (torch.randn(1, 16, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 7, 24), torch.randn(1, 3, 8, 5, 16))
    before = network(*inputs, return_dict=False)[0]
    network.enable_guidance_embedding({"steps": 3, "shift": 5.0, "scales": _ranges()})
    assert network(*inputs, guidance=torch.tensor([[2.0, 3.0, 4.0]]), return_dict=False)[0].equal(before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift": 8.0}, "shift: 8 is not the shift that this model was distilled with; drop it, or use 5"),
        ({"scale_text": 7.0}, "scale_text: 7 is outside the range that this model was distilled for; allowed: 1 to 4"),
        ({"scale_audio": 0.5}, "scale_audio: 0.5 is outside the range that this model was distilled for"),
    ],
)
def test_a_student_refuses_values_outside_its_training(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        resolve(parse_request({"prompt": "hello"} | fields), HUMO_17B.distilled(STUDENT))
    assert str(refusal.value).startswith(message)


def test_a_students_plan_is_one_pass_a_step_and_says_what_has_no_effect() -> None:
    fields = {"prompt": "hello", "scale_audio": 2.0, "scale_image": 3.0, "negative_prompt": "blur", "frames": 9}
    plan = resolve(parse_request(fields), HUMO_17B.distilled(STUDENT))
    assert plan.passes == 3
    idle = ["scale_audio", "scale_image", "negative_prompt"]
    assert [note.split(" ")[0] for note in plan.notes] == idle
    fewer = resolve(parse_request(fields | {"steps": 2, "speed": "fast"}), HUMO_17B.distilled(STUDENT))
    assert fewer.passes == 2
    assert [note.split(" ")[0] for note in fewer.notes] == ["steps", *idle, "speed"]
    # defaults outside the student's ranges become the nearest values inside
    assert plan.request.scale_audio == 2.0
    assert resolve(parse_request({"prompt": "hello"}), HUMO_17B.distilled(STUDENT)).request.scale_text == 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": DISTILL | {"guidance_ranges": {"text": [4, 1]}}}, "4 to 1 is not a range"),
        ({"distill": DISTILL | {"guidance_ranges": {"color": [1, 4]}}}, "color"),
        ({"distill": DISTILL | {"steps": 0}}, "steps"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(
    changes: dict[str, Any], message: str, dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(HuMoError, match=message):
        parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path, **changes))


def test_stages_that_differ_from_the_trajectories_are_refused(
    dataset: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    stage = student_recipe(dataset, tiny_model_folder, tmp_path)["stages"][0]
    for change, message in (
        ({"train": ["all", "focus"]}, "focus cannot be trained in distillation"),
        ({"condition_probs": {"TIA": 0.9, "-": 0.1}}, "without text"),
    ):
        with pytest.raises(HuMoError, match=message):
            parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path, stages=[stage | change]))
    with pytest.raises(HuMoError, match="differs from that of the first stage"):
        parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path, stages=[stage, stage | {"frames": [5]}]))


def test_a_student_without_its_weights_is_refused(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    student = train(parse_recipe(student_recipe(dataset, tiny_model_folder, tmp_path)))
    path = student / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"distillation": None}))
    with pytest.raises(CheckpointError, match="only one of its weights and its config"):
        open_model_folder(student)
    path.write_text(json.dumps(config | {"distillation": {"steps": 3}}))
    with pytest.raises(CheckpointError, match="is incomplete"):
        open_model_folder(student)


def test_a_student_needs_a_teacher(dataset: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HuMoError, match=r"remove model\.network"):
        parse_recipe(
            student_recipe(
                dataset, tiny_model_folder, tmp_path, model=values(dataset, tiny_model_folder, tmp_path)["model"]
            )
        )
