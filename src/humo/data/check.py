"""``humo data check``: whether a dataset can be trained on, and what is wrong with it.

A dataset is a folder in HuMoSet's layout, or a metadata file: Phantom-Data's, DiffSynth's ``metadata.csv``, musubi's
JSONL, or any other that `humo.data.manifests` reads.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from humo.data.captions import REFUSAL
from humo.data.manifests import MANIFEST_SUFFIXES
from humo.data.sources import MissingRow, Source, find_sources
from humo.errors import HuMoError, MediaError, RequestError
from humo.files import HASH_CHUNK_BYTES
from humo.geometry import FRAMES_PER_SECOND
from humo.media.audio import open_media
from humo.media.clip_reader import read_clip
from humo.media.corpus_layout import ATTRIBUTES, CAPTIONS, ID, SPLIT, TRUTH, VIDEOS
from humo.media.image import load_image
from humo.progress import Progress
from humo.training.config import DataConfig
from humo.training.dataset import ClipFiles, scan_corpus

MAX_NAMED = 5
"""Clips that are named for each kind of problem."""

MIN_WORDS, MAX_WORDS = 3, 400
"""Words of a caption outside of which it is named."""

MAX_SAME_CAPTION = 3
"""Clips that may have the same caption, if they are more than a hundredth of all."""


@dataclass(slots=True)
class CheckReport:
    """Result of a check.

    Args:
        folder: what was checked.
        clips: number of clips.
        splits: clips by split.
        problems: kind of problem -> clips that have it.
    """

    folder: str
    clips: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def is_clean(self) -> bool:
        """Return whether nothing was found."""
        return not self.problems

    def text(self) -> str:
        """Return the result for people: a line, and one for each kind of problem."""
        splits = ", ".join(f"{count} {name}" for name, count in sorted(self.splits.items()) if name)
        lines = [f"{self.folder}: {self.clips} clips" + (f" ({splits})" if splits else "")]
        lines[0] += "; no problems" if self.is_clean else ""
        for kind, names in sorted(self.problems.items()):
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            lines.append(f"{len(names)} x {kind}: {', '.join(names[:MAX_NAMED])}{more}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the result for programs."""
        problems = {kind: {"count": len(names), "clips": names[:100]} for kind, names in sorted(self.problems.items())}
        return {"folder": self.folder, "clips": self.clips, "splits": self.splits, "problems": problems}


def check_dataset(path: Path, *, open_videos: bool, progress: Progress) -> CheckReport:
    """Check a dataset.

    Args:
        path: a folder in HuMoSet's layout, or a metadata file.
        open_videos: read every video and image, too.
        progress: called with a phase, and units done and in total.

    Raises:
        RequestError: there is no dataset.
    """
    report = CheckReport(str(path))
    if path.is_file():
        clips = [*_clips_of_table(path, report)]
    elif (path / VIDEOS).is_dir():
        clips = [*_clips_of_folder(path, report)]
    elif path.is_dir() and (tables := sorted(each for each in path.iterdir() if each.suffix in MANIFEST_SUFFIXES)):
        clips = [*_clips_of_table(tables[0], report)]
    else:
        remedy = f"give a folder with {VIDEOS}/ and {CAPTIONS}, or a metadata file"
        raise RequestError("FOLDER", f"{str(path)!r} holds no dataset", remedy)
    report.clips = len(clips)
    _check_captions(clips, report)
    _check_copies(clips, report)
    if open_videos:
        for number, clip in enumerate(clips):
            progress("check", number, len(clips))
            for problem in _clip_problems(clip):
                report.problems[problem].append(clip.name)
        progress("check", len(clips), len(clips))
    report.problems = dict(report.problems)
    return report


@dataclass(frozen=True, slots=True)
class _Clip:
    """A clip to check; without a reference image if the dataset has none."""

    name: str
    video: Path
    reference: Path | None
    caption: str
    is_silent: bool = False


def _clips_of_folder(path: Path, report: CheckReport) -> Iterator[_Clip]:
    """Yield the clips of a folder in HuMoSet's layout, as the trainer reads it."""
    try:
        corpus = scan_corpus(DataConfig(folder=str(path)))
    except HuMoError as error:
        raise RequestError("FOLDER", error.problem, error.remedy) from error
    for bad in corpus.bad:
        report.problems[bad.problem].append(bad.name)
    report.splits = {split: len(clips) for split, clips in corpus.clips.items()}
    _check_tables(path, report)
    silent = _silent_clips(path)
    for split in sorted(corpus.clips):
        for clip in corpus.clips[split]:
            yield _of_files(clip, clip.name in silent)


def _of_files(clip: ClipFiles, is_silent: bool) -> _Clip:
    return _Clip(clip.name, clip.video, clip.reference, clip.captions[0], is_silent)


def _silent_clips(path: Path) -> set[str]:
    """Return the clips that are meant to have no audio, as the attributes of rendered people say."""
    table = _read_table(path / TRUTH / ATTRIBUTES)
    if ID not in table or "has_sound" not in table:  # word kept: column of rendered corpora
        return set()
    audible = table["has_sound"]  # word kept: column of rendered corpora
    return {str(name) for name, each in zip(table[ID], audible, strict=True) if not each}


def _clips_of_table(path: Path, report: CheckReport) -> Iterator[_Clip]:
    """Yield the clips of a metadata file."""
    try:
        inputs = find_sources([str(path)], {})
    except RequestError as error:
        raise RequestError("FOLDER", error.problem, error.remedy) from error
    for row in inputs.missing:
        _missing(row, report)
    for source in inputs.sources:
        yield _of_source(source)


def _missing(row: MissingRow, report: CheckReport) -> None:
    report.problems["row without its file"].append(row.path)


def _of_source(source: Source) -> _Clip:
    return _Clip(source.name or Path(source.path).name, Path(source.path), None, source.caption, is_silent=True)


def _check_tables(path: Path, report: CheckReport) -> None:
    """Name tables whose columns differ, groups that are in two splits, and rows without a video."""
    schemas: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for table in sorted(path.glob("video_caption*.parquet")):
        schemas[tuple(sorted(_read_table(table)))].append(table.name)
    if len(schemas) > 1:
        report.problems["caption tables with different columns"] += sorted(
            name for names in schemas.values() for name in names
        )
    captions = _read_table(path / CAPTIONS)
    videos = {each.stem for each in (path / VIDEOS).glob("*.mp4")}
    columns = captions.values()
    names: list[Any] = next((each for each in columns if any(Path(str(value)).stem in videos for value in each)), [])
    without_video = [str(each) for each in names if Path(str(each)).stem not in videos]
    if without_video:
        report.problems["caption without its video"] += without_video
    attributes = _read_table(path / ATTRIBUTES)
    for column in ("group", "person"):
        if column in attributes and SPLIT in attributes:
            splits: dict[str, set[str]] = defaultdict(set)
            for value, split in zip(attributes[column], attributes[SPLIT], strict=True):
                splits[str(value)].add(str(split))
            if both := sorted(value for value, each in splits.items() if value and len(each) > 1):
                report.problems[f"{column} in two splits"] += both


def _read_table(path: Path) -> dict[str, list[Any]]:
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        return {}
    try:
        table: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise MediaError("FOLDER", f"{str(path)!r} cannot be read: {error}", "download it again") from error
    return table


def _check_captions(clips: list[_Clip], report: CheckReport) -> None:
    """Name captions that are missing, refusals, of a strange length, or repeated."""
    by_caption: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        length = len(clip.caption.split())
        by_caption[" ".join(clip.caption.lower().split())].append(clip.name)
        if not length:
            report.problems["no caption"].append(clip.name)
        elif REFUSAL.search(clip.caption):
            report.problems["caption is a refusal"].append(clip.name)
        elif not MIN_WORDS <= length <= MAX_WORDS:
            report.problems[f"caption of fewer than {MIN_WORDS} or more than {MAX_WORDS} words"].append(clip.name)
    for caption, names in by_caption.items():
        if caption and len(names) > max(MAX_SAME_CAPTION, len(clips) / 100):
            report.problems["same caption"] += names


def _check_copies(clips: list[_Clip], report: CheckReport) -> None:
    """Name videos with the same contents. Only files of one size are read."""
    by_size: dict[int, list[_Clip]] = defaultdict(list)
    for clip in clips:
        by_size[clip.video.stat().st_size].append(clip)
    sums = Counter[str]()
    first: dict[str, str] = {}
    for clip in (each for same in by_size.values() if len(same) > 1 for each in same):
        checksum = _content_hash(clip.video)
        sums[checksum] += 1
        if sums[checksum] > 1:
            report.problems["copy of another video"].append(f"{clip.name} (of {first[checksum]})")
        first.setdefault(checksum, clip.name)


def _content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(HASH_CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _clip_problems(clip: _Clip) -> Iterator[str]:
    """Yield what is wrong with the files of a clip."""
    try:
        if clip.reference is None:  # rows of a table may be long videos: their beginning is read
            with open_media(clip.video, "video", is_video=True) as container:
                if not next(islice(container.decode(video=0), 1), None):
                    yield "video without frames"
            return
        timed = read_clip(clip.video)
    except HuMoError as error:
        yield f"video {error.problem.replace(repr(clip.video.name), '').strip()}"
        return
    if timed.audio is None and not clip.is_silent:
        yield "video without audio"
    if timed.timing.held_fraction > 0.1:
        yield "video with frozen frames"
    if timed.audio is not None and abs(timed.timing.audio_start) > 2.5 / FRAMES_PER_SECOND:
        yield "audio and video begin apart"
    try:
        load_image(clip.reference)
    except HuMoError:
        yield "reference image that cannot be read"
