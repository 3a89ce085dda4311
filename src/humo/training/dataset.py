"""Reader of a corpus of clips in HuMoSet's layout. Missing, broken and mismatched files are reported by clip.

    video/ID.mp4                 the clip, at any frame rate, with or without audio
    reference_image/ID.png       the same person in another image (or .jpg, .jpeg, .webp)
    video_caption.parquet        a column that names the video (its stem is the ID) and a column of captions; detected
                                 by their contents unless a recipe names them. Optional: ``paraphrases``, lists of texts
    truth/attributes.parquet     optional: a column that names the video, and ``split``; attributes.parquet likewise
    truth/ID.npz                 optional ground truth of rendered people; every array is optional:
        face        face mask of every frame over the whole frame, at any resolution: (F, S, S) bool; or uint8 with
                    eight columns in a byte (`numpy.packbits` along the last axis), then ``size`` is S unless S is a
                    multiple of 8
        mouth_area  mask of the mouth, in the same format; without it, the middle of the lower face is used
        mouth       (F, 3) float32: jaw, closure and pucker of every frame, about 0..1

Names of folders, files and columns: `humo.media.corpus_layout`. Shape suffixes: F frames, S side of a mask.
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
from humo.media.clip_reader import TimedClip, read_clip
from humo.media.corpus_layout import ATTRIBUTES, CAPTIONS, ID, PARAPHRASES, REFERENCES, SPLIT, TRUTH, VIDEOS
from humo.training.config import DataConfig

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif")
"""Suffixes of reference images."""

MAX_HELD_FRACTION = 0.25
"""Largest fraction of a clip's frames that may fill gaps in the file by standing still."""

_FORMAT_REMEDY = "arrange the folder as docs/data.md describes"


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """Files and captions of a clip.

    Args:
        name: ID of the clip.
        video, reference: paths.
        captions: the caption, then its paraphrases.
        truth: path of its ground truth; None if it has none.
    """

    name: str
    video: Path
    reference: Path
    captions: tuple[str, ...]
    truth: Path | None = None


@dataclass(frozen=True, slots=True)
class BadClip:
    """A clip that cannot be used, and the reason."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Contents of a corpus.

    Args:
        clips: split -> usable clips, by name; without a split column, all clips are in split "".
        bad: the other clips.
    """

    clips: Mapping[str, tuple[ClipFiles, ...]]
    bad: tuple[BadClip, ...]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Ground truth of a rendered clip; an array is None if the file lacks it.

    Args:
        face, mouth_area: masks (F, S, S).
        mouth: mouth curve (F, 3): jaw, closure, pucker.
    """

    face: NDArray[np.bool_] | None = None
    mouth_area: NDArray[np.bool_] | None = None
    mouth: NDArray[np.float32] | None = None


def scan_corpus(data: DataConfig) -> Corpus:
    """List the clips of all folders of a recipe. No video is opened.

    Raises:
        RequestError: a folder does not exist or has another layout.
        DependencyError: pyarrow is not installed.
    """
    clips: dict[str, tuple[ClipFiles, ...]] = {}
    bad: tuple[BadClip, ...] = ()
    for path in (data.folder, *data.extra_folders):
        folder = _scan(Path(path), data, "" if path == data.folder else f"{Path(path).name}-")
        bad += folder.bad
        clips |= {split: clips.get(split, ()) + in_split for split, in_split in folder.clips.items()}
    return Corpus(clips, bad)


def _scan(folder: Path, data: DataConfig, prefix: str) -> Corpus:
    """List the clips of one folder, with a prefix before their names."""
    if not (folder / VIDEOS).is_dir():
        raise RequestError("data.folder", f"{str(folder)!r} has no folder {VIDEOS!r}", _FORMAT_REMEDY)
    videos = {path.stem: path for path in sorted((folder / VIDEOS).glob("*.mp4"))}
    if not videos:
        raise RequestError("data.folder", f"{str(folder / VIDEOS)!r} has no .mp4 file", _FORMAT_REMEDY)
    references = {path.stem: path for path in sorted((folder / REFERENCES).glob("*")) if path.suffix in IMAGE_SUFFIXES}
    captions = _captions(folder / CAPTIONS, data, videos)
    tables = (folder / TRUTH / ATTRIBUTES, folder / ATTRIBUTES)  # of rendered people, and of `humo data build`
    splits = next((each for path in tables if (each := _splits(path, videos))), {})
    clips: dict[str, list[ClipFiles]] = {}
    without_video = sorted(references.keys() - videos)
    bad = [BadClip(prefix + name, f"has a reference image, but no video in {VIDEOS}/") for name in without_video]
    for name, video in videos.items():
        if name not in references:
            bad.append(BadClip(prefix + name, f"has no reference image in {REFERENCES}/"))
        elif not captions.get(name):
            bad.append(BadClip(prefix + name, f"has no caption in {CAPTIONS}"))
        else:
            truth = folder / TRUTH / f"{name}.npz"
            clip = ClipFiles(prefix + name, video, references[name], captions[name], truth if truth.is_file() else None)
            clips.setdefault(splits.get(name, ""), []).append(clip)
    return Corpus({split: tuple(in_split) for split, in_split in clips.items()}, tuple(bad))


def clips_of_split(folder: Corpus, split: str | None) -> tuple[ClipFiles, ...]:
    """Return the clips of a split and those without a split, by name; of all splits if ``split`` is None."""
    splits = folder.clips if split is None else {split, ""}
    return tuple(sorted((clip for name in splits for clip in folder.clips.get(name, ())), key=lambda clip: clip.name))


def check_bad_fraction(bad: Sequence[BadClip], total: int, allowed: float) -> None:
    """Raise if too many clips are bad.

    Args:
        bad: the bad clips.
        total: number of all clips, bad ones included.
        allowed: largest fraction of bad clips, 0..1.

    Raises:
        MediaError: more clips are bad; the first few are named.
    """
    if len(bad) > allowed * total:
        first = ", ".join(f"{clip.name} ({clip.problem})" for clip in bad[:3])
        problem = f"{len(bad)} of {total} clips are bad, more than {allowed:.0%}: {first}"
        raise MediaError("data.folder", problem, "replace or delete them, or raise data.max_bad_fraction")


def no_clips_error(data: DataConfig) -> RequestError:
    """Return the error for a corpus without a clip of the recipe's split."""
    problem = f"{data.folder!r} has no clip of split {data.split!r}"
    return RequestError("data.folder", problem, "set data.split to a split of truth/attributes.parquet")


@dataclass(frozen=True, slots=True)
class CaptionedClip:
    """Captions and attributes of a clip.

    Args:
        name: ID of the clip.
        captions: the caption, then its paraphrases.
        attributes: values in the order of the requested columns.
    """

    name: str
    captions: tuple[str, ...]
    attributes: tuple[str, ...]


def read_captioned_clips(data: DataConfig, columns: Sequence[str]) -> dict[str, tuple[CaptionedClip, ...]]:
    """Read captions and attributes from the two tables of a corpus; its videos need not exist.

    Args:
        data: data settings of a recipe.
        columns: columns of truth/attributes.parquet to read.

    Returns:
        split -> its clips.

    Raises:
        RequestError: a table, a column or a clip is missing.
        DependencyError: pyarrow is not installed.
    """
    path, table = _attributes(data, (ID, *columns))
    names = [Path(str(name)).stem for name in table[ID]]
    captions = _captions(Path(data.folder) / CAPTIONS, data, dict.fromkeys(names, path))
    clips: dict[str, list[CaptionedClip]] = {}
    splits = table.get(SPLIT, [""] * len(names))
    for name, split, *values in zip(names, splits, *(table[column] for column in columns), strict=True):
        if not captions.get(name):
            raise RequestError("data.folder", f"{CAPTIONS} has no row for clip {name}", "add it to the table")
        clips.setdefault(str(split), []).append(CaptionedClip(name, captions[name], tuple(map(str, values))))
    return {split: tuple(in_split) for split, in_split in clips.items()}


def read_attributes(data: DataConfig, clips: Iterable[ClipFiles], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read attributes of clips.

    Args:
        data: data settings of a recipe.
        clips: the clips.
        columns: columns of truth/attributes.parquet.

    Returns:
        ID -> values in the order of the columns, as text.

    Raises:
        RequestError: the table, a column or a clip is missing.
    """
    path, table = _attributes(data, columns)
    wanted = {clip.name: clip.video for clip in clips}
    names = [Path(str(name)).stem for name in table[_name_column(table, wanted, path)]]
    rows = zip(*(table[column] for column in columns), strict=True)
    values = {name: tuple(map(str, row)) for name, row in zip(names, rows, strict=True) if name in wanted}
    if missing := sorted(wanted.keys() - values.keys()):
        raise RequestError("data.folder", f"{path.name} has no row for clip {missing[0]}", "add it to the table")
    return values


def _attributes(data: DataConfig, columns: Sequence[str]) -> tuple[Path, dict[str, list[Any]]]:
    """Return path and columns of the table of attributes; the requested columns are among them."""
    path = Path(data.folder) / TRUTH / ATTRIBUTES
    if not path.is_file():
        raise RequestError("data.folder", f"{data.folder!r} has no {TRUTH}/{ATTRIBUTES}", _FORMAT_REMEDY)
    table = _table(path)
    for column in columns:
        if column not in table:
            problem = f"{path.name} has no column {column!r}"
            raise RequestError("attributes", problem, f"choose among {', '.join(table)}")
    return path, table


def read_training_clip(clip: ClipFiles) -> TimedClip:
    """Read a clip's frames and audio by their timestamps.

    Raises:
        MediaError: it cannot be read, or has long gaps between frames.
    """
    timed = read_clip(clip.video)
    if timed.timing.held_fraction > MAX_HELD_FRACTION:
        problem = f"{timed.timing.held_fraction:.0%} of its frames fill gaps, where the image stands still"
        raise MediaError("video", problem, "cut the clip at the gaps")
    return timed


def read_truth(path: Path) -> GroundTruth:
    """Read the ground truth of a clip.

    Raises:
        MediaError: the file is damaged, or an array has another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            size = int(file["size"]) if "size" in file else None
            face, area = (_mask(file[name], size) if name in file else None for name in ("face", "mouth_area"))
            mouth = np.asarray(file["mouth"], np.float32) if "mouth" in file else None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise MediaError("truth", f"{path.name!r} cannot be read: {error}", "render or download it again") from error
    if mouth is not None and (mouth.ndim != 2 or mouth.shape[1] != 3):
        raise MediaError("truth", f"{path.name!r} has mouth of shape {mouth.shape}", "store it as (frames, 3)")
    return GroundTruth(face, area, mouth)


def _mask(stored: NDArray[Any], size: int | None) -> NDArray[np.bool_]:
    """Return a mask as bool, unpacked if it was stored in bits."""
    if stored.ndim != 3:
        raise ValueError(f"a mask has shape {stored.shape} instead of (frames, rows, columns)")
    if stored.dtype == np.uint8:
        stored = np.unpackbits(stored, axis=-1, count=size)
    return stored.astype(np.bool_)


def _table(path: Path) -> dict[str, list[Any]]:
    """Read the columns of a parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError("data", "pyarrow is not installed", "pip install 'humo-video[train]'") from error
    try:
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise MediaError("data.folder", f"{str(path)!r} cannot be read: {error}", "download it again") from error
    return columns


def _captions(path: Path, data: DataConfig, videos: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """Read caption and paraphrases of the clips that have a video."""
    if not path.is_file():
        raise RequestError("data.folder", f"{data.folder!r} has no {CAPTIONS}", _FORMAT_REMEDY)
    table = _table(path)
    for field, name in (("data.name_column", data.name_column), ("data.caption_column", data.caption_column)):
        if name is not None and name not in table:
            raise RequestError(field, f"{path.name} has no column {name!r}", f"choose among {', '.join(table)}")
    names = data.name_column or _name_column(table, videos, path)
    text = data.caption_column or _caption_column(table, names, path)
    captions: dict[str, tuple[str, ...]] = {}
    paraphrases = table.get(PARAPHRASES, [None] * len(table[names]))
    for name, caption, others in zip(table[names], table[text], paraphrases, strict=True):
        stem = Path(str(name)).stem
        if stem in videos:
            captions[stem] = tuple(text for text in _texts((caption, *(others or ()))) if text.strip())
    return captions


def _texts(values: Iterable[Any]) -> list[str]:
    """Return the values that are text."""
    return [value for value in values if isinstance(value, str)]


def _name_column(table: Mapping[str, Sequence[Any]], videos: Mapping[str, Path], path: Path) -> str:
    """Return the column whose values name the most videos."""
    counts = {name: sum(Path(value).stem in videos for value in _texts(values)) for name, values in table.items()}
    best = max(counts, key=lambda name: counts[name], default="")
    if not best or not counts[best]:
        raise RequestError("data.name_column", f"no column of {path.name} has names of videos", "set it in the recipe")
    return best


def _caption_column(table: Mapping[str, Sequence[Any]], names: str, path: Path) -> str:
    """Return the column of the longest texts."""
    lengths = {
        name: sum(map(len, texts)) / len(texts)
        for name, values in table.items()
        if name != names and (texts := _texts(values))
    }
    if not lengths:
        raise RequestError("data.caption_column", f"no column of {path.name} has texts", "set it in the recipe")
    return max(lengths, key=lambda name: lengths[name])


def _splits(path: Path, videos: Mapping[str, Path]) -> dict[str, str]:
    """Return ID -> split; empty if there is no table or it has no such column."""
    if not path.is_file():
        return {}
    table = _table(path)
    if SPLIT not in table:
        return {}
    names = _name_column(table, videos, path)
    return {Path(str(name)).stem: str(split) for name, split in zip(table[names], table[SPLIT], strict=True)}
