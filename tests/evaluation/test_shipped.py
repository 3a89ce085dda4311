"""The built-in model: complete, small, and above the lower bounds of its metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from humo.checkpoints.manifest import verify_manifest
from humo.checkpoints.model_folder import BUILTIN_MODEL, BUILTIN_TEACHER, find_model_folder, open_model_folder
from humo.cli.main import main
from humo.evaluation.case_sources import read_source
from humo.evaluation.comparison import case_values
from humo.evaluation.results import read_evaluation
from humo.inference.pipeline import HuMoPipeline
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


@pytest.fixture(scope="module")
def pipeline() -> HuMoPipeline:
    loaded = load_pipeline(BUILTIN_MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize(("mode", "frames"), [("T", 9), ("TI", 33), ("TA", 33), ("TIA", 9), ("TIA", 33)])
def test_every_mode_runs_at_lengths_outside_training(mode: str, frames: int, pipeline: HuMoPipeline) -> None:
    clip = pipeline(
        "A woman in a red sweater is talking in a park.",
        images=EXAMPLES / "woman.png" if "I" in mode else None,
        audio=EXAMPLES / "woman.wav" if "A" in mode else None,
        num_frames=frames,
        num_inference_steps=2,
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
    case = next(one for one in read_source(people).cases if one.expected == "speaks")
    arguments = ["evaluate", "video", str(case.truth_video), "--image", str(case.references[0]), "--json"]
    assert main(arguments) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert metrics["face_detection_rate"] == 1.0
    assert metrics["mouth_jaw_corr"] > 0.4
    assert metrics["id_dlib"] < 0.4


def test_several_seeds_are_averaged_within_a_case(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", "run", str(people), str(out), "--model", "humo-nano", "--limit", "2", "--seeds", "2"]
    names = "temporal_flicker,psnr"
    assert main([*arguments, "--metrics", names, "--workers", "1", "mode=TA", "frames=5", "steps=2"]) == 0
    evaluation = read_evaluation(out)
    assert [result.seed for result in evaluation.results] == [0, 1, 0, 1]
    values = case_values(evaluation, "psnr")
    first = [result.scores["psnr"].value for result in evaluation.results[:2]]
    assert first[0] != first[1], "of other noise"
    assert values[evaluation.results[0].case] == pytest.approx(np.mean([one for one in first if one is not None]))
    assert main([*arguments, "--metrics", names, "--workers", "1", "mode=TA", "frames=5", "steps=2"]) == 0


def test_true_clips_go_through_the_autoencoder(people: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "run", str(people), str(tmp_path / "out"), "--model", "humo-nano", "--reconstruct"]
    assert main([*arguments, "--limit", "2", "--metrics", "psnr,id_dlib", "--workers", "1"]) == 0
    evaluation = read_evaluation(tmp_path / "out")
    assert min(case_values(evaluation, "psnr").values()) > 27
    assert max(case_values(evaluation, "id_dlib").values()) < 0.4


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the corpus that docs/nano.md is measured on."""
    folder = tmp_path_factory.mktemp("nano") / "people"
    config = CorpusConfig(seed=0, frames=25, identities=600, closeup=0.8, articulation=1.5)
    for split in ("test", "test-seen"):
        write_corpus(folder, config, clips=5, split=split, workers=1, progress=lambda done, total: None)
    return folder


def test_its_metrics_on_unseen_people_and_voices(people: Path, tmp_path: Path) -> None:
    """Eight short clips: bounds well below docs/nano.md, which has sixty-four, and well above chance."""
    names = "face_detection_rate,mouth_true_jaw_corr,mouth_jaw_corr,mouth_jaw_corr_mismatched"
    names += ",attribute.background,attribute.glasses"
    arguments = ["evaluate", "run", str(people), str(tmp_path / "out"), "--model", "humo-nano", "--workers", "1"]
    assert main([*arguments, "--metrics", names, "--limit", "8"]) in (0, 3)
    evaluation = read_evaluation(tmp_path / "out")
    assert len(evaluation.results) == 8  # one of the eight clips has no audio
    means = {name: np.mean([*case_values(evaluation, name).values()]) for name in evaluation.metrics}
    print({name: round(float(value), 4) for name, value in means.items()})
    assert means["face_detection_rate"] > 0.85
    assert means["mouth_true_jaw_corr"] > 0.2
    assert means["mouth_jaw_corr"] > means["mouth_jaw_corr_mismatched"] + 0.15
    assert means["attribute.background"] > 0.8  # of twelve
    assert means["attribute.glasses"] > 0.8
