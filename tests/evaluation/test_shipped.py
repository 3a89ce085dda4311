"""The built-in model: complete, small, and above the lower bounds of its metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from humo.checkpoints.manifest import verify_manifest
from humo.checkpoints.model_folder import BUILTIN_MODEL, BUILTIN_TEACHER, find_model_folder, open_model_folder
from humo.cli.main import main
from humo.evaluation.benchmark import evaluate, load_samples
from humo.media.video import read_video
from humo.plan import resolve
from humo.request import parse_request
from humo.runtime.loading import load_pipeline
from humo.synthetic.clip_plan import CorpusConfig
from humo.synthetic.corpus import write_corpus

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST_BYTES, MOST_WITH_TEACHER = 64 * 10**6, 96 * 10**6
MOST_PASSES = 8


def test_it_is_complete_small_and_names_its_origins() -> None:
    folder = open_model_folder(BUILTIN_MODEL)
    assert folder.preset.name == "humo-nano"
    assert folder.bytes <= MOST_BYTES
    origin = (BUILTIN_MODEL / "ORIGIN.md").read_text()
    for name in folder.components:
        assert f"`{name}`" in origin
    assert verify_manifest(BUILTIN_MODEL)[0] == []


def test_it_needs_few_passes_and_its_teacher_ships_beside_it() -> None:
    student, teacher = open_model_folder(BUILTIN_MODEL).preset, open_model_folder(BUILTIN_TEACHER).preset
    fields = {"prompt": "A man talks.", "images": ["man.png"], "audio": "man.wav"}
    plans = [resolve(parse_request(fields), preset, 16_000) for preset in (student, teacher)]
    assert plans[0].passes <= MOST_PASSES
    assert plans[1].passes >= 10 * plans[0].passes
    assert verify_manifest(BUILTIN_TEACHER)[0] == []
    files = [path for folder in (BUILTIN_MODEL, BUILTIN_TEACHER) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_WITH_TEACHER
    assert find_model_folder("humo-nano-teacher") == BUILTIN_TEACHER


def test_examples_are_complete_and_in_the_published_format() -> None:
    cases = json.loads((EXAMPLES / "test_case.json").read_text())
    assert len(cases) >= 6
    for case in cases.values():
        assert set(case) == {"prompt", "img_paths", "audio_path"}
        for path in (*case["img_paths"], *([case["audio_path"]] if case["audio_path"] else [])):
            assert (EXAMPLES / path).is_file()


@pytest.mark.parametrize("frames", [9, 33])
@pytest.mark.parametrize("mode", ["T", "TI", "TA", "TIA"])
def test_every_mode_runs_at_lengths_outside_training(mode: str, frames: int) -> None:
    pipeline = load_pipeline(BUILTIN_MODEL)
    pipeline.set_progress_bar_config(disable=True)
    clip = pipeline(
        "A woman in a red sweater is talking in a park.",
        images=EXAMPLES / "woman.png" if "I" in mode else None,
        audio=EXAMPLES / "woman.wav" if "A" in mode else None,
        num_frames=frames,
        num_inference_steps=4,
        output_type="np",
    ).frames[0]
    assert clip.shape == (frames, 96, 96, 3)
    assert np.isfinite(clip).all()
    assert clip.std() > 0.1, "frames have contrast"


def test_generate_without_a_model_uses_it_and_so_does_replay(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    arguments = ["generate", "--prompt", "A man talks.", "--frames", "5", "--steps", "2", "--output", str(output)]
    assert main(arguments) == 0
    assert main(["generate", "--replay", str(output)]) == 0
    first, replayed = (read_video(path).frames for path in (output, tmp_path / "out-again.mp4"))
    assert (first == replayed).all()


def test_one_video_is_measured(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = next(case for case in load_samples(str(people), 4, 25) if case.jaw.std() > 0.05).clip
    assert main(["evaluate", "video", str(clip.video), "--image", str(clip.reference), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert metrics["face_detection_rate"] == 1.0
    assert metrics["mouth_jaw_corr"] > 0.4
    assert metrics["id_distance"] < 0.4


def test_several_seeds_give_a_standard_deviation(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--clips", "4", "--mode", "TA", "--seeds", "2", "num_frames=5", "num_inference_steps=2"]
    assert main(["evaluate", "benchmark", "--data", str(people), *options, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert metrics.keys() == {"event", "ground_truth", "reconstruction", "TA"}
    assert metrics["TA"]["all"]["psnr_std"] > 0  # of other noise
    assert "psnr_std" not in metrics["ground_truth"]["all"]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of the corpus that docs/nano.md is measured on."""
    folder = tmp_path_factory.mktemp("nano") / "people"
    config = CorpusConfig(seed=0, identities=600, closeup=0.8, articulation=1.5)
    for split in ("test", "test-seen"):
        write_corpus(folder, config, clips=6, split=split, workers=1, progress=lambda done, total: None)
    return folder


def test_its_metrics_on_unseen_people_and_voices(people: Path) -> None:
    """Eight clips: bounds well below docs/nano.md, which has sixty-four, and well above chance."""
    torch.set_num_threads(1)
    pipeline = load_pipeline(BUILTIN_MODEL)
    pipeline.set_progress_bar_config(disable=True)
    metrics = evaluate(pipeline, str(people), 8, modes=["TIA"])
    print(json.dumps(metrics))
    generated, reconstructed = metrics["TIA"]["all"], metrics["reconstruction"]["all"]
    assert reconstructed["psnr"] > 29
    assert reconstructed["id_distance"] < 0.35
    assert generated["clips"] == 8
    assert generated["face_detection_rate"] > 0.85
    assert generated["mouth_jaw_corr"] > 0.2
    assert generated["mouth_jaw_corr"] > generated["mouth_jaw_corr_mismatched"] + 0.15
    assert generated["background"] > 0.8  # of twelve
    assert generated["glasses"] > 0.8
