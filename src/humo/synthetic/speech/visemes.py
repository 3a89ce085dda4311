"""From phonemes to a face: lips, jaw and tongue with coarticulation, and what a speaker's head, eyes and brows do.

Frame f shows the instant (f + 0.5) / 25 seconds of the sound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE
from humo.synthetic.speech.face_track import UNIT, UNITS, FaceTrack
from humo.synthetic.speech.synthesis import Phoneme

Curve = NDArray[np.float64]

Mood = Literal["neutral", "smiling", "serious", "surprised"]
MOODS: tuple[Mood, ...] = get_args(Mood)

CHANNELS = ("jaw", "closure", "tuck", "funnel", "pucker", "stretch", "lower", "upper", "tongue")
"""What a mouth does, each 0..1: jaw open, lips pressed, lower lip to the teeth, lips forward and open, lips rounded,
corners apart, lower lip down, upper lip up, tongue between the teeth."""

_SHAPES: dict[str, tuple[float, ...]] = {
    #        jaw   clos  tuck  funn  puck  stre  lowe  uppe  tong
    "rest": (0.00, 0.10, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00),
    "p": (0.03, 1.00, 0.00, 0.00, 0.05, 0.00, 0.00, 0.00, 0.00),
    "f": (0.10, 0.00, 1.00, 0.00, 0.00, 0.10, 0.00, 0.35, 0.00),
    "θ": (0.20, 0.00, 0.00, 0.00, 0.00, 0.10, 0.20, 0.10, 0.55),
    "t": (0.16, 0.00, 0.00, 0.00, 0.00, 0.15, 0.25, 0.12, 0.00),
    "k": (0.24, 0.00, 0.00, 0.00, 0.00, 0.10, 0.20, 0.08, 0.00),
    "s": (0.08, 0.00, 0.00, 0.00, 0.00, 0.40, 0.35, 0.22, 0.00),
    "ʃ": (0.12, 0.00, 0.00, 0.65, 0.15, 0.00, 0.15, 0.12, 0.00),
    "ɹ": (0.16, 0.00, 0.00, 0.35, 0.30, 0.00, 0.05, 0.00, 0.00),
    "l": (0.28, 0.00, 0.00, 0.00, 0.00, 0.12, 0.18, 0.10, 0.25),
    "w": (0.08, 0.00, 0.00, 0.20, 0.95, 0.00, 0.00, 0.00, 0.00),
    "h": (0.25, 0.00, 0.00, 0.00, 0.00, 0.05, 0.12, 0.05, 0.00),
    "ɑ": (0.85, 0.00, 0.00, 0.00, 0.00, 0.05, 0.28, 0.12, 0.00),
    "æ": (0.72, 0.00, 0.00, 0.00, 0.00, 0.40, 0.32, 0.18, 0.00),
    "ʌ": (0.52, 0.00, 0.00, 0.00, 0.00, 0.10, 0.22, 0.08, 0.00),
    "ə": (0.34, 0.00, 0.00, 0.00, 0.00, 0.10, 0.15, 0.06, 0.00),
    "ɔ": (0.66, 0.00, 0.00, 0.50, 0.20, 0.00, 0.06, 0.00, 0.00),
    "o": (0.42, 0.00, 0.00, 0.45, 0.55, 0.00, 0.00, 0.00, 0.00),
    "u": (0.16, 0.00, 0.00, 0.30, 0.95, 0.00, 0.00, 0.00, 0.00),
    "ɛ": (0.50, 0.00, 0.00, 0.00, 0.00, 0.40, 0.28, 0.14, 0.00),
    "i": (0.18, 0.00, 0.00, 0.00, 0.00, 0.75, 0.32, 0.20, 0.00),
    "ɪ": (0.30, 0.00, 0.00, 0.00, 0.00, 0.42, 0.24, 0.12, 0.00),
    "ɜ": (0.34, 0.00, 0.00, 0.40, 0.25, 0.00, 0.08, 0.00, 0.00),
}
"""Target of each viseme, named by one of its phonemes, in the order of `CHANNELS`."""

_INSISTS: dict[str, dict[str, float]] = {
    "rest": dict.fromkeys(CHANNELS, 0.5),
    "p": {"closure": 1.2, "jaw": 1.2, "tuck": 1.0, "lower": 1.2, "upper": 1.2, "funnel": 0.4, "tongue": 1.0},
    "f": {"tuck": 1.5, "jaw": 1.2, "upper": 1.0, "lower": 1.2, "closure": 1.0, "funnel": 0.6, "pucker": 0.4},
    "w": {"pucker": 4.0, "funnel": 2.0, "jaw": 1.6, "stretch": 1.5},
    "ʃ": {"funnel": 3.0, "jaw": 1.6, "stretch": 1.5},
    "ɹ": {"funnel": 0.8, "pucker": 0.8},
    "s": {"jaw": 2.2, "stretch": 0.6, "lower": 0.8},
    "θ": {"tongue": 3.0, "jaw": 1.4},
    "l": {"tongue": 1.5, "jaw": 0.7},
    "t": {"jaw": 1.1},
    "h": {"jaw": 0.25},
}
"""Dominance of a consonant where it is not `_WEAK`; vowels have 1 everywhere, rounded ones more on the lips."""

_WEAK = 0.25
_ROUND = {"u", "o", "ɔ"}
_VOWELS = frozenset("ɑæʌəɔouɛiɪɜ")

_PHONEMES: tuple[tuple[str, str], ...] = (
    ("aʊ", "ɑu"), ("aɪ", "ɑɪ"), ("ɔɪ", "ɔɪ"), ("oʊ", "ou"), ("əʊ", "əu"), ("eɪ", "ɛɪ"), ("tʃ", "ʃ"), ("dʒ", "ʃ"),
    ("əl", "əl"), ("ts", "ts"), ("dz", "ts"), ("aː", "ɑ"), ("eə", "ɛə"), ("ɪə", "ɪə"), ("ʊə", "uə"), ("iə", "iə"),
    *((letter, "p") for letter in "pbm"), *((letter, "f") for letter in "fvɱ"), *((letter, "θ") for letter in "θð"),
    *((letter, "t") for letter in "tdnɾɳʈɖ"), *((letter, "k") for letter in "kɡgŋxɲɣ"),
    *((letter, "s") for letter in "sz"), *((letter, "ʃ") for letter in "ʃʒçɕ"), *((letter, "ɹ") for letter in "ɹrɻʁ"),
    *((letter, "l") for letter in "lɫɬ"), ("w", "w"), ("ʍ", "w"), ("h", "h"), ("ɦ", "h"), ("ʔ", "h"),
    ("j", "i"), ("ʲ", "i"),
    *((letter, "ɑ") for letter in "ɑaɒ"), ("æ", "æ"), ("ʌ", "ʌ"), ("ɐ", "ʌ"), ("ə", "ə"), ("ɚ", "ɜ"), ("ɝ", "ɜ"),
    ("ɜ", "ɜ"), ("ø", "ɜ"), ("œ", "ɜ"), ("ɔ", "ɔ"), ("o", "o"), ("ʊ", "u"), ("u", "u"), ("ʉ", "u"), ("y", "u"),
    ("ɛ", "ɛ"), ("e", "ɛ"), ("ɪ", "ɪ"), ("ᵻ", "ɪ"), ("ɨ", "ɪ"), ("i", "i"),
)  # fmt: skip
"""Visemes of a phoneme, looked up by how its IPA begins; the longer beginnings first."""

LEAD_SECONDS = 0.0
"""By how much lips go before the sound. Nothing: a model learns the sync that users measure."""

REACH_SECONDS = 0.065
"""How far into its neighbours a sound is prepared and lingers (at 1/e of its dominance)."""

REACH_POWER = 1.6
"""How steeply dominance falls: 1 is Cohen and Massaro's, 2 is a bell."""

HOLD_SECONDS = 0.024
"""Half of the least time that lips stay shut on p, b, m, so that one frame always shows it."""

RAMP_SECONDS = 0.035
"""From free to shut lips."""

REST_SECONDS = 600.0
"""Before the first phoneme and after the last one the mouth rests; longer than any clip."""

PAUSE_SECONDS = 0.10
"""Silence from which on the mouth closes; a shorter one keeps the shape."""


def face_track(
    phonemes: Sequence[Phoneme],
    samples: NDArray[np.float32],
    frames: int,
    seed: int,
    *,
    mood: Mood = "neutral",
    articulation: float = 1.0,
    calm: float = 0.0,
) -> FaceTrack:
    """What a face does while it says something.

    Args:
        phonemes: with times in seconds from the first frame's beginning; they may begin before it and end after it.
        samples: (n,) the sound at 16 kHz from the first frame's beginning; its loudness opens the jaw wider.
        frames: how many.
        seed: of blinks, gaze, head motion and the choice of what is stressed.
        mood: what the face looks like apart from speech.
        articulation: how wide the mouth moves, 1 as in ordinary talk.
        calm: 0 as drawn; at 1 the head moves half as far.
    """
    random = np.random.default_rng((seed, 0x76697365))
    times = (np.arange(frames) + 0.5) / FRAMES_PER_SECOND
    units = np.zeros((frames, len(UNITS)))
    _add_mouth(units, mouth(phonemes, samples, times, articulation))
    _add_mood(units, mood, float(random.uniform(0.7, 1.0)))
    blinks = _blinks(frames, random)
    for side in ("Left", "Right"):
        units[:, UNIT[f"eyeBlink{side}"]] = blinks
    nods, brows = _emphasis(phonemes, times, random)
    units[:, UNIT["browInnerUp"]] += brows
    for side in ("Left", "Right"):
        units[:, UNIT[f"browOuterUp{side}"]] += 0.6 * brows
    head = np.stack([_drift(times, random, size) for size in (0.05, 0.025, 0.02)], axis=1)
    head[:, 1] += nods
    head *= 1 - calm / 2
    gaze = _gaze(times, random)
    return FaceTrack(np.clip(units, 0, 1).astype(np.float32), head.astype(np.float32), gaze.astype(np.float32))


def mouth(phonemes: Sequence[Phoneme], samples: NDArray[np.float32], times: Curve, articulation: float = 1.0) -> Curve:
    """The mouth's channels at some instants.

    Args:
        phonemes: as for `face_track`.
        samples: as for `face_track`.
        times: (T,) seconds.
        articulation: factor of everything but closures.

    Returns:
        (T, len(CHANNELS)) in [0, 1].

    **Source:** M. M. Cohen and D. W. Massaro, "Modeling coarticulation in synthetic visual speech", 1993: each
    segment pulls each articulator to its target with a dominance that falls off around it; the dominances are
    normalised. Complete closures are imposed afterwards.
    """
    weighted = np.zeros((len(times), len(CHANNELS)))
    dominances = np.full((len(times), len(CHANNELS)), 1e-4)
    for viseme, start, end, _ in _segments(phonemes):
        distance = np.maximum(np.maximum(start - times, times - end) + 0.3 * min(end - start, 0.2), 0)
        pull = np.exp(-((distance / REACH_SECONDS) ** REACH_POWER))[:, None] * _dominance(viseme)
        weighted += pull * np.asarray(_SHAPES[viseme])
        dominances += pull
    channels = weighted / dominances * articulation
    channels[:, CHANNELS.index("jaw")] *= 0.72 + 0.40 * loudness(samples, times)
    _shut(channels, phonemes, times)
    shown: Curve = np.clip(channels, 0, 1)
    return shown


def openness(phonemes: Sequence[Phoneme], times: Curve) -> Curve:
    """How wide the phoneme of each instant wants the jaw, without coarticulation: (T,), a yardstick of sync.

    Args:
        phonemes: as for `face_track`.
        times: (T,) seconds.
    """
    wanted = np.zeros(len(times))
    for viseme, start, end, _ in _segments(phonemes):
        wanted[(times >= start) & (times < end)] = _SHAPES[viseme][0]
    return wanted


def loudness(samples: NDArray[np.float32], times: Curve) -> Curve:
    """Level at some instants against the sound's loud parts, (T,) in [0, 1]: 0 is 30 dB below them.

    Args:
        samples: (n,) at 16 kHz.
        times: (T,) seconds.
    """
    half = SAMPLE_RATE // FRAMES_PER_SECOND
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    middle = np.rint(times * SAMPLE_RATE).astype(int)
    low, high = (np.clip(middle + side, 0, len(samples)) for side in (-half, half))
    level = np.sqrt((energy[high] - energy[low]) / (2 * half))
    loud = float(np.quantile(level, 0.9)) if len(level) else 0.0
    if loud < 1e-5:
        return np.zeros(len(times))
    decibels = 20 * np.log10(np.maximum(level / loud, 1e-3))
    relative: Curve = np.clip(1 + decibels / 30, 0, 1)
    return relative


def visemes_of(symbol: str) -> tuple[str, ...]:
    """The visemes of a phoneme in IPA, one after the other; ``("rest",)`` of a pause or an unknown sign."""
    for beginning, shapes in _PHONEMES:
        if symbol.startswith(beginning):
            return tuple(shapes)
    return ("rest",)


def _segments(phonemes: Sequence[Phoneme]) -> list[tuple[str, float, float, int]]:
    """(viseme, start, end, stress); a diphthong's first half lasts longer, and a short pause is none."""
    segments: list[tuple[str, float, float, int]] = []
    for phoneme in phonemes:
        shapes = visemes_of(phoneme.symbol)
        start, length = phoneme.start, phoneme.end - phoneme.start
        if shapes == ("rest",) and length < PAUSE_SECONDS and segments:
            viseme, begun, _, stress = segments[-1]
            segments[-1] = (viseme, begun, phoneme.end, stress)
            continue
        cuts = [0.0, 1.0] if len(shapes) == 1 else [0.0, 0.6, 1.0]
        for shape, begin, end in zip(shapes, cuts, cuts[1:], strict=False):
            segments.append((shape, start + begin * length, start + end * length, phoneme.stress))
    if segments:
        before, after = segments[0][1], segments[-1][2]
        segments = [("rest", before - REST_SECONDS, before, 0), *segments, ("rest", after, after + REST_SECONDS, 0)]
    return [(viseme, start - LEAD_SECONDS, end - LEAD_SECONDS, stress) for viseme, start, end, stress in segments]


def _dominance(viseme: str) -> Curve:
    if viseme in _VOWELS:
        rounded = 1.5 if viseme in _ROUND else 1.0
        return np.asarray([rounded if name in ("funnel", "pucker") else 1.0 for name in CHANNELS])
    insists = _INSISTS.get(viseme, {})
    return np.asarray([insists.get(name, 0.8 if name == "jaw" else _WEAK) for name in CHANNELS])


def _shut(channels: Curve, phonemes: Sequence[Phoneme], times: Curve) -> None:
    """Complete contact of the lips on p, b, m, and of lip and teeth on f, v, whatever is around them."""
    for phoneme in phonemes:
        shapes = visemes_of(phoneme.symbol)
        if shapes[0] not in ("p", "f"):
            continue
        middle = (phoneme.start + phoneme.end) / 2 - LEAD_SECONDS
        hold = max(0.35 * (phoneme.end - phoneme.start), HOLD_SECONDS)
        contact = np.clip(1 - (np.abs(times - middle) - hold) / RAMP_SECONDS, 0, 1)
        target = np.asarray(_SHAPES[shapes[0]])
        pucker = channels[:, CHANNELS.index("pucker")].copy()
        channels += contact[:, None] * (target - channels)
        channels[:, CHANNELS.index("pucker")] = np.maximum(channels[:, CHANNELS.index("pucker")], 0.6 * pucker)


def _add_mouth(units: Curve, channels: Curve) -> None:
    jaw, closure, tuck, funnel, pucker, stretch, lower, upper, tongue = channels.T
    both = ("Left", "Right")
    units[:, UNIT["jawOpen"]] += jaw
    units[:, UNIT["mouthClose"]] += closure * jaw
    units[:, UNIT["mouthRollLower"]] += 0.50 * closure + 0.70 * tuck
    units[:, UNIT["mouthRollUpper"]] += 0.45 * closure
    units[:, UNIT["mouthFunnel"]] += funnel
    units[:, UNIT["mouthPucker"]] += pucker
    units[:, UNIT["tongueOut"]] += tongue
    for side in both:
        units[:, UNIT[f"mouthPress{side}"]] += 0.5 * closure
        units[:, UNIT[f"mouthStretch{side}"]] += 0.7 * stretch
        units[:, UNIT[f"mouthLowerDown{side}"]] += 0.7 * lower
        units[:, UNIT[f"mouthUpperUp{side}"]] += 0.6 * upper


_MOOD_UNITS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smiling": {"mouthSmile": 0.45, "cheekSquint": 0.35, "eyeSquint": 0.15},
    "serious": {"browDown": 0.45, "mouthFrown": 0.15, "eyeSquint": 0.10},
    "surprised": {"browOuterUp": 0.55, "eyeWide": 0.40},
}


def _add_mood(units: Curve, mood: Mood, strength: float) -> None:
    for name, amount in _MOOD_UNITS[mood].items():
        for side in ("Left", "Right"):
            units[:, UNIT[name + side]] += strength * amount
    if mood == "surprised":
        units[:, UNIT["browInnerUp"]] += 0.5 * strength


_BLINKS: tuple[tuple[float, ...], ...] = ((0.6, 1.0, 0.5), (0.5, 1.0, 0.8, 0.3), (0.4, 1.0, 1.0, 0.6, 0.25))
"""How shut the eyes are, frame by frame."""


def _blinks(frames: int, random: np.random.Generator) -> Curve:
    """3 to 5 frames each, 2 to 8 s apart."""
    shut = np.zeros(frames + 8)
    start = random.uniform(0, 4)
    while start * FRAMES_PER_SECOND < frames:
        shape = _BLINKS[int(random.integers(len(_BLINKS)))]
        first = int(start * FRAMES_PER_SECOND)
        shut[first : first + len(shape)] = shape
        start += random.uniform(2, 8)
    return shut[:frames]


def _emphasis(phonemes: Sequence[Phoneme], times: Curve, random: np.random.Generator) -> tuple[Curve, Curve]:
    """Nods (radians of pitch) and raised brows (0..1) on some of the stressed syllables."""
    nods, brows = np.zeros(len(times)), np.zeros(len(times))
    for phoneme in phonemes:
        if phoneme.stress < 2:
            continue
        middle = (phoneme.start + phoneme.end) / 2
        depth, height = random.uniform(0.02, 0.06), random.uniform(0.25, 0.6)
        is_nodded, is_raised = random.random() < 0.5, random.random() < 0.3
        nods += is_nodded * depth * np.exp(-(((times - middle) / 0.11) ** 2))
        brows = np.maximum(brows, is_raised * height * np.exp(-(((times - middle) / 0.18) ** 2)))
    return nods, brows


def _drift(times: Curve, random: np.random.Generator, size: float) -> Curve:
    """Slow motion around 0: four sines of 0.1 to 0.9 Hz, ``size`` radians strong (standard deviation)."""
    total: Curve = np.zeros(len(times))
    for _ in range(4):
        hertz, phase = random.uniform(0.1, 0.9), random.uniform(0, 2 * np.pi)
        total += np.sin(2 * np.pi * hertz * times + phase)
    return total * (size / math.sqrt(2))


def _gaze(times: Curve, random: np.random.Generator) -> Curve:
    """At the viewer, with small jumps every 0.4 to 1.6 s and a look aside now and then."""
    gaze = np.zeros((len(times), 2))
    start = 0.0
    while start < (times[-1] if len(times) else 0):
        spread = 0.12 if random.random() < 0.12 else 0.02
        length = random.uniform(0.4, 1.6)
        gaze[(times >= start) & (times < start + length)] = random.normal(0, spread, 2) * (1.0, 0.6)
        start += length
    shown: Curve = np.clip(gaze, -0.3, 0.3)
    return shown
