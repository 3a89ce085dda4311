"""Animate a face from phonemes: lips, jaw and tongue with coarticulation, and motion of head, eyes and brows.

Frame f shows the time (f + 0.5) / 25 seconds of the audio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE
from humo.synthetic.speech.face_track import FACE_UNIT_INDEX, FACE_UNITS, FaceTrack
from humo.synthetic.speech.synthesis import Phoneme

Curve = NDArray[np.float64]

Mood = Literal["neutral", "smiling", "serious", "surprised"]
MOODS: tuple[Mood, ...] = get_args(Mood)

CHANNELS = ("jaw", "closure", "tuck", "funnel", "pucker", "spread", "lower", "upper", "tongue")
"""Articulators of the mouth, each 0 to 1: jaw open, lips pressed, lower lip to the teeth, lips forward and open, lips
rounded, corners apart, lower lip down, upper lip up, tongue between the teeth."""

_VISEME_TARGETS: dict[str, tuple[float, ...]] = {
    #        jaw   clos  tuck  funn  puck  spre  lowe  uppe  tong
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
"""Viseme, named by one of its phonemes -> targets in the order of `CHANNELS`."""

_CONSONANT_DOMINANCE: dict[str, dict[str, float]] = {
    "rest": dict.fromkeys(CHANNELS, 0.5),
    "p": {"closure": 1.2, "jaw": 1.2, "tuck": 1.0, "lower": 1.2, "upper": 1.2, "funnel": 0.4, "tongue": 1.0},
    "f": {"tuck": 1.5, "jaw": 1.2, "upper": 1.0, "lower": 1.2, "closure": 1.0, "funnel": 0.6, "pucker": 0.4},
    "w": {"pucker": 4.0, "funnel": 2.0, "jaw": 1.6, "spread": 1.5},
    "ʃ": {"funnel": 3.0, "jaw": 1.6, "spread": 1.5},
    "ɹ": {"funnel": 0.8, "pucker": 0.8},
    "s": {"jaw": 2.2, "spread": 0.6, "lower": 0.8},
    "θ": {"tongue": 3.0, "jaw": 1.4},
    "l": {"tongue": 1.5, "jaw": 0.7},
    "t": {"jaw": 1.1},
    "h": {"jaw": 0.25},
}
"""Consonant -> dominance of each channel that is not `_DEFAULT_DOMINANCE`.

Vowels have dominance 1 in every channel, and rounded vowels 1.5 in the channels of the lips."""

_DEFAULT_DOMINANCE = 0.25
_ROUNDED_VOWELS = {"u", "o", "ɔ"}
_VOWELS = frozenset("ɑæʌəɔouɛiɪɜ")

_VISEMES_OF_IPA: tuple[tuple[str, str], ...] = (
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
"""(Prefix of a phoneme's IPA, its visemes); longer prefixes come first."""

LIP_LEAD_SECONDS = 0.0
"""Time by which lips move ahead of the audio; 0, because a model learns the offset that lip-sync metrics measure."""

DOMINANCE_SECONDS = 0.065
"""Time before and after a phoneme at which its dominance has fallen to 1/e."""

DOMINANCE_POWER = 1.6
"""Exponent of the fall of dominance: 1 as in Cohen and Massaro's model, 2 for a Gaussian."""

CLOSURE_HALF_SECONDS = 0.024
"""Half of the shortest lip closure on p, b and m; a closure this long is always visible in one frame."""

CLOSURE_RAMP_SECONDS = 0.035
"""Time that lips take to close."""

REST_SECONDS = 600.0
"""Length of the rest before the first and after the last phoneme; longer than any clip."""

MIN_PAUSE_SECONDS = 0.10
"""Shortest silence in which the mouth closes; during shorter ones it keeps its shape."""


def animate_face(
    phonemes: Sequence[Phoneme],
    samples: NDArray[np.float32],
    frames: int,
    seed: int,
    *,
    mood: Mood = "neutral",
    articulation: float = 1.0,
    calm: float = 0.0,
) -> FaceTrack:
    """Animate a face that speaks.

    Args:
        phonemes: with times in seconds from the start of the first frame; they may start before the first frame and
            end after the last one.
        samples: (n,) audio at 16 kHz from the start of the first frame; louder audio opens the jaw wider.
        frames: number of frames.
        seed: seed of blinks, gaze, head motion and emphasis.
        mood: expression of the face apart from speech.
        articulation: factor on the motion of the mouth; 1 is ordinary speech.
        calm: reduction of head motion; 0 for none, 1 for half as much motion.
    """
    random = np.random.default_rng((seed, 0x76697365))
    times = (np.arange(frames) + 0.5) / FRAMES_PER_SECOND
    units = np.zeros((frames, len(FACE_UNITS)))
    _add_mouth(units, mouth_channels(phonemes, samples, times, articulation))
    _add_mood(units, mood, float(random.uniform(0.7, 1.0)))
    blinks = _blinks(frames, random)
    for side in ("Left", "Right"):
        units[:, FACE_UNIT_INDEX[f"eyeBlink{side}"]] = blinks
    nods, brows = _emphasis(phonemes, times, random)
    units[:, FACE_UNIT_INDEX["browInnerUp"]] += brows
    for side in ("Left", "Right"):
        units[:, FACE_UNIT_INDEX[f"browOuterUp{side}"]] += 0.6 * brows
    head = np.stack([_drift(times, random, size) for size in (0.05, 0.025, 0.02)], axis=1)
    head[:, 1] += nods
    head *= 1 - calm / 2
    gaze = _gaze(times, random)
    return FaceTrack(np.clip(units, 0, 1).astype(np.float32), head.astype(np.float32), gaze.astype(np.float32))


def mouth_channels(
    phonemes: Sequence[Phoneme], samples: NDArray[np.float32], times: Curve, articulation: float = 1.0
) -> Curve:
    """Compute the channels of the mouth at given times.

    Args:
        phonemes: as for `animate_face`.
        samples: as for `animate_face`.
        times: (T,) seconds.
        articulation: factor on all channels, but not on lip closures.

    Returns:
        (T, len(CHANNELS)) in [0, 1].

    **Source:** M. M. Cohen and D. W. Massaro, "Modeling coarticulation in synthetic visual speech", Models and
    Techniques in Computer Animation, 1993. Each segment pulls each articulator to its target with a dominance that
    falls off around the segment; dominances are normalized. Complete closures are added afterwards.
    """
    weighted = np.zeros((len(times), len(CHANNELS)))
    dominances = np.full((len(times), len(CHANNELS)), 1e-4)
    for viseme, start, end, _ in _segments(phonemes):
        distance = np.maximum(np.maximum(start - times, times - end) + 0.3 * min(end - start, 0.2), 0)
        pull = np.exp(-((distance / DOMINANCE_SECONDS) ** DOMINANCE_POWER))[:, None] * _dominance(viseme)
        weighted += pull * np.asarray(_VISEME_TARGETS[viseme])
        dominances += pull
    channels = weighted / dominances * articulation
    channels[:, CHANNELS.index("jaw")] *= 0.72 + 0.40 * loudness(samples, times)
    _close_lips(channels, phonemes, times)
    clipped: Curve = np.clip(channels, 0, 1)
    return clipped


def target_jaw_opening(phonemes: Sequence[Phoneme], times: Curve) -> Curve:
    """Return the jaw opening (T,) that the phoneme at each time asks for, without coarticulation.

    Tests compare it with the animated jaw to measure synchronization.

    Args:
        phonemes: as for `animate_face`.
        times: (T,) seconds.
    """
    opening = np.zeros(len(times))
    for viseme, start, end, _ in _segments(phonemes):
        opening[(times >= start) & (times < end)] = _VISEME_TARGETS[viseme][0]
    return opening


def loudness(samples: NDArray[np.float32], times: Curve) -> Curve:
    """Return the level (T,) in [0, 1] at given times, relative to the audio's 90th percentile; 0 is 30 dB below it.

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
    """Return the visemes of a phoneme in IPA, in order; ``("rest",)`` for a pause or an unknown symbol."""
    for prefix, visemes in _VISEMES_OF_IPA:
        if symbol.startswith(prefix):
            return tuple(visemes)
    return ("rest",)


def _segments(phonemes: Sequence[Phoneme]) -> list[tuple[str, float, float, int]]:
    """Return (viseme, start, end, stress) of each segment.

    The first viseme of a diphthong takes 60 % of its time. A short pause prolongs the segment before it.
    """
    segments: list[tuple[str, float, float, int]] = []
    for phoneme in phonemes:
        visemes = visemes_of(phoneme.symbol)
        start, length = phoneme.start, phoneme.end - phoneme.start
        if visemes == ("rest",) and length < MIN_PAUSE_SECONDS and segments:
            previous, previous_start, _, stress = segments[-1]
            segments[-1] = (previous, previous_start, phoneme.end, stress)
            continue
        cuts = [0.0, 1.0] if len(visemes) == 1 else [0.0, 0.6, 1.0]
        for viseme, begin, end in zip(visemes, cuts, cuts[1:], strict=False):
            segments.append((viseme, start + begin * length, start + end * length, phoneme.stress))
    if segments:
        before, after = segments[0][1], segments[-1][2]
        segments = [("rest", before - REST_SECONDS, before, 0), *segments, ("rest", after, after + REST_SECONDS, 0)]
    return [
        (viseme, start - LIP_LEAD_SECONDS, end - LIP_LEAD_SECONDS, stress) for viseme, start, end, stress in segments
    ]


def _dominance(viseme: str) -> Curve:
    if viseme in _VOWELS:
        rounded = 1.5 if viseme in _ROUNDED_VOWELS else 1.0
        return np.asarray([rounded if name in ("funnel", "pucker") else 1.0 for name in CHANNELS])
    dominance = _CONSONANT_DOMINANCE.get(viseme, {})
    return np.asarray([dominance.get(name, 0.8 if name == "jaw" else _DEFAULT_DOMINANCE) for name in CHANNELS])


def _close_lips(channels: Curve, phonemes: Sequence[Phoneme], times: Curve) -> None:
    """Close the lips on p, b, m, and bring lip and teeth together on f, v, regardless of the neighboring phonemes."""
    for phoneme in phonemes:
        viseme = visemes_of(phoneme.symbol)[0]
        if viseme not in ("p", "f"):
            continue
        middle = (phoneme.start + phoneme.end) / 2 - LIP_LEAD_SECONDS
        hold = max(0.35 * (phoneme.end - phoneme.start), CLOSURE_HALF_SECONDS)
        contact = np.clip(1 - (np.abs(times - middle) - hold) / CLOSURE_RAMP_SECONDS, 0, 1)
        target = np.asarray(_VISEME_TARGETS[viseme])
        pucker = channels[:, CHANNELS.index("pucker")].copy()
        channels += contact[:, None] * (target - channels)
        channels[:, CHANNELS.index("pucker")] = np.maximum(channels[:, CHANNELS.index("pucker")], 0.6 * pucker)


def _add_mouth(units: Curve, channels: Curve) -> None:
    jaw, closure, tuck, funnel, pucker, spread, lower, upper, tongue = channels.T
    both = ("Left", "Right")
    units[:, FACE_UNIT_INDEX["jawOpen"]] += jaw
    units[:, FACE_UNIT_INDEX["mouthClose"]] += closure * jaw
    units[:, FACE_UNIT_INDEX["mouthRollLower"]] += 0.50 * closure + 0.70 * tuck
    units[:, FACE_UNIT_INDEX["mouthRollUpper"]] += 0.45 * closure
    units[:, FACE_UNIT_INDEX["mouthFunnel"]] += funnel
    units[:, FACE_UNIT_INDEX["mouthPucker"]] += pucker
    units[:, FACE_UNIT_INDEX["tongueOut"]] += tongue
    for side in both:
        units[:, FACE_UNIT_INDEX[f"mouthPress{side}"]] += 0.5 * closure
        units[:, FACE_UNIT_INDEX[f"mouthStretch{side}"]] += 0.7 * spread
        units[:, FACE_UNIT_INDEX[f"mouthLowerDown{side}"]] += 0.7 * lower
        units[:, FACE_UNIT_INDEX[f"mouthUpperUp{side}"]] += 0.6 * upper


_MOOD_UNITS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smiling": {"mouthSmile": 0.45, "cheekSquint": 0.35, "eyeSquint": 0.15},
    "serious": {"browDown": 0.45, "mouthFrown": 0.15, "eyeSquint": 0.10},
    "surprised": {"browOuterUp": 0.55, "eyeWide": 0.40},
}


def _add_mood(units: Curve, mood: Mood, strength: float) -> None:
    for name, amount in _MOOD_UNITS[mood].items():
        for side in ("Left", "Right"):
            units[:, FACE_UNIT_INDEX[name + side]] += strength * amount
    if mood == "surprised":
        units[:, FACE_UNIT_INDEX["browInnerUp"]] += 0.5 * strength


_BLINKS: tuple[tuple[float, ...], ...] = ((0.6, 1.0, 0.5), (0.5, 1.0, 0.8, 0.3), (0.4, 1.0, 1.0, 0.6, 0.25))
"""Shapes of a blink: how far the lids are closed, frame by frame."""


def _blinks(frames: int, random: np.random.Generator) -> Curve:
    """Return the lid closure (frames,): blinks of 3 to 5 frames, 2 to 8 s apart."""
    closure = np.zeros(frames + 8)
    start = random.uniform(0, 4)
    while start * FRAMES_PER_SECOND < frames:
        shape = _BLINKS[int(random.integers(len(_BLINKS)))]
        first = int(start * FRAMES_PER_SECOND)
        closure[first : first + len(shape)] = shape
        start += random.uniform(2, 8)
    return closure[:frames]


def _emphasis(phonemes: Sequence[Phoneme], times: Curve, random: np.random.Generator) -> tuple[Curve, Curve]:
    """Return nods (pitch in radians) and raised brows (0 to 1) on some of the stressed syllables."""
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
    """Return slow motion around 0: four sines of 0.1 to 0.9 Hz whose standard deviation is ``size`` radians."""
    total: Curve = np.zeros(len(times))
    for _ in range(4):
        hertz, phase = random.uniform(0.1, 0.9), random.uniform(0, 2 * np.pi)
        total += np.sin(2 * np.pi * hertz * times + phase)
    return total * (size / math.sqrt(2))


def _gaze(times: Curve, random: np.random.Generator) -> Curve:
    """Return the gaze (T, 2): at the viewer, with small saccades every 0.4 to 1.6 s and occasional glances aside."""
    gaze = np.zeros((len(times), 2))
    start = 0.0
    while start < (times[-1] if len(times) else 0):
        spread = 0.12 if random.random() < 0.12 else 0.02
        length = random.uniform(0.4, 1.6)
        gaze[(times >= start) & (times < start + length)] = random.normal(0, spread, 2) * (1.0, 0.6)
        start += length
    clipped: Curve = np.clip(gaze, -0.3, 0.3)
    return clipped
