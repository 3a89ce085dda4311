"""Whether lips follow a sound, without any truth: the mouth seen in the mesh against the jaw that the sound implies.

What a sound implies is a linear reading of the audio rows that the network hears, too, fitted to rendered people whose
jaws are known. It is a guess: its own correlation with the true jaw stands beside it in docs/nano.md.

Shape suffixes: T rows (25 a second), N bands, D width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from humo.evaluation.face_mesh import MODELS

WEIGHTS = MODELS / "jaw.safetensors"

BAND = 3
"""Of the audio rows, the one that is read: the last layer but one says most of the mouth."""

AROUND = 2
"""Rows before and after that a frame's jaw is read from, too."""

RIDGE = 30.0
"""Added to the diagonal, in units of the features' own mean square."""


def features(rows_TND: Tensor) -> Tensor:
    """What the jaw is read from, (T, (2 AROUND + 1) D + 1)."""
    flat = rows_TND[:, BAND].float()
    around = F.pad(flat, (0, 0, AROUND, AROUND)).unfold(0, 2 * AROUND + 1, 1).flatten(1)
    return torch.cat([around, around.new_ones(len(around), 1)], dim=1)


class JawFit:
    """Least squares with a ridge, over many clips.

    Args:
        width: of the features.
    """

    def __init__(self, width: int) -> None:
        self._products, self._sums, self._rows = torch.zeros(width, width), torch.zeros(width), 0

    def see(self, rows_TND: Tensor, jaw_T: Tensor) -> None:
        """Take a clip in."""
        given = features(rows_TND)[: len(jaw_T)]
        self._products += given.T @ given
        self._sums += given.T @ jaw_T[: len(given)]
        self._rows += len(given)

    def solve(self) -> Tensor:
        """The weights of the features."""
        ridge = RIDGE * self._products.diagonal().mean() / self._rows
        weights: Tensor = torch.linalg.solve(self._products + ridge * torch.eye(len(self._sums)), self._sums)
        return weights


def implied_jaw(rows_TND: Tensor, path: Path = WEIGHTS) -> NDArray[np.float64]:
    """The jaw curve (T,) that a sound's rows imply, about 0..1."""
    jaw: Tensor = features(rows_TND) @ load_file(path)["jaw"].float()
    return jaw.numpy().astype(np.float64)
