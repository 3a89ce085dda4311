"""Metrics of clips of rendered people, whose ground truth is known: jaw curve, frames, visible attributes."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from humo.analysis.lip_sync import MIN_JAW_STD, correlation
from humo.analysis.mesh_track import Frames, track_faces
from humo.analysis.stability import temporal_flicker
from humo.evaluation.attribute_classifier import ATTRIBUTES, AttributeClassifier, attribute_value, load_classifier
from humo.evaluation.context import CaseContext, face_mesh
from humo.evaluation.metric import FRACTION, Direction, Measurement, Metric, Need, NotApplicableError, Protocol
from humo.evaluation.metrics.lips import MESH_PROTOCOL
from humo.media.clip_reader import read_clip
from humo.training.dataset import read_truth


def measure_true_lips(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the correlation of the mouth with the true jaw curve."""
    assert context.case.truth is not None
    curve = read_truth(context.case.truth).mouth
    if curve is None:
        raise NotApplicableError("the ground truth has no jaw curve")
    jaw = curve[: len(context.frames), 0].astype(np.float64)
    if jaw.std() < MIN_JAW_STD:
        raise NotApplicableError("the jaw does not move")
    mouth = context.mesh.mouth_aspect
    if mouth is None:
        rate = 100 * context.mesh.detection_rate
        return Measurement(None, f"a face is detected in {rate:.0f} % of the frames only")
    mouth = mouth[: len(jaw)]
    return Measurement(correlation(mouth, jaw), frames=len(jaw), curves={"mouth": mouth, "jaw": jaw})


def measure_flicker_ratio(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the temporal flicker over that of the true clip."""
    truth = _true_flicker(_truth_video(context), len(context.frames))
    if truth <= 0:
        return Measurement(None, "the true clip does not change at all")
    return Measurement(temporal_flicker(context.mesh) / truth, frames=len(context.frames))


def measure_psnr(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the peak signal-to-noise ratio to the true clip."""
    truth = _true_frames(_truth_video(context))
    if truth.shape[1:] != context.frames.shape[1:]:
        size, own = (f"{frames.shape[2]} x {frames.shape[1]}" for frames in (truth, context.frames))
        return Measurement(None, f"the video is {own} pixels, the true clip {size}")
    count = min(len(truth), len(context.frames))
    return Measurement(psnr(context.frames[:count], truth[:count]), frames=count)


def measure_attribute(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return 1 if the classifier sees the attribute that the prompt asks for, else 0."""
    name = str(protocol["attribute"])
    if name not in context.case.attributes:
        raise NotApplicableError("the case does not name the attribute")
    predicted = context.once("attributes", lambda: _classifier().classify(context.frames))
    return Measurement(float(predicted[name] == attribute_value(name, context.case.attributes[name])))


def psnr(a: Frames, b: Frames) -> float:
    """Return the peak signal-to-noise ratio of two clips in dB."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _truth_video(context: CaseContext) -> Path:
    path = context.case.truth_video
    if path is None:
        raise NotApplicableError("the case has no true clip")
    return path


@lru_cache(maxsize=2)
def _true_frames(path: Path) -> Frames:
    return read_clip(path, field="truth_video").frames


@cache
def _true_flicker(path: Path, count: int) -> float:
    return temporal_flicker(track_faces(_true_frames(path)[:count], face_mesh()))


@cache
def _classifier() -> AttributeClassifier:
    return load_classifier()


TRUTH_NEEDS = frozenset({Need.TRUTH})
EVERY_FRAME = "every frame at 25 a second"


def _attribute_metric(name: str) -> Metric:
    shown = name.replace("colour", "color")  # word kept: columns of corpora
    return Metric(
        f"attribute.{shown}",
        1,
        f"whether {shown.replace('_', ' ')} is the one of the prompt, as a classifier of rendered people sees it",
        Direction.UP,
        {"attribute": name, "network": "attributes.safetensors", "frames": 4},
        measure_attribute,
        unit=FRACTION,
        low=0,
        high=1,
    )


METRICS = (
    Metric(
        "mouth_true_jaw_corr",
        1,
        "correlation of the mouth with the true jaw curve",
        Direction.UP,
        {**MESH_PROTOCOL, "min_jaw_std": MIN_JAW_STD, "frames": EVERY_FRAME},
        measure_true_lips,
        TRUTH_NEEDS,
        low=0,
        high=1,
    ),
    Metric(
        "flicker_ratio",
        1,
        "temporal flicker over that of the true clip",
        Direction.DOWN,
        {"masked": "mouth and eyes of the face mesh, enlarged by 0.6", "frames": EVERY_FRAME},
        measure_flicker_ratio,
        TRUTH_NEEDS,
        low=0,
    ),
    Metric(
        "psnr",
        1,
        "peak signal-to-noise ratio to the true clip",
        Direction.UP,
        {"frames": EVERY_FRAME},
        measure_psnr,
        TRUTH_NEEDS,
        unit="dB",
    ),
    *map(_attribute_metric, ATTRIBUTES),
)
"""Metrics of this module."""
