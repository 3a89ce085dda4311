"""The corpus: its clips, layout and ground truth, and their dependence on the configuration alone."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from pyarrow import parquet

from humo.cli.exit_codes import DONE, USAGE
from humo.cli.main import main
from humo.errors import DependencyError, StorageError
from humo.media.audio import load_audio
from humo.media.video import read_video
from humo.synthetic import sentences
from humo.synthetic.clip_plan import SPLITS, ClipPlan, CorpusConfig, clip_indices, clip_name, clip_split, plan_clip
from humo.synthetic.corpus import write_captions, write_corpus
from humo.synthetic.make_clip import speak_clip
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import Person
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.speech.face_track import FACE_UNIT_INDEX
from humo.synthetic.speech.synthesis import find_voice
from humo.synthetic.speech.visemes import animate_face, loudness, target_jaw_opening

CONFIG = CorpusConfig(seed=21, size=32, frames=5, silent_fraction=0.4, supersample=1, identities=60)
CLIPS = 3
ARGUMENTS = [
    "data", "render", "--clips", str(CLIPS), "--seed", "21", "--size", "32", "--frames", "5",
    "--silent-fraction", "0.4", "--supersample", "1", "--identities", "60",
]  # fmt: skip
"""The same configuration as arguments of the command."""


def files(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file of a corpus."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus that one process rendered without interruption."""
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    calls: list[tuple[int, int]] = []
    report = write_corpus(folder, CONFIG, clips=CLIPS, progress=lambda done, total: calls.append((done, total)))
    assert (report.written, report.existed) == (CLIPS, 0)
    assert calls == [(done, CLIPS) for done in range(CLIPS + 1)]
    return folder


@pytest.fixture(scope="module")
def plans() -> list[ClipPlan]:
    """Return the plans of three thousand clips."""
    config = CorpusConfig(seed=3)
    return [plan_clip(config, index) for index in range(3000)]


def test_no_training_clip_has_held_out_people_voices_or_sentences(plans: Sequence[ClipPlan]) -> None:
    by_split = {split: [plan for plan in plans if plan.split == split] for split in SPLITS}
    assert min(map(len, by_split.values())) > 100
    assert len(by_split["train"]) > 2600
    people, voices, texts = (
        {split: {getattr(plan, name) for plan in group} - {""} for split, group in by_split.items()}
        for name in ("person_seed", "voice", "text")
    )
    assert not people["train"] & people["test"]
    for split in ("test", "test-seen"):
        assert not voices["train"] & voices[split]
        assert not texts["train"] & texts[split]
        assert all(find_voice(name).is_held_out for name in voices[split])
    assert not any(find_voice(name).is_held_out for name in voices["train"])
    assert {plan.person for plan in by_split["test-seen"]} <= set(range(2000))
    assert len(people["train"]) > 1400


def test_training_clips_have_no_held_out_sentence(plans: Sequence[ClipPlan]) -> None:
    for plan in plans[:600]:
        parts = [part for part in plan.text.replace("?", ".").replace("!", ".").split(". ") if part]
        if len(parts) == 1:
            assert sentences.is_held_out(plan.text) is (plan.split != "train")


def test_a_plan_matches_its_person(plans: Sequence[ClipPlan]) -> None:
    silent = np.mean([not plan.has_audio for plan in plans])
    assert 0.17 < silent < 0.23
    engines = [find_voice(plan.voice).engine for plan in plans if plan.talks]
    assert 0.35 < np.mean([engine == "hibari" for engine in engines]) < 0.45
    for plan in plans[:200]:
        person = Person.from_seed(plan.person_seed)
        appearance, reference = (
            Appearance.from_seed(person, seed) for seed in (plan.appearance_seed, plan.reference_seed)
        )
        for name in ("clothes", "clothes_color", "background"):
            assert getattr(appearance, name) != getattr(reference, name)
        assert bool(plan.text) is bool(plan.voice) is plan.talks
        assert plan.talks or not plan.has_audio
        if plan.talks:
            assert find_voice(plan.voice).gender == person.sex


def test_seed_and_index_alone_determine_a_clip() -> None:
    assert plan_clip(CorpusConfig(seed=3), 17) == plan_clip(CorpusConfig(seed=3), 17)
    assert dataclasses.asdict(plan_clip(CorpusConfig(seed=4), 17)) != dataclasses.asdict(
        plan_clip(CorpusConfig(seed=3), 17)
    )
    assert clip_indices(3, 40) == list(range(40))
    tests = clip_indices(3, 5, "test")
    assert tests == [index for index in range(tests[-1] + 1) if clip_split(3, index) == "test"]
    assert len({clip_name(3, index) for index in range(500)}) == 500


def test_speech_has_the_length_of_the_clip_and_its_phonemes_the_times_of_the_clip() -> None:
    config = CorpusConfig(seed=8)
    for index in range(8):
        plan = plan_clip(config, index)
        samples, phonemes = speak_clip(plan, config.frames)
        assert samples.shape == (41 * 640,)
        assert bool(phonemes) is plan.talks is bool(np.abs(samples).max() > 0)
        if plan.talks:
            assert np.abs(samples).max() == pytest.approx(plan.peak, rel=0.01)
            spoken = [phoneme for phoneme in phonemes if phoneme.symbol and 0 < phoneme.start < 1.64]
            assert sum(min(phoneme.end, 1.64) - phoneme.start for phoneme in spoken) > 0.25


def test_the_jaw_follows_the_phonemes_at_lag_zero_and_the_audio_within_a_frame() -> None:
    config = CorpusConfig(seed=5, silent_fraction=0)
    times = (np.arange(config.frames) + 0.5) / 25
    jaws, targets, levels = [], [], []
    for index in range(14):
        plan = plan_clip(config, index)
        samples, phonemes = speak_clip(plan, config.frames)
        track = animate_face(phonemes, samples, config.frames, plan.track_seed, mood=plan.mood)
        jaws.append(mouth_curve(Person.from_seed(plan.person_seed), track)[:, 0])
        targets.append(target_jaw_opening(phonemes, times))
        levels.append(loudness(samples, times))

    def correlation(curves: Sequence[np.ndarray], lag: int) -> float:
        ends = slice(4, -4)
        pairs = [(np.roll(jaw, -lag)[ends], curve[ends]) for jaw, curve in zip(jaws, curves, strict=True)]
        return float(np.corrcoef(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))[0, 1])

    with_targets = {lag: correlation(targets, lag) for lag in range(-4, 5)}
    with_audio = {lag: correlation(levels, lag) for lag in range(-4, 5)}
    assert max(with_targets, key=lambda lag: with_targets[lag]) == 0
    assert with_targets[0] > 0.6
    assert max(with_audio, key=lambda lag: with_audio[lag]) in (-1, 0, 1)
    assert with_audio[0] > 0.3


def test_the_layout_is_that_of_humoset_plus_the_ground_truth(corpus: Path) -> None:
    names = sorted(clip_name(CONFIG.seed, index) for index in range(CLIPS))
    for folder, ending in (("video", "mp4"), ("reference_image", "png"), ("truth", "npz")):
        assert sorted(path.name for path in (corpus / folder).glob(f"*.{ending}")) == [
            f"{name}.{ending}" for name in names
        ]
    captions = parquet.read_table(corpus / "video_caption.parquet").to_pylist()
    attributes = parquet.read_table(corpus / "truth" / "attributes.parquet").to_pylist()
    assert [row["id"] for row in captions] == [row["id"] for row in attributes]
    assert sorted(row["id"] for row in captions) == names
    assert [row["index"] for row in attributes] == list(range(CLIPS))
    assert {row["has_sound"] for row in attributes} == {True, False}
    for caption_row, row in zip(captions, attributes, strict=True):
        assert 30 <= len(caption_row["caption"].split()) <= 60
        assert len(caption_row["paraphrases"]) >= 4
        assert row["clothes"] in caption_row["caption"]
        assert row["clothes"] != row["reference_clothes"]
        clip = read_video(corpus / "video" / f"{row['id']}.mp4")
        assert clip.frames.shape == (5, 32, 32, 3)
        assert clip.frames_per_second == 25
        assert (clip.track is not None) is row["has_sound"]
        assert np.asarray(Image.open(corpus / "reference_image" / f"{row['id']}.png")).shape == (32, 32, 3)
        assert not list(corpus.rglob(".*"))


def test_the_ground_truth_has_one_entry_per_frame(corpus: Path) -> None:
    for path in (corpus / "truth").glob("*.npz"):
        with np.load(path, allow_pickle=False) as truth:
            masks = np.unpackbits(truth["face"], axis=-1, count=int(truth["size"]))
            assert masks.shape == (5, 32, 32)
            assert 0.05 < masks.mean() < 0.7
            assert truth["mouth"].shape == (5, 3)
            assert truth["units"].shape == (5, len(FACE_UNIT_INDEX))
            assert list(truth["unit_names"]) == list(FACE_UNIT_INDEX)
            assert len(truth["phonemes"]) == len(truth["phoneme_times"]) == len(truth["stress"])
            assert json.loads(str(truth["attributes"]))["id"] == path.stem


def test_the_audio_of_the_video_is_aligned(corpus: Path) -> None:
    for index in range(CLIPS):
        plan = plan_clip(CONFIG, index)
        if not plan.has_audio:
            continue
        expected, _ = speak_clip(plan, CONFIG.frames)
        decoded = load_audio(corpus / "video" / f"{plan.name}.mp4")[: len(expected)]
        decoded = np.pad(decoded, (0, len(expected) - len(decoded)))
        correlation = np.correlate(decoded, expected, "full")
        assert abs(int(correlation.argmax()) - (len(expected) - 1)) <= 2  # samples


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C twice"])
def test_an_interrupted_run_of_two_processes_resumes_to_the_same_files(
    end: signal.Signals, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "humo", *ARGUMENTS, str(folder), "--workers", "2", "--quiet"]
    run = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("truth/*.npz")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(2 if end == signal.SIGINT else 1):
        os.killpg(run.pid, end) if end == signal.SIGINT else run.send_signal(end)
        time.sleep(0.05)
    run.wait(30)
    while _is_running(run.pid) and time.monotonic() < deadline:  # workers exit with their parent
        time.sleep(0.05)
    assert not _is_running(run.pid)
    finished = {path.stem for path in folder.glob("truth/*.npz")}
    assert 1 <= len(finished) <= CLIPS
    for name, content in files(folder).items():
        if not name.endswith(".part"):
            assert content == files(corpus)[name] or name.endswith(".parquet")
    report = write_corpus(folder, CONFIG, clips=CLIPS)
    assert (report.written, report.existed) == (CLIPS - len(finished), len(finished))
    assert files(folder) == files(corpus)


def _is_running(group: int) -> bool:
    """Return whether any process of a group still runs."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def test_a_corpus_can_grow_and_missing_files_are_rendered_again(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    write_corpus(folder, CONFIG, clips=1)
    name = clip_name(CONFIG.seed, 0)
    (folder / "video" / f"{name}.mp4").unlink()
    assert write_corpus(folder, CONFIG, clips=2).written == 2
    assert {path.name for path in (folder / "video").iterdir()} == {f"{clip_name(CONFIG.seed, i)}.mp4" for i in (0, 1)}
    for path in (f"video/{name}.mp4", f"truth/{name}.npz"):
        assert (folder / path).read_bytes() == (corpus / path).read_bytes()


def test_a_folder_of_another_configuration_or_content_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds clips with seed 21, not 7; use a new folder, or set seed to 21"):
        write_corpus(corpus, dataclasses.replace(CONFIG, seed=7), clips=1)
    with pytest.raises(StorageError, match="holds clips with size 32, not 64"):
        write_corpus(corpus, dataclasses.replace(CONFIG, size=64), clips=1)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not empty, and holds no rendered corpus"):
        write_corpus(tmp_path, CONFIG, clips=1)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(StorageError, match="cannot be used"):
        write_corpus(tmp_path / "letter.txt" / "inside", CONFIG, clips=1)


def test_a_full_disk_is_an_error_before_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageError, match="0 MB free"):
        write_corpus(tmp_path / "full", CONFIG, clips=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on files' sizes")
def test_a_disk_that_fills_up_gives_one_error_line_and_no_incomplete_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys, humo.cli.main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "sys.exit(humo.cli.main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *ARGUMENTS, str(tmp_path / "full"), "--workers", "1", "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("humo: FOLDER: ")
    assert "cannot be written" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not list((tmp_path / "full").rglob("*.mp4")) + list((tmp_path / "full").rglob("*.npz"))
    assert not list((tmp_path / "full").rglob("*.part"))


def test_the_error_for_a_missing_package_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(DependencyError, match=r"anny: is not installed.*pip install 'humo-video\[synthetic\]'"):
        write_corpus(tmp_path / "new", CONFIG, clips=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["data", "rende", "x", "--clips", "1"], "did you mean 'render'"),
        (["data", "render", "x"], "--clips: is missing"),
        (["data", "render", "x", "--clips", "0"], "--clips: '0' is not allowed"),
        (["data", "render", "x", "--clips", "1", "--seed", "-1"], "--seed"),
        (["data", "render", "x", "--clips", "1", "--size", "33"], "33 is odd"),
        (["data", "render", "x", "--clips", "1", "--frames", "40"], "40 is not 4k + 1; give 37 or 41"),
        (["data", "render", "x", "--clips", "1", "--silent-fraction", "1.5"], "give a number from 0 to 1"),
        (["data", "render", "x", "--clips", "1", "--split", "tset"], "did you mean 'test'"),
        (["data", "render", "x", "--clips", "1", "--worker", "2"], "did you mean '--workers'"),
        (["data", "render", "x", "y", "--clips", "1"], "takes one folder, but 2 are given"),
    ],
)
def test_invalid_options_are_errors_that_name_the_option(
    arguments: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == USAGE
    line = capsys.readouterr().err
    assert problem in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_reports_its_result(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(corpus)
    assert main([*ARGUMENTS, str(corpus), "--workers", "1", "--json"]) == DONE
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0] == {"event": "progress", "phase": "clips", "done": CLIPS, "total": CLIPS}
    assert events[-1]["event"] == "result"
    assert (events[-1]["written"], events[-1]["existed"]) == (0, CLIPS)
    assert sum(events[-1]["splits"].values()) == CLIPS
    assert files(corpus) == before


def test_captions_alone_equal_those_of_the_corpus(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "captions", str(tmp_path / "captions"), *ARGUMENTS[2:]]) == 0
    assert f"{CLIPS} clips written" in capsys.readouterr().out
    for table in ("video_caption.parquet", "truth/attributes.parquet"):
        assert parquet.read_table(tmp_path / "captions" / table) == parquet.read_table(corpus / table)
    assert not (tmp_path / "captions" / "video").exists()
    with pytest.raises(StorageError, match="holds rendered clips"):
        write_captions(corpus, CONFIG, clips=CLIPS)
