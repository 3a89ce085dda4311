"""Train the reader of `humo.evaluation.attribute_classifier` on a corpus, and measure it on clips not trained on.

humo data synth data/people --clips 3000 --seed 0 --people 600
python scripts/attribute_reader.py data/people src/humo/assets/faces/attributes.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from humo.evaluation.attribute_classifier import ATTRIBUTES, open_reader, save_reader, shown, train_reader
from humo.media.video import read_video
from humo.training.config import Data
from humo.training.dataset import of_split, read_attributes, scan

FRAMES = 3
"""Of each clip."""


def main(corpus: str, path: Path) -> None:
    """Train, write, read back, measure."""
    data = Data(folder=corpus)
    folder = scan(data)
    clips = of_split(folder, "train")
    others = [clip for split in ("test", "test-seen") for clip in folder.clips.get(split, ())]
    truth = read_attributes(data, [*clips, *others], ATTRIBUTES)
    frames = {}
    for clip in clips:
        video = read_video(clip.video).frames
        frames[clip.name] = video[np.linspace(0, len(video) - 1, FRAMES).round().astype(int)]
    save_reader(train_reader(clips, truth, frames), path)
    reader = open_reader(path)
    right = dict.fromkeys(ATTRIBUTES, 0)
    for clip in others:
        read = reader.read(read_video(clip.video).frames)
        for name, value in zip(ATTRIBUTES, truth[clip.name], strict=True):
            right[name] += read[name] == shown(name, value)
    for name, count in right.items():
        print(f"{name:16} {count / len(others):.1%} of {len(others)}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
