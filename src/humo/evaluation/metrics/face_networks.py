"""Identity by published face recognition networks (ID-Cur, ID-Glink and others).

The published figure leaves out frames without a face. The details of each value give the fraction of frames with a
face, and the mean with 0 for the others.

**Source:** https://github.com/PKU-YuanGroup/OpenS2V-Nexus, ``eval/get_facesim.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from humo.analysis.face_alignment import DetectedFace, Network, align_face, largest_face, load_onnx
from humo.analysis.networks.ir_face import INPUT_SIDE, IRFace, load_ir_face
from humo.analysis.opencv import opencv
from humo.analysis.weights import load_weights, weights_file
from humo.evaluation.context import CaseContext
from humo.evaluation.metric import Direction, Measurement, Metric, Need, Protocol, curve_of
from humo.media.image import load_image

DETECTOR = "scrfd_10g"
"""Weights of the face detector."""

DETECTION_SIDE = 320
"""Side in pixels of the detector's input."""

Frame = NDArray[np.uint8]
Embedding = NDArray[np.float32]
EmbedFace = Callable[[Frame, DetectedFace], Embedding]


def measure_identity(context: CaseContext, protocol: Protocol, *, weights: str) -> Measurement:
    """Return the mean cosine of the embeddings of the reference and of frames with a face; negative ones count as 0.

    Args:
        context: the case.
        protocol: settings.
        weights: name of the network's weights.
    """
    path = context.case.person_reference
    assert path is not None
    reference = _reference(path, weights)
    if reference is None:
        return Measurement(None, "no face is detected in the reference")
    numbers = [int(n) for n in np.linspace(0, len(context.frames) - 1, protocol["frames"]).astype(int)]
    embed = _embedder(weights)
    cosines: dict[int, float] = {}
    for number in dict.fromkeys(numbers):
        face = context.once(f"scrfd {number}", partial(_find, context.frames[number]))
        if face is not None:
            cosines[number] = max(0.0, float(embed(context.frames[number], face) @ reference))
    present = [cosines[number] for number in numbers if number in cosines]
    if not present:
        return Measurement(None, f"no face is detected in any of {len(numbers)} frames")
    positive = [value for value in present if value != 0]
    details = {"detection_rate": len(present) / len(numbers), "missing_as_0": sum(present) / len(numbers)}
    curves = {"similarity": curve_of(len(context.frames), list(cosines), list(cosines.values()))}
    value = float(np.mean(positive)) if positive else 0.0
    return Measurement(value, frames=len(present), details=details, curves=curves)


def _find(image: Frame) -> DetectedFace | None:
    return largest_face(_detector(), image, DETECTION_SIDE)


@cache
def _detector() -> Network:
    return load_onnx(weights_file(DETECTOR))


@cache
def _reference(path: Path, weights: str) -> Embedding | None:
    image = np.asarray(load_image(path, field="reference"))
    face = _find(image)
    return None if face is None else _embedder(weights)(image, face)


@cache
def _embedder(weights: str) -> EmbedFace:
    if weights == "curricular_r101":
        network = load_ir_face(load_weights(weights))
        return partial(embed_curricular, network)
    return partial(embed_onnx, load_onnx(weights_file(weights)))


@torch.inference_mode()
def embed_curricular(network: IRFace, image: Frame, face: DetectedFace) -> Embedding:
    """Return CurricularFace's embedding (512,) of length 1; the face is aligned at 224 pixels and halved."""
    small = opencv().resize(align_face(image, face.points, 2 * INPUT_SIDE), (INPUT_SIDE, INPUT_SIDE))
    pixels = torch.from_numpy(small).movedim(-1, 0)[None].float().div(255).sub(0.5).div(0.5)
    return _unit(network(pixels)[0].numpy())


def embed_onnx(network: Network, image: Frame, face: DetectedFace) -> Embedding:
    """Return the embedding (512,) of length 1 of one of InsightFace's networks."""
    aligned = align_face(image, face.points, INPUT_SIDE)
    pixels = (aligned.astype(np.float32) - 127.5) / 127.5
    return _unit(network(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))[0][0])


def _unit(embedding: Any) -> Embedding:
    return np.asarray(embedding / np.linalg.norm(embedding), np.float32)


def _metric(name: str, weights: str, network: str, alignment: str) -> Metric:
    return Metric(
        name,
        1,
        f"similarity of the faces in frames and reference by {network}",
        Direction.UP,
        {
            "network": network,
            "detector": "SCRFD-10GF, 320 pixels, largest face; gray margin of a quarter if there is none",
            "alignment": alignment,
            "frames": 32,
            "aggregation": "mean cosine over frames with a face, negative ones as 0; zeros left out",
        },
        partial(measure_identity, weights=weights),
        frozenset({Need.REFERENCE}),
        (weights, DETECTOR),
        low=0,
        high=1,
    )


METRICS = (
    _metric("id.curricular", "curricular_r101", "CurricularFace IR-101 (ID-Cur)", "224 pixels, then halved"),
    _metric("id.glint", "glint_r100", "ArcFace R100 trained on Glint360K (ID-Glink)", "112 pixels"),
    _metric("id.arc", "arcface_r50", "ArcFace R50 trained on WebFace600K", "112 pixels"),
)
"""Metrics of this module."""
