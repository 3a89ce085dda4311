"""Stages ``reference`` and ``portrait``: reference images that a manifest or a folder of portraits names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from humo.analysis.face_boxes import FaceBoxes
from humo.data import appearance
from humo.data.clip_files import portrait_file, subject_file
from humo.data.people import PersonFinder
from humo.data.remote_files import local_copy
from humo.data.sources import IMAGE_SUFFIXES
from humo.data.tasks import Values
from humo.errors import MediaError
from humo.files import atomic_write
from humo.media.audio import open_media
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image
from humo.media.video import read_frame

Frame = NDArray[np.uint8]


def cut_out_references(payload: Values) -> Values:
    """Cut the references of a clip out of the videos that a manifest names.

    Args:
        payload: ``id`` of the clip, ``folder``, ``references``: each with ``path``, ``instant`` (0..1 of the video's
            frames), ``box`` (left, top, right, bottom in pixels, or as fractions), ``phrase``.

    Returns:
        ``images``: number, phrase and side in pixels of each one; ``problems``: why others are missing.

    Raises:
        MediaError: none could be read.
    """
    images, problems = [], []
    for number, reference in enumerate(payload["references"]):
        try:
            with local_copy(reference["path"]) as path:
                frame = _frame(path, reference["instant"])
            part = _cut_out(frame, reference["box"])
        except MediaError as error:
            problems.append(error.problem)
            continue
        with atomic_write(subject_file(Path(payload["folder"]), payload["id"], number), "OUT") as file:
            Image.fromarray(part).save(file, format="PNG")
        images.append({"number": number, "phrase": reference.get("phrase", ""), "side": min(part.shape[:2])})
    if not images:
        raise MediaError(
            "source", f"none of {len(problems)} references can be read: {problems[0]}", "repair it, or leave it out"
        )
    return {"images": images, "problems": problems}


def _frame(path: Path, instant: float) -> Frame:
    """Return the frame at a fraction of a video's frames, or an image."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return np.asarray(load_image(path, field="reference"), np.uint8)
    with open_media(path, "reference", is_video=True) as container:
        if not container.streams.video:
            raise MediaError("reference", f"{path.name!r} has no video stream", "repair it, or leave it out")
        count = sum(packet.pts is not None for packet in container.demux(container.streams.video[0]))
    return read_frame(path, min(int(count * instant), max(0, count - 1)), field="reference")


def _cut_out(frame: Frame, box: list[float]) -> Frame:
    height, width = frame.shape[:2]
    scale = (width, height, width, height) if max(box) <= 1 else (1, 1, 1, 1)
    left, top, right, bottom = (round(value * factor) for value, factor in zip(box, scale, strict=True))
    part = frame[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    if min(part.shape[:2]) < 1:
        raise MediaError(
            "reference", f"the box {box} lies outside the frame of {width} x {height} pixels", "correct the box"
        )
    return np.ascontiguousarray(part)


def inspect_portrait(payload: Values) -> Values:
    """Describe a portrait as the scores of clips are described, and write head and shoulders of it.

    Args:
        payload: ``path``; ``folder``; ``id``.

    Returns:
        ``embedding``, ``colors``, ``side``.

    Raises:
        MediaError: it cannot be read, or does not show exactly one face.
    """
    with local_copy(payload["path"]) as path:
        frames = np.asarray(load_image(path, field="portrait"), np.uint8)[None]
    faces = FaceBoxes().detect(frames[0])
    if len(faces) != 1:
        raise MediaError(
            "portrait",
            f"{Path(payload['path']).name!r} shows {len(faces)} faces instead of one",
            "give a portrait of one person",
        )
    person = PersonFinder().find(frames)
    image, _ = appearance.reference_image(frames, person)
    values = appearance.identity(frames, person, FaceIdentity())
    if image is None or values["embedding"] is None:
        raise MediaError(
            "portrait", f"{Path(payload['path']).name!r} shows no face clearly", "give a portrait with a clear face"
        )
    with atomic_write(portrait_file(Path(payload["folder"]), payload["id"]), "OUT") as file:
        Image.fromarray(image).save(file, format="PNG")
    return {
        "embedding": values["embedding"],
        "colors": appearance.colors(frames, person),
        "side": min(image.shape[:2]),
    }
