"""Lip sync without ground truth: the mouth in the video against a jaw curve that is predicted from the audio.

The prediction is a linear regression on the audio encoder's hidden states, fitted to rendered people whose jaw
curves are known (scripts/fit_jaw_regression.py). It is an estimate: docs/nano.md gives its correlation with the true
jaw. It is not SyncNet's Sync-C, and its values cannot be compared with published ones.

Shape suffixes: T audio rows (25 a second), N audio bands, D width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from humo.evaluation.face_mesh import FACE_MODELS

JAW_WEIGHTS = FACE_MODELS / "jaw.safetensors"
"""Weights of the regression that ships."""

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
