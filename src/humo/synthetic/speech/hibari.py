"""The second synthesiser: Hibari, 8 MB of network inside the package ``hibari-tts``, with its own phoneme durations.

The network predicts a duration for each phoneme and does not give it out. One entry appended to the graph's outputs
makes it: a message of protocol buffers that holds a field twice is the two merged, so the bytes need no library.

Chosen because the voice is in the package (nothing is downloaded when it runs), because weights and dictionaries are
under Apache-2.0, because it is fast (60 x real time on one core) and because it tells
its phoneme times itself, after `LATE_SECONDS`: no alignment has to be guessed.

**Source:** the package's README, "ONNX interface".
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.errors import DependencyError

REMEDY = "pip install 'hibari-tts==0.2.1' onnxruntime"
"""The release whose network the name below belongs to."""

DURATIONS = "/Cast_32_output_0"
"""The tensor (L,) of the graph that holds each phoneme's length."""

SECONDS_PER_UNIT = 0.025
"""Of a duration: two spectral frames of 12.5 ms."""

LATE_SECONDS = 0.045
"""By how much the network's phonemes are late against its sound. Measured by where energy above 4 kHz agrees best
with fricatives (50 ms; 0 for espeak-ng, whose times are exact) and energy below 3 kHz with vowels (35 ms more than
there); what is left is within 10 ms at rates 0.8 to 1.25."""

NOISE_SEED = 0
"""Of the noise in breathy and unvoiced sounds."""

LETTERS = {
    "A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "T": "ɾ", "ᵊ": "ə", "ʧ": "tʃ", "ʤ": "dʒ",
    "ʦ": "ts", "ʣ": "dz",
}  # fmt: skip
"""The model's own letters, in IPA."""

MARKS = "ˈˌ"
"""Stress; it stands before its vowel and takes time of its own, which is the vowel's."""

LENGTHENERS = "ː̃ʰʲ"
"""What belongs to the sound before it."""

LONGEST_JOIN = 2
"""Units that a space between words may take without being a pause."""


def say(
    text: str, *, rate: float, pitch: float, tract: float, liveliness: float
) -> tuple[float, NDArray[np.float32], list[tuple[float, str]]]:
    """Say a text.

    Args:
        text: English.
        rate: speed against the model's own.
        pitch: fundamental frequency against the model's own, apart from ``tract``.
        tract: formants against the model's own: the sound is made slower and played faster by it (or the reverse).
        liveliness: how far pitch moves from its middle, against the model's own.

    Returns:
        samples a second (of the playback), samples, and (start, IPA with stress marks) of each phoneme.

    Raises:
        DependencyError: the package is not installed, or is another release.
    """
    model, session, synthesize = _load()
    noise = np.random.default_rng(NOISE_SEED)
    sounds: list[NDArray[np.float32]] = []
    events: list[tuple[float, str]] = []
    before = 0.0
    for letters in model.phonemize(text):
        known = [letter for letter in letters if letter in model.vocab]
        ids = np.asarray([model.ids(letters)], np.int64)
        speed = np.asarray([rate / tract], np.float32)
        *outputs, durations = session.run(None, {"ids": ids, "speed": speed})
        *spectra, fundamental = (output[0] for output in outputs)
        sounds.append(synthesize(*spectra, _intone(fundamental, pitch, liveliness), noise))
        ends = np.cumsum(durations) * SECONDS_PER_UNIT / tract
        if abs(ends[-1] * tract * model.sample_rate - len(sounds[-1])) > 1:
            raise DependencyError("hibari-tts", "gives durations that are not those of its sound", REMEDY)
        starts = before + np.maximum(np.concatenate([[0.0], ends[:-1]]) - LATE_SECONDS / tract, 0)
        events += _events(["", *known, ""], starts.tolist(), durations.tolist())
        before += float(ends[-1])
    return model.sample_rate * tract, np.concatenate(sounds), events


@lru_cache(maxsize=1)
def _load() -> tuple[Any, Any, Any]:
    """Hibari's model, a session of its network that gives out durations, and its vocoder."""
    try:
        import onnxruntime
        from hibari import Hibari
        from hibari.dsp import synth
    except ImportError as error:
        raise DependencyError("hibari-tts", f"cannot be imported ({error})", REMEDY) from error
    model = Hibari()  # the voice that is in the package: nothing is fetched
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    network = Path(model.model_path).read_bytes() + _output_entry(DURATIONS)
    try:
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are private; any of them means another network
        raise DependencyError("hibari-tts", f"is not the release that is known ({error})", REMEDY) from error
    return model, session, synth


def _output_entry(name: str) -> bytes:
    """A ModelProto (field 7, graph) of a GraphProto (field 12, output) of a ValueInfoProto (field 1, name)."""
    message = name.encode()
    for field in (1, 12, 7):
        message = bytes([field << 3 | 2, len(message)]) + message
    return message


def _intone(fundamental: NDArray[np.float32], pitch: float, liveliness: float) -> NDArray[np.float32]:
    """The pitch curve in Hz (0 where unvoiced), moved and made livelier or flatter around its middle."""
    voiced = fundamental > 0
    if not voiced.any():
        return fundamental
    middle = float(np.median(fundamental[voiced]))
    curve = pitch * middle * (np.where(voiced, fundamental, middle) / middle) ** liveliness
    return np.where(voiced, curve, 0).astype(np.float32)


def _events(letters: list[str], starts: list[float], durations: list[int]) -> list[tuple[float, str]]:
    """Phonemes of the model's letters: marks join what follows, lengtheners and short spaces what was before."""
    events: list[tuple[float, str]] = []
    mark, marked_at = "", 0.0
    for letter, start, duration in zip(letters, starts, durations, strict=True):
        if letter in MARKS and letter:
            mark, marked_at = letter, start
        elif letter and (letter in LENGTHENERS or (letter == " " and duration <= LONGEST_JOIN)):
            continue
        elif letter.isalpha():
            events.append((marked_at if mark else start, mark + LETTERS.get(letter, letter)))
            mark = ""
        else:
            events.append((start, ""))
    return events
