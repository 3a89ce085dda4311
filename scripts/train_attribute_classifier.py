"""Train the classifier of `humo.evaluation.attribute_classifier` on a rendered corpus and print its accuracy.

    humo data render data/people --clips 3000 --seed 0 --identities 600
    python scripts/train_attribute_classifier.py data/people src/humo/assets/faces/attributes.safetensors

Accuracy is measured on the test splits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from humo.evaluation.attribute_classifier import (
    ATTRIBUTES,
    attribute_value,
    load_classifier,
    save_classifier,
    train_classifier,
)
from humo.media.video import read_video
from humo.training.config import DataConfig
from humo.training.dataset import clips_of_split, read_attributes, scan_corpus

FRAMES_PER_CLIP = 3
"""Number of frames of each clip to train on."""


def main(corpus: str, path: Path) -> None:
    """Train, write, load again and measure."""
    data = DataConfig(folder=corpus)
    folder = scan_corpus(data)
    training_clips = clips_of_split(folder, "train")
    test_clips = [clip for split in ("test", "test-seen") for clip in folder.clips.get(split, ())]
    truth = read_attributes(data, [*training_clips, *test_clips], ATTRIBUTES)
    frames = {}
    for clip in training_clips:
        video = read_video(clip.video).frames
        frames[clip.name] = video[np.linspace(0, len(video) - 1, FRAMES_PER_CLIP).round().astype(int)]
    save_classifier(train_classifier(training_clips, truth, frames), path)
    classifier = load_classifier(path)
    correct = dict.fromkeys(ATTRIBUTES, 0)
    for clip in test_clips:
        predicted = classifier.classify(read_video(clip.video).frames)
        for name, value in zip(ATTRIBUTES, truth[clip.name], strict=True):
            correct[name] += predicted[name] == attribute_value(name, value)
    for name, count in correct.items():
        print(f"{name:16} {count / len(test_clips):.1%} of {len(test_clips)}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
