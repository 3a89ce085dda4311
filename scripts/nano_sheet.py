"""Makes what docs/nano.md shows: clips of the embedded model, each under the true clip; and four of the examples.

python scripts/nano_sheet.py data/people docs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from humo.evaluation.benchmark import find_cases, make
from humo.jobs.engine import Engine
from humo.jobs.generate import build_request, prepare, run
from humo.media.image import load_image
from humo.runtime.device import folder_of, load_pipeline

CLIPS, SHOWN, FRAMES = 8, 9, 25
EXAMPLES = Path(__file__).parents[1] / "examples"
WITH_SOUND = ("woman", "man", "elder", "words")


def make_sheet(folder: str, target: Path) -> None:
    """Half of the clips are of people trained on, half of people never seen; left is the person's picture."""
    cases = find_cases(folder, CLIPS, FRAMES)
    made = make(load_pipeline(folder_of(None)), cases, "TIA", lambda name, done, total: None)
    times = np.linspace(0, FRAMES - 1, SHOWN).round().astype(int)
    size = made[0].shape[2], made[0].shape[1]
    rows = []
    for case, clip in zip(cases, made, strict=True):
        picture = np.asarray(load_image(case.clip.reference).convert("RGB").resize(size))
        rows += [np.concatenate([picture, *frames[times]], axis=1) for frames in (case.frames, clip)]
    Image.fromarray(np.concatenate(rows)).save(target, quality=88)


def make_examples(folder: Path) -> None:
    """With sound, by plain requests."""
    cases = json.loads((EXAMPLES / "test_case.json").read_text(encoding="utf-8"))
    engine = Engine()
    for name in WITH_SOUND:
        case = cases[name]
        request = {
            "prompt": case["prompt"],
            "images": [str(EXAMPLES / path) for path in case["img_paths"]],
            "audio": str(EXAMPLES / case["audio_path"]),
            "output": str(folder / f"nano-{name}.mp4"),
        }
        run(prepare(build_request(request)), engine=engine, keep_paths=False)


if __name__ == "__main__":
    make_sheet(sys.argv[1], Path(sys.argv[2]) / "nano.jpg")
    make_examples(Path(sys.argv[2]))
