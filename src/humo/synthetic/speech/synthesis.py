"""Synthesize speech with phoneme times: text and a voice in, mono 16 kHz audio and timed phonemes out.

There are two synthesizers, so that a model does not learn the timbre of a single one. espeak-ng works with rules and
formants; the package ``espeakng-loader`` contains its library and data. Hibari is a small neural synthesizer; the
package ``hibari-tts`` contains its weights (see `humo.synthetic.speech.hibari`).
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

INSTALL_COMMAND = "pip install 'humo-video[synthetic]'"
"""Command that installs the packages for rendering data."""

Gender = Literal["woman", "man"]
Engine = Literal["espeak", "hibari"]

STRESS_LEVELS = {"ˈ": 2, "ˌ": 1}
"""IPA stress mark -> stress level; 2 is primary stress."""

ESPEAK_WORDS_PER_MINUTE = 165
"""Words per minute of espeak-ng at rate 1."""

ESPEAK_PITCH, ESPEAK_PITCH_RANGE = 50, 50
"""espeak-ng's pitch and pitch range (0 to 100) at pitch 1 and liveliness 1: the voice's defaults."""

ESPEAK_TIMEOUT_SECONDS = 60.0
"""Timeout for one utterance, in seconds of wall time; an utterance usually takes 0.03 s."""


@dataclass(frozen=True, slots=True)
class Phoneme:
    """One phoneme with its time.

    Args:
        symbol: IPA symbol; "" for a pause.
        start, end: seconds.
        stress: 0 (none) to 2 (primary).
    """

    symbol: str
    start: float
    end: float
    stress: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """An utterance: ``samples`` (n,) float32 in [-1, 1] at 16 kHz, and its ``phonemes`` in order."""

    samples: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice of a synthesizer.

    Args:
        name: this project's name of the voice.
        engine: the synthesizer.
        gender: the gender of the people who get this voice.
        is_held_out: True for a voice of the test splits; no training clip uses it.
        espeak_voice: (espeak-ng) name of voice and variant.
        formant_scale: (Hibari) factor on the formant frequencies; below 1 for a larger person.
        pitch_scale: (Hibari) factor on the fundamental frequency, applied before ``formant_scale``.
    """

    name: str
    engine: Engine
    gender: Gender
    is_held_out: bool = False
    espeak_voice: str = ""
    formant_scale: float = 1.0
    pitch_scale: float = 1.0


def _espeak_voices(gender: Gender, held_out: bool, *models: str) -> tuple[Voice, ...]:
    return tuple(Voice(f"espeak {model}", "espeak", gender, held_out, model) for model in models)


VOICES: tuple[Voice, ...] = (
    *_espeak_voices("woman", False, "en-us+f2", "gmw/en+f3", "en-us+f4", "gmw/en-GB-scotland+f1", "en-us+Annie"),
    *_espeak_voices("woman", False, "en-us+linda", "en-us+anika", "gmw/en-GB-x-rp+steph", "en-us+shelby"),
    *_espeak_voices("man", False, "en-us", "en-us+m3", "gmw/en+m7", "gmw/en-GB-x-rp+m1", "en-us+Alex", "en-us+Andy"),
    *_espeak_voices("man", False, "en-us+klatt2", "gmw/en-US-nyc+michel", "en-us+adam"),
    *_espeak_voices("woman", True, "en-us+f5", "gmw/en+belinda"),
    *_espeak_voices("man", True, "gmw/en-GB-x-gbclan+m6", "en-us+edward"),
    Voice("hibari bright", "hibari", "woman", formant_scale=1.06),
    Voice("hibari heart", "hibari", "woman"),
    Voice("hibari dark", "hibari", "woman", formant_scale=0.94, pitch_scale=0.92),
    Voice("hibari tenor", "hibari", "man", formant_scale=0.90, pitch_scale=0.72),
    Voice("hibari bass", "hibari", "man", formant_scale=0.84, pitch_scale=0.62),
    Voice("hibari alto", "hibari", "woman", True, formant_scale=1.0, pitch_scale=0.80),
    Voice("hibari baritone", "hibari", "man", True, formant_scale=0.87, pitch_scale=0.56),
)
"""All voices. espeak-ng's variants differ in formants, pitch, breath and source; Hibari has one voice, which becomes
several by scaling formants and pitch separately."""


def installed_voices() -> tuple[Voice, ...]:
    """Return the voices whose synthesizer is installed; espeak-ng is required, Hibari optional.

    Raises:
        DependencyError: espeak-ng is not installed.
    """
    engines: dict[Engine, str] = {"espeak": "espeakng_loader", "hibari": "hibari"}
    installed = {engine for engine, package in engines.items() if find_spec(package) is not None}
    if "espeak" not in installed:
        raise DependencyError("espeakng-loader", "is not installed, and synthetic speech needs it", INSTALL_COMMAND)
    if find_spec("onnxruntime") is None:
        installed.discard("hibari")
    return tuple(voice for voice in VOICES if voice.engine in installed)


def find_voice(name: str) -> Voice:
    """Return a voice by its name.

    Raises:
        RequestError: no voice has this name.
    """
    for voice in VOICES:
        if voice.name == name:
            return voice
    raise RequestError("voice", f"{name!r} is not known", did_you_mean(name, [voice.name for voice in VOICES]))


def synthesize(text: str, voice: Voice, *, rate: float = 1.0, pitch: float = 1.0, liveliness: float = 1.0) -> Speech:
    """Synthesize a text. The same arguments give the same samples.

    Args:
        text: English text.
        voice: one of `VOICES`.
        rate: factor on the voice's speed, 0.6 to 1.6.
        pitch: factor on the voice's fundamental frequency, 0.7 to 1.4.
        liveliness: factor on the voice's pitch range, 0 to 2.

    Returns:
        The audio and its phonemes. The phonemes cover the whole audio without gaps or overlaps.

    Raises:
        DependencyError: the synthesizer is not installed or does not run.
        RequestError: the text has no letters or digits, or a value is out of range.
    """
    limits = {"rate": (rate, 0.6, 1.6), "pitch": (pitch, 0.7, 1.4), "liveliness": (liveliness, 0.0, 2.0)}
    for field, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise RequestError(field, f"{value:g} is not allowed", f"allowed: {least:g} to {most:g}")
    if not any(letter.isalnum() for letter in text):
        raise RequestError("text", f"{text!r} has no letters or digits", "give a sentence")
    if voice.engine == "hibari":
        from humo.synthetic.speech import hibari

        rate_hz, audio, events = hibari.synthesize(
            text,
            rate=rate,
            pitch=pitch * voice.pitch_scale,
            formant_scale=voice.formant_scale,
            liveliness=liveliness,
        )
    else:
        rate_hz, audio, events = _run_espeak(text, voice, rate, pitch, liveliness)
    samples = np.clip(soxr.resample(audio, rate_hz, SAMPLE_RATE, quality="HQ"), -1, 1).astype(np.float32)
    return Speech(samples, _phonemes_of_events(events, len(samples) / SAMPLE_RATE))


def _run_espeak(
    text: str, voice: Voice, rate: float, pitch: float, liveliness: float
) -> tuple[float, NDArray[np.float32], list[tuple[float, str]]]:
    """Return sample rate, samples, and (start, IPA with stress marks) of each phoneme."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise DependencyError("espeakng-loader", f"cannot be imported ({error})", INSTALL_COMMAND) from error
    request = {
        "library": espeakng_loader.get_library_path(),
        "data": espeakng_loader.get_data_path(),
        "text": text,
        "voice": voice.espeak_voice,
        "rate": round(ESPEAK_WORDS_PER_MINUTE * rate),
        "pitch": round(float(np.clip(ESPEAK_PITCH + 100 * np.log2(pitch), 0, 99))),
        "range": round(min(ESPEAK_PITCH_RANGE * liveliness, 99)),
    }
    script = Path(__file__).with_name("espeak.py")
    command = [sys.executable, "-I", "-S", str(script)]  # without site packages it starts in 10 ms
    try:
        process = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=ESPEAK_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        remedy = "reinstall it: pip install espeakng-loader"
        raise DependencyError("espeak-ng", f"does not run ({error})", remedy) from error
    if process.returncode:
        reason = process.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DependencyError(
            "espeak-ng", f"fails ({reason or process.returncode})", "reinstall it: pip install espeakng-loader"
        )
    header, _, audio = process.stdout.partition(b"\n")
    result = json.loads(header)
    samples = np.frombuffer(audio, "<i2").astype(np.float32) / np.float32(2**15)
    return result["rate"], samples, [(start, symbol) for start, symbol in result["phonemes"]]


def _phonemes_of_events(events: list[tuple[float, str]], seconds: float) -> tuple[Phoneme, ...]:
    """Turn (start, IPA) events into phonemes that cover 0 to ``seconds``; events without duration are dropped."""
    starts = [(0.0, ""), *events, (seconds, "")]
    phonemes = []
    for (start, symbol), (next_start, _) in pairwise(starts):
        end = min(next_start, seconds)
        if end > start:
            stress = max((STRESS_LEVELS[mark] for mark in symbol if mark in STRESS_LEVELS), default=0)
            bare = symbol.translate(dict.fromkeys(map(ord, STRESS_LEVELS)))
            phonemes.append(Phoneme(bare, float(start), float(end), stress))
    return tuple(phonemes)
