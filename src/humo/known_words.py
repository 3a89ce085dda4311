"""The words that the built-in model was trained on, and how a prompt in other words is read.

The captions of its training data (`humo.synthetic.captions`) use these words alone. Other words of the same meaning are
replaced, and what remains unknown can be named to the user: the network ignores it at best.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_KNOWN = """
    a afro aged an and at auburn backdrop background bald beard before behind black blond blue blurred bob bookshelf
    brown brows bun buzz by calm camera checked city close closed collared crew curly curtain cut dark does dotted
    dressed elderly else expression eyes faces facing freckles friendly fringe front full glasses goatee green grey
    hair has hazel he head hoodie in indoors into is keeps lens light lights long look looks man medium middle mouth
    moustache move navy neck neutral night nobody not nothing of on orange outdoors pale park person photo picture
    pink plain ponytail portrait purple quiet raised receding red relaxed round saying says sea serious sharp shaven
    she shirt short shot shoulders shows silent sits skin skinned smile somebody speaking speaks square stays steady
    stern still straight striped stubble studio suit surprise surprised sweater t talking talks tan teal the tied
    together turtleneck up upright v view viewer wall warm wavy wearing wears while white who window with without
    woman yellow young
"""
KNOWN_WORDS = frozenset(_KNOWN.split())

SYNONYMS: Mapping[str, str] = {
    word: known
    for known, words in {
        "woman": "lady girl female women mother wife actress grandmother",
        "man": "guy boy male men gentleman father husband actor grandfather",
        "person": "human someone individual character people speaker singer presenter",
        "elderly": "old senior aging ageing",
        "young": "teenage youthful teenager",
        "glasses": "sunglasses spectacles eyeglasses goggles",
        "blond": "blonde fair golden",
        "red": "ginger scarlet crimson redhead redhaired",
        "grey": "gray silver greyish grayish",
        "brown": "brunette chestnut beige",
        "purple": "violet lilac",
        "teal": "turquoise cyan",
        "dark": "ebony",
        "moustache": "mustache",
        "beard": "bearded",
        "bald": "hairless baldheaded",
        "hair": "haired hairs",
        "eyes": "eyed",
        "sweater": "jumper pullover",
        "suit": "jacket blazer coat tuxedo",
        "shirt": "tshirt tee blouse",
        "hoodie": "hooded",
        "checked": "checkered chequered plaid tartan",
        "striped": "stripy stripes",
        "dotted": "spotted polka dots",
        "bookshelf": "library books bookcase bookshelves shelves",
        "sea": "beach ocean seaside shore coast",
        "park": "garden forest nature meadow woods trees lawn",
        "city": "town street urban downtown",
        "curtain": "curtains drape drapes",
        "talking": "singing chatting presenting",
        "talks": "sings chats tells",
        "smile": "smiling smiles happy cheerful laughing",
        "serious": "angry sad grim",
        "calm": "peaceful gentle",
        "surprised": "astonished amazed shocked",
        "fringe": "bangs",
        "outdoors": "outside",
        "indoors": "inside",
        "night": "evening",
        "background": "scene",
    }.items()
    for word in words.split()
}
"""Word -> the known word that it is read as."""

_GRAMMAR = """
    about all also am are as be been being but can down for from had have her hers him his how i it its me my near
    next or our out over so some such than that their them there these they this those to two us very was we were what
    when where which will you your video clip film image photograph
"""
GRAMMAR_WORDS = frozenset(_GRAMMAR.split())
"""Words that say nothing about what is in view; that they are unknown is not worth a note."""

_WORD = re.compile(r"[A-Za-z]+")


class ReadPrompt(NamedTuple):
    """A prompt as the built-in model reads it.

    Args:
        text: the prompt with synonyms replaced.
        unknown: words that remain unknown, in order, without repetition.
    """

    text: str
    unknown: tuple[str, ...]


def read_prompt(prompt: str) -> ReadPrompt:
    """Replace synonyms in a prompt, and list its unknown words. A prompt of known words stays as it is."""
    unknown: dict[str, None] = {}

    def known(match: re.Match[str]) -> str:
        word = match[0]
        lower = word.lower()
        if lower in KNOWN_WORDS:
            return word
        if lower in SYNONYMS:
            replacement = SYNONYMS[lower]
            return replacement.capitalize() if word[0].isupper() else replacement
        if lower not in GRAMMAR_WORDS:
            unknown[lower] = None
        return word

    return ReadPrompt(_WORD.sub(known, prompt), tuple(unknown))
