"""What each clip of a synthetic corpus shows: a pure function of the corpus's recipe and the clip's number.

So a clip is the same whatever else is made, by how many processes, in which order and after how many restarts, and
the split is a property of the recipe: people, voices and sentences held out for tests are in no training clip.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from humo.synthetic import sentences
from humo.synthetic.person.appearance import Look
from humo.synthetic.person.identity import Person
from humo.synthetic.speech.synthesis import VOICES, Engine, Voice
from humo.synthetic.speech.visemes import MOODS, Mood

Split = Literal["train", "test", "test-seen"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""``test``: people, voices and sentences never seen; ``test-seen``: people of the training clips in new looks, voices
and sentences never seen."""

_SPLIT_SHARES = (0.90, 0.05, 0.05)
_HELD_OUT_PEOPLE = 1 / 6
_NEURAL_SHARE = 0.4  # of speech, where the second synthesiser is there
_TALKS_UNHEARD = 0.5  # of clips without sound
_MOOD_ODDS = (0.45, 0.25, 0.18, 0.12)
_SECONDS_PER_LETTER = 0.062
_FILLED = 0.7  # of a clip's time, at least, is worth of sentences
_OTHER_LOOKS = 64  # tries to find a look that differs from the clip's


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what the clips of a corpus are, but not how many there are.

    Args:
        seed: of everything.
        size: pixels of width and height; even.
        frames: of each clip, 25 a second; 4k + 1 fits the autoencoder.
        silent_share: of clips without sound.
        supersample: the renderer's samples a pixel and axis.
        people: identities; a sixth of them is held out.
        engines: the synthesisers that speak.
        closeness: 0 from tight to medium framing and any pose; towards 1 tighter and more from the front.
        articulation: how wide mouths move, 1 as in ordinary talk.
    """

    seed: int = 0
    size: int = 96
    frames: int = 41
    silent_share: float = 0.2
    supersample: int = 2
    people: int = 2400
    engines: tuple[Engine, ...] = ("espeak", "hibari")
    closeness: float = 0.0
    articulation: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, for JSON."""
        return {**asdict(self), "engines": list(self.engines)}


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """One clip before anything of it is made.

    Args:
        index: its number in the corpus.
        name: see `name_of`.
        split: which clips it belongs with.
        person: number of the identity in the corpus.
        person_seed, look_seed, reference_seed: of `Person`, its `Look` and the look of the reference picture.
        track_seed, caption_seed: of the motion and of the wording.
        mood: of the face.
        talks: whether the mouth speaks.
        has_sound: whether the clip has a sound track; it talks then.
        voice: who speaks; "" if nobody does.
        text: what is said.
        rate, pitch, liveliness: see `speech.speak`.
        begin: where in the speech the clip begins, 0 (as early as it may) to 1 (as late).
        peak: of the samples.
    """

    index: int
    name: str
    split: Split
    person: int
    person_seed: int
    look_seed: int
    reference_seed: int
    track_seed: int
    caption_seed: int
    mood: Mood
    talks: bool
    has_sound: bool
    voice: str
    text: str
    rate: float
    pitch: float
    liveliness: float
    begin: float
    peak: float


def split_of(seed: int, index: int) -> Split:
    """Which split a clip belongs to.

    Args:
        seed: the corpus's.
        index: the clip's number.
    """
    place = _draw(seed, index, "split").random()
    return SPLITS[int(np.searchsorted(np.cumsum(_SPLIT_SHARES)[:-1], place, side="right"))]


def name_of(seed: int, index: int) -> str:
    """A clip's file name without ending, as if drawn at random: 32 hexadecimal digits, as HuMoSet's.

    Args:
        seed: the corpus's.
        index: the clip's number.
    """
    return hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=16).hexdigest()


def indices(seed: int, count: int, split: Split | None = None) -> list[int]:
    """The numbers of the first clips of a corpus.

    Args:
        seed: the corpus's.
        count: how many.
        split: those of one split alone.
    """
    found: list[int] = []
    index = 0
    while len(found) < count:
        if split is None or split_of(seed, index) == split:
            found.append(index)
        index += 1
    return found


def people_of(recipe: Recipe, split: Split) -> range:
    """The numbers of the identities that clips of a split may show."""
    first_held_out = recipe.people - max(1, round(recipe.people * _HELD_OUT_PEOPLE))
    return range(first_held_out, recipe.people) if split == "test" else range(first_held_out)


def plan_clip(recipe: Recipe, index: int, person_number: int | None = None) -> ClipPlan:
    """What a clip shows.

    Args:
        recipe: the corpus's.
        index: the clip's number, from 0.
        person_number: of the identity, where it is not to be drawn.
    """
    split = split_of(recipe.seed, index)
    random = _draw(recipe.seed, index, "clip")
    people = people_of(recipe, split)
    number = int(random.integers(people.start, people.stop))
    if person_number is not None:
        number = person_number
    person_seed = _seed(recipe.seed, number, "person")
    person = Person.from_seed(person_seed)
    look_seed = _seed(recipe.seed, index, "look")
    has_sound = bool(random.random() >= recipe.silent_share)
    talks = has_sound or bool(random.random() < _TALKS_UNHEARD)
    is_held_out = split != "train"
    voice = _choose_voice(recipe, person.sex, is_held_out, random)
    text = _write_text(recipe.frames / 25, is_held_out, random)
    return ClipPlan(
        index=index,
        name=name_of(recipe.seed, index),
        split=split,
        person=number,
        person_seed=person_seed,
        look_seed=look_seed,
        reference_seed=_other_look(recipe.seed, index, person, Look.from_seed(person, look_seed)),
        track_seed=_seed(recipe.seed, index, "track"),
        caption_seed=_seed(recipe.seed, index, "caption"),
        mood=MOODS[int(random.choice(len(MOODS), p=_MOOD_ODDS))],
        talks=talks,
        has_sound=has_sound,
        voice=voice.name if talks else "",
        text=text if talks else "",
        rate=float(random.uniform(0.85, 1.2)),
        pitch=float(random.uniform(0.92, 1.09)),
        liveliness=float(random.uniform(0.6, 1.4)),
        begin=float(random.random()),
        peak=float(random.uniform(0.3, 0.9)),
    )


def _choose_voice(recipe: Recipe, sex: str, is_held_out: bool, random: np.random.Generator) -> Voice:
    """A voice that fits the person, of either synthesiser."""
    fitting = [
        voice
        for voice in VOICES
        if voice.engine in recipe.engines and voice.gender == sex and voice.is_held_out is is_held_out
    ]
    engine: Engine = "hibari" if random.random() < _NEURAL_SHARE and "hibari" in recipe.engines else "espeak"
    voices = [voice for voice in fitting if voice.engine == engine]
    return voices[int(random.integers(len(voices)))]


def _write_text(seconds: float, is_held_out: bool, random: np.random.Generator) -> str:
    """Sentences enough for a clip of that length."""
    text = ""
    while not text or len(text) * _SECONDS_PER_LETTER < _FILLED * seconds:
        length = sentences.LENGTHS[int(random.choice(len(sentences.LENGTHS), p=(0.35, 0.40, 0.25)))]
        text = f"{text} {sentences.draw_sentence(random, length, held_out=is_held_out)}".strip()
    return text


def _other_look(seed: int, index: int, person: Person, look: Look) -> int:
    """The seed of a look in which clothes, their colour and the background are others."""
    tried = [_seed(seed, index, f"reference {number}") for number in range(_OTHER_LOOKS)]
    for candidate in tried:
        other = Look.from_seed(person, candidate)
        if all(getattr(other, name) != getattr(look, name) for name in ("clothes", "clothes_colour", "background")):
            return candidate
    return tried[0]  # one in 10^12


def _seed(seed: int, index: int, purpose: str) -> int:
    """A seed of its own for each purpose, below 2^62."""
    digest = hashlib.blake2b(f"{seed}/{index}/{purpose}".encode(), digest_size=8, person=b"humo-synthetic").digest()
    return int.from_bytes(digest, "big") >> 2


def _draw(seed: int, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(_seed(seed, index, purpose))
