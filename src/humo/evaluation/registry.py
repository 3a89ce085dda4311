"""All metrics and suites. A new metric is a value in a module of `humo.evaluation.metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from humo.errors import RequestError, did_you_mean
from humo.evaluation.metric import Metric
from humo.evaluation.metrics import (
    face_networks,
    ground_truth,
    identity,
    lips,
    perceptual,
    steadiness,
    syncnet,
    text_alignment,
)
from humo.evaluation.metrics.judge import judge_metric

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for module in (lips, identity, steadiness, ground_truth, perceptual, text_alignment, face_networks, syncnet)
    for metric in module.METRICS
}
"""Name -> metric."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of metrics with a name.

    Args:
        summary: what it is for.
        metrics: names of `METRICS`.
    """

    summary: str
    metrics: tuple[str, ...]


def _names(*modules: object) -> tuple[str, ...]:
    return tuple(metric.name for module in modules for metric in module.METRICS)  # type: ignore[attr-defined]


_LIP_METRICS = ("face_detection_rate", "mouth_jaw_corr", "mouth_jaw_corr_mismatched", "av_offset")

SUITES: Mapping[str, Suite] = {
    "offline": Suite("everything that needs no weights to download", _names(lips, identity, steadiness)),
    "rendered": Suite(
        "offline, and comparisons with the ground truth of rendered clips",
        _names(lips, identity, steadiness, ground_truth),
    ),
    "paper": Suite(
        "the paper's metrics, under named protocols; they need weights",
        (
            "aes.vbench",
            "iqa.musiq_spaq",
            "tva.videoreward",
            "id.curricular",
            "id.glint",
            "clip_i.vit_l_14",
            "dino_i.v2_base",
            "sync_c.mocha",
            "sync_d.mocha",
        ),
    ),
    "sync": Suite("SyncNet's scores under both protocols, and the built-in ones", (*_names(syncnet), *_LIP_METRICS)),
    "all": Suite("every metric", tuple(METRICS)),
}
"""Name -> suite."""

DEFAULT_SUITE = "offline"
"""Suite that is used if none is named."""


def select_metrics(
    suite: str, names: Sequence[str] = (), frames: int | None = None, judge: tuple[str, str] | None = None
) -> list[Metric]:
    """Return the metrics of a suite, or those with the given names.

    Args:
        suite: name of `SUITES`.
        names: names of metrics; they replace the suite.
        frames: number of evenly spaced frames for metrics that take every frame as published; None for every frame.
        judge: endpoint and model that add a structure score.

    Raises:
        RequestError: a name is unknown.
    """
    if suite not in SUITES:
        raise RequestError("--suite", f"{suite!r} is unknown", did_you_mean(suite, SUITES))
    for name in names:
        if name not in METRICS:
            raise RequestError("--metrics", f"{name!r} is unknown", did_you_mean(name, METRICS))
    chosen = [METRICS[name].with_frames(frames) for name in dict.fromkeys(names or SUITES[suite].metrics)]
    return chosen if judge is None else [*chosen, judge_metric(*judge)]
