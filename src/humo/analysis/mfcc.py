"""Mel-frequency cepstra of speech, as SyncNet was trained on them.

**Source:** python_speech_features 0.6 (https://github.com/jameslyons/python_speech_features), ``base.mfcc`` with its
defaults.

Shape suffixes: S steps of 10 ms, K frequencies, M filters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from humo.geometry import SAMPLE_RATE

WINDOW, STEP, FFT = 400, 160, 512
"""Samples of a window, from one to the next, and of its spectrum."""

FILTERS, CEPSTRA, LIFTER = 26, 13, 22
"""Number of mel filters and of cepstra, and the parameter of the lifter."""

PREEMPHASIS = 0.97

Floats = NDArray[np.float64]


def mfcc(samples: NDArray[np.int16]) -> Floats:
    """Return the cepstra (S, `CEPSTRA`) of mono audio (n,) at 16 kHz; the first one is the logarithm of the energy."""
    signal = samples.astype(np.float64)
    signal = np.append(signal[:1], signal[1:] - PREEMPHASIS * signal[:-1])
    steps = 1 + max(0, -(-(len(signal) - WINDOW) // STEP))
    padded = np.zeros((steps - 1) * STEP + WINDOW)
    padded[: len(signal)] = signal
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]
    power_SK = np.square(np.abs(np.fft.rfft(windows, FFT))) / FFT
    energy = _positive(power_SK.sum(axis=1))
    bands_SM = np.log(_positive(power_SK @ _mel_filters().T))
    cepstra = bands_SM @ _cosine_transform().T
    cepstra *= 1 + (LIFTER / 2) * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    cepstra[:, 0] = np.log(energy)
    return np.asarray(cepstra)


def _positive(values: Floats) -> Floats:
    return np.where(values == 0, np.finfo(np.float64).eps, values)


def _mel_filters() -> Floats:
    """Return the triangular filters (M, K)."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), FILTERS + 2)
    edges = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE).astype(int)
    filters = np.zeros((FILTERS, FFT // 2 + 1))
    for number, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        filters[number, low:middle] = (np.arange(low, middle) - low) / max(1, middle - low)
        filters[number, middle:high] = (high - np.arange(middle, high)) / max(1, high - middle)
    return filters


def _cosine_transform() -> Floats:
    """Return the first rows of the orthonormal DCT-II, (`CEPSTRA`, M)."""
    rows, columns = np.arange(CEPSTRA)[:, None], np.arange(FILTERS)
    matrix = np.cos(np.pi * rows * (2 * columns + 1) / (2 * FILTERS)) * np.sqrt(2 / FILTERS)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix)
