"""Published metrics of single frames: aesthetics, technical quality, and similarity to the reference.

Names contain the network, because publications differ in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from humo.analysis.networks import image_encoders as encoders
from humo.analysis.networks.musiq import Musiq
from humo.analysis.weights import load_weights
from humo.evaluation.context import CaseContext
from humo.evaluation.metric import (
    ALL_FRAMES,
    Direction,
    Measurement,
    Metric,
    Need,
    Protocol,
    curve_of,
    spaced_frames,
)
from humo.media.image import load_image

BATCH = 8
"""Frames that go through a network at once."""

QUALITY_SIDE = 512
"""Longer side in pixels to which larger frames are scaled before MUSIQ."""

Frames = NDArray[np.uint8]
Embed = Callable[[torch.Tensor], torch.Tensor]


def _by_batches(frames: Frames, compute: Embed, device: str) -> torch.Tensor:
    """Return what a function gives for frames (B, H, W, 3), computed in batches."""
    parts = [
        compute(torch.from_numpy(np.ascontiguousarray(frames[start : start + BATCH])).to(device)).cpu()
        for start in range(0, len(frames), BATCH)
    ]
    return torch.cat(parts)


def _frame_mean(context: CaseContext, protocol: Protocol, name: str, compute: Embed) -> Measurement:
    """Return the mean of one number a frame."""
    numbers = spaced_frames(len(context.frames), protocol["frames"])
    values = _by_batches(context.frames[numbers], compute, context.device).double().numpy()
    curves = {name: curve_of(len(context.frames), numbers, values)}
    return Measurement(float(values.mean()), frames=len(values), curves=curves)


@torch.inference_mode()
def measure_aesthetics(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return VBench's aesthetic quality: the mean of LAION's scores, divided by ten."""
    clip, head = _clip(context.device), _aesthetic_head(context.device)

    def score(frames: torch.Tensor) -> torch.Tensor:
        return encoders.aesthetic_scores(clip(_clip_input(frames, antialias=False)).image_embeds, head) / 10

    return _frame_mean(context, protocol, "aesthetics", score)


@torch.inference_mode()
def measure_quality(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return VBench's imaging quality: the mean of MUSIQ's scores, divided by a hundred."""
    network = _musiq(context.device)

    def score(frames: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = network(shrink_for_quality(frames)) / 100
        return scores

    return _frame_mean(context, protocol, "quality", score)


def shrink_for_quality(frames_BHW3: torch.Tensor) -> torch.Tensor:
    """Return frames as MUSIQ's input (B, 3, H, W) in [0, 1], at most `QUALITY_SIDE` pixels long.

    **Source:** VBench, ``vbench/imaging_quality.py``, ``transform`` in mode ``longer``: bilinear without antialiasing.
    """
    images = frames_BHW3.movedim(-1, 1).float()
    height, width = images.shape[-2:]
    if max(height, width) > QUALITY_SIDE:
        scale = QUALITY_SIDE / max(height, width)
        images = F.interpolate(images, (int(scale * height), int(scale * width)), mode="bilinear", align_corners=False)
    return images / 255


@torch.inference_mode()
def measure_clip_similarity(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the mean cosine of CLIP's embeddings of reference and frames."""
    clip = _clip(context.device)
    return _similarity(context, protocol, lambda frames: clip(_clip_input(frames, antialias=True)).image_embeds)


@torch.inference_mode()
def measure_dino_similarity(context: CaseContext, protocol: Protocol) -> Measurement:
    """Return the mean cosine of DINOv2's class tokens of reference and frames."""
    dino = _dino(context.device)

    def embed(frames: torch.Tensor) -> torch.Tensor:
        inputs = encoders.prepare(frames, 256, encoders.DINO_MEAN, encoders.DINO_STD, antialias=True)
        tokens: torch.Tensor = dino(inputs).pooler_output
        return tokens

    return _similarity(context, protocol, embed)


def _similarity(context: CaseContext, protocol: Protocol, embed: Embed) -> Measurement:
    """Return the mean over frames and references of the cosine of their embeddings."""
    images = [np.asarray(load_image(path, field="reference")) for path in context.case.references]
    references = torch.cat([_by_batches(image[None], embed, context.device) for image in images])
    numbers = spaced_frames(len(context.frames), protocol["frames"])
    embeddings = _by_batches(context.frames[numbers], embed, context.device)
    cosines = F.cosine_similarity(references[:, None].double(), embeddings[None].double(), dim=-1).numpy()
    details = {f"reference_{number}": float(row.mean()) for number, row in enumerate(cosines, 1)}
    curves = {"similarity": curve_of(len(context.frames), numbers, cosines.mean(axis=0))}
    return Measurement(float(cosines.mean()), frames=len(numbers), details=details, curves=curves)


def _clip_input(frames: torch.Tensor, *, antialias: bool) -> torch.Tensor:
    return encoders.prepare(frames, encoders.INPUT_SIDE, encoders.CLIP_MEAN, encoders.CLIP_STD, antialias=antialias)


@cache
def _clip(device: str) -> Any:
    return encoders.load_clip(load_weights("clip_vit_l_14")).to(device)


@cache
def _aesthetic_head(device: str) -> Any:
    return encoders.load_aesthetic_head(load_weights("laion_aesthetic")).to(device)


@cache
def _dino(device: str) -> Any:
    return encoders.load_dino(load_weights("dinov2_base")).to(device)


@cache
def _musiq(device: str) -> Musiq:
    network = Musiq()
    network.load_state_dict(load_weights("musiq_spaq"))
    return network.eval().to(device)


METRICS = (
    Metric(
        "aes.vbench",
        1,
        "aesthetic quality as VBench computes it",
        Direction.UP,
        {
            "network": "OpenAI CLIP ViT-L/14 and LAION's linear head, float32",
            "input": "bicubic to 224 without antialiasing, center crop",
            "frames": ALL_FRAMES,
            "aggregation": "mean over frames, divided by 10",
        },
        measure_aesthetics,
        weights=("clip_vit_l_14", "laion_aesthetic"),
        low=0,
        high=1,
    ),
    Metric(
        "iqa.musiq_spaq",
        1,
        "technical quality as VBench's imaging quality computes it",
        Direction.UP,
        {
            "network": "MUSIQ trained on SPAQ, float32",
            "input": "longer side at most 512, bilinear without antialiasing",
            "frames": ALL_FRAMES,
            "aggregation": "mean over frames, divided by 100",
        },
        measure_quality,
        weights=("musiq_spaq",),
        low=0,
        high=1,
    ),
    Metric(
        "clip_i.vit_l_14",
        1,
        "similarity of frames and references by CLIP",
        Direction.UP,
        {
            "network": "OpenAI CLIP ViT-L/14, float32",
            "input": "bicubic to 224 with antialiasing, center crop",
            "frames": 10,
            "aggregation": "mean cosine over frames and references",
        },
        measure_clip_similarity,
        frozenset({Need.REFERENCE}),
        ("clip_vit_l_14",),
        low=0,
        high=1,
    ),
    Metric(
        "dino_i.v2_base",
        1,
        "similarity of frames and references by DINOv2",
        Direction.UP,
        {
            "network": "DINOv2 ViT-B/14, class token, float32",
            "input": "bicubic to 256 with antialiasing, center crop 224",
            "frames": 10,
            "aggregation": "mean cosine over frames and references",
        },
        measure_dino_similarity,
        frozenset({Need.REFERENCE}),
        ("dinov2_base",),
        low=0,
        high=1,
    ),
)
"""Metrics of this module."""
