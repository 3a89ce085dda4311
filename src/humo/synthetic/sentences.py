"""Generate sentences from a small English grammar: tens of millions, one tenth of them held out for tests.

The words contain every consonant at the start, middle and end. Many consonants are visible on the lips (p b m f v w).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Length = Literal["short", "medium", "long"]
LENGTHS: tuple[Length, ...] = get_args(Length)
"""Classes of length: sentences of about 1 to 2, 2 to 3.5 and 3.5 to 6 seconds."""

HELD_OUT_FRACTION = 0.1
"""Fraction of all sentences that is held out; the words alone decide which ones."""


def _split_words(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


_NOUNS = _split_words(
    "apple baby balloon basket bear bird boat book bottle box boy bridge brother bus butterfly "
    "cake camera car carpet "
    "cat chair cheese child church city clock cloud coat coffee cup dancer daughter dinner "
    "doctor dog door dream drum "
    "earring engine family farmer father feather film finger fire fish flower fox friend game "
    "garden ghost girl glove "
    "goat guitar hammer harbour hat horse house island jacket journey judge juice key kitchen ladder lamp leaf lemon "
    "letter library lion machine map market mayor melon message mirror money moon mother mountain mouse museum music "
    "neighbour nephew nurse ocean office onion oven owl page painter paper park pepper phone "
    "piano picture pilot pillow "
    "plane plum poem potato puppy puzzle queen radio ribbon river road robot roof sailor "
    "sandwich school shadow sheep "
    "shirt shoe singer sister snow sofa song spoon star stone storm story summer table teacher "
    "theatre thief tiger tower "
    "toy train tree trumpet tunnel umbrella uncle valley vase village violin voice wagon wall watch water weather "
    "whale wheel window winter wolf woman wood writer yard zebra"
)
_ADJECTIVES = _split_words(
    "angry beautiful better big black blue brave bright broken brown busy calm cheap cheerful clean clever cold cool "
    "curious dark deep dry early easy empty famous fancy fast fat favourite fine free fresh "
    "friendly full funny gentle "
    "giant golden good grey happy heavy high honest huge important kind large late lazy little "
    "lonely long loud lovely "
    "lucky modern moving narrow neat new nice noisy odd old orange patient perfect pink polite "
    "poor pretty proud purple "
    "quick quiet rare red rich ripe round rough sad safe sharp shiny short shy silver simple small smooth soft sour "
    "special strange strong sunny sweet tall thin tiny tired useful warm weak wet white whole "
    "wide wild wise wonderful "
    "wooden yellow young"
)
_VERBS = _split_words(  # past, base
    "asked/ask borrowed/borrow bought/buy broke/break brought/bring built/build carried/carry "
    "caught/catch chose/choose "
    "cleaned/clean described/describe drew/draw dropped/drop enjoyed/enjoy fixed/fix followed/follow forgot/forget "
    "found/find gave/give heard/hear helped/help hid/hide imagined/imagine improved/improve kept/keep left/leave "
    "liked/like lost/lose loved/love made/make measured/measure missed/miss moved/move noticed/notice offered/offer "
    "opened/open ordered/order painted/paint passed/pass photographed/photograph picked/pick preferred/prefer "
    "prepared/prepare promised/promise pulled/pull pushed/push reached/reach remembered/remember repaired/repair "
    "saved/save saw/see sold/sell showed/show stopped/stop told/tell took/take touched/touch used/use visited/visit "
    "wanted/want washed/wash watched/watch wrapped/wrap"
)
_PLACES = _split_words(
    "above the bay|after breakfast|along the river|around the corner|at home|at the bus stop|"
    "before lunch|behind the barn|"
    "below the bridge|beside the window|by the sea|during the film|every morning|five weeks ago|for a while|"
    "for my mother|from far away|from the roof|in a moment|in February|in the garden|"
    "in the middle of the room|in May|"
    "in the village|last summer|near the farm|next week|on Monday|on the balcony|on the way home|over the wall|"
    "right now|this evening|through the woods|today|tomorrow|under the table|until four o'clock|with both hands|"
    "with my family|without a word|yesterday|a few times a month|above all|once more",
    "|",
)
_NAMES = _split_words(
    "Alice Amy Ben Bob Bella Beth Carla David Eva Fiona Frank George Hannah Ivan Jack Julia "
    "Kevin Laura Leo Maria Max "
    "Milo Nina Noah Oliver Omar Pam Paul Peter Robin Rosa Ruth Sam Sophie Theo Tom Vera Victor Wanda William Zoe"
)
_ADVERBS = _split_words(
    "almost always barely calmly carefully certainly finally gladly hardly maybe mostly never "
    "nearly often only perhaps "
    "probably quickly quietly really simply slowly sometimes soon suddenly surely usually"
)
_FEELINGS = _split_words(
    "afraid amazed amused bored certain glad happy hopeful hungry pleased proud ready sorry sure upset"
)
_PHRASES = _split_words(
    "Good morning|Good evening|Hello there|Oh my|Well, well|Of course|Believe me|By the way|Come over here|Excuse me|"
    "For example|Have fun|How wonderful|I beg your pardon|I promise|In my opinion|Let me think|Look at me|Maybe so|"
    "Never mind|Oh no|On the other hand|Please, come in|So far, so good|Thank you very much|That is fabulous|"
    "To be honest|Wait a moment|What a surprise|Why not|You know what|You are welcome|Welcome back, everybody",
    "|",
)

_TEMPLATES: dict[Length, tuple[str, ...]] = {
    "short": (
        "{phrase}.",
        "{phrase}, {name}.",
        "{name} {past} {the} {noun}.",
        "I {past} {the} {noun}.",
        "We {base} {nouns}.",
        "{The} {noun} is {adjective}.",
        "My {noun} was {adverb} {adjective}.",
        "Where is {the} {noun}?",
        "Who {past} my {noun}?",
        "{name} is {feeling}.",
        "Please {base} {the} {noun}.",
        "{number} {adjective} {nouns}.",
        "Such {adjective} {nouns}!",
    ),
    "medium": (
        "{name} {past} {the} {adjective} {noun} {place}.",
        "I {adverb} {base} {the} {noun} {place}.",
        "{phrase}, {the} {noun} is {adjective} {place}.",
        "We {past} {number} {nouns} {place}.",
        "Did you {base} {the} {adjective} {noun}?",
        "{The} {noun} and {the} {noun} are {adverb} {adjective}.",
        "My {noun} {past} {the} {noun} of {name}.",
        "Could {name} {base} {the} {noun} {place}?",
        "They will {base} {the} {adjective} {noun}.",
        "You can {base} {nouns} with {the} {noun}.",
        "{name} was {feeling} about {the} {noun}.",
    ),
    "long": (
        "When {name} {past} {the} {noun}, {the} {adjective} {noun} was {place}.",
        "{phrase}, my {adjective} {noun} {adverb} {past} {the} {noun} {place}.",
        "I am {feeling} that {name} {past} {the} {adjective} {noun} {place}.",
        "{name} and {name} {past} {number} {adjective} {nouns} {place}.",
        "If you {base} {the} {noun}, we will {base} {the} {adjective} {noun} {place}.",
        "{The} {adjective} {noun} {past} {the} {noun}, but {name} {past} {nouns}.",
        "Nobody was {feeling} because {the} {noun} {past} every {adjective} {noun}.",
    ),
}
_NUMBERS = _split_words("two three four five six seven eight nine ten eleven twelve fifteen twenty fifty")
_THE = ("the", "the", "my", "our", "your", "this", "that", "his", "her")


def generate_sentence(random: np.random.Generator, length: Length) -> str:
    """Generate a sentence of about the given length.

    Args:
        random: generator that the words are drawn from.
        length: see `LENGTHS`.
    """
    templates = _TEMPLATES[length]
    parts = templates[int(random.integers(len(templates)))].split("{")
    text = parts[0]
    for part in parts[1:]:
        slot, _, rest = part.partition("}")
        text += _draw_word(slot, random) + rest
    return text[0].upper() + text[1:]


def draw_sentence(random: np.random.Generator, length: Length, *, held_out: bool) -> str:
    """Generate a sentence of the test or the training split.

    Args:
        random: generator that the words are drawn from.
        length: see `LENGTHS`.
        held_out: True for a sentence of the test splits, False for one of the training split.
    """
    while True:
        text = generate_sentence(random, length)
        if is_held_out(text) is held_out:
            return text


def is_held_out(text: str) -> bool:
    """Return whether a sentence is held out for tests; case and punctuation do not matter."""
    normalized = "".join(letter for letter in text.lower() if letter.isalnum() or letter == " ")
    digest = hashlib.blake2b(normalized.encode(), digest_size=8, person=b"humo-sentence").digest()
    return int.from_bytes(digest, "big") < HELD_OUT_FRACTION * 2**64


def _draw_word(slot: str, random: np.random.Generator) -> str:
    def choose(candidates: Sequence[str]) -> str:
        return candidates[int(random.integers(len(candidates)))]

    if slot == "nouns":
        return _plural(choose(_NOUNS))
    if slot in ("past", "base"):
        return choose(_VERBS).split("/")[slot == "base"]
    if slot == "The":
        return choose(_THE).capitalize()
    lists = {
        "noun": _NOUNS, "adjective": _ADJECTIVES, "name": _NAMES, "adverb": _ADVERBS, "feeling": _FEELINGS,
        "phrase": _PHRASES, "number": _NUMBERS, "place": _PLACES, "the": _THE,
    }  # fmt: skip
    return choose(lists[slot])


_IRREGULAR = {
    "child": "children", "fish": "fish", "leaf": "leaves", "money": "coins", "mouse": "mice", "music": "songs",
    "sheep": "sheep", "snow": "snowflakes", "thief": "thieves", "weather": "days", "wolf": "wolves", "woman": "women",
    "potato": "potatoes",
}  # fmt: skip


def _plural(noun: str) -> str:
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
