"""Makes the reading of the jaw of `humo.evaluation.lip_sync` from encoded clips, and says how well it reads others.

python scripts/jaw_probe.py recipes/nano.toml src/humo/assets/faces/jaw.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from humo.evaluation.lip_sync import JawFit, features, implied_jaw
from humo.evaluation.metrics import LEAST_MOTION, correlation
from humo.training.dataset import ClipFiles, of_split, read_truth, scan
from humo.training.frozen_encoders import Encoders
from humo.training.latent_cache import Cache, load
from humo.training.recipe_file import read_recipe
from humo.training.tensor_files import write_tensors

TESTED = 100
"""Clips of the test splits."""


def main(recipe_path: Path, path: Path, overrides: list[str]) -> None:
    """Fit, write, measure."""
    recipe = read_recipe(recipe_path, overrides)
    folder, cache = scan(recipe.data), Cache(recipe, Encoders(recipe.model))

    def heard(clips: tuple[ClipFiles, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        entries, _ = cache.fill(clips, lambda name, done, total: None)
        truth = {clip.name: clip.truth for clip in clips}
        found = []
        for entry in entries:
            place = truth[entry.name]
            if entry.hears and place is not None and (curve := read_truth(place).mouth) is not None:
                found.append((load(entry, ["rows"])["rows"], torch.from_numpy(curve[:, 0])))
        return found

    known = heard(of_split(folder, "train"))
    fit = JawFit(features(known[0][0][:1]).shape[1])
    for rows, jaw in known:
        fit.see(rows, jaw)
    write_tensors(path, {"jaw": fit.solve().half()})
    others = heard(tuple(clip for split in ("test", "test-seen") for clip in folder.clips.get(split, ()))[:TESTED])
    moving = [(rows, jaw.numpy().astype(np.float64)) for rows, jaw in others if float(jaw.std()) > LEAST_MOTION]
    print(f"correlation with the true jaw: {np.mean([correlation(implied_jaw(r, path), j) for r, j in moving]):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
