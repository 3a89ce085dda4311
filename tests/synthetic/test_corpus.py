"""The corpus: what its clips are, its layout, its truth, and that nothing but its recipe decides them."""

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
from humo.synthetic.person.appearance import Look
from humo.synthetic.person.identity import Person
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.speech.face_track import FACE_UNIT_INDEX
from humo.synthetic.speech.synthesis import find_voice
from humo.synthetic.speech.visemes import animate_face, loudness, target_jaw_opening

CONFIG = CorpusConfig(seed=21, size=32, frames=5, silent_fraction=0.4, supersample=1, identities=60)
CLIPS = 3
WORDS = [
    "data", "render", "--clips", str(CLIPS), "--seed", "21", "--size", "32", "--frames", "5",
    "--silent-fraction", "0.4", "--supersample", "1", "--identities", "60",
]  # fmt: skip
"""The same by the command line."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus made by one process without interruption."""
    folder = tmp_path_factory.mktemp("corpus") / "made"
    seen: list[tuple[int, int]] = []
    report = write_corpus(folder, CONFIG, clips=CLIPS, progress=lambda done, total: seen.append((done, total)))
    assert (report.made, report.were_there) == (CLIPS, 0)
    assert seen == [(done, CLIPS) for done in range(CLIPS + 1)]
    return folder


@pytest.fixture(scope="module")
def plans() -> list[ClipPlan]:
    """Three thousand clips, unmade."""
    config = CorpusConfig(seed=3)
    return [plan_clip(config, index) for index in range(3000)]


def test_people_voices_and_sentences_held_out_are_in_no_training_clip(plans: Sequence[ClipPlan]) -> None:
    of = {split: [plan for plan in plans if plan.split == split] for split in SPLITS}
    assert min(map(len, of.values())) > 100
    assert len(of["train"]) > 2600
    people, voices, texts = (
        {split: {getattr(plan, name) for plan in group} - {""} for split, group in of.items()}
        for name in ("person_seed", "voice", "text")
    )
    assert not people["train"] & people["test"]
    for split in ("test", "test-seen"):
        assert not voices["train"] & voices[split]
        assert not texts["train"] & texts[split]
        assert all(find_voice(name).is_held_out for name in voices[split])
    assert not any(find_voice(name).is_held_out for name in voices["train"])
    assert {plan.person for plan in of["test-seen"]} <= set(range(2000))
    assert len(people["train"]) > 1400


def test_no_held_out_sentence_is_trained_on(plans: Sequence[ClipPlan]) -> None:
    for plan in plans[:600]:
        parts = [part for part in plan.text.replace("?", ".").replace("!", ".").split(". ") if part]
        if len(parts) == 1:
            assert sentences.is_held_out(plan.text) is (plan.split != "train")


def test_a_plan_fits_its_person(plans: Sequence[ClipPlan]) -> None:
    silent = np.mean([not plan.has_audio for plan in plans])
    assert 0.17 < silent < 0.23
    engines = [find_voice(plan.voice).engine for plan in plans if plan.talks]
    assert 0.35 < np.mean([engine == "hibari" for engine in engines]) < 0.45
    for plan in plans[:200]:
        person = Person.from_seed(plan.person_seed)
        look, reference = (Look.from_seed(person, seed) for seed in (plan.look_seed, plan.reference_seed))
        for name in ("clothes", "clothes_color", "background"):
            assert getattr(look, name) != getattr(reference, name)
        assert bool(plan.text) is bool(plan.voice) is plan.talks
        assert plan.talks or not plan.has_audio
        if plan.talks:
            assert find_voice(plan.voice).gender == person.sex


def test_a_clip_is_decided_by_seed_and_number_alone() -> None:
    assert plan_clip(CorpusConfig(seed=3), 17) == plan_clip(CorpusConfig(seed=3), 17)
    assert dataclasses.asdict(plan_clip(CorpusConfig(seed=4), 17)) != dataclasses.asdict(
        plan_clip(CorpusConfig(seed=3), 17)
    )
    assert clip_indices(3, 40) == list(range(40))
    tests = clip_indices(3, 5, "test")
    assert tests == [index for index in range(tests[-1] + 1) if clip_split(3, index) == "test"]
    assert len({clip_name(3, index) for index in range(500)}) == 500


def test_what_is_heard_is_as_long_as_the_clip_and_its_phonemes_are_in_its_time() -> None:
    config = CorpusConfig(seed=8)
    for index in range(8):
        plan = plan_clip(config, index)
        samples, phonemes = speak_clip(plan, config.frames)
        assert samples.shape == (41 * 640,)
        assert bool(phonemes) is plan.talks is bool(np.abs(samples).max() > 0)
        if plan.talks:
            assert np.abs(samples).max() == pytest.approx(plan.peak, rel=0.01)
            said = [one for one in phonemes if one.symbol and 0 < one.start < 1.64]
            assert sum(min(one.end, 1.64) - one.start for one in said) > 0.25


def test_the_true_jaw_follows_the_phonemes_at_lag_zero_and_the_sound_within_a_frame() -> None:
    config = CorpusConfig(seed=5, silent_fraction=0)
    times = (np.arange(config.frames) + 0.5) / 25
    jaws, wishes, levels = [], [], []
    for index in range(14):
        plan = plan_clip(config, index)
        samples, phonemes = speak_clip(plan, config.frames)
        track = animate_face(phonemes, samples, config.frames, plan.track_seed, mood=plan.mood)
        jaws.append(mouth_curve(Person.from_seed(plan.person_seed), track)[:, 0])
        wishes.append(target_jaw_opening(phonemes, times))
        levels.append(loudness(samples, times))

    def agreement(curves: Sequence[np.ndarray], lag: int) -> float:
        ends = slice(4, -4)
        pairs = [(np.roll(jaw, -lag)[ends], curve[ends]) for jaw, curve in zip(jaws, curves, strict=True)]
        return float(np.corrcoef(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))[0, 1])

    wished = {lag: agreement(wishes, lag) for lag in range(-4, 5)}
    heard = {lag: agreement(levels, lag) for lag in range(-4, 5)}
    assert max(wished, key=lambda lag: wished[lag]) == 0
    assert wished[0] > 0.6
    assert max(heard, key=lambda lag: heard[lag]) in (-1, 0, 1)
    assert heard[0] > 0.3


def test_the_layout_is_humosets_with_the_truth_beside_it(made: Path) -> None:
    names = sorted(clip_name(CONFIG.seed, index) for index in range(CLIPS))
    for folder, ending in (("video", "mp4"), ("reference_image", "png"), ("truth", "npz")):
        assert sorted(path.name for path in (made / folder).glob(f"*.{ending}")) == [
            f"{name}.{ending}" for name in names
        ]
    captions = parquet.read_table(made / "video_caption.parquet").to_pylist()
    attributes = parquet.read_table(made / "truth" / "attributes.parquet").to_pylist()
    assert [row["id"] for row in captions] == [row["id"] for row in attributes]
    assert sorted(row["id"] for row in captions) == names
    assert [row["index"] for row in attributes] == list(range(CLIPS))
    assert {row["has_sound"] for row in attributes} == {True, False}
    for said, row in zip(captions, attributes, strict=True):
        assert 30 <= len(said["caption"].split()) <= 60
        assert len(said["paraphrases"]) >= 4
        assert row["clothes"] in said["caption"]
        assert row["clothes"] != row["reference_clothes"]
        clip = read_video(made / "video" / f"{row['id']}.mp4")
        assert clip.frames.shape == (5, 32, 32, 3)
        assert clip.frames_per_second == 25
        assert (clip.track is not None) is row["has_sound"]
        assert np.asarray(Image.open(made / "reference_image" / f"{row['id']}.png")).shape == (32, 32, 3)
        assert not list(made.rglob(".*"))


def test_the_truth_is_on_the_frame_grid(made: Path) -> None:
    for path in (made / "truth").glob("*.npz"):
        with np.load(path, allow_pickle=False) as truth:
            masks = np.unpackbits(truth["face"], axis=-1, count=int(truth["size"]))
            assert masks.shape == (5, 32, 32)
            assert 0.05 < masks.mean() < 0.7
            assert truth["mouth"].shape == (5, 3)
            assert truth["units"].shape == (5, len(FACE_UNIT_INDEX))
            assert list(truth["unit_names"]) == list(FACE_UNIT_INDEX)
            assert len(truth["phonemes"]) == len(truth["phoneme_times"]) == len(truth["stress"])
            assert json.loads(str(truth["attributes"]))["id"] == path.stem


def test_the_video_holds_the_sound_where_it_belongs(made: Path) -> None:
    for index in range(CLIPS):
        plan = plan_clip(CONFIG, index)
        if not plan.has_audio:
            continue
        true, _ = speak_clip(plan, CONFIG.frames)
        heard = load_audio(made / "video" / f"{plan.name}.mp4")[: len(true)]
        heard = np.pad(heard, (0, len(true) - len(heard)))
        together = np.correlate(heard, true, "full")
        assert abs(int(together.argmax()) - (len(true) - 1)) <= 2  # samples


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C twice"])
def test_a_run_of_two_processes_that_is_ended_goes_on_to_the_same_files(
    end: signal.Signals, made: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "humo", *WORDS, str(folder), "--workers", "2", "--quiet"]
    run = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("truth/*.npz")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(2 if end == signal.SIGINT else 1):
        os.killpg(run.pid, end) if end == signal.SIGINT else run.send_signal(end)
        time.sleep(0.05)
    run.wait(30)
    while _is_running(run.pid) and time.monotonic() < deadline:  # workers end with their parent
        time.sleep(0.05)
    assert not _is_running(run.pid)
    there = {path.stem for path in folder.glob("truth/*.npz")}
    assert 1 <= len(there) <= CLIPS
    for name, content in files(folder).items():
        if not name.endswith(".part"):
            assert content == files(made)[name] or name.endswith(".parquet")
    report = write_corpus(folder, CONFIG, clips=CLIPS)
    assert (report.made, report.were_there) == (CLIPS - len(there), len(there))
    assert files(folder) == files(made)


def _is_running(group: int) -> bool:
    """Whether any process of a group still works."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def test_a_corpus_can_grow_and_lost_files_are_made_again(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    write_corpus(folder, CONFIG, clips=1)
    name = clip_name(CONFIG.seed, 0)
    (folder / "video" / f"{name}.mp4").unlink()
    assert write_corpus(folder, CONFIG, clips=2).made == 2
    assert {path.name for path in (folder / "video").iterdir()} == {f"{clip_name(CONFIG.seed, i)}.mp4" for i in (0, 1)}
    for place in (f"video/{name}.mp4", f"truth/{name}.npz"):
        assert (folder / place).read_bytes() == (made / place).read_bytes()


def test_a_folder_of_another_recipe_or_of_something_else_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds clips of seed 21, and seed 7 was asked for"):
        write_corpus(made, dataclasses.replace(CONFIG, seed=7), clips=1)
    with pytest.raises(StorageError, match="holds clips of size 32, and size 64"):
        write_corpus(made, dataclasses.replace(CONFIG, size=64), clips=1)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not empty, and holds no synthetic corpus"):
        write_corpus(tmp_path, CONFIG, clips=1)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(StorageError, match="cannot be used"):
        write_corpus(tmp_path / "letter.txt" / "inside", CONFIG, clips=1)


def test_a_disk_without_room_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageError, match="0 MB free"):
        write_corpus(tmp_path / "full", CONFIG, clips=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on files' sizes")
def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_leaves_no_half_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys, humo.cli.main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "sys.exit(humo.cli.main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *WORDS, str(tmp_path / "full"), "--workers", "1", "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("humo: FOLDER: ")
    assert "cannot be written" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not list((tmp_path / "full").rglob("*.mp4")) + list((tmp_path / "full").rglob("*.npz"))
    assert not list((tmp_path / "full").rglob("*.part"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(DependencyError, match=r"anny: is not installed.*pip install 'humo-video\[synthetic\]'"):
        write_corpus(tmp_path / "new", CONFIG, clips=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["data", "synt", "x", "--clips", "1"], "did you mean 'synth'"),
        (["data", "render", "x"], "--clips: is missing"),
        (["data", "render", "x", "--clips", "0"], "--clips: '0' is not allowed"),
        (["data", "render", "x", "--clips", "1", "--seed", "-1"], "--seed"),
        (["data", "render", "x", "--clips", "1", "--size", "33"], "33 is odd"),
        (["data", "render", "x", "--clips", "1", "--frames", "40"], "40 is not 4k + 1; give 37 or 41"),
        (["data", "render", "x", "--clips", "1", "--silent-fraction", "1.5"], "give a number from 0 to 1"),
        (["data", "render", "x", "--clips", "1", "--split", "tset"], "did you mean 'test'"),
        (["data", "render", "x", "--clips", "1", "--worker", "2"], "did you mean '--workers'"),
        (["data", "render", "x", "y", "--clips", "1"], "y"),
    ],
)
def test_bad_options_are_refused_by_name(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == USAGE
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_tells_what_it_made(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(made)
    assert main([*WORDS, str(made), "--workers", "1", "--json"]) == DONE
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {"event": "progress", "phase": "clips", "done": CLIPS, "total": CLIPS}
    assert told[-1]["event"] == "result"
    assert (told[-1]["written"], told[-1]["existed"]) == (0, CLIPS)
    assert sum(told[-1]["splits"].values()) == CLIPS
    assert files(made) == before


def test_words_alone_are_those_of_the_corpus(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "captions", str(tmp_path / "words"), *WORDS[2:]]) == 0
    assert f"{CLIPS} clips written" in capsys.readouterr().out
    for table in ("video_caption.parquet", "truth/attributes.parquet"):
        assert parquet.read_table(tmp_path / "words" / table) == parquet.read_table(made / table)
    assert not (tmp_path / "words" / "video").exists()
    with pytest.raises(StorageError, match="holds rendered clips"):
        write_captions(made, CONFIG, clips=CLIPS)
