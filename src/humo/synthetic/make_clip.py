"""Render one clip of a corpus from its plan to its files: speech, face, images, captions, ground truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from humo.errors import StorageError
from humo.files import atomic_write, os_error_text
from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from humo.media.audio import AudioSamples, AudioTrack
from humo.media.video import VideoFormat, write_video
from humo.synthetic.captions import compose_captions
from humo.synthetic.clip_plan import ClipPlan, CorpusConfig, plan_clip
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import Person
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.render.render import render_clip, render_still
from humo.synthetic.speech.face_track import FACE_UNITS, FaceTrack
from humo.synthetic.speech.synthesis import Phoneme, find_voice, synthesize
from humo.synthetic.speech.visemes import animate_face

MAX_SILENCE_SECONDS = 0.2
"""Longest silence at the start or end of a clip that is shorter than its speech."""

FADE_SAMPLES = 80
"""Length of the fade at both ends of the audio (5 ms), so that a cut word does not click."""


def make_clip(folder: Path, config: CorpusConfig, index: int) -> None:
    """Render a clip and write its video, its reference image and its ground truth, in this order.

    ``truth/ID.npz`` contains ``face`` (F, S, S / 8) uint8, face masks packed along the last axis, and ``size`` S;
    ``mouth`` (F, 3) jaw, closure, pucker; ``units`` (F, len(FACE_UNITS)), ``unit_names``, ``head`` and ``gaze`` as in
    `FaceTrack`; ``phonemes``, ``phoneme_times`` (P, 2) in seconds of the clip and ``stress`` of its phonemes;
    ``attributes``, the clip's row of both tables as JSON.

    Args:
        folder: folder of the corpus, with its subfolders.
        config: configuration of the corpus.
        index: index of the clip.

    Raises:
        StorageError: a file cannot be written.
        DependencyError: a package is missing.
    """
    plan = plan_clip(config, index)
    person, appearance, reference = _person_and_appearances(plan, config)
    samples, phonemes = speak_clip(plan, config.frames)
    track = animate_face(
        phonemes,
        samples,
        config.frames,
        plan.track_seed,
        mood=plan.mood,
        articulation=config.articulation,
        calm=config.closeup,
    )
    frames, masks = render_clip(person, appearance, track, config.size, config.supersample)
    write_video(
        folder / "video" / f"{plan.name}.mp4",
        frames,
        VideoFormat(config.size, config.size, FRAMES_PER_SECOND),
        metadata={"comment": "rendered; the person does not exist"},
        track=AudioTrack(samples[None], SAMPLE_RATE) if plan.has_audio else None,
        field="FOLDER",
    )
    still = render_still(person, reference, config.size, reference_track(plan.reference_seed))
    path = folder / "reference_image" / f"{plan.name}.png"
    _write_file(path, lambda file: Image.fromarray(still).save(file, format="PNG"))
    seconds = config.frames / FRAMES_PER_SECOND
    audible = [phoneme for phoneme in phonemes if phoneme.end > 0 and phoneme.start < seconds]
    truth: dict[str, Any] = {
        "face": np.packbits(masks, axis=-1),
        "size": np.asarray(config.size),
        "mouth": mouth_curve(person, track).astype(np.float32),
        "units": track.units,
        "unit_names": np.asarray(FACE_UNITS),
        "head": track.head,
        "gaze": track.gaze,
        "phonemes": np.asarray([phoneme.symbol for phoneme in audible], np.str_),
        "phoneme_times": np.asarray([(phoneme.start, phoneme.end) for phoneme in audible], np.float32).reshape(-1, 2),
        "stress": np.asarray([phoneme.stress for phoneme in audible], np.int8),
        "attributes": np.asarray(json.dumps(_table_row(plan, config, person, appearance, reference))),
    }
    _write_file(folder / "truth" / f"{plan.name}.npz", lambda file: np.savez_compressed(file, **truth))


def speak_clip(plan: ClipPlan, frames: int) -> tuple[AudioSamples, tuple[Phoneme, ...]]:
    """Synthesize the speech of a clip: exactly as many samples as the clip is long, and phonemes in the clip's time.

    A clip that talks without audio has samples, too, because its face moves with them.

    Args:
        plan: plan of the clip.
        frames: frames of the clip.

    Returns:
        (frames * 640,) samples at 16 kHz, zeros if the clip does not talk; and the phonemes of the whole speech. They
        include those before and after the clip, because lips move before and after a phoneme.

    Raises:
        DependencyError: the synthesizer is not installed.
    """
    length = frames * SAMPLES_PER_FRAME
    clip = np.zeros(length, np.float32)
    if not plan.talks:
        return clip, ()
    voice = find_voice(plan.voice)
    speech = synthesize(plan.text, voice, rate=plan.rate, pitch=plan.pitch, liveliness=plan.liveliness)
    seconds = length / SAMPLE_RATE
    spoken = [phoneme for phoneme in speech.phonemes if phoneme.symbol]
    first, last = spoken[0].start, spoken[-1].end
    if last - first <= seconds:
        low, high = last - seconds, first
    else:
        low, high = first - MAX_SILENCE_SECONDS, last + MAX_SILENCE_SECONDS - seconds
    offset = round((low + plan.start * (high - low)) * SAMPLE_RATE)
    start, end = max(offset, 0), min(offset + length, len(speech.samples))
    clip[start - offset : end - offset] = speech.samples[start:end]
    loudest = float(np.abs(clip).max())
    clip *= np.float32(plan.peak / max(loudest, 1e-4))
    fade = np.linspace(0, 1, FADE_SAMPLES, dtype=np.float32)
    clip[:FADE_SAMPLES] *= fade
    clip[-FADE_SAMPLES:] *= fade[::-1]
    shift = offset / SAMPLE_RATE
    phonemes = (
        Phoneme(phoneme.symbol, phoneme.start - shift, phoneme.end - shift, phoneme.stress)
        for phoneme in speech.phonemes
    )
    return clip, tuple(phonemes)


def reference_track(seed: int) -> FaceTrack:
    """Return the face of a reference image: at rest and without a blink, but with its own head pose.

    Args:
        seed: seed of the pose; that of the reference's appearance.
    """
    pose = animate_face((), np.zeros(SAMPLE_RATE, np.float32), 1, seed)
    return FaceTrack(FaceTrack.at_rest(1).units, pose.head, pose.gaze)


def clip_attributes(config: CorpusConfig, index: int) -> dict[str, Any]:
    """Return a clip's attributes and captions, its row of both tables, without rendering it.

    Args:
        config: configuration of the corpus.
        index: index of the clip.
    """
    plan = plan_clip(config, index)
    return _table_row(plan, config, *_person_and_appearances(plan, config))


def _person_and_appearances(plan: ClipPlan, config: CorpusConfig) -> tuple[Person, Appearance, Appearance]:
    """Return the person, the appearance in the clip, and the appearance in the reference image."""
    person = Person.from_seed(plan.person_seed)
    appearance, reference = (
        Appearance.from_seed(person, seed).closer(config.closeup)
        for seed in (plan.appearance_seed, plan.reference_seed)
    )
    return person, appearance, reference


def _table_row(
    plan: ClipPlan, config: CorpusConfig, person: Person, appearance: Appearance, reference: Appearance
) -> dict[str, Any]:
    """Return the clip's row of both tables."""
    speech = "talking" if plan.talks else "silent"
    attributes = {**person.attributes, **appearance.attributes, "mood": plan.mood, "speech": speech}
    captions = compose_captions(attributes, plan.caption_seed)
    return {
        "id": plan.name,
        "index": plan.index,
        "split": plan.split,
        "person": plan.person,
        "seconds": config.frames / FRAMES_PER_SECOND,
        "has_sound": plan.has_audio,
        "voice": plan.voice,
        "sentence": plan.text,
        **{name.replace(" ", "_"): value for name, value in attributes.items()},
        **{f"reference_{name.replace(' ', '_')}": value for name, value in reference.attributes.items()},
        "caption": captions.caption,
        "paraphrases": [captions.anonymous, *captions.paraphrases],
    }


def _write_file(path: Path, save: Any) -> None:
    """Write a file atomically; an OSError becomes a StorageError."""
    with atomic_write(path, "FOLDER") as part:
        try:
            with part.open("wb") as stream:
                save(stream)
        except OSError as error:
            problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("FOLDER", problem, "free some space or choose another disk") from error
