"""Voice and noise in the audio of a clip.

**Source:** Silero VAD 6 (github.com/snakers4/silero-vad, MIT); DNSMOS (arXiv 2010.15258), whose networks are in the
package ``speechmos`` (MIT).
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from humo.data.appearance import pack
from humo.data.scan import missing_package
from humo.data.tasks import Values
from humo.geometry import SAMPLE_RATE
from humo.media.audio import AudioSamples

QUALITY_SECONDS = 9.01
"""Seconds that DNSMOS rates; shorter audio is repeated."""

BACKGROUND_CURVE = (-0.13166888, 1.60915514, -0.39604546)
"""Polynomial that DNSMOS applies to its rating of the background."""

MIN_PEAK = 1e-4
"""Largest sample below which audio is silence."""


LOUDNESS_VALUES = 64
"""Values of the curve that distinguishes copies from clips that only look the same."""


def loudness(samples: AudioSamples | None) -> str:
    """Return the loudness of audio over time, (64,) uint8 in base64; empty without audio."""
    if samples is None or np.abs(samples).max(initial=0.0) < MIN_PEAK:
        return ""
    parts = np.array_split(samples, LOUDNESS_VALUES)
    levels = np.array([np.sqrt(np.mean(np.square(part))) if len(part) else 0.0 for part in parts])
    return pack(np.round(levels / levels.max() * 255).astype(np.uint8))


class SpeechJudge:
    """Voice activity and quality of the background; the networks are loaded at first use.

    Raises:
        DependencyError: at first use, if a package is not installed.
    """

    def scores(self, samples: AudioSamples | None) -> Values:
        """Return ``speech_rate`` (fraction of the time in which somebody speaks) and ``background_quality`` (1 to 5).

        Args:
            samples: mono at 16 kHz; None for a clip without audio.
        """
        if samples is None or np.abs(samples).max(initial=0.0) < MIN_PEAK:
            return {"speech_rate": 0.0, "background_quality": None}
        return {
            "speech_rate": round(self._speech_seconds(samples) * SAMPLE_RATE / len(samples), 4),
            "background_quality": round(self._background(samples), 3),
        }

    def _speech_seconds(self, samples: AudioSamples) -> float:
        import torch

        model, timestamps = self._detector
        spans = timestamps(torch.from_numpy(np.ascontiguousarray(samples)), model, sampling_rate=SAMPLE_RATE)
        return float(sum(span["end"] - span["start"] for span in spans)) / SAMPLE_RATE

    def _background(self, samples: AudioSamples) -> float:
        wanted = int(QUALITY_SECONDS * SAMPLE_RATE)
        rating = self._rater.run(None, {"input_1": np.resize(samples, wanted).astype(np.float32)[None]})[0][0][1]
        return float(np.polyval(BACKGROUND_CURVE, rating))

    @cached_property
    def _detector(self) -> tuple[Any, Any]:
        try:
            from silero_vad import get_speech_timestamps, load_silero_vad
        except ImportError as error:
            raise missing_package("silero-vad") from error
        return load_silero_vad(onnx=True), get_speech_timestamps

    @cached_property
    def _rater(self) -> Any:
        package = find_spec("speechmos")  # its own import needs librosa
        if package is None or not package.submodule_search_locations:
            raise missing_package("speechmos")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        file = Path(next(iter(package.submodule_search_locations))) / "dnsmos_models" / "sig_bak_ovr.onnx"
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
