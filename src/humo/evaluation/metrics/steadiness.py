"""Flicker, color drift, cuts and motion; `humo.analysis.stability` computes them."""

from __future__ import annotations

import numpy as np

from humo.analysis.stability import (
    color_curve,
    find_cuts,
    flicker_curve,
    motion_curve,
    temporal_flicker,
    window_frames,
)
from humo.evaluation.context import CaseContext, require_frames
from humo.evaluation.metric import Direction, Measurement, Metric, Protocol

EVERY_FRAME = "every frame at 25 a second"


def measure_flicker(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the mean change between neighboring frames outside mouth and eyes."""
    require_frames(context, 2)
    curves = {"change": flicker_curve(context.mesh)}
    return Measurement(temporal_flicker(context.mesh), frames=len(context.frames), curves=curves)


def measure_color_drift(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the distance of the mean colors of the clip's first and last second."""
    curve = color_curve(context.frames)
    window = window_frames(len(curve))
    return Measurement(float(curve[-window:].mean()), frames=2 * window, curves={"color": curve})


def measure_cuts(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the number of hard cuts."""
    cuts = find_cuts(context.frames)
    is_cut = np.zeros(len(context.frames))
    is_cut[cuts] = 1
    return Measurement(float(len(cuts)), frames=len(context.frames), curves={"cut": is_cut})


def measure_motion(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the mean optical flow."""
    require_frames(context, 2)
    curve = motion_curve(context.frames)
    return Measurement(float(curve[1:].mean()), frames=len(curve), curves={"motion": curve})


METRICS = (
    Metric(
        "temporal_flicker",
        2,
        "mean absolute change between neighboring frames outside mouth and eyes, 0 to 255",
        Direction.DOWN,
        {"masked": "mouth and eyes of the face mesh, enlarged by 0.6", "frames": EVERY_FRAME},
        measure_flicker,
        low=0,
    ),
    Metric(
        "color_drift",
        1,
        "distance in CIELAB between the mean colors of the first and the last second",
        Direction.DOWN,
        {"window": "a second, at most a third of the clip", "distance": "CIE76 of mean colors", "frames": EVERY_FRAME},
        measure_color_drift,
        low=0,
    ),
    Metric(
        "cuts",
        1,
        "hard cuts",
        Direction.DOWN,
        {"detector": "PySceneDetect AdaptiveDetector, defaults, 8 frames a shot, 96 pixels", "frames": EVERY_FRAME},
        measure_cuts,
        low=0,
    ),
    Metric(
        "motion",
        1,
        "mean optical flow, in shorter sides of the frame a second",
        Direction.NEITHER,
        {"flow": "Farneback, shorter side 128 pixels", "frames": EVERY_FRAME},
        measure_motion,
        unit="sides/s",
        low=0,
    ),
)
"""Metrics of this module."""
