"""Robustness of the watermark: share of clips in which it is detected, and of correct bits, after video processing.

python benchmarks/watermark_robustness.py people/video/*.mp4
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
    """Return frames after encoding with x264 and decoding."""
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
    with av.open(file, "r") as decoded:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in decoded.decode(video=0)]


def resized(frames: Frames, scale: float) -> list[Frame]:
    """Return frames scaled by bicubic interpolation."""
    height, width = (round(side * scale) // 2 * 2 for side in frames[0].shape[:2])
    return [np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames]


CASES: dict[str, tuple[Callable[[Frames], Frames], int]] = {
    "none": (lambda frames: frames, 16),
    "crf 18": (lambda frames: encoded(frames, 18), 16),
    "crf 23": (lambda frames: encoded(frames, 23), 16),
    "crf 28": (lambda frames: encoded(frames, 28), 16),
    "crf 18, then 23": (lambda frames: encoded(encoded(frames, 18), 23), 16),
    "half the size, crf 18": (lambda frames: encoded(resized(frames, 0.5), 18), 8),
    "half the size, crf 23": (lambda frames: encoded(resized(frames, 0.5), 23), 8),
}
"""Processing of the frames, and the side in pixels that a block of the watermark has afterwards."""


def correct_bits(frames: Frames, block: int) -> float:
    """Return the share of correct bits before error correction."""
    soft_bits = np.sum([watermark.soft_bits(frame, block) for frame in frames], axis=0)
    return float(((soft_bits > 0) == (watermark.encode_payload(PAYLOAD) > 0)).mean())


def main() -> None:
    """Measure, and print one row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("clips", nargs="+", type=Path, help="videos")
    parser.add_argument("--frames", type=int, default=25, help="frames of each video, from its start")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, bool]]] = {case: [] for case in CASES}
    distance, seconds, false = [], [], 0
    for path in options.clips:
        plain = list(read_video(path).frames[: options.frames])
        start = time.perf_counter()
        marked = list(watermark.embed_watermark(plain, PAYLOAD))
        seconds.append((time.perf_counter() - start) / len(plain))
        distance.append(
            np.mean([(after.astype(float) - before) ** 2 for before, after in zip(plain, marked, strict=True)])
        )
        false += watermark.detect_watermark(plain).payload is not None
        for case, (change, block) in CASES.items():
            frames = change(marked)
            results[case].append((correct_bits(frames, block), watermark.detect_watermark(frames).payload == PAYLOAD))
    height, width = plain[0].shape[:2]
    psnr = 10 * np.log10(255**2 / np.mean(distance))
    print(f"{len(options.clips)} clips of {width} x {height}, {len(plain)} frames; {psnr:.1f} dB PSNR; ")
    print(f"{1000 * np.median(seconds):.1f} ms per frame; false detections: {false}\n")
    print("| processing | correct bits | watermark detected |\n|---|---|---|")
    for case, values in results.items():
        bits, detected = np.mean(values, axis=0)
        print(f"| {case} | {bits:.1%} | {detected:.0%} |")


if __name__ == "__main__":
    main()
