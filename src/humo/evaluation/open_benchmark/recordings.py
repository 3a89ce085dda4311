"""Audio of the benchmark: speech in five languages, singing, whispering, shouting, music, noise and silence.

Everything is synthesized, so that the recordings belong to nobody. Phonemes come along for the true clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from humo.synthetic.speech.synthesis import Phoneme, Voice, synthesize

Samples = NDArray[np.float32]

PEAK = 0.7
"""Largest absolute value of a recording."""

GAP_SECONDS = 0.25
"""Silence between two sentences."""

VOICES: Mapping[str, Mapping[str, str]] = {
    "en": {"woman": "gmw/en-GB-x-rp+f4", "man": "gmw/en-GB-x-rp+m4"},
    "de": {"woman": "gmw/de+f2", "man": "gmw/de+m2"},
    "fr": {"woman": "roa/fr+f3", "man": "roa/fr+m3"},
    "es": {"woman": "roa/es+f1", "man": "roa/es+m5"},
    "zh": {"woman": "sit/cmn+f4", "man": "sit/cmn+m1"},
}
"""Language -> gender -> espeak-ng's voice; none of them speaks in rendered corpora."""

SENTENCES: Mapping[str, Sequence[str]] = {
    "en": (
        "Please bring both maps to the bridge before five.",
        "My brother baked warm bread for everybody this morning.",
        "We may move the big piano from room to room.",
        "A pale moon rose above the paper mill.",
        "Papa found five fresh apples by the fence.",
        "Maybe the boat will pass below the old bridge.",
        "Few people believe how fast that bird can fly.",
        "The baker waved from the window of the bus.",
    ),
    "de": (
        "Bitte bring beide Bilder morgen früh vorbei.",
        "Mein Vater baut bei uns im Hof ein Boot.",
        "Am Abend wurde der Park plötzlich ganz still.",
        "Wir möchten mit dem Bus bis zum Museum fahren.",
        "Fünf bunte Vögel flogen über den Bach.",
        "Im Winter brauchen wir mehr warme Mäntel.",
    ),
    "fr": (
        "Mon frère prépare un beau bateau pour demain.",
        "Les enfants mangent une pomme sur le pont.",
        "Il faut parfois beaucoup de patience pour bien faire.",
        "Ma mère parle avec le voisin devant la porte.",
        "Un petit oiseau bleu vole au-dessus du fleuve.",
        "Nous buvons un bol de lait chaud le matin.",
    ),
    "es": (
        "Mi hermano prepara pan para toda la familia.",
        "Por la mañana vemos barcos blancos en el puerto.",
        "Mi abuela vive muy cerca del puente viejo.",
        "El pájaro azul vuela por encima del bosque.",
        "Mañana iremos en tren a un pueblo pequeño.",
        "Papá compró fruta fresca en el mercado.",
    ),
    "zh": (
        "我爸爸每天早上跑步。",
        "明天我们一起去公园吧。",
        "妈妈买了新的面包和苹果。",
        "朋友帮我拍了一张美丽的照片。",
        "不要忘记把门关上。",
        "我们八点半在门口见面。",
    ),
}
"""Language -> sentences, each with several consonants of the lips."""

SONG_WORDS = ("morning", "light", "upon", "the", "bay", "my", "boat", "is", "far", "away", "from", "home")
SONG_NOTES = (0, 2, 4, 5, 7, 5, 4, 2, 4, 2, 0, 0)
"""Words of a song, and the semitones of their notes."""

CHORDS = ((220.0, 277.2, 329.6), (196.0, 246.9, 293.7), (174.6, 220.0, 261.6), (196.0, 246.9, 329.6))
"""Frequencies in Hz of the chords of the music."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio of a case.

    Args:
        audio: (n,) mono at 16 kHz, a whole number of frames.
        speech: the voice alone, as long.
        phonemes: of the voice.
    """

    audio: Samples
    speech: Samples
    phonemes: tuple[Phoneme, ...]

    @property
    def frames(self) -> int:
        """Length in frames."""
        return len(self.audio) // SAMPLES_PER_FRAME


def speak(
    language: str, gender: str, number: int, seconds: float, *, style: str = "speech", pause: float = 0.0
) -> Recording:
    """Return sentences of a language, one after another, until they fill the time.

    Args:
        language: of `SENTENCES`.
        gender: ``woman`` or ``man``.
        number: of the first sentence.
        seconds: length.
        style: ``speech``, ``whisper`` or ``shout``.
        pause: seconds of silence after the first sentence, instead of a short gap.
    """
    voice = VOICES[language][gender]
    settings = {"rate": 1.0, "pitch": 1.0, "liveliness": 1.0}
    if style == "whisper":
        voice = voice.partition("+")[0] + ("+whisperf" if gender == "woman" else "+whisper")
    if style == "shout":
        settings = {"rate": 1.1, "pitch": 1.35, "liveliness": 1.8}
    wanted = round(seconds * FRAMES_PER_SECOND) * SAMPLES_PER_FRAME
    samples, phonemes = np.zeros(0, np.float32), []
    for step, text in enumerate(_following(SENTENCES[language], number)):
        if len(samples) >= wanted:
            break
        spoken = synthesize(text, Voice(voice, "espeak", "woman", True, voice), **settings)
        phonemes += _moved(spoken.phonemes, len(samples) / SAMPLE_RATE)
        gap = pause if pause and step == 0 else GAP_SECONDS
        samples = np.concatenate([samples, spoken.samples, np.zeros(round(gap * SAMPLE_RATE), np.float32)])
    samples = samples[:wanted]
    if style == "shout":
        samples = np.tanh(4 * samples / max(1e-4, float(np.abs(samples).max())))
    speech = _normalized(samples, 0.25 if style == "whisper" else PEAK)
    return Recording(speech, speech, tuple(phonemes))


def sing(gender: str, key: int, seconds: float, *, accompanied: bool) -> Recording:
    """Return a song: a word on each note, with chords if it is accompanied.

    Args:
        gender: ``woman`` or ``man``.
        key: semitones that the melody is moved by, -3 to 3.
        seconds: length.
        accompanied: whether there is music under the voice.
    """
    voice = VOICES["en"][gender]
    wanted = round(seconds * FRAMES_PER_SECOND) * SAMPLES_PER_FRAME
    samples, phonemes, note = np.zeros(0, np.float32), [], 0
    while len(samples) < wanted:
        place = note % len(SONG_WORDS)
        pitch = float(np.clip(2 ** ((SONG_NOTES[place] + key - 4) / 12), 0.7, 1.4))
        spoken = synthesize(
            SONG_WORDS[place], Voice(voice, "espeak", "woman", True, voice), rate=0.6, pitch=pitch, liveliness=0.0
        )
        phonemes += _moved(spoken.phonemes, len(samples) / SAMPLE_RATE)
        samples = np.concatenate([samples, spoken.samples])
        note += 1
    speech = _normalized(samples[:wanted], PEAK)
    audio = _normalized(speech + 0.25 * music(len(speech) / SAMPLE_RATE), PEAK) if accompanied else speech
    return Recording(audio, speech, tuple(phonemes))


def under_music(recording: Recording) -> Recording:
    """Return speech with music under it; the voice alone stays beside it."""
    mixed = recording.speech + 0.3 * music(len(recording.speech) / SAMPLE_RATE)
    return Recording(_normalized(mixed, PEAK), recording.speech, recording.phonemes)


def music(seconds: float) -> Samples:
    """Return chords of plucked tones without a voice."""
    count = round(seconds * FRAMES_PER_SECOND) * SAMPLES_PER_FRAME
    times = np.arange(count) / SAMPLE_RATE
    total = np.zeros(count)
    for start in np.arange(0, seconds, 0.5):
        chord = CHORDS[int(start // 2) % len(CHORDS)]
        since = np.maximum(times - start, 0)
        envelope = np.where(times >= start, np.exp(-4 * since), 0)
        for frequency in chord:
            for harmonic in (1, 2, 3):
                total += envelope * np.sin(2 * np.pi * frequency * harmonic * since) / harmonic
    return _normalized(total, PEAK)


def noise(seconds: float, seed: int) -> Samples:
    """Return white noise."""
    count = round(seconds * FRAMES_PER_SECOND) * SAMPLES_PER_FRAME
    return _normalized(np.random.default_rng((seed, 0x6E6F)).normal(size=count), 0.3)


def silence(seconds: float) -> Samples:
    """Return silence."""
    return np.zeros(round(seconds * FRAMES_PER_SECOND) * SAMPLES_PER_FRAME, np.float32)


def without_voice(audio: Samples) -> Recording:
    """Return a recording in which nobody speaks."""
    return Recording(audio, np.zeros_like(audio), ())


def _following(texts: Sequence[str], number: int) -> Sequence[str]:
    start = number % len(texts)
    return [*texts[start:], *texts[:start]] * 40


def _moved(phonemes: Sequence[Phoneme], seconds: float) -> list[Phoneme]:
    return [Phoneme(one.symbol, one.start + seconds, one.end + seconds, one.stress) for one in phonemes]


def _normalized(samples: NDArray[Any], peak: float) -> Samples:
    return np.asarray(samples * (peak / max(1e-4, float(np.abs(samples).max()))), np.float32)
