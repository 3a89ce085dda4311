"""Compose captions from a clip's true attributes: long ones in HuMoSet's order, and short paraphrases.

HuMoSet's captions have 30 to 60 words: the setting first, then the person, clothing, posture, gaze and expression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_WORDS = 30
"""Least number of words of a long caption."""

_Attributes = Mapping[str, str]
_Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Captions:
    """Captions of one clip.

    A model that is trained on captions that do not describe the person must take the person from the reference image.

    Args:
        caption: 30 to 60 words.
        anonymous: 30 to 60 words without the attributes that the reference image shows.
        paraphrases: shorter captions.
    """

    caption: str
    anonymous: str
    paraphrases: tuple[str, ...]


def compose_captions(attributes: _Attributes, seed: int) -> Captions:
    """Compose the captions of a clip. The same arguments give the same captions.

    Args:
        attributes: attributes of person and appearance (`Person.attributes`, `Appearance.attributes`), ``mood`` (one of
            `visemes.MOODS`) and ``speech`` (``talking`` or ``silent``).
        seed: seed of the wording.
    """
    random = np.random.default_rng((seed, 0x63617074))
    return Captions(
        _long_caption(attributes, random, describes_person=True),
        _long_caption(attributes, random, describes_person=False),
        _paraphrases(attributes, random),
    )


def _long_caption(attributes: _Attributes, random: _Random, *, describes_person: bool) -> str:
    pronoun = ("she" if attributes["sex"] == "woman" else "he") if describes_person else "the person"
    setting = _setting(attributes, random)
    clothes = _clothes(attributes, random)
    who = "a person"
    if describes_person:
        who, features = _person(attributes, random)
        who += " " + _choose(random, f"with {_join(features)}", f"who has {_join(features)}")
    first = _choose(
        random,
        f"{_capitalize(setting)}, {_shot(attributes, random)} shows {who}",
        f"{_capitalize(_shot(attributes, random))} {setting} shows {who}",
        f"{_capitalize(setting)}, {_shot(attributes, random)} of {who}",
    )
    verb = _choose(random, "wears", "is wearing", "is dressed in")
    second = f"{_capitalize(pronoun)} {verb} {clothes}" + _worn_glasses(attributes, random, describes_person)
    third = _posture(random, pronoun)
    fourth = _action(attributes, random, pronoun)
    text = f"{first}. {second}. {third}, {fourth}."
    extras = (
        "The picture is sharp and steady, with nobody else in view.",
        "The camera does not move, and the background stays still behind.",
    )
    if len(text.split()) < MIN_WORDS + 2:
        text += " " + _choose(random, *extras)
    return text


def _paraphrases(attributes: _Attributes, random: _Random) -> tuple[str, ...]:
    who, features = _person(attributes, random)
    sex, clothes, setting = attributes["sex"], _clothes(attributes, random), _setting(attributes, random)
    does = _choose(random, "talks", "is talking", "speaks", "is speaking") if _talks(attributes) else _choose(
        random, "is silent", "says nothing", "keeps quiet"
    )  # fmt: skip
    glasses = f" and {_glasses(attributes)}" if _glasses(attributes) else ""
    some = _join([features[0], *(f for f in features[1:] if random.random() < 0.4)])
    return (
        f"{_capitalize(who)} with {some}, wearing {clothes}{glasses}, {does} {setting}.",
        _choose(
            random, f"A {sex} in {clothes} {does} {setting}.", f"{_capitalize(setting)}, a {sex} in {clothes} {does}."
        ),
        _choose(
            random, f"A person in {clothes}, {setting}, {does}.", f"Somebody {does} {setting}, dressed in {clothes}."
        ),
        f"A {sex} with {features[0]}{glasses} {does}.",
        f"{_capitalize(setting)}, a person {does}.",
    )


def _person(attributes: _Attributes, random: _Random) -> tuple[str, list[str]]:
    """Return a noun phrase for the person, and the visible features. Either, or neither, names the skin tone."""
    age, skin, sex = attributes["age group"], attributes["skin tone"], attributes["sex"]
    features = _features(attributes, random)
    chance = random.random()
    if chance < 0.3:
        return _with_article(f"{age}, {skin}-skinned {sex}"), features
    return _with_article(f"{age} {sex}"), [*features, f"{skin} skin"] if chance < 0.75 else features


def _features(attributes: _Attributes, random: _Random) -> list[str]:
    """Return the visible features: hair first, then beard, eyes, freckles."""
    hair, color = attributes["hair style"], attributes["hair colour"]
    phrases = {
        "bald": _choose(random, "a bald head", "a bald, shaven head"),
        "crew cut": _choose(random, f"{_with_article(color)} crew cut", f"{color} hair in a crew cut"),
        "buzz cut": _choose(random, f"{_with_article(color)} buzz cut", f"{color} hair in a buzz cut"),
        "afro": _choose(random, f"{_with_article(color)} afro", f"{color} hair in an afro"),
        "bob": _choose(random, f"{_with_article(color)} bob", f"{color} hair cut in a bob"),
        "fringe": f"{color} hair with a fringe",
        "bun": _choose(random, f"{color} hair tied in a bun", f"{color} hair in a bun"),
        "ponytail": _choose(random, f"{color} hair in a ponytail", f"{_with_article(color)} ponytail"),
    }
    features = [phrases.get(hair, f"{hair} {color} hair")]
    if attributes["beard"] != "none":
        features.append(attributes["beard"] if attributes["beard"] == "stubble" else _with_article(attributes["beard"]))
    if random.random() < 0.7:
        features.append(f"{attributes['eye colour']} eyes")
    if attributes["freckles"] != "none":
        features.append("freckles")
    return features


def _clothes(attributes: _Attributes, random: _Random) -> str:
    color, pattern, clothes = attributes["clothes colour"], attributes["pattern"], attributes["clothes"]
    if pattern == "plain":
        return (
            _with_article(f"plain {color} {clothes}") if random.random() < 0.3 else _with_article(f"{color} {clothes}")
        )
    return _choose(random, _with_article(f"{pattern} {color} {clothes}"), _with_article(f"{color} {pattern} {clothes}"))


def _glasses(attributes: _Attributes) -> str:
    return "" if attributes["glasses"] == "none" else f"{attributes['glasses']} glasses"


def _worn_glasses(attributes: _Attributes, random: _Random, describes_person: bool) -> str:
    """Return a phrase about glasses, which count as a feature of the person."""
    glasses = _glasses(attributes)
    if not describes_person:
        return ""
    if glasses:
        return _choose(random, f" and {glasses}", f" together with {glasses}")
    return ", without glasses" if random.random() < 0.2 else ""


def _setting(attributes: _Attributes, random: _Random) -> str:
    place, color = attributes["background"], attributes["background colour"]
    phrases = {
        "plain wall": (f"in front of a plain {color} wall", f"before a plain {color} wall"),
        "curtain": (f"in front of {_with_article(color)} curtain", f"before {_with_article(color)} curtain"),
        "studio": ("in a studio", "in a photo studio", "before the backdrop of a studio"),
        "bookshelf": ("in front of a bookshelf", "indoors, before a bookshelf"),
        "window": ("in front of a window", "indoors, before a window"),
        "park": ("in a park", "outdoors in a green park"),
        "sea": ("by the sea", "outdoors by the sea"),
        "city lights": ("before blurred city lights", "at night, in front of city lights"),
    }
    return _choose(random, *phrases.get(place, (f"in front of {_with_article(place)}",)))


def _shot(attributes: _Attributes, random: _Random) -> str:
    framing = attributes["framing"]
    if framing == "head and shoulders":
        return _choose(random, "a head and shoulders shot", "a portrait of head and shoulders")
    return _choose(random, f"a {framing}", f"a steady {framing}")


def _posture(random: _Random, pronoun: str) -> str:
    """Return a clause about posture and gaze; every person faces the viewer."""
    return _choose(
        random,
        f"{_capitalize(pronoun)} sits upright, eyes on the camera",
        f"Facing the camera, {pronoun} looks straight at the viewer",
        f"{_capitalize(pronoun)} faces the viewer and looks into the lens",
        f"With relaxed shoulders, {pronoun} looks at the camera",
    )


_MOODS: dict[str, tuple[str, ...]] = {
    "neutral": ("with a calm expression", "with a neutral look", "with a relaxed expression"),
    "smiling": ("with a smile", "with a warm smile", "with a friendly smile"),
    "serious": ("with a serious expression", "with a stern look", "with a serious look"),
    "surprised": ("with a surprised expression", "with raised brows", "with a look of surprise"),
}


def _action(attributes: _Attributes, random: _Random, pronoun: str) -> str:
    mood = _choose(random, *_MOODS[attributes["mood"]])
    if _talks(attributes):
        return _choose(
            random, f"talking {mood}", f"speaking {mood}", f"{mood}, while {pronoun} talks", f"{mood}, speaking"
        )
    return _choose(random, f"silent, {mood}", f"saying nothing, {mood}", f"{mood}, the mouth closed")


def _talks(attributes: _Attributes) -> bool:
    return attributes["speech"] == "talking"


def _choose(random: _Random, *choices: str) -> str:
    return choices[int(random.integers(len(choices)))]


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _with_article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def _capitalize(text: str) -> str:
    return text[0].upper() + text[1:]
