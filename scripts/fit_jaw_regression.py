"""Fit the jaw regression of `humo.analysis.lip_sync` to encoded clips and print its correlation on the test splits.

python scripts/fit_jaw_regression.py recipes/nano.toml src/humo/assets/faces/jaw.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from humo.analysis.lip_sync import MIN_JAW_STD, JawRegression, audio_features, correlation, jaw_from_audio
from humo.training.dataset import ClipFiles, clips_of_split, read_truth, scan_corpus
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.latent_cache import LatentCache, load_tensors
from humo.training.recipe_file import read_recipe
from humo.training.tensor_files import write_tensors

TEST_CLIPS = 100
"""Largest number of test clips to measure on."""


def main(recipe_path: Path, path: Path, overrides: list[str]) -> None:
    """Fit, write and measure."""
    recipe = read_recipe(recipe_path, overrides)
    folder, cache = scan_corpus(recipe.data), LatentCache(recipe, FrozenEncoders(recipe.model))
    training = _rows_and_jaws(cache, clips_of_split(folder, "train"))
    regression = JawRegression(audio_features(training[0][0][:1]).shape[1])
    for rows, jaw in training:
        regression.update(rows, jaw)
    write_tensors(path, {"jaw": regression.solve().half()})
    test_clips = [clip for split in ("test", "test-seen") for clip in folder.clips.get(split, ())]
    test = [(rows, jaw.numpy().astype(np.float64)) for rows, jaw in _rows_and_jaws(cache, test_clips[:TEST_CLIPS])]
    correlations = [correlation(jaw_from_audio(rows, path), jaw) for rows, jaw in test if jaw.std() > MIN_JAW_STD]
    print(f"correlation with the true jaw: {np.mean(correlations):.3f}")


def _rows_and_jaws(cache: LatentCache, clips: Sequence[ClipFiles]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return audio rows and true jaw curve of each clip that has both."""
    cached, _ = cache.encode_missing(clips, lambda name, done, total: None)
    truth = {clip.name: clip.truth for clip in clips}
    pairs = []
    for clip in cached:
        path = truth[clip.name]
        if clip.has_audio and path is not None and (curve := read_truth(path).mouth) is not None:
            pairs.append((load_tensors(clip, ["rows"])["rows"], torch.from_numpy(curve[:, 0])))
    return pairs


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
