"""Write the open benchmark: references, audio, cases, a job file, a data card, and true clips on request.

cases.jsonl     what `humo evaluate run` reads
jobs.json       what `humo batch` reads
references/, audio/, speech/
truth/          true clips of cases that can be rendered, with their ground truth
DATA_CARD.md
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from humo import __version__
from humo.errors import StorageError
from humo.evaluation.cases import CASES_FILE, Case, write_cases
from humo.evaluation.open_benchmark import recordings
from humo.evaluation.open_benchmark.objects import OBJECTS, render_object
from humo.evaluation.open_benchmark.plan import CasePlan, derive_seed, plan_benchmark
from humo.evaluation.open_benchmark.recordings import Recording
from humo.files import atomic_write, os_error_text
from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE
from humo.media.audio import AudioTrack
from humo.media.video import VideoFormat, write_video
from humo.synthetic.corpus import check_packages
from humo.synthetic.make_clip import reference_track
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.render.render import render_clip, render_still
from humo.synthetic.speech.visemes import animate_face

REFERENCE_SIDE = 384
"""Side of a reference image in pixels; extreme shapes have a third of it along one axis."""

LICENSE, SOURCE = "CC0-1.0", "rendered and synthesized by humo"
"""License and source of every case."""

JOBS_FILE, CARD_FILE, TRUTH = "jobs.json", "DATA_CARD.md", "truth"

MIN_FRAMES = 5
"""Least number of frames of a clip."""

Frame = NDArray[np.uint8]
Progress = Callable[[int, int], None]


def write_benchmark(
    folder: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    truth_side: int | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Case]:
    """Write the benchmark and return its cases; files that exist are kept.

    Args:
        folder: created if it does not exist.
        seed: of people, voices and texts.
        limit: number of cases, in turn from each category.
        truth_side: side in pixels of true clips; None writes none.
        progress: called with the number of cases done and of all.

    Raises:
        DependencyError: a package for rendering is missing.
        StorageError: the folder cannot be written.
    """
    check_packages()
    plans = _chosen(plan_benchmark(seed), limit)
    _write_text(folder / CARD_FILE, data_card(plans, seed))
    cases = []
    for number, plan in enumerate(plans):
        progress(number, len(plans))
        cases.append(_write_case(folder, plan, seed, truth_side))
    progress(len(plans), len(plans))
    write_cases(cases, folder / CASES_FILE)
    jobs = {case.id: _job(case, folder) for case in cases}
    _write_text(folder / JOBS_FILE, json.dumps(jobs, indent=1, ensure_ascii=False) + "\n")
    return cases


def _chosen(plans: Sequence[CasePlan], limit: int | None) -> list[CasePlan]:
    if limit is None or limit >= len(plans):
        return list(plans)
    groups: dict[str, list[CasePlan]] = {}
    for plan in plans:
        groups.setdefault(plan.category, []).append(plan)
    chosen: list[CasePlan] = []
    while len(chosen) < limit:
        for group in groups.values():
            if group and len(chosen) < limit:
                chosen.append(group.pop(0))
    return [plan for plan in plans if plan in chosen]


def _write_case(folder: Path, plan: CasePlan, seed: int, truth_side: int | None) -> Case:
    """Write the files of a case and return it."""
    references = []
    for number, shows in enumerate(plan.references):
        path = folder / "references" / f"{plan.id}_{number + 1}.png"
        if not path.is_file():
            _write_image(path, _reference(plan, shows, derive_seed(seed, plan.id, number)))
        references.append(path)
    recording = _record(plan)
    audio, speech = _write_audio(folder, plan, recording)
    truth = truth_video = None
    if truth_side is not None and plan.has_truth and plan.actors:
        truth_video = folder / TRUTH / f"{plan.id}.mp4"
        truth = truth_video.with_suffix(".npz")
        if not (truth.is_file() and truth_video.is_file()):
            _write_truth(truth_video, truth, plan, recording, truth_side)
    attributes = {}
    if len(plan.actors) == 1 and plan.has_truth:
        described = plan.actors[0].attributes(talks=plan.talks)
        attributes = {name.replace(" ", "_"): value for name, value in described.items()}
    if len(plan.actors) > 1 and plan.speaker is not None and plan.category == "speakers":
        attributes["speaker"] = str(plan.speaker)
    person = plan.actors[0].seed if plan.actors else None
    return Case(
        id=plan.id,
        category=plan.category,
        prompt=plan.prompt,
        references=tuple(references),
        objects=tuple(n for n, shows in enumerate(plan.references) if shows.startswith("object")),
        audio=audio,
        speech=speech,
        person="" if person is None else f"{person % 10**8:08}",
        expected="" if plan.audio is None else "speaks" if plan.talks else "silent",
        boxes=((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)) if plan.category == "speakers" else (),
        truth=truth,
        truth_video=truth_video,
        attributes=attributes,
        request={"frames": _frames(plan, recording)},
        license=LICENSE,
        source=SOURCE,
    )


def _frames(plan: CasePlan, recording: Recording | None) -> int:
    """Return the length of a case's video, 4k + 1 frames."""
    count = round(plan.seconds * FRAMES_PER_SECOND) if recording is None else recording.frames
    return max(MIN_FRAMES, (count - 1) // 4 * 4 + 1)


def _record(plan: CasePlan) -> Recording | None:
    """Return the audio of a case; None without audio."""
    if plan.audio is None:
        return None
    kind, language, number = plan.audio.kind, plan.audio.language, plan.audio.number
    gender = plan.actors[plan.speaker or 0].person.sex
    if kind in ("speech", "whisper", "shout"):
        return recordings.speak(language, gender, number, plan.seconds, style=kind)
    if kind == "pause":
        return recordings.speak(language, gender, number, plan.seconds + 3, pause=2.0)
    if kind == "music under speech":
        return recordings.under_music(recordings.speak(language, gender, number, plan.seconds))
    if kind.startswith("song"):
        return recordings.sing(gender, number % 7 - 3, plan.seconds, accompanied="music" in kind)
    silent = {
        "music": lambda: recordings.music(plan.seconds),
        "noise": lambda: recordings.noise(plan.seconds, number),
        "silence": lambda: recordings.silence(plan.seconds),
    }
    return recordings.without_voice(silent[kind]())


def _write_audio(folder: Path, plan: CasePlan, recording: Recording | None) -> tuple[Path | None, Path | None]:
    """Write the audio, and the voice alone where it differs; return both paths."""
    if recording is None:
        return None, None
    audio = folder / "audio" / f"{plan.id}.wav"
    _write_wav(audio, recording.audio)
    if not recording.phonemes or np.array_equal(recording.audio, recording.speech):
        return audio, None
    speech = folder / "speech" / f"{plan.id}.wav"
    _write_wav(speech, recording.speech)
    return audio, speech


def _reference(plan: CasePlan, shows: str, seed: int) -> Frame:
    """Render a reference image."""
    kind, _, which = shows.partition(" ")
    if kind == "object":
        return render_object(OBJECTS[which], REFERENCE_SIDE, 0.4 + seed % 100 / 100)
    if kind == "pair":
        halves = [_portrait(plan, number, number, (REFERENCE_SIDE // 2, REFERENCE_SIDE)) for number in (0, 1)]
        return np.concatenate(halves, axis=1)
    if kind in ("tall", "flat"):
        third = REFERENCE_SIDE // 3
        return _portrait(plan, 0, 0, (third, REFERENCE_SIDE) if kind == "tall" else (REFERENCE_SIDE, third))
    return _portrait(plan, int(which), 1 if kind == "view" else 0, (REFERENCE_SIDE, REFERENCE_SIDE))


def _portrait(plan: CasePlan, number: int, view: int, size: tuple[int, int]) -> Frame:
    """Render an actor in the reference's clothes; another view has another pose."""
    actor = plan.actors[number]
    pose = reference_track(derive_seed(actor.seed, "pose", view) % 2**32)
    return render_still(actor.person, actor.reference_appearance, size, pose)


def _write_truth(video: Path, truth: Path, plan: CasePlan, recording: Recording | None, side: int) -> None:
    """Render the true clip of a case, and its jaw curve."""
    count = _frames(plan, recording)
    width = side // len(plan.actors) // 2 * 2
    samples = np.zeros(count * SAMPLE_RATE // FRAMES_PER_SECOND, np.float32)
    if recording is not None:
        samples = recording.speech[: len(samples)]
    strips, curves = [], []
    for number, actor in enumerate(plan.actors):
        speaks = number == plan.speaker and recording is not None
        phonemes = recording.phonemes if speaks and recording is not None else ()
        voice = samples if speaks else np.zeros_like(samples)
        track = animate_face(
            phonemes,
            voice,
            count,
            derive_seed(actor.seed, "track") % 2**32,
            mood=actor.mood,
            articulation=1.5,
            calm=0.8,
        )
        strips.append(render_clip(actor.person, actor.appearance, track, (width, side))[0])
        curves.append(mouth_curve(actor.person, track).astype(np.float32))
    frames = np.concatenate(strips, axis=2)
    own_track = None if recording is None else AudioTrack(recording.audio[None], SAMPLE_RATE)
    video_format = VideoFormat(frames.shape[2], frames.shape[1], FRAMES_PER_SECOND)
    write_video(video, frames, video_format, metadata={"comment": "rendered"}, track=own_track, field="FOLDER")
    with atomic_write(truth, "FOLDER") as part, part.open("wb") as stream:
        np.savez_compressed(stream, mouth=curves[plan.speaker or 0])


def _job(case: Case, folder: Path) -> dict[str, Any]:
    """Return a case as a row of a batch file, with paths relative to the folder."""
    values = case.as_dict(folder)
    row = {"prompt": case.prompt, "images": values.get("references", []), "audio": values.get("audio")}
    return {name: value for name, value in {**row, **case.request}.items() if value}


def data_card(plans: Sequence[CasePlan], seed: int) -> str:
    """Return the data card in Markdown."""
    categories = Counter(plan.category for plan in plans)
    audio = Counter(plan.audio.kind for plan in plans if plan.audio is not None)
    languages = Counter(
        plan.audio.language
        for plan in plans
        if plan.audio is not None and plan.audio.kind not in ("music", "noise", "silence")
    )
    lengths = [plan.seconds for plan in plans]

    def listed(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.items())

    return f"""# Data card: open benchmark, seed {seed}

| | |
|---|---|
| cases | {len(plans)}: {listed(categories)} |
| length | {sum(lengths):.0f} s in total, {min(lengths):g} to {max(lengths):g} s each |
| audio | {listed(audio)}; {sum(plan.audio is None for plan in plans)} cases without audio |
| languages of the speech | {listed(languages)} |
| people | {len({actor.seed for plan in plans for actor in plan.actors})}, all rendered; nobody exists |
| references | {sum(len(plan.references) for plan in plans)} images |
| license | {LICENSE}: people, objects and voices are computed, no recording or photograph was used |
| written by | humo {__version__}, `humo evaluate benchmark FOLDER --seed {seed}` |

**Use.** Compare models that turn text, images and audio into videos of people. Give each model the prompt, the
references and the audio of a case, and write `videos/ID.mp4`. `speech/` holds the voice alone where there is music.

**Limits.** People are rendered and voices are synthesized, so that absolute values differ from those on recordings.
Rendered people share one body model, which shows no hands. Singing is a synthesizer on notes, whispering and shouting
are its variants. The true clips (`truth/`) are an upper bound for lip sync, not for quality.

**Not for.** Judging people, or training.
"""


def _write_image(path: Path, image: Frame) -> None:
    with atomic_write(path, "FOLDER") as part:
        try:
            Image.fromarray(image).save(part, format="PNG")
        except OSError as error:
            raise _full(path, error) from error


def _write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    import wave

    if path.is_file():
        return
    with atomic_write(path, "FOLDER") as part:
        try:
            with wave.open(str(part), "wb") as stream:
                stream.setnchannels(1)
                stream.setsampwidth(2)
                stream.setframerate(SAMPLE_RATE)
                stream.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        except OSError as error:
            raise _full(path, error) from error


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path, "FOLDER") as part:
        try:
            part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _full(path, error) from error


def _full(path: Path, error: OSError) -> StorageError:
    problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
    return StorageError("FOLDER", problem, "free some space or choose another disk")
