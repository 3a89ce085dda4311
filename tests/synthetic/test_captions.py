"""Captions that say what is there, and nothing else."""

from __future__ import annotations

import re

import pytest

from humo.synthetic.captions import Captions, captions
from humo.synthetic.person.appearance import Look
from humo.synthetic.person.identity import PERSON_WORDS, Person
from humo.synthetic.speech.visemes import MOODS

PEOPLE = 400
IDENTITY = ("sex", "age group", "skin tone", "hair style", "beard", "glasses", "freckles")


def words_of(number: int) -> dict[str, str]:
    """The attributes of a clip of its own."""
    person = Person.from_seed(number)
    state = {"mood": MOODS[number % len(MOODS)], "speech": ("talking", "silent")[number % 3 == 0]}
    return {**person.words, **Look.from_seed(person, number).words, **state}


@pytest.fixture(scope="module")
def said() -> list[tuple[dict[str, str], Captions]]:
    """Attributes and captions of many clips."""
    return [(words, captions(words, number)) for number in range(PEOPLE) for words in [words_of(number)]]


def names(text: str, word: str) -> bool:
    """Whether a text has a word or phrase, as a whole."""
    return re.search(rf"\b{re.escape(word.lower())}\b", text.lower()) is not None


def test_captions_have_30_to_60_words(said: list[tuple[dict[str, str], Captions]]) -> None:
    for _, one in said:
        for text in (one.caption, one.anonymous):
            assert 30 <= len(text.split()) <= 60, text
            assert "none" not in text.split()
            assert "  " not in text


def test_captions_name_the_true_hair_clothes_and_background(said: list[tuple[dict[str, str], Captions]]) -> None:
    for words, one in said:
        text = one.caption
        wanted = [words["sex"], words["clothes"], words["clothes colour"], words["hair style"]]
        wanted += [words[name] for name in ("hair colour", "background colour") if words[name] != "none"]
        wanted += [words["background"].split()[-1]]
        for name in ("beard", "glasses"):
            wanted += [words[name]] * (words[name] != "none")
        for word in wanted:
            assert names(text, word), (word, text)


def test_captions_name_no_hair_colour_but_those_of_the_clip(said: list[tuple[dict[str, str], Captions]]) -> None:
    colours = {"auburn", "blond", "dark brown"}
    for words, one in said:
        true = {words["hair colour"], words["eye colour"]}
        for colour in colours - true:
            assert not names(one.caption, colour), (colour, one.caption)
        if words["glasses"] == "none":
            assert not names(one.caption.replace("without glasses", ""), "glasses")
        assert names(one.caption, "she") is (words["sex"] == "woman")


def test_anonymous_captions_tell_nothing_that_a_picture_of_the_person_tells(
    said: list[tuple[dict[str, str], Captions]],
) -> None:
    for words, one in said:
        for name in IDENTITY:
            for value in PERSON_WORDS[name]:
                around = {words["clothes colour"], words["background colour"], "none"}
                if value not in around:
                    assert not names(one.anonymous, value), (value, one.anonymous)
        assert not names(one.anonymous, "hair")
        assert names(one.anonymous, words["clothes"])


def test_paraphrases_are_several_short_and_different(said: list[tuple[dict[str, str], Captions]]) -> None:
    for _, one in said:
        assert len(set(one.paraphrases)) == len(one.paraphrases) >= 3
        assert all(4 <= len(text.split()) <= 40 and text[-1] == "." for text in one.paraphrases)
        assert min(len(text.split()) for text in one.paraphrases) < 12


def test_the_words_say_whether_someone_talks(said: list[tuple[dict[str, str], Captions]]) -> None:
    for words, one in said:
        talks = words["speech"] == "talking"
        for text in (one.caption, one.anonymous, *one.paraphrases):
            assert bool(re.search(r"\b(talk|speak)", text)) is talks, text


def test_wording_varies_and_is_decided_by_the_seed() -> None:
    words = words_of(7)
    assert captions(words, 3) == captions(words, 3)
    assert len({captions(words, seed).caption for seed in range(50)}) > 40
