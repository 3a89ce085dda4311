"""Sources of a dataset: videos in folders, lists of files, and manifests with a row for each video or part of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from humo.data.manifests import MANIFEST_SUFFIXES, read_manifest
from humo.data.remote_files import is_remote, list_files, local_copy, remote_info
from humo.data.tasks import Values
from humo.errors import RequestError
from humo.media.corpus_layout import CAPTIONS, VIDEOS

COMMON_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm")
"""Suffixes of videos that messages name as examples."""

VIDEO_SUFFIXES = frozenset(
    (*COMMON_SUFFIXES, ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".mts", ".m2ts", ".3gp")
)
"""Suffixes of videos that are looked for in folders. A file that is named itself may have any other."""

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp"))
"""Suffixes of images, which are sources of clips of one frame where a dataset's kind is ``subject``."""

LISTS = frozenset((".txt", ".lst"))
"""Suffixes of lists: a path in each line."""

SPAN_NAME = re.compile(r"^([0-9a-f]{64})_(\d+)_(\d+)$")
"""Name of a clip of OpenHumanVid: the video that it is from, its first and its last frame there."""


@dataclass(frozen=True, slots=True)
class Source:
    """A video, or a part of one, that clips may come from.

    Args:
        path: path or address.
        start, end: seconds; the part that a manifest names.
        frames: the part as first frame and the frame after the last one, at the video's own rate.
        crop: left, top, right, bottom as fractions of the frame, or in pixels where a value is above 1.
        caption: caption of its clips, if a manifest gives one.
        group: sources in which the same people may appear, such as the parts of one video.
        language: language that is spoken, if it is known.
        license: license, if it is known.
        references: references that a manifest names: path, instant (0..1), box, phrase.
        name: identifier in the manifest, if it has one.
    """

    path: str
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    crop: tuple[float, ...] | None = None
    caption: str = ""
    group: str = ""
    language: str = ""
    license: str = ""
    references: tuple[Values, ...] = field(default=(), compare=False)
    name: str = ""

    def as_dict(self) -> Values:
        """Return the fields that differ from their defaults."""
        empty = {each.name: each.default for each in fields(self) if each.name not in ("path", "references")}
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in empty or value != empty[name]}

    @property
    def is_image(self) -> bool:
        """Return whether the source is a single image."""
        return Path(self.path).suffix.lower() in IMAGE_SUFFIXES

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Source:
        """Return the source of `as_dict`."""
        tuples = {name: tuple(values[name]) for name in ("frames", "crop", "references") if values.get(name)}
        return cls(**{**values, **tuples})


@dataclass(frozen=True, slots=True)
class MissingRow:
    """A row of a manifest whose file is missing.

    Args:
        manifest: the manifest's name.
        path: the path in it, after prefixes were replaced.
    """

    manifest: str
    path: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """All sources of a run, in the order of their paths, and the rows whose files are missing."""

    sources: tuple[Source, ...]
    missing: tuple[MissingRow, ...]


def find_sources(inputs: Sequence[str], prefixes: Mapping[str, str], *, images: bool = False) -> Inputs:
    """Find all sources.

    Args:
        inputs: videos, folders, lists and manifests, as paths or addresses.
        prefixes: beginnings of paths in manifests -> what stands for them here.
        images: take images in folders, too.

    Raises:
        RequestError: an input does not exist, or there is no video in any.
    """
    sources: dict[tuple[Any, ...], Source] = {}
    missing: list[MissingRow] = []
    for given_input in inputs:
        for source in _sources_of(given_input, prefixes, VIDEO_SUFFIXES | (IMAGE_SUFFIXES if images else frozenset())):
            if isinstance(source, MissingRow):
                missing.append(source)
            else:
                sources.setdefault((source.path, source.start, source.end, source.frames), source)
    if not sources:
        problem = f"no video in {', '.join(map(repr, inputs))}"
        if missing:
            problem += f"; rows without a file: {len(missing)}, such as {missing[0].path!r}"
            raise RequestError("INPUT", problem, "map their paths with [source.prefixes] of the recipe")
        raise RequestError("INPUT", problem, f"give videos ({', '.join(COMMON_SUFFIXES)}, ...) or a manifest")
    order = sorted(sources, key=lambda key: (key[0], key[1] or 0.0, key[3] or (0, 0)))
    return Inputs(tuple(sources[key] for key in order), tuple(missing))


def _sources_of(text: str, prefixes: Mapping[str, str], suffixes: frozenset[str]) -> Iterator[Source | MissingRow]:
    """Yield the sources of one input; in folders, those with one of the suffixes."""
    if is_remote(text):
        yield from _remote_sources(text, prefixes, suffixes)
        return
    path = Path(text)
    if path.is_dir():
        if (path / CAPTIONS).is_file():  # a dataset rather than a folder of videos
            yield from _rows_with_files(path / CAPTIONS, prefixes)
            return
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in suffixes and file.is_file() and not file.name.startswith("."):
                yield grouped(Source(str(file)))
    elif not path.exists():
        raise RequestError("INPUT", f"there is no file or folder {text!r}", "check the path")
    elif path.suffix.lower() in LISTS:
        yield from _existing(_listed(path), path, prefixes)
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        yield from _rows_with_files(path, prefixes)
    else:
        yield grouped(Source(str(path)))


def _remote_sources(address: str, prefixes: Mapping[str, str], suffixes: frozenset[str]) -> Iterator[Source]:
    """Yield the sources at an address: of a manifest or a list, or all videos below a folder or a pattern."""
    suffix = Path(address).suffix.lower()
    if "*" in address or suffix not in suffixes | LISTS | MANIFEST_SUFFIXES:
        for name in list_files(address):
            if Path(name).suffix.lower() in suffixes:
                yield grouped(Source(name))
    elif suffix in suffixes:
        remote_info(address)  # refuses an address without a file
        yield grouped(Source(address))
    else:
        with local_copy(address) as path:
            rows = _listed(path) if suffix in LISTS else (Source(**row) for row in read_manifest(path))
            for row in rows:
                name = mapped(row.path, prefixes)
                beside = f"{address.rpartition('/')[0]}/{name}"
                yield grouped(replace(row, path=name if is_remote(name) or name.startswith("/") else beside))


def _listed(path: Path) -> Iterator[Source]:
    """Yield the sources of a list of paths; lines that begin with # are comments."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield Source(line.strip())


def _rows_with_files(manifest: Path, prefixes: Mapping[str, str]) -> Iterator[Source | MissingRow]:
    yield from _existing((Source(**row) for row in read_manifest(manifest)), manifest, prefixes)


def _existing(rows: Iterable[Source], manifest: Path, prefixes: Mapping[str, str]) -> Iterator[Source | MissingRow]:
    """Yield the rows with paths as they are here, and those whose files are missing."""
    for row in rows:
        path = mapped(row.path, prefixes)
        if not is_remote(path):
            names = [path] if Path(path).suffix else [path, f"{path}.mp4"]
            folders = (Path(), manifest.parent, manifest.parent / VIDEOS)
            candidates = (folder / name for name in names for folder in folders)
            existing = next((each for each in candidates if each.is_file()), None)
            if existing is None:
                yield MissingRow(manifest.name, path)
                continue
            path = str(existing)
        references = tuple(
            {**each, "path": str(Path(path).with_name(Path(each["path"]).stem + Path(path).suffix))}
            for each in row.references
        )
        yield grouped(replace(row, path=path, references=references))


def mapped(path: str, prefixes: Mapping[str, str]) -> str:
    """Return a path with the longest prefix that fits replaced."""
    for prefix in sorted(prefixes, key=len, reverse=True):
        if path.startswith(prefix):
            return prefixes[prefix] + path[len(prefix) :]
    return path


def grouped(source: Source) -> Source:
    """Return a source with its group: the manifest's, the video that its name says, or the file itself."""
    if source.group:
        return source
    match = SPAN_NAME.match(Path(source.path).stem)
    return replace(source, group=match[1] if match else source.path)
