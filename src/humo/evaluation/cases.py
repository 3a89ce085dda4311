"""Cases: what a video was generated from, and what is known about it. Stored as one JSON object a line.

    id            unique name; its video is ID.mp4, or ID_seedN.mp4 with several seeds
    category      group for tables
    prompt        text
    references    images in order; the first one that shows a person is the identity to keep
    objects       numbers of references that show an object and no person
    audio         what the model got
    speech        the voice alone, if it differs from the audio; lip sync is judged by it
    person        people with the same name are drawn together in statistics
    expected      "speaks" or "silent"
    boxes         of several speakers: left, top, right, bottom as fractions of the frame
    truth         ground truth of a rendered clip (.npz), with truth_video and attributes
    gallery       references of other people, among whom the person is to be recognized
    request       further fields of the request: frames, width, height, mode, seed
    license, source

Paths are relative to the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from humo.errors import RequestError
from humo.evaluation.metric import Need
from humo.files import atomic_write, os_error_text

CASES_FILE = "cases.jsonl"
"""Name of the file in a folder of cases."""

PATH_FIELDS = ("audio", "speech", "truth", "truth_video")
"""Fields that hold one path."""

PATH_LIST_FIELDS = ("references", "gallery")
"""Fields that hold several paths."""


@dataclass(frozen=True)
class Case:
    """One case; see the module's list of fields."""

    id: str
    category: str = ""
    prompt: str = ""
    references: tuple[Path, ...] = ()
    objects: tuple[int, ...] = ()
    audio: Path | None = None
    speech: Path | None = None
    person: str = ""
    expected: str = ""
    boxes: tuple[tuple[float, ...], ...] = ()
    truth: Path | None = None
    truth_video: Path | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    reference_attributes: Mapping[str, str] = field(default_factory=dict)
    gallery: tuple[Path, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    license: str = ""
    source: str = ""

    @property
    def person_reference(self) -> Path | None:
        """The first reference that shows a person."""
        people = [path for number, path in enumerate(self.references) if number not in self.objects]
        return people[0] if people else None

    @property
    def cluster(self) -> str:
        """Name of what is drawn together in statistics: the person, or else the case alone."""
        return f"person {self.person}" if self.person else f"case {self.id}"

    def lacks(self, need: Need) -> bool:
        """Return whether the case lacks what a metric needs; audio may still be in the video."""
        return {
            Need.REFERENCE: self.person_reference is None,
            Need.AUDIO: False,
            Need.PROMPT: not self.prompt,
            Need.TRUTH: self.truth is None,
            Need.GALLERY: not self.gallery or self.person_reference is None,
        }[need]

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """Return the fields that are set as JSON values, with paths relative to a folder."""
        values: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if not value and name != "id":
                continue
            if name in PATH_FIELDS:
                value = _relative(value, folder)
            elif name in PATH_LIST_FIELDS:
                value = [_relative(path, folder) for path in value]
            values[name] = value
        return values


def read_cases(path: Path) -> list[Case]:
    """Read a file of cases.

    Raises:
        RequestError: it cannot be read, or a line is no case.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{str(path)!r} cannot be read ({os_error_text(error)})"
        raise RequestError("cases", problem, "check the path") from error
    cases = [_parse(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise RequestError("cases", f"{path.name} has no cases", "give a file with one JSON object a line")
    check_ids([case.id for case in cases], path.name)
    return cases


def write_cases(cases: Iterable[Case], path: Path) -> None:
    """Write a file of cases."""
    lines = [json.dumps(case.as_dict(path.parent), sort_keys=True, ensure_ascii=False) for case in cases]
    with atomic_write(path, "OUT") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_ids(ids: Iterable[str], where: str) -> None:
    """Refuse ids that occur twice or cannot name a file.

    Raises:
        RequestError: names the first one.
    """
    known: set[str] = set()
    for one in ids:
        if one in known:
            raise RequestError("id", f"{one!r} occurs twice in {where}", "give each case a name of its own")
        if not one.strip() or Path(one).name != one or "\0" in one or one.startswith("."):
            raise RequestError("id", f"{one!r} in {where} cannot name a file", "use letters, digits, - and _")
        known.add(one)


def _parse(line: str, number: int, path: Path) -> Case:
    where = f"line {number} of {path.name}"
    try:
        values = json.loads(line)
    except ValueError as error:
        raise RequestError("cases", f"{where} is not JSON ({error})", "correct that line") from error
    known = {one.name for one in fields(Case)}
    if not isinstance(values, dict) or not isinstance(values.get("id"), str):
        raise RequestError("cases", f"{where} has no id", 'give an object such as {"id": "a", "prompt": "..."}')
    if unknown := sorted(values.keys() - known):
        raise RequestError("cases", f"{where} has the field {unknown[0]!r}", f"known are {', '.join(sorted(known))}")
    for name in PATH_FIELDS:
        if name in values:
            values[name] = path.parent / str(values[name])
    for name in PATH_LIST_FIELDS:
        if name in values:
            values[name] = tuple(path.parent / str(one) for one in values[name])
    for name in ("objects", "boxes"):
        if name in values:
            values[name] = tuple(tuple(one) if isinstance(one, list) else one for one in values[name])
    return Case(**values)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
