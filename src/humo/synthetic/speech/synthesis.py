"""Speech that says when each phoneme is said: text and a voice in, mono 16 kHz sound and phoneme times out.

Two synthesisers, so that nothing learnt from the sound is the timbre of one: espeak-ng (rules and formants; its
library and data come inside the package ``espeakng-loader``) and Hibari (a small neural one; its weights come
inside the package ``hibari-tts``, see `humo.synthetic.speech.hibari`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from humo.errors import DependencyError, RequestError, did_you_mean
from humo.geometry import SAMPLE_RATE

EXTRA = "pip install 'humo-video[synthetic]'"
"""What installs the packages that synthetic data needs."""

Gender = Literal["woman", "man"]
Engine = Literal["espeak", "hibari"]

STRESS = {"ˈ": 2, "ˌ": 1}
"""IPA's marks of stress; 2 is primary."""

ESPEAK_RATE = 165
"""Words a minute at rate 1."""

ESPEAK_PITCH, ESPEAK_RANGE = 50, 50
"""Of 100, at pitch 1: the voice's own."""

ESPEAK_SECONDS = 60.0
"""Longest that one utterance may take to be made, in seconds of the clock; it takes 0.03."""


@dataclass(frozen=True, slots=True)
class Phoneme:
    """A sound of speech: ``symbol`` in IPA ("" for a pause), ``start`` and ``end`` in seconds, ``stress`` 0 to 2."""

    symbol: str
    start: float
    end: float
    stress: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """``samples`` (n,) float32 in [-1, 1] at 16 kHz, and the ``phonemes`` in their order."""

    samples: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Voice:
    """Somebody to say it.

    Args:
        name: ours.
        engine: which synthesiser.
        gender: whose voice it passes for.
        is_held_out: kept for tests: nothing is trained on it.
        model: espeak-ng's name of voice and variant.
        tract: (Hibari) frequency of the formants against the recorded voice's: below 1 is a larger person.
        tone: (Hibari) fundamental frequency against the recorded voice's, before ``tract``.
    """

    name: str
    engine: Engine
    gender: Gender
    is_held_out: bool = False
    model: str = ""
    tract: float = 1.0
    tone: float = 1.0


def _espeak(gender: Gender, held_out: bool, *models: str) -> tuple[Voice, ...]:
    return tuple(Voice(f"espeak {model}", "espeak", gender, held_out, model) for model in models)


VOICES: tuple[Voice, ...] = (
    *_espeak("woman", False, "en-us+f2", "gmw/en+f3", "en-us+f4", "gmw/en-GB-scotland+f1", "en-us+Annie"),
    *_espeak("woman", False, "en-us+linda", "en-us+anika", "gmw/en-GB-x-rp+steph", "en-us+shelby"),
    *_espeak("man", False, "en-us", "en-us+m3", "gmw/en+m7", "gmw/en-GB-x-rp+m1", "en-us+Alex", "en-us+Andy"),
    *_espeak("man", False, "en-us+klatt2", "gmw/en-US-nyc+michel", "en-us+adam"),
    *_espeak("woman", True, "en-us+f5", "gmw/en+belinda"),
    *_espeak("man", True, "gmw/en-GB-x-gbclan+m6", "en-us+edward"),
    Voice("hibari bright", "hibari", "woman", tract=1.06),
    Voice("hibari heart", "hibari", "woman"),
    Voice("hibari dark", "hibari", "woman", tract=0.94, tone=0.92),
    Voice("hibari tenor", "hibari", "man", tract=0.90, tone=0.72),
    Voice("hibari bass", "hibari", "man", tract=0.84, tone=0.62),
    Voice("hibari alto", "hibari", "woman", True, tract=1.0, tone=0.80),
    Voice("hibari baritone", "hibari", "man", True, tract=0.87, tone=0.56),
)
"""Everybody who can speak. espeak-ng's variants differ in formants, pitch, breath and source; Hibari's one voice is
made several by moving formants and pitch apart."""


def usable_voices() -> tuple[Voice, ...]:
    """The voices whose synthesiser is installed.

    Raises:
        DependencyError: none is.
    """
    engines: dict[Engine, str] = {"espeak": "espeakng_loader", "hibari": "hibari"}
    there = {engine for engine, package in engines.items() if find_spec(package) is not None}
    if "espeak" not in there:
        raise DependencyError("espeakng-loader", "is not installed, and synthetic speech needs it", EXTRA)
    if find_spec("onnxruntime") is None:
        there.discard("hibari")
    return tuple(voice for voice in VOICES if voice.engine in there)


def find_voice(name: str) -> Voice:
    """The voice of that name.

    Raises:
        RequestError: there is none.
    """
    for voice in VOICES:
        if voice.name == name:
            return voice
    raise RequestError("voice", f"{name!r} is not known", did_you_mean(name, [voice.name for voice in VOICES]))


def speak(text: str, voice: Voice, *, rate: float = 1.0, pitch: float = 1.0, liveliness: float = 1.0) -> Speech:
    """Say a text. The same arguments give the same samples.

    Args:
        text: English.
        voice: one of `VOICES`.
        rate: speed against the voice's own, 0.6 to 1.6.
        pitch: fundamental frequency against the voice's own, 0.7 to 1.4.
        liveliness: how far pitch moves, against the voice's own, 0 to 2.

    Returns:
        the sound and its phonemes, which follow each other without gap or overlap from 0 to the end.

    Raises:
        DependencyError: the synthesiser is not installed or does not work here.
        RequestError: nothing to say, or a value out of its range.
    """
    limits = {"rate": (rate, 0.6, 1.6), "pitch": (pitch, 0.7, 1.4), "liveliness": (liveliness, 0.0, 2.0)}
    for field, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise RequestError(field, f"{value:g}", f"allowed is {least:g} to {most:g}")
    if not any(letter.isalnum() for letter in text):
        raise RequestError("text", f"{text!r} holds nothing to say", "give words")
    if voice.engine == "hibari":
        from humo.synthetic.speech.hibari import say

        rate_hz, sound, events = say(
            text, rate=rate, pitch=pitch * voice.tone, tract=voice.tract, liveliness=liveliness
        )
    else:
        rate_hz, sound, events = _say_with_espeak(text, voice, rate, pitch, liveliness)
    samples = np.clip(soxr.resample(sound, rate_hz, SAMPLE_RATE, quality="HQ"), -1, 1).astype(np.float32)
    return Speech(samples, _join(events, len(samples) / SAMPLE_RATE))


def _say_with_espeak(
    text: str, voice: Voice, rate: float, pitch: float, liveliness: float
) -> tuple[float, NDArray[np.float32], list[tuple[float, str]]]:
    """Samples a second, samples, and (start, IPA with marks) of each phoneme."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise DependencyError("espeakng-loader", f"cannot be imported ({error})", EXTRA) from error
    request = {
        "library": espeakng_loader.get_library_path(),
        "data": espeakng_loader.get_data_path(),
        "text": text,
        "voice": voice.model,
        "rate": round(ESPEAK_RATE * rate),
        "pitch": round(float(np.clip(ESPEAK_PITCH + 100 * np.log2(pitch), 0, 99))),
        "range": round(min(ESPEAK_RANGE * liveliness, 99)),
    }
    script = Path(__file__).with_name("espeak.py")
    command = [sys.executable, "-I", "-S", str(script)]  # no site packages: it starts in a hundredth of a second
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), capture_output=True, timeout=ESPEAK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DependencyError("espeak-ng", f"does not run ({error})", "reinstall espeakng-loader") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DependencyError(
            "espeak-ng", f"cannot speak here ({last or done.returncode})", "reinstall espeakng-loader"
        )
    head, _, sound = done.stdout.partition(b"\n")
    told = json.loads(head)
    samples = np.frombuffer(sound, "<i2").astype(np.float32) / np.float32(2**15)
    return told["rate"], samples, [(start, symbol) for start, symbol in told["phonemes"]]


def _join(events: list[tuple[float, str]], seconds: float) -> tuple[Phoneme, ...]:
    """Phonemes of their starts, from 0 to the end; an event of no length is dropped."""
    starts = [(0.0, ""), *events, (seconds, "")]
    phonemes = []
    for (start, symbol), (following, _) in pairwise(starts):
        end = min(following, seconds)
        if end > start:
            stress = max((STRESS[mark] for mark in symbol if mark in STRESS), default=0)
            bare = symbol.translate(dict.fromkeys(map(ord, STRESS)))
            phonemes.append(Phoneme(bare, float(start), float(end), stress))
    return tuple(phonemes)
