"""Captions name the true attributes of a clip, and no others."""

from __future__ import annotations

import re

import pytest

from humo.known_words import KNOWN_WORDS
from humo.synthetic.captions import Captions, compose_captions
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import PERSON_ATTRIBUTES, Person
from humo.synthetic.speech.visemes import MOODS

PEOPLE = 400
IDENTITY = ("sex", "age group", "skin tone", "hair style", "beard", "glasses", "freckles")


def attributes_of(number: int) -> dict[str, str]:
    """Return the attributes of one clip."""
    person = Person.from_seed(number)
    state = {"mood": MOODS[number % len(MOODS)], "speech": ("talking", "silent")[number % 3 == 0]}
    return {**person.attributes, **Appearance.from_seed(person, number).attributes, **state}


@pytest.fixture(scope="module")
def captioned() -> list[tuple[dict[str, str], Captions]]:
    """Return the attributes and captions of many clips."""
    return [
        (attributes, compose_captions(attributes, number))
        for number, attributes in enumerate(map(attributes_of, range(PEOPLE)))
    ]


def contains(text: str, phrase: str) -> bool:
    """Return whether a text contains a whole word or phrase."""
    return re.search(rf"\b{re.escape(phrase.lower())}\b", text.lower()) is not None


def test_captions_have_30_to_60_words(captioned: list[tuple[dict[str, str], Captions]]) -> None:
    for _, captions_ in captioned:
        for text in (captions_.caption, captions_.anonymous):
            assert 30 <= len(text.split()) <= 60, text
            assert "none" not in text.split()
            assert "  " not in text


def test_captions_name_the_true_hair_clothes_and_background(captioned: list[tuple[dict[str, str], Captions]]) -> None:
    for attributes, captions_ in captioned:
        text = captions_.caption
        expected = [attributes["sex"], attributes["clothes"], attributes["clothes colour"], attributes["hair style"]]
        expected += [attributes[name] for name in ("hair colour", "background colour") if attributes[name] != "none"]
        expected += [attributes["background"].split()[-1]]
        for name in ("beard", "glasses"):
            expected += [attributes[name]] * (attributes[name] != "none")
        for word in expected:
            assert contains(text, word), (word, text)


def test_captions_name_no_other_hair_color(captioned: list[tuple[dict[str, str], Captions]]) -> None:
    colors = {"auburn", "blond", "dark brown"}
    for attributes, captions_ in captioned:
        true_colors = {attributes["hair colour"], attributes["eye colour"]}
        for color in colors - true_colors:
            assert not contains(captions_.caption, color), (color, captions_.caption)
        if attributes["glasses"] == "none":
            assert not contains(captions_.caption.replace("without glasses", ""), "glasses")
        assert contains(captions_.caption, "she") is (attributes["sex"] == "woman")


def test_anonymous_captions_name_no_attribute_that_the_reference_image_shows(
    captioned: list[tuple[dict[str, str], Captions]],
) -> None:
    for attributes, captions_ in captioned:
        for name in IDENTITY:
            for value in PERSON_ATTRIBUTES[name]:
                other_values = {attributes["clothes colour"], attributes["background colour"], "none"}
                if value not in other_values:
                    assert not contains(captions_.anonymous, value), (value, captions_.anonymous)
        assert not contains(captions_.anonymous, "hair")
        assert contains(captions_.anonymous, attributes["clothes"])


def test_paraphrases_are_several_short_and_different(captioned: list[tuple[dict[str, str], Captions]]) -> None:
    for _, captions_ in captioned:
        assert len(set(captions_.paraphrases)) == len(captions_.paraphrases) >= 3
        assert all(4 <= len(text.split()) <= 40 and text[-1] == "." for text in captions_.paraphrases)
        assert min(len(text.split()) for text in captions_.paraphrases) < 12


def test_every_caption_states_whether_the_person_talks(captioned: list[tuple[dict[str, str], Captions]]) -> None:
    for attributes, captions_ in captioned:
        talks = attributes["speech"] == "talking"
        for text in (captions_.caption, captions_.anonymous, *captions_.paraphrases):
            assert bool(re.search(r"\b(talk|speak)", text)) is talks, text


def test_wording_varies_and_is_decided_by_the_seed() -> None:
    attributes = attributes_of(7)
    assert compose_captions(attributes, 3) == compose_captions(attributes, 3)
    assert len({compose_captions(attributes, seed).caption for seed in range(50)}) > 40


def test_the_built_in_model_is_said_to_know_the_words_of_the_captions(
    captioned: list[tuple[dict[str, str], Captions]],
) -> None:
    used: set[str] = set()
    for _, captions in captioned:
        for text in (captions.caption, captions.anonymous, *captions.paraphrases):
            used.update(re.findall("[a-z]+", text.lower()))
    assert used == KNOWN_WORDS
