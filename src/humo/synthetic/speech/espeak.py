"""One utterance of espeak-ng in a process of its own: a request as JSON on stdin, phonemes and samples on stdout.

The library keeps state from one utterance to the next that nothing resets (measured: the same words come out up to
200 samples longer or shorter after others, also after its own Terminate and Initialize). A fresh process says the
same thing the same way every time, and takes 25 ms. So this file is run as a script, and imports nothing that costs.

**Source:** espeak-ng's ``speak_lib.h``.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

SYNCHRONOUS = 2
"""``AUDIO_OUTPUT_SYNCHRONOUS``: samples come to the callback, and nothing is played."""

PHONEME_EVENTS, PHONEMES_AS_IPA = 0x0001, 0x0002
"""Options of ``espeak_Initialize``."""

END_OF_LIST, PHONEME = 0, 7
"""``espeakEVENT_LIST_TERMINATED``, ``espeakEVENT_PHONEME``."""

RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
"""``espeak_PARAMETER``: words a minute, 0..200, 0..100, 0..100."""

UTF8 = 1
"""``espeakCHARS_UTF8``."""

RANDOM_SEED = 1
"""Of the noise in voices that breathe."""


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


def say(request: dict[str, Any]) -> tuple[int, list[tuple[float, str]], bytes]:
    """Say a text.

    Args:
        request: ``library`` and ``data`` (paths), ``text``, ``voice``, ``rate`` (words a minute), ``pitch`` and
            ``range`` (0..100).

    Returns:
        samples a second, the phonemes (start in seconds, IPA with stress mark, "" for a pause), 16-bit samples.

    Raises:
        OSError: the library, its data or the voice is not there.
    """
    library = ctypes.CDLL(request["library"])
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, request["data"].encode(), PHONEME_EVENTS | PHONEMES_AS_IPA)
    if rate <= 0:
        raise OSError(f"espeak-ng finds no data in {request['data']!r}")
    if library.espeak_SetVoiceByName(request["voice"].encode()):
        raise OSError(f"espeak-ng has no voice {request['voice']!r}")
    library.espeak_SetParameter(RATE, int(request["rate"]), 0)
    library.espeak_SetParameter(PITCH, int(request["pitch"]), 0)
    library.espeak_SetParameter(RANGE, int(request["range"]), 0)
    if hasattr(library, "espeak_ng_SetRandSeed"):
        library.espeak_ng_SetRandSeed(RANDOM_SEED)
    phonemes: list[tuple[float, str]] = []
    chunks: list[bytes] = []

    def take(samples: Any, count: int, events: Any) -> int:
        if count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        for event in _until_end(events):
            if event.type == PHONEME:
                phonemes.append((event.audio_position / 1000, event.id.string.decode("utf-8", "ignore")))
        return 0

    callback = _Callback(take)
    library.espeak_SetSynthCallback(callback)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8, None, None)
    library.espeak_Synchronize()
    return rate, phonemes, b"".join(chunks)


def _until_end(events: Any) -> list[Any]:
    found: list[Any] = []
    while events[len(found)].type != END_OF_LIST:
        found.append(events[len(found)])
    return found


def main() -> None:
    """Answer the request on stdin: a line of JSON, then the samples."""
    rate, phonemes, samples = say(json.load(sys.stdin))
    sys.stdout.buffer.write(json.dumps({"rate": rate, "phonemes": phonemes}).encode() + b"\n" + samples)


if __name__ == "__main__":
    main()
