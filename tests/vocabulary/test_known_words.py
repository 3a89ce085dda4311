"""Prompts are read in the words of the built-in model's captions."""

from __future__ import annotations

import pytest

from humo.known_words import GRAMMAR_WORDS, KNOWN_WORDS, SYNONYMS, read_prompt


@pytest.mark.parametrize(
    ("prompt", "text", "unknown"),
    [
        ("A man with grey hair speaks in a studio.", "A man with grey hair speaks in a studio.", ()),
        ("Ginger lady, sunglasses, by the ocean", "Red woman, glasses, by the sea", ()),
        ("A WOMAN and her dragon", "A WOMAN and her dragon", ("dragon",)),
        ("Drachen! drachen über allem", "Drachen! drachen über allem", ("drachen", "ber", "allem")),
        ("", "", ()),
    ],
)
def test_synonyms_are_replaced_and_other_words_named(prompt: str, text: str, unknown: tuple[str, ...]) -> None:
    assert read_prompt(prompt) == (text, unknown)


def test_synonyms_lead_to_known_words() -> None:
    assert set(SYNONYMS.values()) <= KNOWN_WORDS
    assert not KNOWN_WORDS & SYNONYMS.keys()
    assert not GRAMMAR_WORDS & (KNOWN_WORDS | SYNONYMS.keys())
