"""Lips against audio: the offset between them, and how surely the person in the video is the one who speaks.

The built-in judge correlates the mouth of a face mesh with the jaw that the audio implies
(`humo.analysis.lip_sync`). Its regression was fitted to rendered people; on recordings it has to be compared with
SyncNet by those who have its weights. Reports name the judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.analysis.lip_sync import MIN_JAW_STD, correlation, jaw_from_audio
from humo.data.tasks import Values
from humo.geometry import SAMPLES_PER_FRAME
from humo.media.audio import AudioSamples

Curve = NDArray[np.float64]

MESH_JUDGE = "mesh and implied jaw"
"""Name of the built-in judge in scores and reports."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of a mouth and audio.

    Args:
        peak: the largest correlation over all offsets.
        margin: by how much it exceeds the median over the offsets.
        offset: frames by which the mouth is late where the correlation is largest.
    """

    peak: float
    margin: float
    offset: int


class SyncJudge:
    """Compares lips and audio; the audio encoder is loaded at first use.

    Args:
        max_offset: largest offset in frames, in both directions.
    """

    def __init__(self, max_offset: int) -> None:
        self.max_offset = max_offset

    @property
    def margin_frames(self) -> int:
        """Frames of audio that are needed before and after a clip."""
        return self.max_offset

    def scores(self, mouth: Curve | None, samples: AudioSamples | None) -> tuple[Values, int]:
        """Return the scores of the stage ``sync``, and the frames by which the audio has to be moved.

        Args:
            mouth: mouth aspect ratio of each frame of the clip.
            samples: mono at 16 kHz, from `margin_frames` before the clip to as much after it.

        Returns:
            ``sync``, ``sync_margin``: correlation and its excess before the audio is moved; ``offset``: frames by
            which the mouth was late; ``sync_after``, ``offset_left``: both measured again after the audio was moved.
        """
        empty = {"sync": 0.0, "sync_margin": 0.0, "offset": 0, "sync_after": 0.0, "offset_left": 0}
        if mouth is None or samples is None:
            return {**empty, "judge": MESH_JUDGE}, 0
        before = self._agreement(mouth, samples, self.max_offset)
        if before is None:
            return {**empty, "judge": MESH_JUDGE}, 0
        after = self._agreement(mouth, self.moved(samples, before.offset, len(mouth)), 0) if before.offset else before
        left = after.offset if after is not None and before.offset else 0
        return {
            "sync": round(before.peak, 4),
            "sync_margin": round(before.margin, 4),
            "offset": before.offset,
            "sync_after": round(after.peak, 4) if after else 0.0,
            "offset_left": left,
            "judge": MESH_JUDGE,
        }, before.offset

    def moved(self, samples: AudioSamples, offset: int, frames: int) -> AudioSamples:
        """Return the samples of a clip after its audio was moved by ``offset`` frames; positive: later."""
        start = (self.margin_frames - offset) * SAMPLES_PER_FRAME
        return samples[start : start + frames * SAMPLES_PER_FRAME]

    def _agreement(self, mouth: Curve, samples: AudioSamples, margin: int) -> Agreement | None:
        """Compare at every offset; None if the audio implies no motion.

        Args:
            margin: frames of audio before and after the clip.
        """
        jaw = jaw_from_audio(self._encode(samples))
        if len(jaw) < len(mouth) or jaw.std() < MIN_JAW_STD:
            return None
        by_offset: dict[int, float] = {}
        for offset in range(-self.max_offset, self.max_offset + 1):
            if margin:
                by_offset[offset] = correlation(mouth, jaw[margin - offset : margin - offset + len(mouth)])
            else:
                by_offset[offset] = correlation(mouth[max(0, offset) :], jaw[max(0, -offset) : len(mouth)])
        best = max(by_offset, key=lambda offset: by_offset[offset])
        return Agreement(by_offset[best], by_offset[best] - float(np.median(list(by_offset.values()))), best)

    def _encode(self, samples: AudioSamples) -> Any:
        from humo.conditioning.audio import encode_audio

        extractor, encoder = self._networks
        return encode_audio(samples, extractor, encoder, AUDIO_BANDS)

    @cached_property
    def _networks(self) -> tuple[Any, Any]:
        from transformers import WhisperFeatureExtractor
        from transformers.utils import logging

        from humo.checkpoints.model_folder import BUILTIN_MODEL
        from humo.model.audio import SpeechEncoder

        logging.disable_progress_bar()
        encoder: Any = SpeechEncoder.from_pretrained(str(BUILTIN_MODEL / "audio_encoder")).float().eval()
        return WhisperFeatureExtractor.from_pretrained(str(BUILTIN_MODEL / "feature_extractor")), encoder


AUDIO_BANDS = 5
"""Audio bands that the built-in model's hidden states are averaged into."""
