"""One clip of a corpus, from its plan to its files: speech, face, pictures, words, truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from humo.errors import StorageError
from humo.files import atomic_write, os_error_text
from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from humo.media.audio import AudioTrack
from humo.media.video import VideoFormat, write_video
from humo.synthetic.captions import captions
from humo.synthetic.clip_plan import ClipPlan, Recipe, plan_clip
from humo.synthetic.person.appearance import Look
from humo.synthetic.person.identity import Person
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.render.render import render_clip, render_still
from humo.synthetic.speech.face_track import UNITS, FaceTrack
from humo.synthetic.speech.synthesis import Phoneme, find_voice, synthesize
from humo.synthetic.speech.visemes import face_track

ROOM_SECONDS = 0.2
"""Silence that a clip may have before or after speech that is longer than the clip."""

FADE_SAMPLES = 80
"""5 ms at both ends of the sound, so that a cut word does not click."""

Samples = NDArray[np.float32]


def make_clip(folder: Path, recipe: Recipe, index: int) -> None:
    """Make a clip and write its video, its reference picture and its truth, in this order.

    ``truth/ID.npz`` holds: ``face`` (F, S, S / 8) uint8, masks packed along the last axis, and ``size`` S; ``mouth``
    (F, 3) jaw, closure, pucker; ``units`` (F, len(UNITS)), ``unit_names``, ``head`` and ``gaze`` as in `FaceTrack`;
    ``phonemes``, ``phoneme_times`` (P, 2) in seconds of the clip and ``stress`` of what is said in it; ``attributes``,
    the row of the tables as JSON.

    Args:
        folder: of the corpus; its folders are there.
        recipe: the corpus's.
        index: the clip's number.

    Raises:
        StorageError: a file cannot be written.
        DependencyError: a package is missing.
    """
    plan = plan_clip(recipe, index)
    person, look, reference = _seen(plan, recipe)
    samples, phonemes = speech_of(plan, recipe.frames)
    track = face_track(
        phonemes,
        samples,
        recipe.frames,
        plan.track_seed,
        mood=plan.mood,
        articulation=recipe.articulation,
        calm=recipe.closeness,
    )
    frames, masks = render_clip(person, look, track, recipe.size, recipe.supersample)
    write_video(
        folder / "video" / f"{plan.name}.mp4",
        frames,
        VideoFormat(recipe.size, recipe.size, FRAMES_PER_SECOND),
        metadata={"comment": "rendered; the person does not exist"},
        track=AudioTrack(samples[None], SAMPLE_RATE) if plan.has_sound else None,
        field="FOLDER",
    )
    still = render_still(person, reference, recipe.size, still_track(plan.reference_seed))
    path = folder / "reference_image" / f"{plan.name}.png"
    _write(path, lambda file: Image.fromarray(still).save(file, format="PNG"))
    seconds = recipe.frames / FRAMES_PER_SECOND
    heard = [phoneme for phoneme in phonemes if phoneme.end > 0 and phoneme.start < seconds]
    truth: dict[str, Any] = {
        "face": np.packbits(masks, axis=-1),
        "size": np.asarray(recipe.size),
        "mouth": mouth_curve(person, track).astype(np.float32),
        "units": track.units,
        "unit_names": np.asarray(UNITS),
        "head": track.head,
        "gaze": track.gaze,
        "phonemes": np.asarray([one.symbol for one in heard], np.str_),
        "phoneme_times": np.asarray([(one.start, one.end) for one in heard], np.float32).reshape(-1, 2),
        "stress": np.asarray([one.stress for one in heard], np.int8),
        "attributes": np.asarray(json.dumps(_row(plan, recipe, person, look, reference))),
    }
    _write(folder / "truth" / f"{plan.name}.npz", lambda file: np.savez_compressed(file, **truth))


def speech_of(plan: ClipPlan, frames: int) -> tuple[Samples, tuple[Phoneme, ...]]:
    """What a clip says: exactly as many samples as it is long, and phonemes in its time.

    Args:
        plan: the clip's.
        frames: of the clip.

    Returns:
        (frames * 640,) samples at 16 kHz, all zero if it says nothing; the phonemes of the whole speech, those before
        and after the clip, which the lips prepare or leave, too.
        A clip that talks without being heard has its samples, too: its face moves to them.

    Raises:
        DependencyError: the synthesiser is not installed.
    """
    length = frames * SAMPLES_PER_FRAME
    heard = np.zeros(length, np.float32)
    if not plan.talks:
        return heard, ()
    voice = find_voice(plan.voice)
    speech = synthesize(plan.text, voice, rate=plan.rate, pitch=plan.pitch, liveliness=plan.liveliness)
    seconds = length / SAMPLE_RATE
    said = [phoneme for phoneme in speech.phonemes if phoneme.symbol]
    first, last = said[0].start, said[-1].end
    if last - first <= seconds:
        low, high = last - seconds, first
    else:
        low, high = first - ROOM_SECONDS, last + ROOM_SECONDS - seconds
    begin = round((low + plan.begin * (high - low)) * SAMPLE_RATE)
    start, end = max(begin, 0), min(begin + length, len(speech.samples))
    heard[start - begin : end - begin] = speech.samples[start:end]
    loudest = float(np.abs(heard).max())
    heard *= np.float32(plan.peak / max(loudest, 1e-4))
    fade = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)
    heard[:FADE_SAMPLES] *= fade
    heard[-FADE_SAMPLES:] *= fade[::-1]
    shift = begin / SAMPLE_RATE
    return heard, tuple(Phoneme(one.symbol, one.start - shift, one.end - shift, one.stress) for one in speech.phonemes)


def still_track(seed: int) -> FaceTrack:
    """The face of a reference picture: at rest, without a blink, its head in a pose of its own.

    Args:
        seed: of the pose; that of the reference's look.
    """
    still = face_track((), np.zeros(SAMPLE_RATE, np.float32), 1, seed)
    return FaceTrack(FaceTrack.still(1).units, still.head, still.gaze)


def describe(recipe: Recipe, index: int) -> dict[str, Any]:
    """What a clip shows and what is said of it, without rendering it: its row of both tables.

    Args:
        recipe: the corpus's.
        index: the clip's number.
    """
    plan = plan_clip(recipe, index)
    return _row(plan, recipe, *_seen(plan, recipe))


def _seen(plan: ClipPlan, recipe: Recipe) -> tuple[Person, Look, Look]:
    """Who is seen, and how in the clip and in its reference picture."""
    person = Person.from_seed(plan.person_seed)
    look, reference = (
        Look.from_seed(person, seed).closer(recipe.closeness) for seed in (plan.look_seed, plan.reference_seed)
    )
    return person, look, reference


def _row(plan: ClipPlan, recipe: Recipe, person: Person, look: Look, reference: Look) -> dict[str, Any]:
    """A row of both tables."""
    speech = "talking" if plan.talks else "silent"
    words = {**person.words, **look.words, "mood": plan.mood, "speech": speech}
    said = captions(words, plan.caption_seed)
    return {
        "id": plan.name,
        "index": plan.index,
        "split": plan.split,
        "person": plan.person,
        "seconds": recipe.frames / FRAMES_PER_SECOND,
        "has_sound": plan.has_sound,
        "voice": plan.voice,
        "sentence": plan.text,
        **{name.replace(" ", "_"): value for name, value in words.items()},
        **{f"reference_{name.replace(' ', '_')}": value for name, value in reference.words.items()},
        "caption": said.caption,
        "paraphrases": [said.anonymous, *said.paraphrases],
    }


def _write(path: Path, save: Any) -> None:
    """A file whole or not at all; whatever the disk says is a StorageError."""
    with atomic_write(path, "FOLDER") as part:
        try:
            with part.open("wb") as stream:
                save(stream)
        except OSError as error:
            problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("FOLDER", problem, "free some space or choose another disk") from error
