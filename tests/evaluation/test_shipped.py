"""The model inside the package: whole, small, and what its figures say it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from humo.checkpoints.manifest import verify
from humo.checkpoints.model_folder import EMBEDDED, TEACHER, open_model_folder
from humo.cli.main import main
from humo.evaluation.benchmark import evaluate, find_cases
from humo.media.video import read_video
from humo.request import parse_request, resolve
from humo.runtime.device import folder_of, load_pipeline
from humo.synthetic.clip_plan import Recipe
from humo.synthetic.corpus import write_corpus

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST_BYTES, MOST_WITH_TEACHER = 64 * 10**6, 96 * 10**6
MOST_PASSES = 8


def test_it_is_whole_and_small_and_says_where_it_comes_from() -> None:
    folder = open_model_folder(EMBEDDED)
    assert folder.preset.name == "humo-nano"
    assert folder.bytes <= MOST_BYTES
    origin = (EMBEDDED / "ORIGIN.md").read_text()
    for name in folder.components:
        assert f"`{name}`" in origin
    assert verify(EMBEDDED)[0] == []


def test_it_takes_few_passes_and_its_teacher_comes_with_it() -> None:
    student, teacher = open_model_folder(EMBEDDED).preset, open_model_folder(TEACHER).preset
    fields = {"prompt": "A man talks.", "images": ["man.png"], "audio": "man.wav"}
    plans = [resolve(parse_request(fields), preset, 16_000) for preset in (student, teacher)]
    assert plans[0].passes <= MOST_PASSES
    assert plans[1].passes >= 10 * plans[0].passes
    assert verify(TEACHER)[0] == []
    files = [path for folder in (EMBEDDED, TEACHER) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_WITH_TEACHER
    assert folder_of("humo-nano-teacher") == TEACHER


def test_examples_are_whole_and_of_the_published_form() -> None:
    cases = json.loads((EXAMPLES / "test_case.json").read_text())
    assert len(cases) >= 6
    for case in cases.values():
        assert set(case) == {"prompt", "img_paths", "audio_path"}
        for path in (*case["img_paths"], *([case["audio_path"]] if case["audio_path"] else [])):
            assert (EXAMPLES / path).is_file()


@pytest.mark.parametrize("frames", [9, 33])
@pytest.mark.parametrize("mode", ["T", "TI", "TA", "TIA"])
def test_every_mode_runs_at_lengths_it_was_not_trained_at(mode: str, frames: int) -> None:
    pipeline = load_pipeline(EMBEDDED)
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
    assert clip.std() > 0.1, "not a grey nothing"


def test_plain_generate_uses_it_and_its_record_does_too(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    words = ["generate", "--prompt", "A man talks.", "--frames", "5", "--steps", "2", "--output", str(output)]
    assert main(words) == 0
    assert main(["generate", "--from", str(output)]) == 0
    first, again = (read_video(path).frames for path in (output, tmp_path / "out-again.mp4"))
    assert (first == again).all()


def test_one_video_is_measured(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = next(case for case in find_cases(str(people), 4, 25) if case.jaw.std() > 0.05).clip
    assert main(["evaluate", "clip", str(clip.video), "--image", str(clip.reference), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["faces"] == 1.0
    assert figures["lips"] > 0.4
    assert figures["identity_distance"] < 0.4


def test_several_seeds_give_a_spread(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--clips", "4", "--mode", "TA", "--seeds", "2", "num_frames=5", "num_inference_steps=2"]
    assert main(["evaluate", "nano", "--data", str(people), *words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures.keys() == {"event", "true", "autoencoder", "TA"}
    assert figures["TA"]["all"]["psnr_spread"] > 0  # of other noise
    assert "psnr_spread" not in figures["true"]["all"]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of the corpus that docs/nano.md is measured on."""
    folder = tmp_path_factory.mktemp("nano") / "people"
    recipe = Recipe(seed=0, people=600, closeness=0.8, articulation=1.5)
    for split in ("test", "test-seen"):
        write_corpus(folder, recipe, clips=6, split=split, workers=1, progress=lambda done, total: None)
    return folder


def test_its_figures_on_people_and_voices_held_out(people: Path) -> None:
    """Eight clips: bounds well below docs/nano.md, which has sixty-four, and well above what chance gives."""
    torch.set_num_threads(1)
    pipeline = load_pipeline(EMBEDDED)
    pipeline.set_progress_bar_config(disable=True)
    figures = evaluate(pipeline, str(people), 8, modes=["TIA"])
    print(json.dumps(figures))
    made, through = figures["TIA"]["all"], figures["autoencoder"]["all"]
    assert through["psnr"] > 29
    assert through["identity_distance"] < 0.35
    assert made["clips"] == 8
    assert made["faces"] > 0.85
    assert made["lips"] > 0.2
    assert made["lips"] > made["lips_other_sound"] + 0.15
    assert made["background"] > 0.8  # of twelve
    assert made["glasses"] > 0.8
