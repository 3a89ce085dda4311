"""What is to be seen, in words: long captions in HuMoSet's order and short paraphrases, of true attributes only.

HuMoSet's captions have 30 to 60 words: the setting first, then the person, clothing, posture, gaze and expression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_WORDS, MOST_WORDS = 30, 60
"""Of a long caption."""

_Words = Mapping[str, str]
_Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Captions:
    """``caption`` of 30 to 60 words; ``anonymous``, the same without what a picture of the person tells; short ones.

    Trained on captions that do not describe the person, a model has to take the person from the reference picture.
    """

    caption: str
    anonymous: str
    paraphrases: tuple[str, ...]


def captions(words: _Words, seed: int) -> Captions:
    """Captions of a clip. The same arguments give the same ones.

    Args:
        words: the attributes of person and look together (`Person.words`, `Look.words`), ``mood`` (one of
            `visemes.MOODS`) and ``speech`` (``talking`` or ``silent``).
        seed: of the wording.
    """
    random = np.random.default_rng((seed, 0x63617074))
    return Captions(
        _long(words, random, names_person=True),
        _long(words, random, names_person=False),
        _paraphrases(words, random),
    )


def _long(words: _Words, random: _Random, *, names_person: bool) -> str:
    he = ("she" if words["sex"] == "woman" else "he") if names_person else "the person"
    setting = _setting(words, random)
    clothes = _clothes(words, random)
    who = "a person"
    if names_person:
        who, features = _who(words, random)
        who += " " + _one(random, f"with {_join(features)}", f"who has {_join(features)}")
    first = _one(
        random,
        f"{_upper(setting)}, {_shot(words, random)} shows {who}",
        f"{_upper(_shot(words, random))} {setting} shows {who}",
        f"{_upper(setting)}, {_shot(words, random)} of {who}",
    )
    verb = _one(random, "wears", "is wearing", "is dressed in")
    second = f"{_upper(he)} {verb} {clothes}" + _worn(words, random, names_person)
    third = _posture(random, he)
    fourth = _action(words, random, he)
    text = f"{first}. {second}. {third}, {fourth}."
    extras = (
        "The picture is sharp and steady, with nobody else in view.",
        "The camera does not move, and the background stays still behind.",
    )
    if len(text.split()) < LEAST_WORDS + 2:
        text += " " + _one(random, *extras)
    return text


def _paraphrases(words: _Words, random: _Random) -> tuple[str, ...]:
    who, features = _who(words, random)
    sex, clothes, setting = words["sex"], _clothes(words, random), _setting(words, random)
    does = _one(random, "talks", "is talking", "speaks", "is speaking") if _talks(words) else _one(
        random, "is silent", "says nothing", "keeps quiet"
    )  # fmt: skip
    glasses = f" and {_glasses(words)}" if _glasses(words) else ""
    some = _join([features[0], *(f for f in features[1:] if random.random() < 0.4)])
    return (
        f"{_upper(who)} with {some}, wearing {clothes}{glasses}, {does} {setting}.",
        _one(random, f"A {sex} in {clothes} {does} {setting}.", f"{_upper(setting)}, a {sex} in {clothes} {does}."),
        _one(random, f"A person in {clothes}, {setting}, {does}.", f"Somebody {does} {setting}, dressed in {clothes}."),
        f"A {sex} with {features[0]}{glasses} {does}.",
        f"{_upper(setting)}, a person {does}.",
    )


def _who(words: _Words, random: _Random) -> tuple[str, list[str]]:
    """The person, and what there is to see of them; the skin is said in either or not at all."""
    age, skin, sex = words["age group"], words["skin tone"], words["sex"]
    features = _features(words, random)
    chance = random.random()
    if chance < 0.3:
        return _a(f"{age}, {skin}-skinned {sex}"), features
    return _a(f"{age} {sex}"), [*features, f"{skin} skin"] if chance < 0.75 else features


def _features(words: _Words, random: _Random) -> list[str]:
    """Hair first, always; then beard, eyes, freckles."""
    hair, colour = words["hair style"], words["hair colour"]
    found = {
        "bald": _one(random, "a bald head", "a bald, shaven head"),
        "crew cut": _one(random, f"{_a(colour)} crew cut", f"{colour} hair in a crew cut"),
        "buzz cut": _one(random, f"{_a(colour)} buzz cut", f"{colour} hair in a buzz cut"),
        "afro": _one(random, f"{_a(colour)} afro", f"{colour} hair in an afro"),
        "bob": _one(random, f"{_a(colour)} bob", f"{colour} hair cut in a bob"),
        "fringe": f"{colour} hair with a fringe",
        "bun": _one(random, f"{colour} hair tied in a bun", f"{colour} hair in a bun"),
        "ponytail": _one(random, f"{colour} hair in a ponytail", f"{_a(colour)} ponytail"),
    }
    features = [found.get(hair, f"{hair} {colour} hair")]
    if words["beard"] != "none":
        features.append(words["beard"] if words["beard"] == "stubble" else _a(words["beard"]))
    if random.random() < 0.7:
        features.append(f"{words['eye colour']} eyes")
    if words["freckles"] != "none":
        features.append("freckles")
    return features


def _clothes(words: _Words, random: _Random) -> str:
    colour, pattern, clothes = words["clothes colour"], words["pattern"], words["clothes"]
    if pattern == "plain":
        return _a(f"plain {colour} {clothes}") if random.random() < 0.3 else _a(f"{colour} {clothes}")
    return _one(random, _a(f"{pattern} {colour} {clothes}"), _a(f"{colour} {pattern} {clothes}"))


def _glasses(words: _Words) -> str:
    return "" if words["glasses"] == "none" else f"{words['glasses']} glasses"


def _worn(words: _Words, random: _Random, names_person: bool) -> str:
    """Glasses, which belong to the person."""
    glasses = _glasses(words)
    if not names_person:
        return ""
    if glasses:
        return _one(random, f" and {glasses}", f" together with {glasses}")
    return ", without glasses" if random.random() < 0.2 else ""


def _setting(words: _Words, random: _Random) -> str:
    place, colour = words["background"], words["background colour"]
    found = {
        "plain wall": (f"in front of a plain {colour} wall", f"before a plain {colour} wall"),
        "curtain": (f"in front of {_a(colour)} curtain", f"before {_a(colour)} curtain"),
        "studio": ("in a studio", "in a photo studio", "before the backdrop of a studio"),
        "bookshelf": ("in front of a bookshelf", "indoors, before a bookshelf"),
        "window": ("in front of a window", "indoors, before a window"),
        "park": ("in a park", "outdoors in a green park"),
        "sea": ("by the sea", "outdoors by the sea"),
        "city lights": ("before blurred city lights", "at night, in front of city lights"),
    }
    return _one(random, *found.get(place, (f"in front of {_a(place)}",)))


def _shot(words: _Words, random: _Random) -> str:
    framing = words["framing"]
    if framing == "head and shoulders":
        return _one(random, "a head and shoulders shot", "a portrait of head and shoulders")
    return _one(random, f"a {framing}", f"a steady {framing}")


def _posture(random: _Random, he: str) -> str:
    """Posture and gaze; every clip's people face the viewer."""
    return _one(
        random,
        f"{_upper(he)} sits upright, eyes on the camera",
        f"Facing the camera, {he} looks straight at the viewer",
        f"{_upper(he)} faces the viewer and looks into the lens",
        f"With relaxed shoulders, {he} looks at the camera",
    )


_MOODS: dict[str, tuple[str, ...]] = {
    "neutral": ("with a calm expression", "with a neutral look", "with a relaxed expression"),
    "smiling": ("with a smile", "with a warm smile", "with a friendly smile"),
    "serious": ("with a serious expression", "with a stern look", "with a serious look"),
    "surprised": ("with a surprised expression", "with raised brows", "with a look of surprise"),
}


def _action(words: _Words, random: _Random, he: str) -> str:
    mood = _one(random, *_MOODS[words["mood"]])
    if _talks(words):
        return _one(random, f"talking {mood}", f"speaking {mood}", f"{mood}, while {he} talks", f"{mood}, speaking")
    return _one(random, f"silent, {mood}", f"saying nothing, {mood}", f"{mood}, the mouth closed")


def _talks(words: _Words) -> bool:
    return words["speech"] == "talking"


def _one(random: _Random, *choices: str) -> str:
    return choices[int(random.integers(len(choices)))]


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _a(words: str) -> str:
    return ("an " if words[0].lower() in "aeiou" else "a ") + words


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
