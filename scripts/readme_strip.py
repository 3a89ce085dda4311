"""Generate docs/strip.webp, the animated strip of the README: examples of the built-in model above their waveforms.

    python scripts/readme_strip.py [--model NAME] [--output docs/strip.webp]

Each column shows a generated video, the reference image in its corner, and the waveform of the audio with a cursor.
Every second frame is kept, so that the file stays small. Run it again whenever the built-in model changes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
NAMES = ("woman", "man", "glasses", "elder")
FPS = 25
EVERY = 2  # frames of the video to a frame of the strip
SIDE, INSET, WAVE, GAP = 196, 54, 44, 8  # pixels
BACKGROUND, LINE, CURSOR = (255, 255, 255), (130, 140, 160), (220, 60, 50)


def read_frames(path: Path) -> list[Image.Image]:
    """Return the frames of a video."""
    with av.open(str(path)) as container:
        return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def read_samples(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return mono samples (n,) and their rate."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        blocks = [frame.to_ndarray().astype(np.float32).mean(axis=0) for frame in container.decode(audio=0)]
    return np.concatenate(blocks), rate


def draw_waveform(samples: NDArray[np.float32], rate: int, seconds: float) -> Image.Image:
    """Return the envelope of the samples of a clip, one column of pixels a slice."""
    image = Image.new("RGB", (SIDE, WAVE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    padded = np.zeros(round(seconds * rate), np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    peaks = np.array([np.abs(part).max() for part in np.array_split(padded, SIDE)])
    for column, height in enumerate(peaks / max(peaks.max(), 1e-6) * (WAVE / 2 - 2)):
        draw.line([(column, WAVE / 2 - height), (column, WAVE / 2 + height)], fill=LINE)
    return image


def draw_column(frame: Image.Image, reference: Image.Image, waveform: Image.Image, progress: float) -> Image.Image:
    """Return one column of one frame of the strip; ``progress`` is the position of the cursor, 0 to 1."""
    column = Image.new("RGB", (SIDE, SIDE + WAVE), BACKGROUND)
    column.paste(frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    column.paste(Image.new("RGB", (INSET + 4, INSET + 4), BACKGROUND), (0, SIDE - INSET - 4))
    column.paste(reference.resize((INSET, INSET), Image.Resampling.LANCZOS), (2, SIDE - INSET - 2))
    column.paste(waveform, (0, SIDE))
    x = round(progress * (SIDE - 1))
    ImageDraw.Draw(column).line([(x, SIDE), (x, SIDE + WAVE)], fill=CURSOR, width=2)
    return column


def draw_strip(videos: Path) -> list[Image.Image]:
    """Return the frames of the strip from the videos in a folder."""
    columns: list[list[Image.Image]] = []
    for name in NAMES:
        (path,) = videos.glob(f"{name}*.mp4")
        frames = read_frames(path)
        waveform = draw_waveform(*read_samples(EXAMPLES / f"{name}.wav"), len(frames) / FPS)
        reference = Image.open(EXAMPLES / f"{name}.png").convert("RGB")
        columns.append(
            [
                draw_column(frames[index], reference, waveform, index / (len(frames) - 1))
                for index in range(0, len(frames), EVERY)
            ]
        )
    strip = []
    for row in zip(*columns, strict=True):
        image = Image.new("RGB", (len(row) * (SIDE + GAP) - GAP, SIDE + WAVE), BACKGROUND)
        for index, column in enumerate(row):
            image.paste(column, (index * (SIDE + GAP), 0))
        strip.append(image)
    return strip


def generate(folder: Path, model: str | None) -> None:
    """Generate the examples into a folder with ``humo batch``."""
    rows = json.loads((EXAMPLES / "test_case.json").read_text(encoding="utf-8"))
    cases = EXAMPLES / "test_case.json"
    options = ["--model", model] if model else []
    assert set(NAMES) <= rows.keys()
    command = [sys.executable, "-m", "humo", "batch", str(cases), "--output-dir", str(folder), *options]
    subprocess.run(command, check=True)


def main() -> None:
    """Generate the videos and write the strip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model by name or folder; the built-in model by default")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "strip.webp")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), options.model)
        first, *rest = draw_strip(Path(folder))
    duration = 1000 * EVERY // FPS
    first.save(options.output, save_all=True, append_images=rest, duration=duration, loop=0, quality=72, method=6)
    print(f"{options.output}: {1 + len(rest)} frames, {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
