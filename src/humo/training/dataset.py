"""Reads a folder of clips in HuMoSet's layout; whatever in it is missing, broken or mismatched is named.

The contract with whoever writes such a folder (HuMoSet, `humo.synthetic`):

    video/ID.mp4                 picture, 25 frames a second or any other rate, and sound where there is any
    reference_image/ID.png       the same person, elsewhere (or .jpg, .jpeg, .webp)
    video_caption.parquet        a column that names the video (its stem is the ID), one of captions; found by their
                                 contents where a recipe does not name them. Optional: ``paraphrases``, lists of texts
    truth/attributes.parquet     optional; such a name column, and ``split``
    truth/ID.npz                 optional, for rendered people; every entry is optional:
        face        (F, S, S) bool, or uint8 with eight columns packed in a byte (`numpy.packbits`, last axis; S then
                    from ``size`` if it is not a multiple of 8): where the face is, for every frame, over the whole
                    picture, at any resolution
        mouth_area  the same of the mouth; in its absence the middle of the lower face stands for it
        mouth       (F, 3) float32: jaw, closure, pucker of every frame, about 0..1

Shape suffixes: F frames, S side of a mask.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humo.errors import DependencyError, MediaError, RequestError
from humo.training.config import Data

VIDEOS, REFERENCES, CAPTIONS = "video", "reference_image", "video_caption.parquet"
TRUTH, ATTRIBUTES = "truth", "attributes.parquet"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ID, PARAPHRASES, SPLIT = "id", "paraphrases", "split"


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """One clip on the disk.

    Args:
        name: its ID.
        video, reference: files.
        captions: the caption, then its paraphrases.
        truth: file, if there is one.
    """

    name: str
    video: Path
    reference: Path
    captions: tuple[str, ...]
    truth: Path | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A clip that cannot be used, and why."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds.

    Args:
        clips: split -> whole clips, by name; the split is "" where nothing tells it.
        bad: the others, each named.
    """

    clips: Mapping[str, tuple[ClipFiles, ...]]
    bad: tuple[Bad, ...]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a rendered clip: masks (F, S, S) and the mouth curve (F, 3), each where it is there."""

    face: NDArray[np.bool_] | None = None
    mouth_area: NDArray[np.bool_] | None = None
    mouth: NDArray[np.float32] | None = None


def scan(data: Data) -> Folder:
    """Look at the names and captions of all folders; no video is opened.

    Raises:
        RequestError: there is no such folder, or it is not of this layout.
        DependencyError: no reader of parquet files.
    """
    clips: dict[str, tuple[ClipFiles, ...]] = {}
    bad: tuple[Bad, ...] = ()
    for place in (data.folder, *data.more):
        one = _scan(Path(place), data, "" if place == data.folder else f"{Path(place).name}-")
        bad += one.bad
        clips |= {split: clips.get(split, ()) + several for split, several in one.clips.items()}
    return Folder(clips, bad)


def _scan(folder: Path, data: Data, prefix: str) -> Folder:
    """One folder; its clips' names begin with a prefix."""
    if not (folder / VIDEOS).is_dir():
        raise RequestError("data.folder", f"{str(folder)!r} has no folder {VIDEOS!r}", "see docs/training.md")
    videos = {path.stem: path for path in sorted((folder / VIDEOS).glob("*.mp4"))}
    if not videos:
        raise RequestError("data.folder", f"{str(folder / VIDEOS)!r} holds no .mp4", "see docs/training.md")
    pictures = {path.stem: path for path in sorted((folder / REFERENCES).glob("*")) if path.suffix in PICTURES}
    captions = _captions(folder / CAPTIONS, data, videos)
    splits = _splits(folder / TRUTH / ATTRIBUTES, videos)
    clips: dict[str, list[ClipFiles]] = {}
    alone = sorted(pictures.keys() - videos)
    bad = [Bad(prefix + name, f"is a picture without a video in {VIDEOS}/") for name in alone]
    for name, video in videos.items():
        if name not in pictures:
            bad.append(Bad(prefix + name, f"has no picture in {REFERENCES}/"))
        elif not captions.get(name):
            bad.append(Bad(prefix + name, f"has no caption in {CAPTIONS}"))
        else:
            truth = folder / TRUTH / f"{name}.npz"
            one = ClipFiles(prefix + name, video, pictures[name], captions[name], truth if truth.is_file() else None)
            clips.setdefault(splits.get(name, ""), []).append(one)
    return Folder({split: tuple(several) for split, several in clips.items()}, tuple(bad))


def of_split(folder: Folder, split: str | None) -> tuple[ClipFiles, ...]:
    """The clips of a split and those of none, by name; all, if None is asked for."""
    wanted = folder.clips if split is None else {split, ""}
    return tuple(sorted((clip for name in wanted for clip in folder.clips.get(name, ())), key=lambda clip: clip.name))


def refuse_if_bad(bad: Sequence[Bad], total: int, allowed: float) -> None:
    """Raise if more than the allowed share of clips is bad.

    Args:
        bad: those that are.
        total: of all clips, bad ones included.
        allowed: 0..1.

    Raises:
        MediaError: naming the first few.
    """
    if len(bad) > allowed * total:
        first = ", ".join(f"{one.name} ({one.problem})" for one in bad[:3])
        problem = f"{len(bad)} of {total} clips are bad, and at most {allowed:.0%} may be: {first}"
        raise MediaError("data.folder", problem, "mend or remove them, or set data.bad_share")


def no_clips(data: Data) -> RequestError:
    """The error of a folder in which there is nothing to train on."""
    return RequestError("data.folder", f"{data.folder!r} holds no clip of split {data.split!r}", "set data.split")


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of a clip, and what is true of it.

    Args:
        name: its ID.
        captions: the caption, then its paraphrases.
        attributes: in the order in which they were asked for.
    """

    name: str
    captions: tuple[str, ...]
    attributes: tuple[str, ...]


def read_words(data: Data, columns: Sequence[str]) -> dict[str, tuple[Described, ...]]:
    """Split -> what is said and what is true of its clips, from the two tables alone; no video need be there.

    Args:
        data: of the recipe.
        columns: of truth/attributes.parquet, beside ``id`` and, if it is there, ``split``.

    Raises:
        RequestError: there is no such table, or a column or a clip is missing from one.
        DependencyError: no reader of parquet files.
    """
    path, table = _attributes(data, (ID, *columns))
    names = [Path(str(name)).stem for name in table[ID]]
    captions = _captions(Path(data.folder) / CAPTIONS, data, dict.fromkeys(names, path))
    found: dict[str, list[Described]] = {}
    splits = table.get(SPLIT, [""] * len(names))
    for name, split, *values in zip(names, splits, *(table[column] for column in columns), strict=True):
        if not captions.get(name):
            raise RequestError("data.folder", f"{CAPTIONS} says nothing of clip {name}", "write it again")
        found.setdefault(str(split), []).append(Described(name, captions[name], tuple(map(str, values))))
    return {split: tuple(several) for split, several in found.items()}


def read_attributes(data: Data, clips: Iterable[ClipFiles], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """ID -> what is true of a clip, in the order of the columns, as words.

    Raises:
        RequestError: there is no such table, a column or a clip is missing from it.
    """
    path, table = _attributes(data, columns)
    wanted = {clip.name: clip.video for clip in clips}
    names = [Path(str(name)).stem for name in table[_name_column(table, wanted, path)]]
    rows = zip(*(table[column] for column in columns), strict=True)
    found = {name: tuple(map(str, row)) for name, row in zip(names, rows, strict=True) if name in wanted}
    if missing := sorted(wanted.keys() - found.keys()):
        raise RequestError("data.folder", f"{path.name} says nothing of clip {missing[0]}", "write it again")
    return found


def _attributes(data: Data, columns: Sequence[str]) -> tuple[Path, dict[str, list[Any]]]:
    """The table of attributes and where it lies; it has these columns."""
    path = Path(data.folder) / TRUTH / ATTRIBUTES
    if not path.is_file():
        raise RequestError("data.folder", f"{data.folder!r} has no {TRUTH}/{ATTRIBUTES}", "see docs/training.md")
    table = _table(path)
    for column in columns:
        if column not in table:
            raise RequestError("attributes", f"{path.name} has no column {column!r}", f"it has {', '.join(table)}")
    return path, table


def read_truth(path: Path) -> Truth:
    """What is known of a clip.

    Raises:
        MediaError: the file is damaged, or an entry is of another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            size = int(file["size"]) if "size" in file else None
            face, area = (_mask(file[name], size) if name in file else None for name in ("face", "mouth_area"))
            mouth = np.asarray(file["mouth"], np.float32) if "mouth" in file else None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise MediaError("truth", f"{path.name!r} cannot be read: {error}", "write it again") from error
    if mouth is not None and (mouth.ndim != 2 or mouth.shape[1] != 3):
        raise MediaError("truth", f"{path.name!r}: mouth is of shape {mouth.shape}", "it should be (frames, 3)")
    return Truth(face, area, mouth)


def _mask(stored: NDArray[Any], size: int | None) -> NDArray[np.bool_]:
    if stored.ndim != 3:
        raise ValueError(f"a mask of shape {stored.shape}, and not (frames, rows, columns)")
    if stored.dtype == np.uint8:
        stored = np.unpackbits(stored, axis=-1, count=size)
    return stored.astype(np.bool_)


def _table(path: Path) -> dict[str, list[Any]]:
    """The columns of a parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError("data", "pyarrow is not installed", "pip install humo-video[train]") from error
    try:
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise MediaError("data.folder", f"{str(path)!r} cannot be read: {error}", "download it again") from error
    return columns


def _captions(path: Path, data: Data, videos: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """ID -> caption and paraphrases, of clips that are there."""
    if not path.is_file():
        raise RequestError("data.folder", f"{data.folder!r} has no {CAPTIONS}", "see docs/training.md")
    table = _table(path)
    for field, name in (("data.name_column", data.name_column), ("data.caption_column", data.caption_column)):
        if name is not None and name not in table:
            raise RequestError(field, f"{path.name} has no column {name!r}", f"it has {', '.join(table)}")
    names = data.name_column or _name_column(table, videos, path)
    text = data.caption_column or _caption_column(table, names, path)
    captions: dict[str, tuple[str, ...]] = {}
    more = table.get(PARAPHRASES, [None] * len(table[names]))
    for name, caption, others in zip(table[names], table[text], more, strict=True):
        stem = Path(str(name)).stem
        if stem in videos:
            captions[stem] = tuple(one for one in (caption, *(others or ())) if isinstance(one, str) and one.strip())
    return captions


def _texts(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _name_column(table: Mapping[str, Sequence[Any]], videos: Mapping[str, Path], path: Path) -> str:
    """The column whose values name the most videos."""
    found = {name: sum(Path(value).stem in videos for value in _texts(values)) for name, values in table.items()}
    best = max(found, key=lambda name: found[name], default="")
    if not best or not found[best]:
        raise RequestError("data.name_column", f"no column of {path.name} names the videos", "name it")
    return best


def _caption_column(table: Mapping[str, Sequence[Any]], names: str, path: Path) -> str:
    """The column of the longest texts."""
    lengths = {
        name: sum(map(len, texts)) / len(texts)
        for name, values in table.items()
        if name != names and (texts := _texts(values))
    }
    if not lengths:
        raise RequestError("data.caption_column", f"no column of {path.name} holds texts", "name it")
    return max(lengths, key=lambda name: lengths[name])


def _splits(path: Path, videos: Mapping[str, Path]) -> dict[str, str]:
    """ID -> split, where there is such a table."""
    if not path.is_file():
        return {}
    table = _table(path)
    if SPLIT not in table:
        return {}
    names = _name_column(table, videos, path)
    return {Path(str(name)).stem: str(split) for name, split in zip(table[names], table[SPLIT], strict=True)}
