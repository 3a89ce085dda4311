"""Sync-C and Sync-D by SyncNet, under the two protocols in use. Their values must not be compared.

    mocha        MoChaBench: the speech file; the greatest confidence and the least distance over face tracks
    latentsync   LatentSync: the video's own audio; the mean over face tracks

A clip without a face track has no value: MoChaBench writes 0 for it, which would be the best Sync-D.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np

from humo.analysis.face_tracks import TrackRules
from humo.analysis.networks.s3fd import S3FD, load_s3fd
from humo.analysis.networks.syncnet import SyncNet, load_syncnet
from humo.analysis.sync_scores import SyncScore, detect_all, score_video
from humo.analysis.weights import load_weights
from humo.evaluation.context import CaseContext
from humo.evaluation.metric import Direction, Measurement, Metric, Need, NotApplicableError, Protocol, curve_of

RULES = {
    "mocha": TrackRules(min_frames=50, ends_at_misfit=True),
    "latentsync": TrackRules(min_frames=50, ends_at_misfit=False),
}
"""Protocol -> rules of its tracker."""

AUDIO = {"mocha": "the case's speech or audio, else the video's", "latentsync": "the video's"}
"""Protocol -> audio that is compared."""

Aggregate = Callable[[list[SyncScore]], float]

AGGREGATES: dict[str, Aggregate] = {
    "greatest confidence": lambda scores: max(score.confidence for score in scores),
    "least distance": lambda scores: min(score.distance for score in scores),
    "mean confidence": lambda scores: float(np.mean([score.confidence for score in scores])),
    "mean distance": lambda scores: float(np.mean([score.distance for score in scores])),
    "offset of the most confident track": lambda scores: float(max(scores, key=lambda one: one.confidence).offset),
}
"""Name in the protocol -> value of a clip from the scores of its face tracks."""


def measure(context: CaseContext, protocol: Protocol, *, variant: str) -> Measurement:
    """Return one of SyncNet's scores.

    Args:
        context: the case.
        protocol: settings; ``aggregation`` is one of `AGGREGATES`.
        variant: ``mocha`` or ``latentsync``.
    """
    scores = context.once(f"syncnet {variant}", lambda: _scores(context, variant))
    if isinstance(scores, str):
        return Measurement(None, scores)
    best = max(scores, key=lambda score: score.confidence)
    curve = np.full(len(context.frames), np.nan)
    if best.track is not None:
        start = int(best.track.frames[0]) + 2  # the middle of a window of five frames
        curve = curve_of(len(context.frames), np.arange(start, start + len(best.by_window)), best.by_window)
    details = {"tracks": float(len(scores)), "offset": float(best.offset)}
    value = AGGREGATES[protocol["aggregation"]](scores)
    return Measurement(value, frames=len(best.by_window), details=details, curves={"confidence": curve})


def _scores(context: CaseContext, variant: str) -> list[SyncScore] | str:
    """Return the scores of all face tracks, or why there are none."""
    audio = context.speech if variant == "mocha" else context.own_audio
    if audio is None:
        raise NotApplicableError(f"there is no audio ({AUDIO[variant]})")
    detections = context.once("s3fd", lambda: detect_all(_detector(context.device), context.frames, context.device))
    if not any(detections):
        return "no face is detected in any frame"
    rules = RULES[variant]
    scores = score_video(_network(context.device), context.frames, detections, audio, rules, context.device)
    if not scores:
        return f"no face is followed for more than {rules.min_frames} frames at more than 100 pixels"
    return scores


@cache
def _network(device: str) -> SyncNet:
    return load_syncnet(load_weights("syncnet_v2")).to(device)


@cache
def _detector(device: str) -> S3FD:
    return load_s3fd(load_weights("sfd_face")).to(device)


def _metric(name: str, summary: str, better: Direction, aggregation: str, unit: str = "") -> Metric:
    variant = name.partition(".")[2]
    return Metric(
        name,
        1,
        summary,
        better,
        {
            "network": "SyncNet v2, float32",
            "faces": "S3FD at a quarter of the size, score 0.9",
            "tracks": f"overlap 0.5, 25 missed frames, over {RULES[variant].min_frames} frames, over 100 pixels",
            "ends_at_misfit": RULES[variant].ends_at_misfit,
            "crop": "scale 0.4, gray 110, median of 13 frames, 224 pixels, not compressed again",
            "audio": AUDIO[variant],
            "lags": "-15 to 15 frames",
            "aggregation": aggregation,
            "frames": "every frame at 25 a second",
        },
        partial(measure, variant=variant),
        frozenset({Need.AUDIO}),
        ("syncnet_v2", "sfd_face"),
        unit=unit,
    )


METRICS = (
    _metric("sync_c.mocha", "SyncNet's confidence as MoChaBench computes it", Direction.UP, "greatest confidence"),
    _metric("sync_d.mocha", "SyncNet's distance as MoChaBench computes it", Direction.DOWN, "least distance"),
    _metric("sync_c.latentsync", "SyncNet's confidence as LatentSync computes it", Direction.UP, "mean confidence"),
    _metric("sync_d.latentsync", "SyncNet's distance, the mean over tracks", Direction.DOWN, "mean distance"),
    _metric(
        "sync_offset.latentsync",
        "lag of the audio that SyncNet finds",
        Direction.ZERO,
        "offset of the most confident track",
        "frames",
    ),
)
"""Metrics of this module."""
