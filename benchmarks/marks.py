"""What a watermark outlives: shares of clips whose mark is read back, and of its bits, after encodings and sizes.

python benchmarks/marks.py people/video/*.mp4
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from humo.media import watermark
from humo.media.video import ENCODER_THREADS, Frame, read_video

PAYLOAD = 0xBEEF

Frames = Sequence[Frame]


def encoded(frames: Frames, crf: int) -> list[Frame]:
    """Through x264 and back."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = ENCODER_THREADS
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as again:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in again.decode(video=0)]


def resized(frames: Frames, share: float) -> list[Frame]:
    """Smaller, by bicubic interpolation."""
    height, width = (round(side * share) // 2 * 2 for side in frames[0].shape[:2])
    return [np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames]


CASES: dict[str, tuple[Callable[[Frames], Frames], int]] = {
    "as made": (lambda frames: frames, 16),
    "crf 18": (lambda frames: encoded(frames, 18), 16),
    "crf 23": (lambda frames: encoded(frames, 23), 16),
    "crf 28": (lambda frames: encoded(frames, 28), 16),
    "crf 18, then 23": (lambda frames: encoded(encoded(frames, 18), 23), 16),
    "half the size, crf 18": (lambda frames: encoded(resized(frames, 0.5), 18), 8),
    "half the size, crf 23": (lambda frames: encoded(resized(frames, 0.5), 23), 8),
}
"""What is done to the frames, and the pixels that a block of the mark has after it."""


def right_bits(frames: Frames, block: int) -> float:
    """The share of the mark's bits that are read as they were written, before any is put right."""
    votes = np.sum([watermark.soft_bits(frame, block) for frame in frames], axis=0)
    return float(((votes > 0) == (watermark.encode_payload(PAYLOAD) > 0)).mean())


def main() -> None:
    """Measure, and print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("clips", nargs="+", type=Path, help="videos")
    parser.add_argument("--frames", type=int, default=25, help="of each, from its start")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, bool]]] = {case: [] for case in CASES}
    distance, seconds, false = [], [], 0
    for path in options.clips:
        plain = list(read_video(path).frames[: options.frames])
        began = time.perf_counter()
        marked = list(watermark.embed_watermark(plain, PAYLOAD))
        seconds.append((time.perf_counter() - began) / len(plain))
        distance.append(
            np.mean([(after.astype(float) - before) ** 2 for before, after in zip(plain, marked, strict=True)])
        )
        false += watermark.detect_watermark(plain).payload is not None
        for case, (change, block) in CASES.items():
            frames = change(marked)
            found[case].append((right_bits(frames, block), watermark.detect_watermark(frames).payload == PAYLOAD))
    height, width = plain[0].shape[:2]
    psnr = 10 * np.log10(255**2 / np.mean(distance))
    print(f"{len(options.clips)} clips of {width} x {height}, {len(plain)} frames; {psnr:.1f} dB from the unmarked; ")
    print(f"{1000 * np.median(seconds):.1f} ms a frame; read in unmarked clips: {false}\n")
    print("| after | bits right | mark read |\n|---|---|---|")
    for case, several in found.items():
        bits, read = np.mean(several, axis=0)
        print(f"| {case} | {bits:.1%} | {read:.0%} |")


if __name__ == "__main__":
    main()
