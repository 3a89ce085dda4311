"""Speech, its phoneme times, and what is said."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest

from humo.errors import DependencyError, RequestError
from humo.geometry import SAMPLE_RATE
from humo.synthetic import sentences
from humo.synthetic.speech import hibari
from humo.synthetic.speech.synthesis import VOICES, Speech, Voice, find_voice, speak, usable_voices
from humo.synthetic.speech.visemes import visemes_of

TEXT = "She sees six small ships."
HISSING = "She sees six small ships sailing south, and seven scissors lay on the glass shelf."
STEP_SECONDS = 0.005


def fingerprint(speech: Speech) -> str:
    """The samples' digest and the phonemes."""
    return hashlib.sha256(speech.samples.tobytes()).hexdigest() + str(speech.phonemes)


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_every_voice_speaks_and_its_phonemes_fill_the_time(voice: Voice) -> None:
    speech = speak(TEXT, voice)
    assert speech.samples.dtype == np.float32
    assert 0.05 < np.abs(speech.samples).max() <= 1
    assert 0.8 < speech.seconds < 6
    assert speech.phonemes[0].start == 0
    assert speech.phonemes[-1].end == pytest.approx(speech.seconds, abs=1e-3)
    assert all(one.end == following.start for one, following in pairwise(speech.phonemes))
    assert sum(visemes_of(one.symbol)[0] in ("s", "ʃ") for one in speech.phonemes) >= 6
    assert any(one.stress == 2 for one in speech.phonemes)


@pytest.mark.parametrize("name", ["espeak en-us+anika", "espeak en-us+klatt2", "hibari bass"])
def test_speech_is_the_same_after_other_speech_and_in_another_process(name: str) -> None:
    first = fingerprint(speak(TEXT, find_voice(name)))
    speak("Something else, said before.", find_voice(name), pitch=1.1)
    assert fingerprint(speak(TEXT, find_voice(name))) == first
    code = f"from tests.synthetic.test_speech import *\nprint(fingerprint(speak(TEXT, find_voice({name!r}))), end='')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert other.stdout.decode() == first


def test_many_voices_are_trained_on_and_some_of_each_kind_are_held_out() -> None:
    trained = [voice for voice in VOICES if not voice.is_held_out]
    assert len(trained) >= 14
    for engine in ("espeak", "hibari"):
        held_out = [voice for voice in VOICES if voice.is_held_out and voice.engine == engine]
        assert {voice.gender for voice in held_out} == {"woman", "man"}
    assert len({voice.name for voice in VOICES}) == len(VOICES)


def test_every_variant_of_espeak_is_in_its_package() -> None:
    """espeak-ng takes one that it does not know for none."""
    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    for voice in VOICES:
        _, _, variant = voice.model.partition("+")
        assert not variant or (variants / variant).is_file(), voice.name


@pytest.mark.parametrize(
    ("name", "most"), [("espeak en-us", 5), ("espeak en-us+f4", 5), ("hibari heart", 20), ("hibari bass", 25)]
)
def test_fricatives_are_where_the_sound_hisses(name: str, most: float) -> None:
    """Best agreement of energy above 4 kHz with the fricatives' times, within ``most`` milliseconds of lag 0."""
    speech = speak(HISSING, find_voice(name))
    window = 320
    padded = np.pad(speech.samples, window // 2)
    hop = round(STEP_SECONDS * SAMPLE_RATE)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(pieces, axis=1)) ** 2
    hertz = np.fft.rfftfreq(window, 1 / SAMPLE_RATE)
    hiss = np.log(power[:, hertz > 4000].sum(1) + 1e-6) - np.log(power[:, hertz < 3000].sum(1) + 1e-6)
    times = np.arange(len(hiss)) * STEP_SECONDS
    spoken = [one for one in speech.phonemes if one.symbol]
    inside = (times > spoken[0].start) & (times < spoken[-1].end)
    agreement = {}
    for lag in range(-20, 21):
        wanted = np.zeros(len(hiss))
        for one in spoken:
            if visemes_of(one.symbol)[0] in ("s", "ʃ"):
                wanted[(times >= one.start + lag * STEP_SECONDS) & (times < one.end + lag * STEP_SECONDS)] = 1
        agreement[lag] = np.corrcoef(wanted[inside], hiss[inside])[0, 1]
    best = max(agreement, key=lambda lag: agreement[lag])
    assert abs(best) * STEP_SECONDS * 1000 <= most
    assert agreement[best] > 0.4


def test_rate_pitch_and_liveliness_change_what_they_say() -> None:
    for name in ("espeak en-us", "hibari heart"):
        voice = find_voice(name)
        plain = speak(TEXT, voice)
        assert speak(TEXT, voice, rate=1.25).seconds < 0.92 * plain.seconds
        assert not np.array_equal(speak(TEXT, voice, pitch=1.2).samples, plain.samples)
        assert not np.array_equal(speak(TEXT, voice, liveliness=0.2).samples, plain.samples)


def test_what_cannot_be_said_is_refused_by_name() -> None:
    voice = find_voice("espeak en-us")
    with pytest.raises(RequestError, match=r"rate: 3; allowed is 0.6 to 1.6"):
        speak(TEXT, voice, rate=3)
    with pytest.raises(RequestError, match=r"text: .*holds nothing to say"):
        speak(" ... ", voice)
    with pytest.raises(RequestError, match="did you mean 'hibari bass'"):
        find_voice("hibari bas")
    with pytest.raises(DependencyError, match="has no voice"):
        speak(TEXT, Voice("nobody", "espeak", "man", model="xx-nowhere"))


def test_without_hibari_espeak_speaks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    assert {voice.engine for voice in usable_voices()} == {"espeak"}
    hibari._load.cache_clear()
    with pytest.raises(DependencyError, match="pip install"):
        speak(TEXT, find_voice("hibari heart"))


def test_without_espeak_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DependencyError, match=r"pip install 'humo-video\[synthetic\]'"):
        usable_voices()
    with pytest.raises(DependencyError, match=r"pip install 'humo-video\[synthetic\]'"):
        speak(TEXT, find_voice("espeak en-us"))


def test_another_release_of_the_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hibari, "DURATIONS", "/Cast_0_output_9")
    hibari._load.cache_clear()
    with pytest.raises(DependencyError, match="is not the release that is known"):
        speak(TEXT, find_voice("hibari heart"))


def test_sentences_are_many_and_a_tenth_is_held_out() -> None:
    random = np.random.default_rng(0)
    for length in ("medium", "long"):
        drawn = [sentences.sentence(random, length) for _ in range(2000)]
        assert len(set(drawn)) > 1950
        assert 0.07 < np.mean([sentences.is_held_out(text) for text in drawn]) < 0.13
        assert all(text[0].isupper() and text[-1] in ".?!" and "{" not in text for text in drawn)
    kept, trained = (
        {sentences.draw(random, length, held_out=side) for length in sentences.LENGTHS for _ in range(300)}
        for side in (True, False)
    )
    assert not {text.lower().strip(".?!") for text in kept} & {text.lower().strip(".?!") for text in trained}


def test_sentences_last_one_to_six_seconds() -> None:
    random = np.random.default_rng(1)
    voice = find_voice("espeak en-us")
    lasts = {
        length: [speak(sentences.sentence(random, length), voice).seconds for _ in range(8)]
        for length in sentences.LENGTHS
    }
    assert np.mean(lasts["short"]) < np.mean(lasts["medium"]) < np.mean(lasts["long"])
    assert min(map(min, lasts.values())) > 0.4
    assert max(map(max, lasts.values())) < 6
