"""Plan each clip of a synthetic corpus: a pure function of the corpus's configuration and the clip's index.

A clip is therefore the same in any order, with any number of processes and after any number of restarts. The split is
part of the plan: no training clip contains people, voices or sentences that are held out for tests.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from humo.synthetic import sentences
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import Person
from humo.synthetic.speech.synthesis import VOICES, Engine, Voice
from humo.synthetic.speech.visemes import MOODS, Mood

Split = Literal["train", "test", "test-seen"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""Names of the splits.

``test`` has held-out people, voices and sentences. ``test-seen`` has people of the training clips in new appearances,
with held-out voices and sentences."""

_SPLIT_FRACTIONS = (0.90, 0.05, 0.05)
_HELD_OUT_IDENTITIES = 1 / 6
_HIBARI_FRACTION = 0.4  # of spoken clips, if Hibari is installed
_SILENT_TALK_FRACTION = 0.5  # of clips without audio: the mouth moves
_MOOD_ODDS = (0.45, 0.25, 0.18, 0.12)
_SECONDS_PER_LETTER = 0.062
_MIN_SPOKEN_FRACTION = 0.7  # least fraction of a clip's time that its sentences should fill
_MAX_REFERENCE_DRAWS = 64  # draws of a reference appearance that differs from the clip's


@dataclass(frozen=True, slots=True)
class CorpusConfig:
    """Everything that determines the clips of a corpus, except their number.

    Args:
        seed: seed of all random choices.
        size: width and height in pixels; even.
        frames: frames of each clip at 25 a second; 4k + 1 fits the autoencoder.
        silent_fraction: fraction of clips without audio.
        supersample: samples per pixel along each axis.
        identities: number of people; a sixth of them is held out for tests.
        engines: speech synthesizers.
        closeup: 0 for tight to medium framing and any pose; toward 1, tighter framing and more frontal poses.
        articulation: factor on the motion of the mouth; 1 is ordinary speech.
    """

    seed: int = 0
    size: int = 96
    frames: int = 41
    silent_fraction: float = 0.2
    supersample: int = 2
    identities: int = 2400
    engines: tuple[Engine, ...] = ("espeak", "hibari")
    closeup: float = 0.0
    articulation: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields under the names that `corpus.CONFIG_FILE` stores."""
        values = {STORED_NAMES[name]: value for name, value in asdict(self).items()}
        return {**values, "engines": list(self.engines)}


STORED_NAMES = {field.name: field.name for field in fields(CorpusConfig)} | {
    "silent_fraction": "silent_share",
    "identities": "people",
    "closeup": "closeness",
}
"""Field of `CorpusConfig` -> its key in files; existing corpora have the three keys that differ."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """All choices of one clip.

    Args:
        index: index of the clip in the corpus.
        name: file name, see `clip_name`.
        split: split of the clip.
        person: number of the identity in the corpus.
        person_seed: seed of the `Person`.
        appearance_seed, reference_seed: seeds of the `Appearance` in the clip and in the reference image.
        track_seed, caption_seed: seeds of the face's motion and of the captions' wording.
        mood: expression of the face.
        talks: whether the mouth moves.
        has_audio: whether the clip has audio; if so, it also talks.
        voice: name of the voice; "" if the clip does not talk.
        text: the spoken sentences.
        rate, pitch, liveliness: see `speech.synthesis.synthesize`.
        start: position of the clip in the speech, 0 (as early as possible) to 1 (as late as possible).
        peak: largest absolute value of the samples.
    """

    index: int
    name: str
    split: Split
    person: int
    person_seed: int
    appearance_seed: int
    reference_seed: int
    track_seed: int
    caption_seed: int
    mood: Mood
    talks: bool
    has_audio: bool
    voice: str
    text: str
    rate: float
    pitch: float
    liveliness: float
    start: float
    peak: float


def clip_split(seed: int, index: int) -> Split:
    """Return the split of a clip.

    Args:
        seed: seed of the corpus.
        index: index of the clip.
    """
    position = _generator(seed, index, "split").random()
    return SPLITS[int(np.searchsorted(np.cumsum(_SPLIT_FRACTIONS)[:-1], position, side="right"))]


def clip_name(seed: int, index: int) -> str:
    """Return a clip's file name without extension: 32 hexadecimal digits, as in HuMoSet.

    Args:
        seed: seed of the corpus.
        index: index of the clip.
    """
    return hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=16).hexdigest()


def clip_indices(seed: int, count: int, split: Split | None = None) -> list[int]:
    """Return the indices of the first clips of a corpus.

    Args:
        seed: seed of the corpus.
        count: number of clips.
        split: return only clips of this split; None for all splits.
    """
    matching: list[int] = []
    index = 0
    while len(matching) < count:
        if split is None or clip_split(seed, index) == split:
            matching.append(index)
        index += 1
    return matching


def split_identities(config: CorpusConfig, split: Split) -> range:
    """Return the numbers of the identities that clips of a split may show."""
    first_held_out = config.identities - max(1, round(config.identities * _HELD_OUT_IDENTITIES))
    return range(first_held_out, config.identities) if split == "test" else range(first_held_out)


def plan_clip(config: CorpusConfig, index: int, person_number: int | None = None) -> ClipPlan:
    """Plan a clip.

    Args:
        config: configuration of the corpus.
        index: index of the clip, from 0.
        person_number: number of the identity; None draws it.
    """
    split = clip_split(config.seed, index)
    random = _generator(config.seed, index, "clip")
    people = split_identities(config, split)
    number = int(random.integers(people.start, people.stop))
    if person_number is not None:
        number = person_number
    person_seed = _derive_seed(config.seed, number, "person")
    person = Person.from_seed(person_seed)
    appearance_seed = _derive_seed(config.seed, index, "look")
    has_audio = bool(random.random() >= config.silent_fraction)
    talks = has_audio or bool(random.random() < _SILENT_TALK_FRACTION)
    is_held_out = split != "train"
    voice = _draw_voice(config, person.sex, is_held_out, random)
    text = _draw_text(config.frames / 25, is_held_out, random)
    return ClipPlan(
        index=index,
        name=clip_name(config.seed, index),
        split=split,
        person=number,
        person_seed=person_seed,
        appearance_seed=appearance_seed,
        reference_seed=_draw_reference_seed(config.seed, index, person, Appearance.from_seed(person, appearance_seed)),
        track_seed=_derive_seed(config.seed, index, "track"),
        caption_seed=_derive_seed(config.seed, index, "caption"),
        mood=MOODS[int(random.choice(len(MOODS), p=_MOOD_ODDS))],
        talks=talks,
        has_audio=has_audio,
        voice=voice.name if talks else "",
        text=text if talks else "",
        rate=float(random.uniform(0.85, 1.2)),
        pitch=float(random.uniform(0.92, 1.09)),
        liveliness=float(random.uniform(0.6, 1.4)),
        start=float(random.random()),
        peak=float(random.uniform(0.3, 0.9)),
    )


def _draw_voice(config: CorpusConfig, sex: str, is_held_out: bool, random: np.random.Generator) -> Voice:
    """Draw a voice of the person's gender from either synthesizer."""
    fitting = [
        voice
        for voice in VOICES
        if voice.engine in config.engines and voice.gender == sex and voice.is_held_out is is_held_out
    ]
    engine: Engine = "hibari" if random.random() < _HIBARI_FRACTION and "hibari" in config.engines else "espeak"
    voices = [voice for voice in fitting if voice.engine == engine]
    return voices[int(random.integers(len(voices)))]


def _draw_text(seconds: float, is_held_out: bool, random: np.random.Generator) -> str:
    """Draw enough sentences for a clip of that length."""
    text = ""
    while not text or len(text) * _SECONDS_PER_LETTER < _MIN_SPOKEN_FRACTION * seconds:
        length = sentences.LENGTHS[int(random.choice(len(sentences.LENGTHS), p=(0.35, 0.40, 0.25)))]
        text = f"{text} {sentences.draw_sentence(random, length, held_out=is_held_out)}".strip()
    return text


def _draw_reference_seed(seed: int, index: int, person: Person, appearance: Appearance) -> int:
    """Return the seed of an appearance with other clothes, clothes color and background."""
    candidates = [_derive_seed(seed, index, f"reference {number}") for number in range(_MAX_REFERENCE_DRAWS)]
    for candidate in candidates:
        other = Appearance.from_seed(person, candidate)
        if all(
            getattr(other, name) != getattr(appearance, name) for name in ("clothes", "clothes_color", "background")
        ):
            return candidate
    return candidates[0]  # probability 10^-12


def _derive_seed(seed: int, index: int, purpose: str) -> int:
    """Derive a seed below 2^62 for one purpose of one clip or identity."""
    digest = hashlib.blake2b(f"{seed}/{index}/{purpose}".encode(), digest_size=8, person=b"humo-synthetic").digest()
    return int.from_bytes(digest, "big") >> 2


def _generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(_derive_seed(seed, index, purpose))
