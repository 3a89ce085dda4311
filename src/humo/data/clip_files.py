"""Names of the files that stages write while they work, in folders of two digits: ``work/clips/ab/ID.mp4``."""

from __future__ import annotations

from pathlib import Path

WORK = "work"
"""Folder of everything that is kept to continue, refilter or report."""


def clip_file(folder: Path, name: str) -> Path:
    """Return the path of a clip that passed."""
    return folder / WORK / "clips" / name[:2] / f"{name}.mp4"


def reference_file(folder: Path, name: str) -> Path:
    """Return the path of the reference image that a clip offers to other clips."""
    return folder / WORK / "references" / name[:2] / f"{name}.png"


def thumbnail_file(folder: Path, name: str) -> Path:
    """Return the path of a clip's thumbnail."""
    return folder / WORK / "thumbnails" / name[:2] / f"{name}.jpg"


def subject_file(folder: Path, name: str, number: int) -> Path:
    """Return the path of a reference of a clip that a manifest names."""
    return folder / WORK / "subjects" / name[:2] / f"{name}-{number}.png"


def portrait_file(folder: Path, name: str) -> Path:
    """Return the path of head and shoulders of a portrait."""
    return folder / WORK / "portraits" / name[:2] / f"{name}.png"


PORTRAIT, SUBJECT = "portrait/", "subject/"
"""Beginnings of the names of references that are no clips."""


def source_of_reference(folder: Path, reference: str) -> Path:
    """Return the file of a reference by its name: that of a clip, ``portrait/ID``, or ``subject/ID-NUMBER``."""
    if reference.startswith(PORTRAIT):
        return portrait_file(folder, reference.removeprefix(PORTRAIT))
    if reference.startswith(SUBJECT):
        name, _, number = reference.removeprefix(SUBJECT).partition("-")
        return subject_file(folder, name, int(number))
    return reference_file(folder, reference)
