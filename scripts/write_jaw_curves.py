"""Write the jaw curves of `humo.evaluation.metrics.lips`: what audio implies of speech that belongs to no case.

python scripts/write_jaw_curves.py src/humo/assets/faces/jaw_curves.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from humo.analysis.lip_sync import predict_jaw
from humo.geometry import FRAMES_PER_SECOND, SAMPLE_RATE
from humo.synthetic.sentences import draw_sentence
from humo.synthetic.speech.synthesis import installed_voices, synthesize

CURVES, SECONDS = 16, 10
"""Number of curves, and their length."""

SEED = 8093
"""Seed of the sentences."""


def main(path: Path) -> None:
    """Synthesize speech, predict its jaw curves and write them."""
    random = np.random.default_rng(SEED)
    voices = installed_voices()
    curves = []
    for number in range(CURVES):
        samples = np.zeros(0, np.float32)
        while len(samples) < SECONDS * SAMPLE_RATE:
            text = draw_sentence(random, "long", held_out=True)
            samples = np.concatenate([samples, synthesize(text, voices[number % len(voices)]).samples])
        curves.append(predict_jaw(samples[: SECONDS * SAMPLE_RATE])[: SECONDS * FRAMES_PER_SECOND])
    save_file({"curves": np.stack(curves).astype(np.float16)}, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
