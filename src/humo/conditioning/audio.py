"""Audio conditions: audio samples to encoder rows, and encoder rows to one window per latent frame.

Shape suffixes: T audio rows, N bands of encoder states, D width, F latent frames, W rows per window.

**Source:** ``humo/utils/audio_processor_whisper.py``, ``AudioProcessor.get_audio_feature`` and ``audio_emb_enc``;
``humo/generate.py``, ``Generator.get_audio_emb_window``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from humo.geometry import (
    AUDIO_LEAD,
    AUDIO_WINDOW,
    ENCODER_WINDOW_ROWS,
    ENCODER_WINDOW_SAMPLES,
    SAMPLE_RATE,
    TEMPORAL_STRIDE,
    audio_rows,
    audio_window,
    encoder_rows,
)


@torch.no_grad()
def encode_audio(
    samples: NDArray[np.float32], extractor: Any, encoder: Any, bands: int, rows: int | None = None
) -> Tensor:
    """Return the encoder rows of audio, 25 a second, (T, N, D).

    Args:
        samples: (n,) mono, 16 kHz, in [-1, 1].
        extractor: Whisper's feature extractor.
        encoder: `SpeechEncoder`, on any device.
        bands: N, number of bands that the encoder's states are pooled to.
        rows: number of rows to return, default all. Audio after them is not encoded; the rows equal those of the whole
            audio.
    """
    fast = encoder_rows(len(samples))
    slow = audio_rows(fast)
    wanted = slow if rows is None else min(rows, slow)
    step = _step(fast, slow)
    last = min(int(step * (wanted - 1)) + 1, fast - 1)  # last fast row that the result depends on
    parts = [
        _encode_window(samples[start : start + ENCODER_WINDOW_SAMPLES], extractor, encoder, bands)
        for start in range(0, len(samples), ENCODER_WINDOW_SAMPLES)[: last // ENCODER_WINDOW_ROWS + 1]
    ]
    return _resample(torch.cat(parts)[: last + 1], step, wanted)


def _encode_window(samples: NDArray[np.float32], extractor: Any, encoder: Any, bands: int) -> Tensor:
    """Encode up to 30 s of audio, padded to 30 s as in Whisper's training, to rows (1500, N, D), 50 a second."""
    features = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    states = encoder(features.to(encoder.device, encoder.dtype), output_hidden_states=True).hidden_states
    return pool_layers([state[0] for state in states], bands)


def pool_layers(states: Sequence[Tensor], bands: int) -> Tensor:
    """Pool the encoder's states to bands (T, N, D): means of equal groups, and the last (normalized) state.

    Args:
        states: L + 1 of (T, D): the embeddings, then each layer's output, the last one after the final norm.
        bands: N; L must divide into N - 1 groups. For Whisper large, 32 layers in 5 bands: 0-7, 8-15, 16-23, 24-31, 32.

    Raises:
        ValueError: the layers do not divide into the groups.
    """
    layers, groups = len(states) - 1, bands - 1
    if layers % groups:
        raise ValueError(f"{layers} encoder layers do not divide into {groups} bands and the last state")
    size = layers // groups
    means = [torch.stack(tuple(states[i * size : (i + 1) * size]), dim=1).mean(dim=1) for i in range(groups)]
    return torch.stack([*means, states[layers]], dim=1)


def _step(fast: int, slow: int) -> np.float32:
    """Return the fast rows per slow row, first and last rows aligned; float32 as in the published interpolation."""
    return np.float32(fast - 1) / np.float32(slow - 1) if slow > 1 else np.float32(0)


def _resample(rows_TND: Tensor, step: np.float32, wanted: int) -> Tensor:
    """Interpolate rows linearly at multiples of ``step``, as torch's interpolation with aligned corners does."""
    position = torch.arange(wanted, dtype=torch.float32) * float(step)
    below = position.long()
    fraction = (position - below).to(rows_TND.device).view(-1, 1, 1)
    above = (below + 1).clamp(max=len(rows_TND) - 1)
    return (1 - fraction) * rows_TND[below] + fraction * rows_TND[above]


def audio_windows(rows_TND: Tensor, latents: int, slots: int) -> Tensor:
    """Return the rows of each latent frame, (F, W, N, D); zeros outside the audio and on reference slots.

    Args:
        rows_TND: encoder rows, 25 a second.
        latents: latent frames of the video.
        slots: reference slots after them.
    """
    needed = audio_window(latents - 1).stop
    padded = F.pad(rows_TND[:needed], (0, 0, 0, 0, AUDIO_LEAD, max(0, needed - len(rows_TND))))
    windows = padded.unfold(0, AUDIO_WINDOW, TEMPORAL_STRIDE).movedim(-1, 1)
    return F.pad(windows, (0, 0, 0, 0, 0, 0, 0, slots))


def null_audio_windows(latents: int, bands: int, width: int) -> Tensor:
    """Return all-zero windows (F, W, N, D), the null audio condition, for ``latents`` latent frames."""
    return torch.zeros(latents, AUDIO_WINDOW, bands, width)
