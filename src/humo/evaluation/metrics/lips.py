"""Faces and lip sync without weights to download: a face mesh against the jaw that the audio implies.

The prediction of the jaw was fitted to rendered people (`humo.analysis.lip_sync`). Values cannot be compared with
SyncNet's Sync-C.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from humo.analysis.face_mesh import FACE_MODELS
from humo.analysis.lip_sync import MIN_JAW_STD, correlation, lip_agreement
from humo.analysis.mesh_track import MIN_DETECTION_RATE, Curve, track_faces
from humo.analysis.sharpness import face_sharpness
from humo.evaluation.context import CaseContext, face_mesh
from humo.evaluation.metric import (
    FRACTION,
    Direction,
    Measurement,
    Metric,
    Need,
    NotApplicableError,
    Protocol,
    curve_of,
    spaced_frames,
)

JAW_CURVES = FACE_MODELS / "jaw_curves.safetensors"
"""Jaw curves of speech in no case, for the mismatched control (scripts/write_jaw_curves.py)."""

MESH_PROTOCOL = {
    "mesh": "MediaPipe face_landmark, 468 points, largest face",
    "mouth": "height over width of the inner lips, linear over frames without a face",
    "min_detection_rate": MIN_DETECTION_RATE,
}
JAW_PROTOCOL = {
    **MESH_PROTOCOL,
    "jaw": "ridge regression on Whisper tiny.en, band 3, 5 rows",
    "audio": "the video's, else the case's",
    "min_jaw_std": MIN_JAW_STD,
    "frames": "every frame at 25 a second",
}


def measure_detection(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the fraction of frames with a face."""
    detected = np.array([face is not None for face in context.mesh.faces], np.float64)
    return Measurement(context.mesh.detection_rate, frames=len(detected), curves={"face": detected})


def measure_sharpness(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the median sharpness of the face."""
    numbers = [n for n in spaced_frames(len(context.frames), protocol["frames"]) if context.mesh.faces[n] is not None]
    if not numbers:
        return Measurement(None, "no face is detected")
    values = [face_sharpness(context.frames[n], face) for n in numbers if (face := context.mesh.faces[n]) is not None]
    curves = {"sharpness": curve_of(len(context.frames), numbers, values)}
    return Measurement(float(np.median(values)), frames=len(values), curves=curves)


def measure_lip_sync(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the correlation of the mouth with the jaw curve that the audio implies."""
    curves = _mouth_and_jaw(context)
    if isinstance(curves, Measurement):
        return curves
    mouth, jaw = curves
    return Measurement(correlation(mouth, jaw), frames=len(mouth), curves={"mouth": mouth, "jaw": jaw})


def measure_mismatched(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the mean correlation of the mouth with the jaw curves of other speech."""
    curves = _mouth_and_jaw(context)
    if isinstance(curves, Measurement):
        return curves
    mouth, _ = curves
    values = [correlation(mouth, np.resize(curve, len(mouth))) for curve in _jaw_curves()]
    return Measurement(float(np.mean(values)), frames=len(mouth), details={"std": float(np.std(values))})


def measure_offset(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the lag of the mouth at which its correlation with the jaw is highest."""
    curves = _mouth_and_jaw(context)
    if isinstance(curves, Measurement):
        return curves
    mouth, jaw = curves
    max_lag = min(int(protocol["max_lag"]), len(mouth) // int(protocol["frames_per_lag"]))
    agreement = lip_agreement(mouth, jaw, max_lag)
    if agreement.peak < protocol["min_peak"]:
        return Measurement(None, f"no lag has a correlation of {protocol['min_peak']:g} (highest {agreement.peak:.2f})")
    details = {"peak": agreement.peak, "margin": agreement.margin}
    return Measurement(float(agreement.offset), frames=len(mouth), details=details)


def measure_silence(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return how much the mouth moves in a clip whose person should be silent."""
    if context.case.expected != "silent":
        raise NotApplicableError("the person is not expected to be silent")
    mouth = context.mesh.mouth_aspect
    if mouth is None:
        return _no_mouth(context)
    return Measurement(float(mouth.std()), frames=len(mouth), curves={"mouth": mouth})


def measure_speaker_margin(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return by how much the speaker's mouth follows the audio better than any other person's."""
    case = context.case
    if len(case.boxes) < 2 or "speaker" not in case.attributes:
        raise NotApplicableError("the case does not say who of several people speaks")
    jaw = _implied_jaw(context)
    if isinstance(jaw, Measurement):
        return jaw
    height, width = context.frames.shape[1:3]
    agreements = []
    for left, top, right, bottom in case.boxes:
        rows = slice(round(top * height), max(round(top * height) + 16, round(bottom * height)))
        columns = slice(round(left * width), max(round(left * width) + 16, round(right * width)))
        mouth = track_faces(np.ascontiguousarray(context.frames[:, rows, columns]), face_mesh()).mouth_aspect
        agreements.append(None if mouth is None else correlation(mouth, jaw))
    speaker = int(case.attributes["speaker"])
    own = agreements.pop(speaker)
    if own is None:
        return Measurement(None, "the speaker's face is not detected")
    others = [value for value in agreements if value is not None]
    return Measurement(own - max(others, default=0.0), frames=len(context.frames), details={"speaker": own})


def _mouth_and_jaw(context: CaseContext) -> tuple[Curve, Curve] | Measurement:
    """Return both curves, or why there are none."""
    jaw = _implied_jaw(context)
    if isinstance(jaw, Measurement):
        return jaw
    mouth = context.mesh.mouth_aspect
    return _no_mouth(context) if mouth is None else (mouth, jaw)


def _implied_jaw(context: CaseContext) -> Curve | Measurement:
    if context.case.expected == "silent":
        raise NotApplicableError("the person is expected to be silent")
    if context.jaw is None:
        raise NotApplicableError("neither the video nor the case has audio")
    if context.jaw.std() < MIN_JAW_STD:
        return Measurement(None, "the audio implies no motion of the jaw: nobody speaks in it")
    return context.jaw


def _no_mouth(context: CaseContext) -> Measurement:
    return Measurement(None, f"a face is detected in {100 * context.mesh.detection_rate:.0f} % of the frames only")


@cache
def _jaw_curves() -> Any:
    return load_file(JAW_CURVES)["curves"].astype(np.float64)


METRICS = (
    Metric(
        "face_detection_rate",
        1,
        "fraction of frames with a face",
        Direction.UP,
        {"mesh": MESH_PROTOCOL["mesh"], "frames": "every frame at 25 a second"},
        measure_detection,
        unit=FRACTION,
        low=0,
        high=1,
    ),
    Metric(
        "sharpness",
        1,
        "deviation of the Laplacian of the face over that of the image, median",
        Direction.UP,
        {"mesh": MESH_PROTOCOL["mesh"], "face": "box of the detector, at most 128 pixels", "frames": 16},
        measure_sharpness,
        low=0,
    ),
    Metric(
        "mouth_jaw_corr",
        2,
        "correlation of the mouth with the jaw that the audio implies; not SyncNet's Sync-C",
        Direction.UP,
        JAW_PROTOCOL,
        measure_lip_sync,
        frozenset({Need.AUDIO}),
        low=0,
        high=1,
    ),
    Metric(
        "mouth_jaw_corr_mismatched",
        2,
        "the same with the jaw of other speech: what chance gives",
        Direction.ZERO,
        {**JAW_PROTOCOL, "control": "16 curves of 10 s, repeated"},
        measure_mismatched,
        frozenset({Need.AUDIO}),
    ),
    Metric(
        "av_offset",
        2,
        "lag of the mouth behind the audio at which they agree best",
        Direction.ZERO,
        {**JAW_PROTOCOL, "max_lag": 10, "frames_per_lag": 5, "min_peak": 0.3},
        measure_offset,
        frozenset({Need.AUDIO}),
        unit="frames",
    ),
    Metric(
        "mouth_motion_in_silence",
        1,
        "deviation of the mouth where the person should be silent",
        Direction.DOWN,
        {**MESH_PROTOCOL, "frames": "every frame at 25 a second"},
        measure_silence,
        low=0,
    ),
    Metric(
        "speaker_margin",
        1,
        "correlation of the speaker's mouth with the audio, minus the best of the other people",
        Direction.UP,
        {**JAW_PROTOCOL, "region": "the case's box of each person"},
        measure_speaker_margin,
        frozenset({Need.AUDIO}),
    ),
)
"""Metrics of this module."""
