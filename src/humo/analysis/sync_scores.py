"""SyncNet's scores of a video: confidence (Sync-C), distance (Sync-D) and offset of each face track.

**Source:** https://github.com/joonson/syncnet_python, ``SyncNetInstance.py`` (``evaluate``, ``calc_pdist``).

Shape suffixes: T windows, F frames, L lags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from humo.analysis.face_tracks import FaceTrack, TrackRules, crop_track, find_tracks
from humo.analysis.mesh_track import Curve, Frames
from humo.analysis.mfcc import mfcc
from humo.analysis.networks.s3fd import S3FD, detect_faces
from humo.analysis.networks.syncnet import WINDOW_FRAMES, WINDOW_STEPS, SyncNet
from humo.analysis.opencv import opencv
from humo.analysis.scene_cuts import CutFinder
from humo.geometry import SAMPLES_PER_FRAME
from humo.media.audio import AudioSamples

MAX_LAG = 15
"""Largest lag in frames, in both directions."""

STEPS_PER_FRAME = 4
"""Steps of cepstra for each frame."""

DETECTION_SCALE, MIN_DETECTION_SCORE = 0.25, 0.9
"""Factor on a frame's size for the face detector, and lowest score of a face."""

BATCH_WINDOWS = 20
"""Windows that are embedded at once."""

SHOT_SIDE = 256
"""Largest width in pixels of the frames in which shots are separated."""


@dataclass(frozen=True, eq=False)
class SyncScore:
    """Scores of one face track.

    Args:
        offset: lag in frames at which lips and audio are closest; positive: the audio is late.
        distance: mean distance of the embeddings there (Sync-D).
        confidence: by how much it is less than the median over the lags (Sync-C).
        by_window: confidence of each window of five frames, (T,).
        track: the track.
    """

    offset: int
    distance: float
    confidence: float
    by_window: Curve
    track: FaceTrack | None = None


@torch.inference_mode()
def score_lips(network: SyncNet, crops: Frames, samples: NDArray[np.int16], device: str = "cpu") -> SyncScore | None:
    """Compare the crops of a face with audio; None if there are fewer frames or samples than a window and one more.

    Args:
        network: SyncNet.
        crops: (F, 224, 224, 3) RGB.
        samples: (n,) mono at 16 kHz.
        device: the network's.
    """
    windows = min(len(crops), len(samples) // SAMPLES_PER_FRAME) - WINDOW_FRAMES
    if windows < 1:
        return None
    cepstra = torch.from_numpy(mfcc(samples).T).float()
    lips, speech = [], []
    for start in range(0, windows, BATCH_WINDOWS):
        count = min(BATCH_WINDOWS, windows - start)
        part = crops[start : start + count + WINDOW_FRAMES - 1, :, :, ::-1].astype(np.float32)
        lips.append(network.embed_lips(torch.from_numpy(part).permute(3, 0, 1, 2).to(device)).cpu())
        steps = [STEPS_PER_FRAME * window for window in range(start, start + count)]
        batch = torch.stack([cepstra[:, step : step + WINDOW_STEPS] for step in steps])
        speech.append(network.embed_audio(batch.to(device)).cpu())
    return score_embeddings(torch.cat(lips), torch.cat(speech))


def score_embeddings(lips_TD: torch.Tensor, speech_TD: torch.Tensor) -> SyncScore:
    """Return the scores of embeddings of lips and of speech, one row a window."""
    padded = F.pad(speech_TD, (0, 0, MAX_LAG, MAX_LAG))
    by_lag_TL = torch.stack(
        [F.pairwise_distance(lips_TD, padded[lag : lag + len(lips_TD)]) for lag in range(2 * MAX_LAG + 1)], dim=1
    )
    mean_L = by_lag_TL.mean(dim=0)
    best = int(mean_L.argmin())
    median = mean_L.median()
    by_window = (median - by_lag_TL[:, best]).numpy().astype(np.float64)
    return SyncScore(MAX_LAG - best, float(mean_L[best]), float(median - mean_L[best]), by_window)


def detect_all(network: S3FD, frames: Frames, device: str = "cpu") -> list[list[list[float]]]:
    """Return the faces of each frame: left, top, right, bottom and score."""
    return [
        detect_faces(network, frame, DETECTION_SCALE, MIN_DETECTION_SCORE, device).astype(float).tolist()
        for frame in frames
    ]


def score_video(
    network: SyncNet,
    frames: Frames,
    detections: Sequence[Sequence[Sequence[float]]],
    audio: AudioSamples,
    rules: TrackRules,
    device: str = "cpu",
) -> list[SyncScore]:
    """Return the scores of every face track of a video.

    Args:
        network: SyncNet.
        frames: (F, H, W, 3).
        detections: from `detect_all`.
        audio: (n,) mono at 16 kHz on the video's clock.
        rules: of the tracker.
        device: the network's.
    """
    samples = as_int16(audio)
    scores = []
    for start, end in find_shots(frames):
        for track in find_tracks(detections[start:end], rules, start):
            first, last = int(track.frames[0]), int(track.frames[-1])
            part = samples[first * SAMPLES_PER_FRAME : (last + 1) * SAMPLES_PER_FRAME]
            score = score_lips(network, crop_track(frames, track), part, device)
            if score is not None:
                scores.append(SyncScore(score.offset, score.distance, score.confidence, score.by_window, track))
    return scores


def as_int16(audio: AudioSamples) -> NDArray[np.int16]:
    """Return samples as the 16-bit integers that SyncNet's cepstra are computed from."""
    return np.clip(np.round(audio * 32768), -32768, 32767).astype(np.int16)


def find_shots(frames: Frames) -> list[tuple[int, int]]:
    """Return the first frame of each shot, and the frame after its last one.

    **Source:** PySceneDetect's ``ContentDetector`` with its defaults, as the published scores use it.

    Raises:
        DependencyError: PySceneDetect is not installed.
    """
    cv2 = opencv()
    finder = CutFinder("content")
    factor = max(1.0, frames.shape[2] / SHOT_SIDE)
    size = (round(frames.shape[2] / factor), round(frames.shape[1] / factor))
    cuts = [0]
    for number, frame in enumerate(frames):
        cuts += finder.add(number, cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR))
    return list(zip(cuts, [*cuts[1:], len(frames)], strict=True))
