"""Lip sync without ground truth: the mouth in the video against a jaw curve that is predicted from the audio.

The prediction is a linear regression on the audio encoder's hidden states, fitted to rendered people whose jaw
curves are known (scripts/fit_jaw_regression.py). It is an estimate: docs/nano.md gives its correlation with the true
jaw. It is not SyncNet's Sync-C, and its values cannot be compared with published ones.

Shape suffixes: T audio rows (25 a second), N audio bands, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from humo.analysis.face_mesh import FACE_MODELS
from humo.analysis.mesh_track import Curve
from humo.checkpoints.model_folder import BUILTIN_MODEL
from humo.conditioning.audio import encode_audio
from humo.errors import CheckpointError
from humo.media.audio import AudioSamples
from humo.model.audio import SpeechEncoder

JAW_WEIGHTS = FACE_MODELS / "jaw.safetensors"
"""Weights of the regression that ships."""

MAX_LAG = 4
"""Largest offset in frames between mouth and jaw, in both directions, that `correlation_by_lag` measures."""

MIN_JAW_STD = 0.02
"""Standard deviation of a jaw curve (0..1) below which a clip is left out of lip metrics: nobody speaks in it."""

AUDIO_BANDS = 5
"""Number of audio bands that the built-in model's hidden states are averaged into."""

AUDIO_BAND = 3
"""Index of the audio band that is read: of all bands it predicts the jaw best."""

CONTEXT_ROWS = 2
"""Rows before and after a frame whose features are used, too."""

RIDGE_FACTOR = 30.0
"""Ridge penalty, in units of the features' mean square."""


def audio_features(rows_TND: Tensor) -> Tensor:
    """Return the regression's inputs, (T, (2 * CONTEXT_ROWS + 1) * D + 1); the last column is 1."""
    band = rows_TND[:, AUDIO_BAND].float()
    context = F.pad(band, (0, 0, CONTEXT_ROWS, CONTEXT_ROWS)).unfold(0, 2 * CONTEXT_ROWS + 1, 1).flatten(1)
    return torch.cat([context, context.new_ones(len(context), 1)], dim=1)


class JawRegression:
    """Ridge regression of the jaw curve on `audio_features`, accumulated over clips.

    Args:
        width: number of features.
    """

    def __init__(self, width: int) -> None:
        self._products, self._sums, self._rows = torch.zeros(width, width), torch.zeros(width), 0

    def update(self, rows_TND: Tensor, jaw_T: Tensor) -> None:
        """Add a clip: its audio rows and its true jaw curve."""
        inputs = audio_features(rows_TND)[: len(jaw_T)]
        self._products += inputs.T @ inputs
        self._sums += inputs.T @ jaw_T[: len(inputs)]
        self._rows += len(inputs)

    def solve(self) -> Tensor:
        """Return the weights of the features, (width,)."""
        ridge = RIDGE_FACTOR * self._products.diagonal().mean() / self._rows
        weights: Tensor = torch.linalg.solve(self._products + ridge * torch.eye(len(self._sums)), self._sums)
        return weights


def jaw_from_audio(rows_TND: Tensor, path: Path = JAW_WEIGHTS) -> NDArray[np.float64]:
    """Predict the jaw curve (T,), about 0..1, from audio rows.

    Args:
        rows_TND: hidden states of the built-in model's audio encoder.
        path: weights of the regression.
    """
    jaw: Tensor = audio_features(rows_TND) @ load_file(path)["jaw"].float()
    return jaw.numpy().astype(np.float64)


def predict_jaw(samples: AudioSamples) -> NDArray[np.float64]:
    """Predict the jaw curve (T,) from mono audio (n,) at 16 kHz with the built-in model's audio encoder.

    Raises:
        CheckpointError: the built-in model is incomplete.
    """
    extractor, encoder = _builtin_encoder()
    rows: Tensor = encode_audio(samples, extractor, encoder, AUDIO_BANDS)
    return jaw_from_audio(rows)


@cache
def _builtin_encoder() -> tuple[Any, Any]:
    """Return feature extractor and audio encoder of the built-in model."""
    from transformers import WhisperFeatureExtractor
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        encoder: Any = SpeechEncoder.from_pretrained(str(BUILTIN_MODEL / "audio_encoder")).float().eval()
        extractor = WhisperFeatureExtractor.from_pretrained(str(BUILTIN_MODEL / "feature_extractor"))
    except OSError as error:
        remedy = "pip install --force-reinstall humo-video"
        raise CheckpointError("model", "the built-in model's audio encoder is missing", remedy) from error
    return extractor, encoder


def correlation(a: Curve, b: Curve) -> float:
    """Return Pearson's correlation over the shorter length; 0 if one of the curves is constant."""
    length = min(len(a), len(b))
    a, b = a[:length], b[:length]
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def correlation_by_lag(mouth: Curve, jaw: Curve, max_lag: int = MAX_LAG) -> dict[int, float]:
    """Return the correlation of mouth and jaw at each lag from -``max_lag`` to ``max_lag`` frames.

    At a positive lag the mouth is late.
    """
    length = min(len(mouth), len(jaw))
    mouth, jaw = mouth[:length], jaw[:length]
    correlations = {}
    for lag in range(-max_lag, max_lag + 1):
        correlations[lag] = correlation(mouth[max(0, lag) :], jaw[max(0, -lag) :])
    return correlations


@dataclass(frozen=True, slots=True)
class LipAgreement:
    """Agreement of a mouth curve with a jaw curve.

    Args:
        correlation: without a lag.
        offset: lag in frames at which the correlation is highest; positive: the mouth is late.
        peak: correlation at that lag.
        margin: by how much the peak exceeds the median over all lags.
    """

    correlation: float
    offset: int
    peak: float
    margin: float


def lip_agreement(mouth: Curve, jaw: Curve, max_lag: int = MAX_LAG) -> LipAgreement:
    """Compare a mouth curve with a jaw curve at every lag up to ``max_lag`` frames; of equal lags the smallest wins."""
    return best_agreement(correlation_by_lag(mouth, jaw, max_lag))


def best_agreement(by_lag: Mapping[int, float], tolerance: float = 0.0) -> LipAgreement:
    """Return the agreement at the best lag.

    Args:
        by_lag: correlation at each lag, among them 0.
        tolerance: of all lags whose correlation is at most this much below the highest, the smallest is chosen.
    """
    least = max(by_lag.values()) - tolerance
    offset = min((lag for lag in by_lag if by_lag[lag] >= least), key=lambda lag: (abs(lag), -by_lag[lag]))
    peak = by_lag[offset]
    return LipAgreement(by_lag[0], offset, peak, peak - float(np.median(list(by_lag.values()))))
