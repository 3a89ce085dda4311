"""Appearance of a clip: face embedding, colors around the face, difference hashes, reference image."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.analysis.face_mesh import Face
from humo.data.people import REGION_HEIGHTS, Person
from humo.data.tasks import Values
from humo.media.face_identity import FaceIdentity

Frames = NDArray[np.uint8]
Frame = NDArray[np.uint8]

IDENTITY_FRAMES = 4
"""Frames of a clip whose faces are embedded."""

HASH_FRAMES, HASH_SIDE = 8, 8
"""Frames of a clip that are hashed; bits of a hash along each axis."""

COLOR_BINS = (16, 8, 8)
"""Bins of hue, saturation and value."""

FACE_MARGIN = 0.25
"""Margin around a face that colors leave out, in units of its height."""

HEAD_HEIGHTS = 2.6
"""Side of the reference image, head and shoulders, in units of the face's height."""


def identity(frames: Frames, person: Person, recognizer: FaceIdentity) -> Values:
    """Return ``embedding`` (128 values, base64 of float16) and ``identity_spread``, the largest distance inside."""
    embeddings = []
    for number in person.best_frames(IDENTITY_FRAMES):
        face = person.faces[number]
        assert face is not None
        embedding = recognizer.embed(face_region(frames[number], face, REGION_HEIGHTS))
        if embedding is not None:
            embeddings.append(embedding)
    if not embeddings:
        return {"embedding": None, "identity_spread": None}
    distances = [float(np.linalg.norm(a - b)) for a in embeddings for b in embeddings]
    return {
        "embedding": pack(np.mean(embeddings, axis=0).astype(np.float16)),
        "identity_spread": round(max(distances), 4),
    }


def face_region(frame: Frame, face: Face, heights: float) -> Frame:
    """Return the square around a face, as far as it lies in the frame.

    Args:
        heights: its side in units of the face's height.
    """
    left, top, right, bottom = face.box
    half = heights * (bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    rows, columns = frame.shape[:2]
    return np.ascontiguousarray(
        frame[
            max(0, round(y - half)) : min(rows, round(y + half)),
            max(0, round(x - half)) : min(columns, round(x + half)),
        ]
    )


def reference_image(frames: Frames, person: Person) -> tuple[Frame | None, float]:
    """Return head and shoulders in the frame that shows the face best, and how well it shows it (0..1)."""
    numbers = person.best_frames(1)
    if not numbers:
        return None, 0.0
    face = person.faces[numbers[0]]
    assert face is not None
    height = face.box[3] - face.box[1]
    return face_region(frames[numbers[0]], face, HEAD_HEIGHTS), round(float(height / person.lines), 4)


def colors(frames: Frames, person: Person) -> str:
    """Return the histogram of colors outside the face, (1024,) uint8 in base64; its sum is about 255."""
    import cv2

    total = np.zeros(COLOR_BINS, np.float32)
    for number in person.best_frames(IDENTITY_FRAMES) or [len(frames) // 2]:
        hsv = cv2.cvtColor(frames[number], cv2.COLOR_RGB2HSV)
        mask = np.full(hsv.shape[:2], 255, np.uint8)
        face = person.faces[number]
        if face is not None:
            left, top, right, bottom = face.box
            margin = FACE_MARGIN * (bottom - top)
            rows = slice(max(0, round(top - margin)), max(0, round(bottom + margin)))
            mask[rows, max(0, round(left - margin)) : max(0, round(right + margin))] = 0
        total += cv2.calcHist([hsv], [0, 1, 2], mask, list(COLOR_BINS), [0, 180, 0, 256, 0, 256])
    share = total.ravel() / max(1.0, float(total.sum()))
    return pack(np.round(np.sqrt(share) * 255).astype(np.uint8))


def color_overlap(a: str, b: str) -> float:
    """Return the similarity of two results of `colors`, 0..1: the intersection of their histograms."""
    shares = []
    for packed in (a, b):
        values = (unpack(packed, np.uint8).astype(np.float64) / 255) ** 2
        shares.append(values / max(1e-9, values.sum()))
    return float(np.minimum(*shares).sum())


def hashes(frames: Frames) -> str:
    """Return the difference hashes of `HASH_FRAMES` frames, 16 hexadecimal digits each.

    **Source:** Neal Krawetz, "Kind of like that" (2013): signs of the differences of neighboring pixels.
    """
    import cv2

    bits = []
    for at in np.linspace(0, len(frames) - 1, HASH_FRAMES):
        gray = cv2.cvtColor(frames[round(at)], cv2.COLOR_RGB2GRAY)
        small = cv2.resize(gray, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
        bits.append(np.packbits(small[:, 1:] > small[:, :-1]))
    return np.concatenate(bits).tobytes().hex()


def differing_bits(a: str, b: str) -> float:
    """Return the fraction of bits in which two results of `hashes` differ."""
    left, right = (np.frombuffer(bytes.fromhex(text), np.uint8) for text in (a, b))
    return float(np.unpackbits(left ^ right).mean())


def pack(values: NDArray[Any]) -> str:
    """Return an array as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def unpack(text: str, kind: Any) -> NDArray[Any]:
    """Return the array of a base64 text."""
    return np.frombuffer(base64.b64decode(text), kind)


def embedding_of(packed: Sequence[Any] | str) -> NDArray[np.float32]:
    """Return an embedding (128,) as `identity` stores it."""
    assert isinstance(packed, str)
    return unpack(packed, np.float16).astype(np.float32)
