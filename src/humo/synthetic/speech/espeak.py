"""Run one utterance of espeak-ng in its own process: request as JSON on stdin, phonemes and samples on stdout.

espeak-ng's library keeps state between utterances that nothing resets. The same text came out up to 200 samples longer
or shorter after another one, even after ``espeak_Terminate`` and ``espeak_Initialize``. A new process always gives the
same samples and takes 25 ms. This file is therefore run as a script and imports only the standard library.

**Source:** espeak-ng, ``src/include/espeak-ng/speak_lib.h`` (https://github.com/espeak-ng/espeak-ng).
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

SYNCHRONOUS = 2
"""``AUDIO_OUTPUT_SYNCHRONOUS``: samples are passed to the callback and not played."""

PHONEME_EVENTS, PHONEMES_AS_IPA = 0x0001, 0x0002
"""``espeakINITIALIZE_PHONEME_EVENTS`` and ``espeakINITIALIZE_PHONEME_IPA``, options of ``espeak_Initialize``."""

END_OF_LIST, PHONEME = 0, 7
"""Event types ``espeakEVENT_LIST_TERMINATED`` and ``espeakEVENT_PHONEME``."""

RATE_PARAMETER, PITCH_PARAMETER, RANGE_PARAMETER = 1, 3, 4
"""``espeakRATE`` (words per minute), ``espeakPITCH`` (0 to 100) and ``espeakRANGE`` (0 to 100)."""

UTF8 = 1
"""``espeakCHARS_UTF8``."""

RANDOM_SEED = 1
"""Seed of the noise in breathy voices."""


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def synthesize(request: dict[str, Any]) -> tuple[int, list[tuple[float, str]], bytes]:
    """Synthesize a text.

    Args:
        request: ``library`` and ``data`` (paths), ``text``, ``voice``, ``rate`` (words per minute), ``pitch`` and
            ``range`` (0 to 100).

    Returns:
        Sample rate, phonemes (start in seconds, IPA with stress mark, "" for a pause), 16-bit samples.

    Raises:
        OSError: the library, its data or the voice does not exist.
    """
    library = ctypes.CDLL(request["library"])
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, request["data"].encode(), PHONEME_EVENTS | PHONEMES_AS_IPA)
    if rate <= 0:
        raise OSError(f"espeak-ng finds no data in {request['data']!r}")
    if library.espeak_SetVoiceByName(request["voice"].encode()):
        raise OSError(f"espeak-ng has no voice {request['voice']!r}")
    library.espeak_SetParameter(RATE_PARAMETER, int(request["rate"]), 0)
    library.espeak_SetParameter(PITCH_PARAMETER, int(request["pitch"]), 0)
    library.espeak_SetParameter(RANGE_PARAMETER, int(request["range"]), 0)
    if hasattr(library, "espeak_ng_SetRandSeed"):
        library.espeak_ng_SetRandSeed(RANDOM_SEED)
    phonemes: list[tuple[float, str]] = []
    chunks: list[bytes] = []

    def on_samples(samples: Any, count: int, events: Any) -> int:
        if count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        for event in _events_before_end(events):
            if event.type == PHONEME:
                phonemes.append((event.audio_position / 1000, event.id.string.decode("utf-8", "ignore")))
        return 0

    callback = _Callback(on_samples)
    library.espeak_SetSynthCallback(callback)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8, None, None)
    library.espeak_Synchronize()
    return rate, phonemes, b"".join(chunks)


def _events_before_end(events: Any) -> list[Any]:
    listed: list[Any] = []
    while events[len(listed)].type != END_OF_LIST:
        listed.append(events[len(listed)])
    return listed


def main() -> None:
    """Read a request from stdin; write a line of JSON and then the samples to stdout."""
    rate, phonemes, samples = synthesize(json.load(sys.stdin))
    sys.stdout.buffer.write(json.dumps({"rate": rate, "phonemes": phonemes}).encode() + b"\n" + samples)


if __name__ == "__main__":
    main()
