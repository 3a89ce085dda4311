"""An invisible watermark of 48 bits in the mean chroma of blocks, which survives video encoding.

A block of 16 x 16 pixels has a mean chroma in two directions, U and V. Each mean is moved, by at most half a
`LATTICE_STEP`, to the nearest value that stands for its bit. These values are whole steps plus a quarter for 0, and
whole steps plus three quarters for 1. Luma stays as it is. Many blocks of every frame carry each bit; the detector adds
them up, weighted by their confidence. Of the 48 bits, 32 are a checksum of the other 16. It shows whether there is a
watermark at all, and corrects up to `MAX_FLIPPED_BITS` of the least certain bits. A video without a watermark passes
once in some 200,000.

It survives the encoding of our own files, other encodings and half the size (docs/provenance.md has measurements). It
does not survive cropping, or somebody who wants to remove it.

Shape suffixes: F frames, H, W size, h, w grid of blocks.

**Source:** quantization index modulation, Chen and Wornell, 2001 (doi.org/10.1109/18.923725).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK_PIXELS = 16
"""Side of a block in pixels, at the size at which the watermark is embedded."""

LATTICE_STEP, LARGE_LATTICE_STEP = 4.0, 6.0
"""Steps of the lattice in levels of chroma (0..255); the larger one for frames with few blocks."""

SMALL_FRAME_VALUES = 480
"""Frames with fewer chroma means than this use the larger step: ten for each bit, 256 x 256 pixels."""

EMBEDDING_ITERATIONS = 3
"""Times that a block is moved; where colors are clipped, the first move falls short."""

PAYLOAD_BITS, CHECKSUM_BITS = 16, 32
BITS = PAYLOAD_BITS + CHECKSUM_BITS

MAX_FLIPPED_BITS = 12
"""Least certain bits that the checksum may correct."""

DETECTION_BLOCKS = (16, 8, 32, 24, 12)
"""Block sides in pixels that the detector tries: for a video of the original size, of half of it, of twice it, ..."""

ASSIGNMENT_SEED = 20509
"""Seed of the assignment of bits to blocks."""

RGB_TO_CHROMA = np.array([[-0.114572, -0.385428, 0.5], [0.5, -0.454153, -0.045847]])
"""RGB to U and V. **Source:** BT.709."""

CHROMA_TO_RGB = np.array([[0.0, -0.187324, 1.8556], [1.5748, -0.468124, 0.0]])
"""One level of U and one of V in RGB. **Source:** BT.709."""

Frame = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detection:
    """Result of a detection.

    Args:
        payload: 0 to 65,535; None if there is no watermark.
        confidence: mean distance of the blocks from the decision threshold, 0 (none) to 1 (as embedded).
    """

    payload: int | None
    confidence: float


def embed_watermark(frames: Iterable[Frame], payload: int) -> Iterator[Frame]:
    """Yield frames (H, W, 3) with the watermark in each; frames of fewer than 24 blocks are left unchanged.

    Args:
        frames: with sides that are multiples of 16.
        payload: 0 to 65,535.
    """
    bits = encode_payload(payload)
    for frame in frames:
        chroma = _block_chroma(frame, BLOCK_PIXELS)
        if chroma.size < BITS:
            yield frame
            continue
        step = _lattice_step(chroma.size)
        target = (0.25 + 0.5 * bits[_bit_assignment(chroma.shape)]) * step
        target += step * np.round((chroma - target) / step)
        rows, columns = (side * BLOCK_PIXELS for side in chroma.shape[:2])
        marked = frame.copy()
        exact = frame[:rows, :columns].astype(np.float64)
        for _ in range(EMBEDDING_ITERATIONS):
            change = (target - _block_chroma(marked, BLOCK_PIXELS)) @ CHROMA_TO_RGB
            exact += change.repeat(BLOCK_PIXELS, axis=0).repeat(BLOCK_PIXELS, axis=1)
            marked[:rows, :columns] = np.clip(np.rint(exact), 0, 255).astype(np.uint8)
        yield marked


def detect_watermark(frames: Iterable[Frame]) -> Detection:
    """Detect the watermark in frames (H, W, 3).

    Args:
        frames: some or all of a video, of one size.
    """
    soft_sums: dict[int, Floats] = {block: np.zeros(BITS) for block in DETECTION_BLOCKS}
    num_frames = 0
    for frame in frames:
        num_frames += 1
        for block, sums in soft_sums.items():
            sums += soft_bits(frame, block)
    best = Detection(None, 0.0)
    for sums in soft_sums.values():
        if not sums.any():
            continue
        payload = _decode_payload(sums)
        confidence = float(np.abs(sums).mean() / num_frames)
        if payload is not None and confidence > best.confidence:
            best = Detection(payload, confidence)
    return best


def soft_bits(frame: Frame, block: int) -> Floats:
    """Return soft bits of a frame (H, W, 3), -1 (certainly 0) to 1 (certainly 1); zeros if it has too few blocks.

    Args:
        frame: of a video.
        block: side of the blocks in pixels.
    """
    chroma = _block_chroma(frame, block)
    if chroma.size < BITS:
        return np.zeros(BITS)
    phase = -np.sin(2 * np.pi * chroma / _lattice_step(chroma.size))
    order = _bit_assignment(phase.shape).ravel()
    mean: Floats = np.bincount(order, phase.ravel(), BITS) / np.bincount(order, minlength=BITS)
    return mean


def _block_chroma(frame: Frame, block: int) -> Floats:
    """Return the mean U and V of every whole block, (h, w, 2)."""
    rows, columns = frame.shape[0] // block, frame.shape[1] // block
    whole = frame[: rows * block, : columns * block].reshape(rows, block, columns, block, 3)
    mean: Floats = whole.mean(axis=(1, 3)) @ RGB_TO_CHROMA.T
    return mean


def _lattice_step(means: int) -> float:
    """Return the lattice step of a frame with that many chroma means."""
    return LARGE_LATTICE_STEP if means < SMALL_FRAME_VALUES else LATTICE_STEP


def _bit_assignment(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the index of the bit of each mean; bits are equally frequent and scattered over the frame."""
    count = int(np.prod(shape))
    return np.random.default_rng(ASSIGNMENT_SEED).permutation(np.arange(count) % BITS).reshape(shape)


def encode_payload(payload: int) -> Floats:
    """Return the bits of a payload with its checksum, 0 or 1 each."""
    if not 0 <= payload < 2**PAYLOAD_BITS:
        raise ValueError(f"{payload} does not fit into {PAYLOAD_BITS} bits")
    word = payload << CHECKSUM_BITS | _checksum(payload)
    return np.array([word >> position & 1 for position in range(BITS)], np.float64)


def _decode_payload(bits: Floats) -> int | None:
    """Decode soft bits by their signs; up to `MAX_FLIPPED_BITS` of the weakest are flipped to satisfy the checksum."""
    word = sum(1 << position for position in range(BITS) if bits[position] > 0)
    weakest = np.argsort(np.abs(bits))[:MAX_FLIPPED_BITS].tolist()
    # a CRC is linear: the effect of a flipped bit does not depend on the other bits
    wrong, flipped = [_syndrome(word)], [0]
    for position in weakest:
        effect = _syndrome(word ^ 1 << position) ^ wrong[0]
        wrong += [one ^ effect for one in wrong]
        flipped += [one | 1 << position for one in flipped]
    fitting = [flips for left, flips in zip(wrong, flipped, strict=True) if left == 0]
    if not fitting:
        return None
    return (word ^ min(fitting, key=int.bit_count)) >> CHECKSUM_BITS


def _syndrome(word: int) -> int:
    """Return the difference of the stored and the computed checksum; 0 if they agree."""
    return (word & (1 << CHECKSUM_BITS) - 1) ^ _checksum(word >> CHECKSUM_BITS)


def _checksum(payload: int) -> int:
    """Return the CRC-32, which is not 0 for a payload of 0, so that zeros are no watermark."""
    return binascii.crc32(payload.to_bytes(PAYLOAD_BITS // 8, "big"))
