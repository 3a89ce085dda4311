"""Synthesized speech, its phoneme times, and the generated sentences."""

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
from humo.synthetic.speech.synthesis import VOICES, Speech, Voice, find_voice, installed_voices, synthesize
from humo.synthetic.speech.visemes import visemes_of

TEXT = "She sees six small ships."
FRICATIVES_TEXT = "She sees six small ships sailing south, and seven scissors lay on the glass shelf."
STEP_SECONDS = 0.005


def fingerprint(speech: Speech) -> str:
    """Return the checksum of the samples, followed by the phonemes."""
    return hashlib.sha256(speech.samples.tobytes()).hexdigest() + str(speech.phonemes)


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_phonemes_of_every_voice_cover_the_whole_utterance(voice: Voice) -> None:
    speech = synthesize(TEXT, voice)
    assert speech.samples.dtype == np.float32
    assert 0.05 < np.abs(speech.samples).max() <= 1
    assert 0.8 < speech.seconds < 6
    assert speech.phonemes[0].start == 0
    assert speech.phonemes[-1].end == pytest.approx(speech.seconds, abs=1e-3)
    assert all(phoneme.end == following.start for phoneme, following in pairwise(speech.phonemes))
    assert sum(visemes_of(phoneme.symbol)[0] in ("s", "ʃ") for phoneme in speech.phonemes) >= 6
    assert any(phoneme.stress == 2 for phoneme in speech.phonemes)


@pytest.mark.parametrize("name", ["espeak en-us+anika", "espeak en-us+klatt2", "hibari bass"])
def test_speech_does_not_depend_on_earlier_speech_or_the_process(name: str) -> None:
    first = fingerprint(synthesize(TEXT, find_voice(name)))
    synthesize("Something else, said before.", find_voice(name), pitch=1.1)
    assert fingerprint(synthesize(TEXT, find_voice(name))) == first
    code = (
        f"from tests.synthetic.test_speech import *\nprint(fingerprint(synthesize(TEXT, find_voice({name!r}))), end='')"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert other.stdout.decode() == first


def test_each_synthesizer_has_held_out_voices_of_both_genders() -> None:
    trained = [voice for voice in VOICES if not voice.is_held_out]
    assert len(trained) >= 14
    for engine in ("espeak", "hibari"):
        held_out = [voice for voice in VOICES if voice.is_held_out and voice.engine == engine]
        assert {voice.gender for voice in held_out} == {"woman", "man"}
    assert len({voice.name for voice in VOICES}) == len(VOICES)


def test_every_espeak_variant_is_in_its_package() -> None:
    """espeak-ng ignores an unknown variant without an error."""
    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    for voice in VOICES:
        _, _, variant = voice.espeak_voice.partition("+")
        assert not variant or (variants / variant).is_file(), voice.name


@pytest.mark.parametrize(
    ("name", "max_lag_ms"), [("espeak en-us", 5), ("espeak en-us+f4", 5), ("hibari heart", 20), ("hibari bass", 25)]
)
def test_times_of_fricatives_agree_with_energy_above_4_khz(name: str, max_lag_ms: float) -> None:
    """Energy above 4 kHz agrees best with the fricatives' times at a lag of at most ``max_lag_ms``."""
    speech = synthesize(FRICATIVES_TEXT, find_voice(name))
    window = 320
    padded = np.pad(speech.samples, window // 2)
    hop = round(STEP_SECONDS * SAMPLE_RATE)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(pieces, axis=1)) ** 2
    hertz = np.fft.rfftfreq(window, 1 / SAMPLE_RATE)
    high_energy = np.log(power[:, hertz > 4000].sum(1) + 1e-6) - np.log(power[:, hertz < 3000].sum(1) + 1e-6)
    times = np.arange(len(high_energy)) * STEP_SECONDS
    phonemes = [phoneme for phoneme in speech.phonemes if phoneme.symbol]
    inside = (times > phonemes[0].start) & (times < phonemes[-1].end)
    correlation = {}
    for lag in range(-20, 21):
        expected = np.zeros(len(high_energy))
        for phoneme in phonemes:
            if visemes_of(phoneme.symbol)[0] in ("s", "ʃ"):
                start, end = phoneme.start + lag * STEP_SECONDS, phoneme.end + lag * STEP_SECONDS
                expected[(times >= start) & (times < end)] = 1
        correlation[lag] = np.corrcoef(expected[inside], high_energy[inside])[0, 1]
    best = max(correlation, key=lambda lag: correlation[lag])
    assert abs(best) * STEP_SECONDS * 1000 <= max_lag_ms
    assert correlation[best] > 0.4


def test_rate_pitch_and_liveliness_change_the_samples() -> None:
    for name in ("espeak en-us", "hibari heart"):
        voice = find_voice(name)
        plain = synthesize(TEXT, voice)
        assert synthesize(TEXT, voice, rate=1.25).seconds < 0.92 * plain.seconds
        assert not np.array_equal(synthesize(TEXT, voice, pitch=1.2).samples, plain.samples)
        assert not np.array_equal(synthesize(TEXT, voice, liveliness=0.2).samples, plain.samples)


def test_invalid_arguments_are_errors_that_name_the_field() -> None:
    voice = find_voice("espeak en-us")
    with pytest.raises(RequestError, match=r"rate: 3 is not allowed; allowed: 0.6 to 1.6"):
        synthesize(TEXT, voice, rate=3)
    with pytest.raises(RequestError, match=r"text: .*has no letters or digits"):
        synthesize(" ... ", voice)
    with pytest.raises(RequestError, match="did you mean 'hibari bass'"):
        find_voice("hibari bas")
    with pytest.raises(DependencyError, match="has no voice"):
        synthesize(TEXT, Voice("nobody", "espeak", "man", espeak_voice="xx-nowhere"))


def test_without_hibari_only_the_voices_of_espeak_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    assert {voice.engine for voice in installed_voices()} == {"espeak"}
    hibari._load.cache_clear()
    with pytest.raises(DependencyError, match="pip install"):
        synthesize(TEXT, find_voice("hibari heart"))


def test_without_espeak_the_error_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DependencyError, match=r"pip install 'humo-video\[synthetic\]'"):
        installed_voices()
    with pytest.raises(DependencyError, match=r"pip install 'humo-video\[synthetic\]'"):
        synthesize(TEXT, find_voice("espeak en-us"))


def test_another_release_of_the_network_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hibari, "DURATIONS_TENSOR", "/Cast_0_output_9")
    hibari._load.cache_clear()
    with pytest.raises(DependencyError, match=r"is not release 0\.2\.1"):
        synthesize(TEXT, find_voice("hibari heart"))


def test_sentences_rarely_repeat_and_a_tenth_is_held_out() -> None:
    random = np.random.default_rng(0)
    for length in ("medium", "long"):
        drawn = [sentences.generate_sentence(random, length) for _ in range(2000)]
        assert len(set(drawn)) > 1950
        assert 0.07 < np.mean([sentences.is_held_out(text) for text in drawn]) < 0.13
        assert all(text[0].isupper() and text[-1] in ".?!" and "{" not in text for text in drawn)
    held_out, trained = (
        {sentences.draw_sentence(random, length, held_out=side) for length in sentences.LENGTHS for _ in range(300)}
        for side in (True, False)
    )
    assert not {text.lower().strip(".?!") for text in held_out} & {text.lower().strip(".?!") for text in trained}


def test_sentences_last_one_to_six_seconds() -> None:
    random = np.random.default_rng(1)
    voice = find_voice("espeak en-us")
    durations = {
        length: [synthesize(sentences.generate_sentence(random, length), voice).seconds for _ in range(8)]
        for length in sentences.LENGTHS
    }
    assert np.mean(durations["short"]) < np.mean(durations["medium"]) < np.mean(durations["long"])
    assert min(map(min, durations.values())) > 0.4
    assert max(map(max, durations.values())) < 6
