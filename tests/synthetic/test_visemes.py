"""Faces animated from phonemes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from humo.geometry import SAMPLE_RATE
from humo.synthetic import sentences
from humo.synthetic.speech.face_track import FACE_UNIT_INDEX, FaceTrack
from humo.synthetic.speech.synthesis import Phoneme, Speech, find_voice, synthesize
from humo.synthetic.speech.visemes import animate_face, target_jaw_opening, visemes_of

TEXTS = (
    "My mother bought five beautiful apples today.",
    "Please put the blue paper box behind the window.",
    "Nobody remembers what happened before the summer.",
    "The happy dog jumped over a muddy puddle near the farm.",
)
VOICES = ("espeak en-us", "espeak gmw/en+f3", "hibari heart", "hibari bass")


def animate(speech: Speech, seed: int = 0) -> tuple[FaceTrack, NDArray[np.float64]]:
    """Return the animated face, and the time of each frame in seconds."""
    frames = int(speech.seconds * 25)
    return animate_face(speech.phonemes, speech.samples, frames, seed), (np.arange(frames) + 0.5) / 25


def unit(track: FaceTrack, name: str) -> NDArray[np.float32]:
    """Return one face unit over time."""
    return track.units[:, FACE_UNIT_INDEX[name]]


@pytest.mark.parametrize("name", VOICES)
def test_the_jaw_opens_with_the_phonemes_at_lag_zero(name: str) -> None:
    jaws, targets = [], []
    for text in TEXTS:
        track, times = animate(speech := synthesize(text, find_voice(name)))
        jaws.append(unit(track, "jawOpen"))
        targets.append(target_jaw_opening(speech.phonemes, times))

    def correlation(lag: int) -> float:
        ends = slice(4, -4)
        return float(
            np.mean(
                [
                    np.corrcoef(np.roll(jaw, -lag)[ends], target[ends])[0, 1]
                    for jaw, target in zip(jaws, targets, strict=True)
                ]
            )
        )

    lags = {lag: correlation(lag) for lag in range(-3, 4)}
    assert max(lags, key=lambda lag: lags[lag]) == 0
    assert lags[0] > 0.75


@pytest.mark.parametrize("name", VOICES)
def test_lips_close_on_p_b_m_touch_the_teeth_on_f_v_and_open_on_open_vowels(name: str) -> None:
    counts = {"p": 0, "f": 0, "ɑ": 0}
    for text in TEXTS:
        track, times = animate(speech := synthesize(text, find_voice(name)))
        for phoneme in speech.phonemes:
            first = visemes_of(phoneme.symbol)[0]
            near = np.abs(times - (phoneme.start + phoneme.end) / 2) <= 0.0201
            if first not in counts or not near.any():
                continue
            counts[first] += 1
            lower, upper = unit(track, "mouthRollLower")[near], unit(track, "mouthRollUpper")[near]
            jaw = unit(track, "jawOpen")[near]
            if first == "p":
                assert upper.max() > 0.43
                assert jaw.min() < 0.06
            elif first == "f":
                assert lower.max() > 0.6
                assert upper.min() < 0.15
            elif phoneme.end - phoneme.start > 0.12:
                assert jaw.max() > 0.4
                assert upper.min() < 0.2
    assert all(counts.values())


def test_frame_f_shows_the_time_f_plus_a_half() -> None:
    loud = np.full(2 * SAMPLE_RATE, 0.3, np.float32)
    for frame in (20, 25, 30):
        middle = (frame + 0.5) / 25
        phonemes = (
            Phoneme("", 0, middle - 0.1),
            Phoneme("ɑ", middle - 0.1, middle + 0.1),
            Phoneme("", middle + 0.1, 2),
        )
        jaw = unit(animate_face(phonemes, loud, 50, 0), "jawOpen")
        assert int(jaw.argmax()) == frame
        np.testing.assert_allclose(jaw[frame - 6 : frame], jaw[frame + 6 : frame : -1], atol=1e-3)


def test_rounded_phonemes_round_the_lips_and_spread_phonemes_spread_them() -> None:
    loud = np.full(SAMPLE_RATE, 0.3, np.float32)
    puckers, spreads = {}, {}
    for symbol in ("w", "uː", "i", "s", "ɑ"):
        track = animate_face((Phoneme("", 0, 0.4), Phoneme(symbol, 0.4, 0.6), Phoneme("", 0.6, 1)), loud, 25, 0)
        puckers[symbol] = unit(track, "mouthPucker")[12]
        spreads[symbol] = unit(track, "mouthStretchLeft")[12]
    assert min(puckers["w"], puckers["uː"]) > 0.7 > 0.1 > max(puckers["i"], puckers["s"], puckers["ɑ"])
    assert spreads["i"] > 0.4 > 0.1 > spreads["uː"]


def test_silence_closes_the_mouth() -> None:
    track = animate_face((), np.zeros(4 * SAMPLE_RATE, np.float32), 100, 0)
    assert unit(track, "jawOpen").max() == 0
    speech = synthesize("Hello there.", find_voice("espeak en-us"))
    after = animate_face(speech.phonemes, np.pad(speech.samples, (0, SAMPLE_RATE)), int(speech.seconds * 25) + 25, 0)
    assert unit(after, "jawOpen")[-20:].max() < 0.02


def test_louder_speech_opens_the_jaw_wider() -> None:
    samples = np.concatenate([np.full(SAMPLE_RATE, level, np.float32) for level in (0.03, 0.5)])
    phonemes = [Phoneme("ɑ", 0.5 * number, 0.5 * number + 0.5) for number in range(4)]
    jaw = unit(animate_face(phonemes, samples, 50, 0), "jawOpen")
    assert jaw[35] > jaw[10] + 0.15


def test_blinks_last_three_to_five_frames_two_to_eight_seconds_apart() -> None:
    starts, lengths = [], []
    for seed in range(4):
        closed = unit(animate_face((), np.zeros(0, np.float32), 2500, seed), "eyeBlinkLeft") > 0
        edges = np.flatnonzero(np.diff(np.concatenate([[0], closed.astype(int), [0]])))
        starts.append(edges[::2])
        lengths += list(edges[1::2] - edges[::2])
    assert set(lengths) <= {3, 4, 5}
    gaps = np.concatenate([np.diff(blink_starts) for blink_starts in starts]) / 25
    assert gaps.min() > 1.9
    assert gaps.max() < 8.1


def test_the_head_moves_slowly_and_brows_rise_on_stress() -> None:
    speech = synthesize(" ".join(TEXTS), find_voice("espeak en-us"))
    track, _ = animate(speech)
    assert 0.01 < track.head.std(0).max() < 0.15
    assert np.abs(np.diff(track.head, axis=0)).max() < 0.04
    assert unit(track, "browInnerUp").max() > 0.2
    assert np.abs(track.gaze).max() <= 0.3


def test_the_seed_determines_a_track() -> None:
    speech = synthesize(TEXTS[0], find_voice("espeak en-us"))
    (track, _), (repeated, _), (other, _) = (animate(speech, seed) for seed in (1, 1, 2))
    for name in ("units", "head", "gaze"):
        np.testing.assert_array_equal(getattr(track, name), getattr(repeated, name))
    assert not np.array_equal(track.head, other.head)
    np.testing.assert_array_equal(unit(track, "jawOpen"), unit(other, "jawOpen"))


def test_a_mood_changes_the_face_but_not_the_jaw() -> None:
    speech = synthesize(TEXTS[0], find_voice("espeak en-us"))
    neutral, smile = (
        animate_face(speech.phonemes, speech.samples, 60, 3, mood=mood) for mood in ("neutral", "smiling")
    )
    assert unit(smile, "mouthSmileLeft").min() > 0.3 > 0 == unit(neutral, "mouthSmileLeft").max()
    np.testing.assert_array_equal(unit(neutral, "jawOpen"), unit(smile, "jawOpen"))


def test_every_phoneme_of_every_accent_has_a_viseme() -> None:
    random = np.random.default_rng(0)
    symbols = set()
    for name in (
        "espeak en-us",
        "espeak gmw/en+f3",
        "espeak gmw/en-GB-scotland+f1",
        "espeak gmw/en-US-nyc+michel",
        "hibari heart",
    ):
        for _ in range(6):
            speech = synthesize(sentences.generate_sentence(random, "long"), find_voice(name))
            symbols |= {phoneme.symbol for phoneme in speech.phonemes if phoneme.symbol}
    assert len(symbols) > 45
    assert not [symbol for symbol in symbols if visemes_of(symbol) == ("rest",)]
