"""Lips against audio: the offset between them, and how surely the person in the video is the one who speaks.

The built-in judge correlates the mouth of a face mesh with the jaw that the audio implies
(`humo.analysis.lip_sync`). Its regression was fitted to rendered people; on recordings it has to be compared with
SyncNet, the other judge, by those who have its weights. Reports name the judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from humo.analysis.face_tracks import TrackRules, crop_track, find_tracks
from humo.analysis.lip_sync import MIN_JAW_STD, best_agreement, correlation, correlation_by_lag, predict_jaw
from humo.analysis.mesh_track import Curve, Frames
from humo.analysis.weights import load_weights
from humo.data.build_recipe import SyncConfig
from humo.data.people import Person
from humo.data.tasks import Values
from humo.geometry import SAMPLE_RATE, SAMPLES_PER_FRAME
from humo.media.audio import AudioSamples

OFFSET_TOLERANCE = 0.03
"""Correlation that a smaller offset may lack: neighboring offsets correlate alike, and most audio is in step."""

ENCODED_SAMPLES = 30 * SAMPLE_RATE
"""Audio is filled with zeros to a multiple of this: the encoder's rows drift by up to a frame over short audio."""

TRACK_RULES = TrackRules(min_frames=24, ends_at_misfit=False)
"""Rules of the face tracks that SyncNet reads; only the length differs from LatentSync's, for short clips."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of lips and audio.

    Args:
        offset: frames by which the lips are late.
        value: the judge's score at that offset.
        scores: named values for ``scores.parquet``.
    """

    offset: int
    value: float
    scores: Values


class Judge(Protocol):
    """Compares lips and audio; networks are loaded at first use."""

    name: str
    """Name in scores and reports."""

    nothing: Values
    """Scores of a clip without a face or without speech."""

    def lips(self, frames: Frames, person: Person) -> Any:
        """Return what `compare` needs of a clip's frames; None without a face."""

    def compare(self, lips: Any, samples: AudioSamples, margin: int) -> Agreement | None:
        """Return the agreement at the best offset; None if nobody speaks.

        Args:
            lips: from `lips`.
            samples: mono at 16 kHz.
            margin: frames of audio before and after the clip.
        """


class MeshJudge:
    """The mouth of a face mesh against the jaw that the audio implies.

    Args:
        max_offset: largest offset in frames, in both directions.
    """

    name = "mesh and implied jaw"
    nothing: Values = {"sync": 0.0, "sync_margin": 0.0}

    def __init__(self, max_offset: int) -> None:
        self._max_offset = max_offset

    def lips(self, frames: Frames, person: Person) -> Curve | None:
        """Return the mouth's shape in every frame."""
        return person.mouth

    def compare(self, lips: Curve, samples: AudioSamples, margin: int) -> Agreement | None:
        """Return the smallest offset among the best ones, by `OFFSET_TOLERANCE`."""
        jaw = predict_jaw(np.pad(samples, (0, -len(samples) % ENCODED_SAMPLES)))[: len(samples) // SAMPLES_PER_FRAME]
        if len(jaw) < len(lips) + 2 * margin or jaw.std() < MIN_JAW_STD:
            return None
        if margin:
            lags = range(-margin, margin + 1)
            by_lag = {lag: correlation(lips, jaw[margin - lag : margin - lag + len(lips)]) for lag in lags}
        else:
            by_lag = correlation_by_lag(lips, jaw, self._max_offset)
        best = best_agreement(by_lag, OFFSET_TOLERANCE)
        scores = {"sync": round(best.peak, 4), "sync_margin": round(best.margin, 4)}
        return Agreement(best.offset, scores["sync"], scores)


class SyncNetJudge:
    """SyncNet's confidence, with the published face detector, tracker and crop.

    Args:
        max_offset: not used; SyncNet searches 15 frames in both directions.
    """

    name = "SyncNet v2"
    nothing: Values = {"sync_confidence": 0.0, "sync_distance": None}

    def __init__(self, max_offset: int) -> None:
        del max_offset

    def lips(self, frames: Frames, person: Person) -> tuple[Frames, int] | None:
        """Return the crops of the longest face track, and the number of their first frame."""
        from humo.analysis.sync_scores import detect_all

        tracks = find_tracks(detect_all(self._detector, frames), TRACK_RULES)
        if not tracks:
            return None
        track = max(tracks, key=lambda each: len(each.frames))
        return crop_track(frames, track), int(track.frames[0])

    def compare(self, lips: tuple[Frames, int], samples: AudioSamples, margin: int) -> Agreement | None:
        """Return SyncNet's scores; its offsets count the other way round."""
        from humo.analysis.sync_scores import as_int16, score_lips

        crops, first = lips
        start = (margin + first) * SAMPLES_PER_FRAME
        score = score_lips(self._network, crops, as_int16(samples[start : start + len(crops) * SAMPLES_PER_FRAME]))
        if score is None:
            return None
        scores = {"sync_confidence": round(score.confidence, 4), "sync_distance": round(score.distance, 4)}
        return Agreement(-score.offset, scores["sync_confidence"], scores)

    @cached_property
    def _network(self) -> Any:
        from humo.analysis.networks.syncnet import load_syncnet

        return load_syncnet(load_weights("syncnet_v2"))

    @cached_property
    def _detector(self) -> Any:
        from humo.analysis.networks.s3fd import load_s3fd

        return load_s3fd(load_weights("sfd_face"))


JUDGES: dict[str, Callable[[int], Judge]] = {"mesh": MeshJudge, "syncnet": SyncNetJudge}
"""Value of ``sync.judge`` in a recipe -> the judge."""


class SyncScorer:
    """Scores of the stage ``sync``.

    Args:
        config: of the recipe.
    """

    def __init__(self, config: SyncConfig) -> None:
        self._judge = JUDGES[config.judge](config.max_offset)
        self.margin = config.max_offset
        """Frames of audio that are needed before and after a clip."""

    def scores(self, frames: Frames, person: Person, samples: AudioSamples | None) -> tuple[Values, int]:
        """Return the scores, and the frames by which the audio has to be moved.

        Args:
            frames: of the clip.
            person: its person.
            samples: mono at 16 kHz, from `margin` frames before the clip to as much after it.

        Returns:
            the judge's scores before the audio is moved; ``offset``: frames by which the lips were late;
            ``sync_after``, ``offset_left``: the score and the offset that are measured after the audio was moved.
        """
        judge = self._judge
        values: Values = {**judge.nothing, "offset": 0, "sync_after": 0.0, "offset_left": 0, "judge": judge.name}
        lips = None if samples is None else judge.lips(frames, person)
        before = None if lips is None or samples is None else judge.compare(lips, samples, self.margin)
        if before is None or samples is None:
            return values, 0
        shift = before.offset if abs(before.offset) <= self.margin else 0
        after = judge.compare(lips, self.moved(samples, shift, len(frames)), 0) if shift else before
        values |= {**before.scores, "offset": before.offset, "offset_left": None}
        if after is not None:
            values |= {"sync_after": after.value, "offset_left": after.offset}
        return values, shift

    def moved(self, samples: AudioSamples, offset: int, frames: int) -> AudioSamples:
        """Return the samples of a clip after its audio was moved by ``offset`` frames; positive: later."""
        start = (self.margin - offset) * SAMPLES_PER_FRAME
        return samples[start : start + frames * SAMPLES_PER_FRAME]
