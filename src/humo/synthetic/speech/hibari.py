"""Synthesize speech with Hibari, an 8 MB network in the package ``hibari-tts``, and read its phoneme durations.

The network predicts a duration for each phoneme but does not list it among its outputs. This module appends that
output to the ONNX graph. Protocol buffers merge a message that is appended to another, so no ONNX library is needed.

Reasons for this synthesizer:

- The voice is in the package, so nothing is downloaded. Weights and dictionaries are under Apache-2.0.
- It runs 60 times faster than real time on one core.
- Its durations give phoneme times (`PHONEME_DELAY_SECONDS`), so no forced alignment is needed.

**Source:** README of ``hibari-tts`` 0.2.1 on PyPI, section "ONNX interface".
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.errors import DependencyError

INSTALL_COMMAND = "pip install 'hibari-tts==0.2.1' onnxruntime"
"""Command that installs the release whose network has the tensor `DURATIONS_TENSOR`."""

DURATIONS_TENSOR = "/Cast_32_output_0"
"""Name of the graph's tensor (L,) that holds the duration of each phoneme."""

SECONDS_PER_UNIT = 0.025
"""Unit of a duration in seconds: two spectral frames of 12.5 ms."""

PHONEME_DELAY_SECONDS = 0.045
"""Delay of the network's phoneme times behind its audio, in seconds.

Measured as the lag at which energy above 4 kHz agrees best with fricatives, and energy below 3 kHz with vowels. It
is 50 ms for fricatives (0 for espeak-ng, whose times are exact), and 35 ms more than for espeak-ng for vowels. The
remaining error is below 10 ms at rates from 0.8 to 1.25."""

NOISE_SEED = 0
"""Seed of the noise in breathy and unvoiced phonemes."""

IPA_OF_LETTER = {
    "A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "T": "ɾ", "ᵊ": "ə", "ʧ": "tʃ", "ʤ": "dʒ",
    "ʦ": "ts", "ʣ": "dz",
}  # fmt: skip
"""Letters of the model's alphabet that are not IPA -> IPA."""

STRESS_SYMBOLS = "ˈˌ"
"""Stress marks. A mark precedes its vowel and has a duration, which belongs to the vowel."""

MODIFIERS = "ː̃ʰʲ"
"""Letters that modify the phoneme before them."""

MAX_JOINED_SPACE_UNITS = 2
"""Longest space between words, in duration units, that does not count as a pause."""


def synthesize(
    text: str, *, rate: float, pitch: float, formant_scale: float, liveliness: float
) -> tuple[float, NDArray[np.float32], list[tuple[float, str]]]:
    """Synthesize a text.

    Args:
        text: English text.
        rate: factor on the model's speed.
        pitch: factor on the model's fundamental frequency, before ``formant_scale``.
        formant_scale: factor on all frequencies. The audio is synthesized slower (or faster) by it and played back
            faster (or slower), so that ``rate`` keeps its meaning.
        liveliness: factor on how far the pitch moves from its median.

    Returns:
        Sample rate of the playback, samples, and (start, IPA with stress marks) of each phoneme.

    Raises:
        DependencyError: the package is not installed, or is a release with another network.
    """
    model, session, vocoder = _load()
    noise = np.random.default_rng(NOISE_SEED)
    chunks: list[NDArray[np.float32]] = []
    events: list[tuple[float, str]] = []
    elapsed = 0.0
    for letters in model.phonemize(text):
        known = [letter for letter in letters if letter in model.vocab]
        ids = np.asarray([model.ids(letters)], np.int64)
        speed = np.asarray([rate / formant_scale], np.float32)
        *outputs, durations = session.run(None, {"ids": ids, "speed": speed})
        *spectra, fundamental = (output[0] for output in outputs)
        chunks.append(vocoder(*spectra, _scale_pitch(fundamental, pitch, liveliness), noise))
        ends = np.cumsum(durations) * SECONDS_PER_UNIT / formant_scale
        if abs(ends[-1] * formant_scale * model.sample_rate - len(chunks[-1])) > 1:
            problem = "predicts durations that do not add up to the length of its audio"
            raise DependencyError("hibari-tts", problem, INSTALL_COMMAND)
        starts = elapsed + np.maximum(np.concatenate([[0.0], ends[:-1]]) - PHONEME_DELAY_SECONDS / formant_scale, 0)
        events += _events(["", *known, ""], starts.tolist(), durations.tolist())
        elapsed += float(ends[-1])
    return model.sample_rate * formant_scale, np.concatenate(chunks), events


@lru_cache(maxsize=1)
def _load() -> tuple[Any, Any, Any]:
    """Return Hibari's model, an ONNX session of its network that also outputs durations, and its vocoder."""
    try:
        import onnxruntime
        from hibari import Hibari
        from hibari.dsp import synth
    except ImportError as error:
        raise DependencyError("hibari-tts", f"cannot be imported ({error})", INSTALL_COMMAND) from error
    model = Hibari()  # the voice in the package; nothing is downloaded
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    network = Path(model.model_path).read_bytes() + _graph_output_message(DURATIONS_TENSOR)
    try:
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's error classes are private; any of them means another network
        raise DependencyError("hibari-tts", f"is not release 0.2.1 ({error})", INSTALL_COMMAND) from error
    return model, session, synth


def _graph_output_message(name: str) -> bytes:
    """Encode a ModelProto (field 7, graph) of a GraphProto (field 12, output) of a ValueInfoProto (field 1, name)."""
    message = name.encode()
    for field in (1, 12, 7):
        message = bytes([field << 3 | 2, len(message)]) + message
    return message


def _scale_pitch(fundamental: NDArray[np.float32], pitch: float, liveliness: float) -> NDArray[np.float32]:
    """Scale a pitch curve in Hz (0 where unvoiced) and its range around the median."""
    voiced = fundamental > 0
    if not voiced.any():
        return fundamental
    median = float(np.median(fundamental[voiced]))
    curve = pitch * median * (np.where(voiced, fundamental, median) / median) ** liveliness
    return np.where(voiced, curve, 0).astype(np.float32)


def _events(letters: list[str], starts: list[float], durations: list[int]) -> list[tuple[float, str]]:
    """Turn the model's letters into (start, IPA) of phonemes.

    Stress marks are merged with the next letter; modifiers and short spaces with the previous one.
    """
    events: list[tuple[float, str]] = []
    mark, mark_start = "", 0.0
    for letter, start, duration in zip(letters, starts, durations, strict=True):
        if letter in STRESS_SYMBOLS and letter:
            mark, mark_start = letter, start
        elif letter and (letter in MODIFIERS or (letter == " " and duration <= MAX_JOINED_SPACE_UNITS)):
            continue
        elif letter.isalpha():
            events.append((mark_start if mark else start, mark + IPA_OF_LETTER.get(letter, letter)))
            mark = ""
        else:
            events.append((start, ""))
    return events
