"""The cases of the open benchmark, as a pure function of its seed: who, which references, which audio, which prompt.

subject      text and references without audio: 1 to 3 references, with objects
audio        text and audio without a reference: five languages, singing, whispering, shouting, music, silence
together     text, reference and audio
edit         the same reference and audio, while the text changes clothes and place
speakers     two people, of whom one speaks
long         30 and 120 seconds
trap         what models stumble on: no face in the reference, noise, music only, contradictions, odd shapes
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from humo.evaluation.open_benchmark.objects import OBJECTS
from humo.synthetic.captions import compose_captions
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import Person
from humo.synthetic.speech.visemes import MOODS, Mood

LANGUAGES = ("en", "de", "fr", "es", "zh")
"""Languages of the speech."""

SECONDS = 4.0
"""Length of a clip without a reason for another one."""

LONG_SECONDS = (30.0,) * 6 + (120.0,) * 4
"""Lengths of the long cases."""

CLOSEUP = 0.8
"""Tightness of the framing of people, 0 to 1."""


@dataclass(frozen=True, slots=True)
class AudioPlan:
    """Audio of a case, described.

    Args:
        kind: ``speech``, ``whisper``, ``shout``, ``pause``, ``music under speech``, ``song``, ``song with music``,
            ``music``, ``noise`` or ``silence``.
        language: of speech.
        number: of the first sentence, or of the key of a song.
    """

    kind: str
    language: str = "en"
    number: int = 0


@dataclass(frozen=True)
class Actor:
    """A person of a case, in the video and in the reference image.

    Args:
        seed: of the identity.
        outfit: seed of the appearance in the video.
        reference_outfit: seed of the appearance in the reference.
        mood: expression.
    """

    seed: int
    outfit: int
    reference_outfit: int
    mood: Mood = "neutral"

    @cached_property
    def person(self) -> Person:
        """The identity."""
        return Person.from_seed(self.seed)

    @cached_property
    def appearance(self) -> Appearance:
        """Clothes and place in the video."""
        return Appearance.from_seed(self.person, self.outfit).closer(CLOSEUP)

    @cached_property
    def reference_appearance(self) -> Appearance:
        """Clothes and place in the reference."""
        return Appearance.from_seed(self.person, self.reference_outfit).closer(CLOSEUP)

    def attributes(self, *, talks: bool) -> dict[str, str]:
        """Return what the prompt describes."""
        speech = "talking" if talks else "silent"
        return {**self.person.attributes, **self.appearance.attributes, "mood": self.mood, "speech": speech}


@dataclass(frozen=True)
class CasePlan:
    """One case.

    Args:
        id: its name.
        category: see the module.
        prompt: text.
        actors: people in the video, from left to right.
        references: what each reference shows: ``person N``, ``view N`` (of the same person), ``object NAME``,
            ``pair`` (two people in one image), ``tall`` or ``flat`` (an extreme shape).
        audio: None without audio.
        speaker: number of the actor who speaks; None if nobody does.
        seconds: length.
        has_truth: whether a true clip can be rendered.
    """

    id: str
    category: str
    prompt: str
    actors: tuple[Actor, ...] = ()
    references: tuple[str, ...] = ()
    audio: AudioPlan | None = None
    speaker: int | None = None
    seconds: float = SECONDS
    has_truth: bool = True

    @property
    def talks(self) -> bool:
        """True where somebody should speak."""
        return self.speaker is not None


def derive_seed(*parts: object) -> int:
    """Return a number below 2^62 for a purpose."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"humo-benchmark").digest(), "big") >> 2


def plan_benchmark(seed: int = 0) -> list[CasePlan]:
    """Return all cases.

    Args:
        seed: another one gives other people, voices and texts; published figures are those of 0.
    """
    parts = (_subject, _audio, _together, _edit, _speakers, _long, _trap)
    return [plan for part in parts for plan in part(seed)]


def _actor(seed: int, category: str, number: int, outfit: int = 0) -> Actor:
    """Return a person whose reference shows other clothes and another place than the video."""
    person = derive_seed(seed, category, number, "person")
    reference = derive_seed(seed, category, number, "reference")
    mood = MOODS[derive_seed(seed, category, number, "mood") % len(MOODS)]
    for step in range(64):
        actor = Actor(person, derive_seed(seed, category, number, "outfit", outfit, step), reference, mood)
        video, image = actor.appearance, actor.reference_appearance
        if all(getattr(video, name) != getattr(image, name) for name in ("clothes", "clothes_color", "background")):
            return actor
    return actor


def _caption(actor: Actor, seed: int, *, talks: bool, describes: bool = True) -> str:
    captions = compose_captions(actor.attributes(talks=talks), seed)
    return captions.caption if describes else captions.anonymous


def _subject(seed: int) -> Iterator[CasePlan]:
    names = tuple(OBJECTS)
    for number in range(40):
        actor = _actor(seed, "subject", number)
        kind = ("person", "person", "person and object", "two views", "objects", "person and two objects")[number % 6]
        first, second = names[number % len(names)], names[(number + 3) % len(names)]
        prompt = _caption(actor, number, talks=False, describes=number % 12 >= 6)
        references: tuple[str, ...] = ("person 0",)
        if kind == "two views":
            references = ("person 0", "view 0")
        elif kind == "objects":
            references = (f"object {first}", f"object {second}")
            prompt = f"{OBJECTS[first].name.capitalize()} and {OBJECTS[second].name} stand side by side on a table."
        elif kind != "person":
            references = ("person 0", f"object {first}") + ((f"object {second}",) if "two" in kind else ())
            items = OBJECTS[first].name + (f" and {OBJECTS[second].name}" if "two" in kind else "")
            prompt = f"{prompt} Beside the person stands {items}."
        actors = () if kind == "objects" else (actor,)
        plain = kind in ("person", "two views")
        yield CasePlan(f"subject-{number:03}", "subject", prompt, actors, references, has_truth=plain)


_AUDIO_KINDS = (
    *(("speech", language) for language in LANGUAGES for _ in range(4)),
    *(("song", "en"),) * 2,
    *(("song with music", "en"),) * 2,
    *(("shout", "en"),) * 3,
    *(("whisper", "en"),) * 3,
    *(("music under speech", "en"),) * 4,
    *(("silence", "en"),) * 3,
    *(("pause", "en"),) * 3,
)
"""Kinds and languages of the audio of 40 cases."""

_TOGETHER_KINDS = (
    *(("speech", language) for language in LANGUAGES for _ in range(6)),
    *(("song", "en"),) * 3,
    *(("song with music", "en"),) * 3,
    *(("shout", "en"),) * 4,
    *(("whisper", "en"),) * 5,
    *(("music under speech", "en"),) * 6,
    *(("silence", "en"),) * 4,
    *(("pause", "en"),) * 5,
)
"""Kinds and languages of the audio of 60 cases."""

assert len(_AUDIO_KINDS) == 40
assert len(_TOGETHER_KINDS) == 60


def _audio(seed: int) -> Iterator[CasePlan]:
    for number, (kind, language) in enumerate(_AUDIO_KINDS):
        actor = _actor(seed, "audio", number)
        talks = kind != "silence"
        prompt = _caption(actor, number, talks=talks)
        yield CasePlan(
            f"audio-{number:03}",
            "audio",
            prompt,
            (actor,),
            audio=AudioPlan(kind, language, number),
            speaker=0 if talks else None,
        )


def _together(seed: int) -> Iterator[CasePlan]:
    for number, (kind, language) in enumerate(_TOGETHER_KINDS):
        actor = _actor(seed, "together", number)
        talks = kind != "silence"
        prompt = _caption(actor, number, talks=talks, describes=number % 2 == 0)
        yield CasePlan(
            f"together-{number:03}",
            "together",
            prompt,
            (actor,),
            ("person 0",),
            AudioPlan(kind, language, number + 3),
            0 if talks else None,
        )


def _edit(seed: int) -> Iterator[CasePlan]:
    for number in range(20):
        person, outfit = divmod(number, 4)
        actor = _actor(seed, "edit", person, outfit)
        prompt = _caption(actor, person, talks=True, describes=False)
        audio = AudioPlan("speech", "en", person)
        yield CasePlan(f"edit-{number:03}", "edit", prompt, (actor,), ("person 0",), audio, 0)


def _speakers(seed: int) -> Iterator[CasePlan]:
    for number in range(20):
        actors = tuple(_actor(seed, "speakers", 2 * number + place) for place in (0, 1))
        speaker = number % 2
        clothes = [actor.appearance for actor in actors]
        who = [
            f"a {actor.person.sex} in a {one.clothes_color} {one.clothes}"
            for actor, one in zip(actors, clothes, strict=True)
        ]
        side = ("left", "right")[speaker]
        prompt = (
            f"Two people side by side: on the left {who[0]}, on the right {who[1]}. "
            f"The person on the {side} talks, the other one is silent."
        )
        audio = AudioPlan("speech", LANGUAGES[number % len(LANGUAGES)], number)
        yield CasePlan(f"speakers-{number:03}", "speakers", prompt, actors, ("person 0", "person 1"), audio, speaker)


def _long(seed: int) -> Iterator[CasePlan]:
    for number, seconds in enumerate(LONG_SECONDS):
        actor = _actor(seed, "long", number)
        prompt = _caption(actor, number, talks=True)
        audio = AudioPlan("speech", LANGUAGES[number % len(LANGUAGES)], number)
        yield CasePlan(f"long-{number:03}", "long", prompt, (actor,), ("person 0",), audio, 0, seconds)


def _trap(seed: int) -> Iterator[CasePlan]:
    names = tuple(OBJECTS)
    speech, music, noise = (AudioPlan(kind) for kind in ("speech", "music", "noise"))
    kinds: tuple[tuple[str, AudioPlan, bool], ...] = (
        (f"object {names[0]}", speech, True),
        (f"object {names[4]}", speech, True),
        ("person 0", noise, False),
        ("person 0", music, False),
        ("person 0", music, False),
        ("other", speech, True),
        ("other", speech, True),
        ("pair", speech, True),
        ("tall", speech, True),
        ("flat", speech, True),
    )
    for number, (reference, audio, talks) in enumerate(kinds):
        actor = _actor(seed, "trap", number)
        actors: tuple[Actor, ...] = (actor,)
        described = actor
        if reference == "other":  # the text describes somebody else than the reference shows
            described = _actor(seed, "trap other", number)
            reference = "person 0"
        if reference == "pair":
            actors = (actor, _actor(seed, "trap pair", number))
        prompt = _caption(described, number, talks=talks)
        yield CasePlan(
            f"trap-{number:03}",
            "trap",
            prompt,
            actors,
            (reference,),
            audio,
            0 if talks else None,
            has_truth=False,
        )
