"""Identity by dlib's face embeddings, which ship with the extra ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from humo.analysis.stability import window_frames
from humo.evaluation.context import CaseContext, reference_embedding
from humo.evaluation.metric import FRACTION, Direction, Measurement, Metric, Need, Protocol, curve_of, spaced_frames
from humo.media.face_identity import Embedding

EMBEDDING_PROTOCOL = {
    "network": "dlib_face_recognition_resnet_model_v1, largest face",
    "detection": "longer side 256 pixels, bicubic",
    "distance": "Euclidean",
}

MISSING_DISTANCE = 1.0
"""Distance that stands for a frame without a face in the detail ``missing_as_1``."""


def measure_distance(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the distance of the clip's mean embedding to the reference's."""
    reference = context.reference_embedding
    if reference is None:
        return Measurement(None, "no face is detected in the reference")
    numbers = spaced_frames(len(context.frames), protocol["frames"])
    embeddings = {int(n): context.embedding(int(n)) for n in numbers}
    present = {n: one for n, one in embeddings.items() if one is not None}
    if not present:
        return Measurement(None, f"no face is detected in any of {len(numbers)} frames")
    distances = [float(np.linalg.norm(one - reference)) for one in present.values()]
    missing = len(numbers) - len(present)
    details = {
        "detection_rate": len(present) / len(numbers),
        "missing_as_1": (sum(distances) + missing * MISSING_DISTANCE) / len(numbers),
    }
    value = float(np.linalg.norm(_mean(present.values()) - reference))
    curves = {"distance": curve_of(len(context.frames), list(present), distances)}
    return Measurement(value, frames=len(present), details=details, curves=curves)


def measure_top1(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return 1 if the clip is nearer to its own reference than to any other of the gallery, else 0."""
    reference = context.reference_embedding
    if reference is None:
        return Measurement(None, "no face is detected in the reference")
    numbers = spaced_frames(len(context.frames), protocol["frames"])
    present = [one for n in numbers if (one := context.embedding(int(n))) is not None]
    if not present:
        return Measurement(0.0, frames=0)
    clip = _mean(present)
    own = np.linalg.norm(clip - reference)
    others = [one for path in context.case.gallery if (one := reference_embedding(path)) is not None]
    nearest = all(own < np.linalg.norm(clip - other) for other in others)
    return Measurement(float(nearest), frames=len(present), details={"people": float(1 + len(others))})


def measure_drift(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the distance of the mean embeddings of the clip's first and last second."""
    count = len(context.frames)
    window, frames = window_frames(count), int(protocol["frames"])
    means = []
    for start in (0, count - window):
        embeddings = [context.embedding(start + int(n)) for n in spaced_frames(window, frames)]
        present = [one for one in embeddings if one is not None]
        if not present:
            return Measurement(None, f"no face is detected in the {'last' if start else 'first'} {window} frames")
        means.append(_mean(present))
    return Measurement(float(np.linalg.norm(means[1] - means[0])), frames=2 * min(frames, window))


def _mean(embeddings: Iterable[Embedding]) -> Embedding:
    return np.asarray(np.mean(list(embeddings), axis=0), np.float64)


METRICS = (
    Metric(
        "id_dlib",
        1,
        "distance to the face of the reference; below 0.4 the same person, above 0.6 another",
        Direction.DOWN,
        {**EMBEDDING_PROTOCOL, "frames": 8, "aggregation": "mean embedding of frames with a face"},
        measure_distance,
        frozenset({Need.REFERENCE}),
        low=0,
        high=1,
    ),
    Metric(
        "id_top1_dlib",
        1,
        "whether the clip is nearest to its own reference in a gallery of people",
        Direction.UP,
        {**EMBEDDING_PROTOCOL, "frames": 8, "gallery": "the case's"},
        measure_top1,
        frozenset({Need.REFERENCE, Need.GALLERY}),
        unit=FRACTION,
        low=0,
        high=1,
    ),
    Metric(
        "id_drift_dlib",
        1,
        "distance between the faces of the first and the last second",
        Direction.DOWN,
        {**EMBEDDING_PROTOCOL, "frames": 3, "window": "a second, at most a third of the clip"},
        measure_drift,
        low=0,
        high=1,
    ),
)
"""Metrics of this module."""
