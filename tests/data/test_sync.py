"""The judges of lips and audio: offsets that are known, clips of any length, moved audio, SyncNet's scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humo.analysis.lip_sync import predict_jaw
from humo.data import sync
from humo.data.build_recipe import SyncConfig, Thresholds
from humo.data.people import Person
from humo.data.sync import SyncNetJudge, SyncScorer
from humo.data.thresholds import failures
from humo.media.audio import AudioSamples
from humo.media.clip_reader import read_clip

MARGIN = 6


def _person(mouth: Any, frames: int) -> Person:
    """Return a person with a given mouth curve."""
    person = Person((None,) * frames, (1,), 96)
    person.__dict__["mouth"] = mouth  # where functools keeps it
    return person


@pytest.fixture(scope="module")
def samples() -> AudioSamples:
    clip = read_clip(Path(__file__).parents[2] / "docs" / "nano-woman.mp4")
    assert clip.audio is not None
    voice = clip.audio.samples[0]
    return np.resize(np.concatenate([voice, voice[::-1]]), 125 * 640).astype(np.float32)


@pytest.mark.parametrize("frames", [89, 101])
@pytest.mark.parametrize("offset", [-6, -1, 0, 3])
def test_audio_is_moved_by_its_offset_and_is_in_step_afterwards(
    frames: int, offset: int, samples: AudioSamples
) -> None:
    audio = samples[: (frames + 2 * MARGIN) * 640]
    jaw = predict_jaw(np.pad(samples, (0, sync.ENCODED_SAMPLES - len(samples))))
    mouth = jaw[MARGIN - offset : MARGIN - offset + frames]
    scorer = SyncScorer(SyncConfig(max_offset=MARGIN))
    scores, shift = scorer.scores(np.zeros((frames, 8, 8, 3), np.uint8), _person(mouth, frames), audio)
    assert shift == scores["offset"]
    assert abs(shift - offset) <= 1
    assert shift == offset or offset, "audio in step is not moved"
    assert abs(scores["offset_left"]) <= 1
    assert min(scores["sync"], scores["sync_after"]) > 0.9


def test_a_clip_without_a_face_is_out_of_sync(samples: AudioSamples) -> None:
    scores, shift = SyncScorer(SyncConfig()).scores(np.zeros((5, 8, 8, 3), np.uint8), _person(None, 5), samples)
    reasons = {rule.reason for rule in failures(scores, Thresholds(), "talking")}
    assert shift == 0
    assert "out-of-sync" in reasons


def test_syncnet_reads_the_longest_track_and_moves_no_audio_beyond_the_bound(
    samples: AudioSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from humo.analysis import sync_scores
    from humo.analysis.networks.syncnet import SyncNet

    torch.manual_seed(0)
    monkeypatch.setattr(SyncNetJudge, "_network", SyncNet().eval())
    monkeypatch.setattr(SyncNetJudge, "_detector", None)
    face = [20.0, 20.0, 140.0, 140.0, 1.0]
    monkeypatch.setattr(sync_scores, "detect_all", lambda network, frames: [[face]] * len(frames))
    frames = np.random.default_rng(0).integers(0, 255, (30, 160, 160, 3)).astype(np.uint8)
    scorer = SyncScorer(SyncConfig(judge="syncnet", max_offset=0))
    scores, shift = scorer.scores(frames, _person(None, 30), samples[: 30 * 640])
    assert shift == 0
    assert scores["judge"] == sync.SyncNetJudge.name
    assert scores["offset_left"] == scores["offset"]
    assert scores["sync_distance"] > 0
    assert "sync" not in scores
    reasons = [rule.bound for rule in failures(scores, Thresholds(min_sync_confidence=1e6), "talking")]
    assert "min_sync_confidence" in reasons
