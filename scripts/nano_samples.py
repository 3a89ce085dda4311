"""Generate the images and videos of docs/nano.md with the built-in model.

    python scripts/nano_samples.py data/people docs

Writes nano.jpg (generated clips below the true clips) and the videos of four examples with audio.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from humo.evaluation.case_sources import read_source
from humo.evaluation.generation import generate_videos
from humo.jobs.engine import Engine
from humo.jobs.generate import build_request, generate, prepare_job
from humo.media.clip_reader import read_clip
from humo.media.image import load_image

CLIPS, COLUMNS, FRAMES = 8, 9, 25
"""Clips on the sheet, frames shown of each, and frames generated of each."""

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLES_WITH_AUDIO = ("woman", "man", "elder", "words")


def write_sheet(folder: str, target: Path) -> None:
    """Write an image with two rows a case: the true clip, and the generated one; the reference is on the left.

    Half of the cases are of people of the training set, half of people that are not in it.
    """
    source = read_source(Path(folder), CLIPS)
    times = np.linspace(0, FRAMES - 1, COLUMNS).round().astype(int)
    rows = []
    with tempfile.TemporaryDirectory() as videos:
        generate_videos(source, Path(videos), {"frames": FRAMES})
        for case in source.cases:
            assert case.truth_video is not None
            generated = read_clip(Path(videos) / f"{case.id}.mp4").frames
            size = generated.shape[2], generated.shape[1]
            reference = np.asarray(load_image(case.references[0]).resize(size))
            clips = (read_clip(case.truth_video).frames, generated)
            rows += [np.concatenate([reference, *frames[times]], axis=1) for frames in clips]
    Image.fromarray(np.concatenate(rows)).save(target, quality=88)


def write_examples(folder: Path) -> None:
    """Generate the examples with audio from plain requests."""
    examples = json.loads((EXAMPLES / "test_case.json").read_text(encoding="utf-8"))
    engine = Engine()
    for name in EXAMPLES_WITH_AUDIO:
        example = examples[name]
        request = {
            "prompt": example["prompt"],
            "images": [str(EXAMPLES / path) for path in example["img_paths"]],
            "audio": str(EXAMPLES / example["audio_path"]),
            "output": str(folder / f"nano-{name}.mp4"),
        }
        generate(prepare_job(build_request(request)), engine=engine, keep_paths=False)


if __name__ == "__main__":
    write_sheet(sys.argv[1], Path(sys.argv[2]) / "nano.jpg")
    write_examples(Path(sys.argv[2]))
