"""A mark in the picture itself that nobody sees and an encoder leaves there: forty-eight bits in the colour of blocks.

A block of 16 x 16 pixels has a mean chroma in each of the two directions, U and V. Each is moved, by at most half a
`STEP`, to the nearest value of a lattice that stands for the bit it carries: whole steps plus a quarter for 0, plus
three quarters for 1. Brightness stays as it is. Every bit is carried by many blocks of every frame; whoever reads adds
them all up, each by how clearly it speaks. Thirty-two of the bits are a check sum of the other sixteen: it tells
whether there is a mark at all, and puts right what the weakest bits got wrong (`WEAKEST`; a mark that is none is read
once in some 200,000 videos).

It survives what our own files go through, other encodings and half the size (docs/marks.md has the figures); not
cropping, and not somebody who wants it gone.

Shape suffixes: F frames, H, W size, h, w grid of blocks.

**Source:** quantization index modulation, Chen and Wornell, 2001.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK_PIXELS = 16
"""Pixels a side, at the size at which the mark is made."""

LATTICE_STEP, LARGE_LATTICE_STEP = 4.0, 6.0
"""Of the lattice, in levels of chroma (0..255); the larger one where few blocks have to carry the bits."""

SMALL_FRAME_VALUES = 480
"""Means, of both directions of chroma, that are few: ten for each bit, 256 x 256 pixels."""

EMBEDDING_ITERATIONS = 3
"""Times that a block is moved: where colours are at the end of their range, the first move comes out too short."""

PAYLOAD_BITS, CHECKSUM_BITS = 16, 32
BITS = PAYLOAD_BITS + CHECKSUM_BITS

MAX_FLIPPED_BITS = 12
"""Bits, of the least certain ones, that may be wrong."""

DETECTION_BLOCKS = (16, 8, 32, 24, 12)
"""Pixels a side that are tried when a mark is read: that of the size it was made at, of half of it, twice, ..."""

ASSIGNMENT_SEED = 20509
"""Of the order in which blocks carry the bits."""

RGB_TO_CHROMA = np.array([[-0.114572, -0.385428, 0.5], [0.5, -0.454153, -0.045847]])
"""RGB to U and V. **Source:** BT.709."""

CHROMA_TO_RGB = np.array([[0.0, -0.187324, 1.8556], [1.5748, -0.468124, 0.0]])
"""One level of U, one of V, in RGB. **Source:** BT.709."""

Frame = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detection:
    """What was read.

    Args:
        payload: the mark's, 0 to 65,535; None if there is no mark.
        clearness: how clearly the blocks speak, from 0 (not at all) to 1 (as they were made).
    """

    payload: int | None
    confidence: float


def embed_watermark(frames: Iterable[Frame], payload: int) -> Iterator[Frame]:
    """The same frames (H, W, 3) with a mark in each; those too small for it, of less than 24 blocks, as they are.

    Args:
        frames: their sides multiples of 16.
        payload: 0 to 65,535.
    """
    bits = encode_payload(payload)
    for frame in frames:
        chroma = _block_chroma(frame, BLOCK_PIXELS)
        if chroma.size < BITS:
            yield frame
            continue
        step = _lattice_step(chroma.size)
        wanted = (0.25 + 0.5 * bits[_bit_assignment(chroma.shape)]) * step
        wanted += step * np.round((chroma - wanted) / step)
        rows, columns = (side * BLOCK_PIXELS for side in chroma.shape[:2])
        marked = frame.copy()
        exact = frame[:rows, :columns].astype(np.float64)
        for _ in range(EMBEDDING_ITERATIONS):
            change = (wanted - _block_chroma(marked, BLOCK_PIXELS)) @ CHROMA_TO_RGB
            exact += change.repeat(BLOCK_PIXELS, axis=0).repeat(BLOCK_PIXELS, axis=1)
            marked[:rows, :columns] = np.clip(np.rint(exact), 0, 255).astype(np.uint8)
        yield marked


def detect_watermark(frames: Iterable[Frame]) -> Detection:
    """The mark in frames (H, W, 3), if there is one.

    Args:
        frames: some or all of a video, of one size.
    """
    said: dict[int, Floats] = {block: np.zeros(BITS) for block in DETECTION_BLOCKS}
    counted = 0
    for frame in frames:
        counted += 1
        for block, sums in said.items():
            sums += soft_bits(frame, block)
    best = Detection(None, 0.0)
    for sums in said.values():
        if not sums.any():
            continue
        found = _decode_payload(sums)
        clearness = float(np.abs(sums).mean() / counted)
        if found is not None and clearness > best.confidence:
            best = Detection(found, clearness)
    return best


def soft_bits(frame: Frame, block: int) -> Floats:
    """What a frame (H, W, 3) says of each bit, -1 (surely 0) to 1 (surely 1); zeros if it has too few blocks.

    Args:
        frame: of a video.
        block: pixels a side that the mark's blocks have in it.
    """
    chroma = _block_chroma(frame, block)
    if chroma.size < BITS:
        return np.zeros(BITS)
    phase = -np.sin(2 * np.pi * chroma / _lattice_step(chroma.size))
    order = _bit_assignment(phase.shape).ravel()
    mean: Floats = np.bincount(order, phase.ravel(), BITS) / np.bincount(order, minlength=BITS)
    return mean


def _block_chroma(frame: Frame, block: int) -> Floats:
    """Mean U and V of every whole block, (h, w, 2)."""
    rows, columns = frame.shape[0] // block, frame.shape[1] // block
    whole = frame[: rows * block, : columns * block].reshape(rows, block, columns, block, 3)
    mean: Floats = whole.mean(axis=(1, 3)) @ RGB_TO_CHROMA.T
    return mean


def _lattice_step(means: int) -> float:
    """Of the lattice in a picture with so many means of blocks."""
    return LARGE_LATTICE_STEP if means < SMALL_FRAME_VALUES else LATTICE_STEP


def _bit_assignment(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Which bit each mean carries: all bits as often as each other, mixed so that no place carries one alone."""
    count = int(np.prod(shape))
    return np.random.default_rng(ASSIGNMENT_SEED).permutation(np.arange(count) % BITS).reshape(shape)


def encode_payload(payload: int) -> Floats:
    """The bits of a mark, 0 or 1."""
    if not 0 <= payload < 2**PAYLOAD_BITS:
        raise ValueError(f"{payload} does not fit into {PAYLOAD_BITS} bits")
    word = payload << CHECKSUM_BITS | _checksum(payload)
    return np.array([word >> place & 1 for place in range(BITS)], np.float64)


def _decode_payload(votes: Floats) -> int | None:
    """What the bits say, each by the sign of its votes, the weakest of them the other way round if need be."""
    word = sum(1 << place for place in range(BITS) if votes[place] > 0)
    weakest = np.argsort(np.abs(votes))[:MAX_FLIPPED_BITS].tolist()
    # a check sum is linear: what a flipped bit changes of it does not depend on the others
    wrong, flipped = [_syndrome(word)], [0]
    for place in weakest:
        effect = _syndrome(word ^ 1 << place) ^ wrong[0]
        wrong += [one ^ effect for one in wrong]
        flipped += [one | 1 << place for one in flipped]
    fitting = [flips for left, flips in zip(wrong, flipped, strict=True) if left == 0]
    if not fitting:
        return None
    return (word ^ min(fitting, key=int.bit_count)) >> CHECKSUM_BITS


def _syndrome(word: int) -> int:
    """The check sum that is there against the one that should be: 0 where they agree."""
    return (word & (1 << CHECKSUM_BITS) - 1) ^ _checksum(word >> CHECKSUM_BITS)


def _checksum(payload: int) -> int:
    """CRC-32; not 0 for a payload of 0, so that nothing is no mark."""
    return binascii.crc32(payload.to_bytes(PAYLOAD_BITS // 8, "big"))
