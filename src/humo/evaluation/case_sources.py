"""Read cases from what people have: folders of videos, job files, rendered corpora, and public benchmarks.

Each kind of source is a `Reader` in `READERS`: how it is recognized, and how it is read.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.errors import DependencyError, RequestError
from humo.evaluation.cases import CASES_FILE, Case, check_ids, read_cases
from humo.jobs.request_files import read_rows
from humo.media.corpus_layout import ATTRIBUTES, CAPTIONS, ID, REFERENCES, SPLIT, TRUTH, VIDEOS

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a")

SEED_IN_NAME = re.compile(r"(?P<stem>.+)_seed(?P<seed>\d+)")
"""Name of a video of one of several seeds, as `humo batch` writes it for published files."""

TEST_SPLITS = {"test-seen": "seen", "test": "unseen"}
"""Split of a rendered corpus -> category: people of the training set in new looks; people that are not in it."""

GALLERY_SIZE = 15
"""Number of other people in a gallery."""

DEFAULT_VIDEOS = "videos"
"""Folder of the videos beside a file of cases."""


@dataclass(frozen=True)
class CaseSet:
    """Cases, and where their videos are expected.

    Args:
        kind: name of the reader.
        cases: the cases, in order.
        videos: folder of the videos, unless the user names another one.
        stems: id -> names that its video may have, without suffix and seed.
    """

    kind: str
    cases: tuple[Case, ...]
    videos: Path
    stems: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Video:
    """A video to measure.

    Args:
        case: its case.
        seed: from its name; None if the name has none.
        path: the file.
    """

    case: Case
    seed: int | None
    path: Path

    @property
    def name(self) -> str:
        """Unique name: the case's id, and the seed if there is one."""
        return self.case.id if self.seed is None else f"{self.case.id}_seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Reader:
    """A kind of source.

    Args:
        name: for people.
        recognizes: whether a path is of this kind.
        read: reads it.
    """

    name: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path], CaseSet]


def read_source(path: Path, limit: int | None = None) -> CaseSet:
    """Read the cases of a folder or file.

    Args:
        path: see `READERS`.
        limit: number of cases to keep; spread evenly over the categories.

    Raises:
        RequestError: it is no source of cases.
    """
    if not path.exists():
        raise RequestError("SOURCE", f"there is no {str(path)!r}", "give a folder of videos, or a file of cases")
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        remedy = f"give its folder, or run `humo evaluate video {path}`"
        raise RequestError("SOURCE", f"{str(path)!r} is one video", remedy)
    for reader in READERS:
        if reader.recognizes(path):
            found_cases = reader.read(path)
            break
    else:
        kinds = ", ".join(reader.name for reader in READERS)
        raise RequestError("SOURCE", f"{str(path)!r} has no cases", f"known are {kinds}; see docs/evaluation.md")
    check_ids([case.id for case in found_cases.cases], path.name)
    if limit is None or limit >= len(found_cases.cases):
        return found_cases
    kept = _spread(found_cases.cases, limit)
    return CaseSet(found_cases.kind, kept, found_cases.videos, found_cases.stems)


def find_videos(cases: CaseSet, folder: Path, seeds: int | None = None) -> tuple[list[Video], list[Case]]:
    """Return the videos of cases in the cases' order, and the cases that have none.

    Args:
        cases: from `read_source`.
        folder: where the videos are.
        seeds: largest number of videos of each case; by default all.
    """
    by_stem: dict[str, list[tuple[int | None, Path]]] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
            match = SEED_IN_NAME.fullmatch(path.stem)
            stem, seed = (match["stem"], int(match["seed"])) if match else (path.stem, None)
            relative = path.relative_to(folder).with_name(stem).as_posix()
            by_stem.setdefault(relative, []).append((seed, path))
    videos: list[Video] = []
    missing: list[Case] = []
    for case in cases.cases:
        present = next((by_stem[stem] for stem in cases.stems[case.id] if stem in by_stem), [])
        present = sorted(present, key=lambda pair: (pair[0] is not None, pair[0] or 0))[:seeds]
        videos += [Video(case, seed, path) for seed, path in present]
        if not present:
            missing.append(case)
    return videos, missing


def _spread(cases: tuple[Case, ...], limit: int) -> tuple[Case, ...]:
    """Return that many cases, in turn from each category, in their order."""
    groups: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        groups.setdefault(case.category, []).append(number)
    kept: list[int] = []
    while len(kept) < limit:
        for numbers in groups.values():
            if numbers and len(kept) < limit:
                kept.append(numbers.pop(0))
    return tuple(cases[number] for number in sorted(kept))


# -- our own file -----------------------------------------------------------------------------------------------------


def _is_cases(path: Path) -> bool:
    return (path / CASES_FILE).is_file() or (path.name.endswith(".jsonl") and _has_ids(path))


def _has_ids(path: Path) -> bool:
    try:
        first = path.read_text(encoding="utf-8").lstrip().partition("\n")[0]
        row = json.loads(first)
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and "id" in row


def _read_cases(path: Path) -> CaseSet:
    file = path / CASES_FILE if path.is_dir() else path
    cases = tuple(read_cases(file))
    videos = file.parent / DEFAULT_VIDEOS
    return CaseSet("cases", cases, videos if videos.is_dir() else file.parent, {case.id: (case.id,) for case in cases})


# -- corpora in HuMoSet's layout --------------------------------------------------------------------------------------


def _read_corpus(folder: Path) -> CaseSet:
    """Read a corpus; of a rendered one the test splits, which have ground truth."""
    captions = {str(row[ID]): str(row["caption"]) for row in _rows(folder / CAPTIONS, (ID, "caption"))}
    attributes_file = folder / TRUTH / ATTRIBUTES
    attributes = {str(row[ID]): row for row in _rows(attributes_file, None)} if attributes_file.is_file() else {}
    splits = {str(row.get(SPLIT, "")) for row in attributes.values()}
    tests = {split for split in TEST_SPLITS if split in splits}
    cases = []
    for name in captions:
        row = attributes.get(name, {})
        split = str(row.get(SPLIT, ""))
        has_audio = row.get("has_sound") is not False  # word kept: column of corpora
        if (tests and (split not in tests or not has_audio)) or not (folder / VIDEOS / f"{name}.mp4").is_file():
            continue
        cases.append(_corpus_case(folder, name, captions[name], row))
    if not cases:
        raise RequestError("SOURCE", f"{str(folder)!r} has no clip with audio", "render some: humo data render")
    order = list(TEST_SPLITS.values())
    cases.sort(key=lambda case: order.index(case.category) if case.category in order else 0)
    ordered = tuple(_with_gallery(cases))
    return CaseSet("corpus", ordered, folder / VIDEOS, {case.id: (case.id,) for case in ordered})


def _corpus_case(folder: Path, name: str, caption: str, row: Mapping[str, Any]) -> Case:
    reference, truth = folder / REFERENCES / f"{name}.png", folder / TRUTH / f"{name}.npz"
    video = folder / VIDEOS / f"{name}.mp4"
    texts = {key: str(value) for key, value in row.items() if isinstance(value, str)}
    prefix = "reference_"
    return Case(
        id=name,
        category=TEST_SPLITS.get(str(row.get(SPLIT, "")), ""),
        prompt=caption,
        references=(reference,) if reference.is_file() else (),
        audio=video,
        person=str(row.get("person", "")),
        expected={"talking": "speaks", "silent": "silent"}.get(str(row.get("speech", "")), ""),
        truth=truth if truth.is_file() else None,
        truth_video=video,
        attributes={key: value for key, value in texts.items() if not key.startswith(prefix)},
        reference_attributes={key[len(prefix) :]: value for key, value in texts.items() if key.startswith(prefix)},
        license="CC0-1.0" if row else "",
        source="rendered" if row else "",
    )


def _with_gallery(cases: list[Case]) -> Iterable[Case]:
    """Give each case the references of the `GALLERY_SIZE` other people that follow it."""
    from dataclasses import replace

    for number, case in enumerate(cases):
        following = [cases[(number + step) % len(cases)] for step in range(1, len(cases))]
        others = {other.person: other.person_reference for other in reversed(following) if other.person != case.person}
        named = [other.person for other in following if other.person in others]
        people = list(dict.fromkeys(named))[:GALLERY_SIZE]
        gallery = tuple(path for person in people if (path := others[person]) is not None)
        yield replace(case, gallery=gallery) if case.person else case


def _rows(path: Path, columns: tuple[str, ...] | None) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        remedy = "pip install 'humo-video[evaluate]'"
        raise DependencyError("evaluate", "pyarrow is not installed, and corpora need it", remedy) from error
    try:
        table = pyarrow.parquet.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, pyarrow.ArrowInvalid, KeyError) as error:
        raise RequestError("SOURCE", f"{str(path)!r} cannot be read ({error})", "build the corpus again") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


# -- public benchmarks ------------------------------------------------------------------------------------------------


def _mocha_folder(path: Path) -> Path | None:
    return next((folder for folder in (path, path / "benchmark") if (folder / "benchmark.csv").is_file()), None)


def _read_mocha(path: Path) -> CaseSet:
    """Read MoChaBench from the user's own download.

    Models get ``speeches``, the voices alone, and are judged by them.

    **Source:** https://github.com/congwei1230/MoChaBench, README and benchmark/benchmark.csv.
    """
    folder = _mocha_folder(path)
    assert folder is not None
    cases, stems = [], {}
    with (folder / "benchmark.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            category, context = row["category"].strip(), row["context_id"].strip()
            speech = folder / "speeches" / category / f"{context}_speech.wav"
            image = folder / "first-frames-from-mocha-generation" / category / f"{context}.png"
            case = Case(
                id=f"{category}-{context}",
                category=category,
                prompt=row["prompt"].strip().strip('"'),
                references=(image,) if image.is_file() else (),
                audio=speech,
                speech=speech,
                expected="speaks",
                license="Apache-2.0",
                source="MoChaBench",
            )
            cases.append(case)
            stems[case.id] = (f"{category}/{context}", case.id)
    return CaseSet("MoChaBench", tuple(cases), path / "mocha-generation", stems)


OPENS2V_FILES = ("Open-Domain_Eval.json", "Human-Domain_Eval.json", "SingleObject_Eval.json")
"""Files of OpenS2V-Eval, the largest first."""


def _opens2v_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.name in OPENS2V_FILES else None
    return next((path / name for name in OPENS2V_FILES if (path / name).is_file()), None)


def _read_opens2v(path: Path) -> CaseSet:
    """Read OpenS2V-Eval from the user's own download.

    **Source:** https://github.com/PKU-YuanGroup/OpenS2V-Nexus, eval/get_facesim.py: the folder of an image says
    whether it shows a person.
    """
    file = _opens2v_file(path)
    assert file is not None
    try:
        items = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError("SOURCE", f"{file.name} cannot be read ({error})", "download it again") from error
    cases = []
    for name, item in items.items():
        images = [str(image) for image in item.get("img_paths", [])]
        people = [number for number, image in enumerate(images) if re.search(r"/(?:crop_)?(?:wo)?man/", image)]
        cases.append(
            Case(
                id=name,
                category=name.rpartition("_")[0],
                prompt=str(item.get("prompt", "")),
                references=tuple(file.parent / image for image in images),
                objects=tuple(number for number in range(len(images)) if number not in people),
                person=images[people[0]] if people else "",
                source="OpenS2V-Eval",
            )
        )
    return CaseSet("OpenS2V-Eval", tuple(cases), file.parent / DEFAULT_VIDEOS, {case.id: (case.id,) for case in cases})


# -- job files and plain folders --------------------------------------------------------------------------------------


def _read_job_file(path: Path) -> CaseSet:
    cases, stems = [], {}
    for row in read_rows(path):
        if row.problem is not None:
            raise row.problem
        images = row.fields.get("images") or ()
        audio = row.fields.get("audio")
        extra = ("frames", "seconds", "width", "height", "mode", "seed")
        cases.append(
            Case(
                id=row.name,
                prompt=str(row.fields.get("prompt", "")),
                references=tuple(Path(str(image)) for image in ([images] if isinstance(images, str) else images)),
                audio=None if audio is None else Path(str(audio)),
                request={name: row.fields[name] for name in extra if name in row.fields},
            )
        )
        output = row.fields.get("output")
        stems[row.name] = (row.name, *([Path(str(output)).with_suffix("").as_posix()] if output else []))
    return CaseSet("job file", tuple(cases), path.parent, stems)


def _read_folder(folder: Path) -> CaseSet:
    """Read a folder of videos; files of the same name beside a video are its prompt, references and audio."""
    stems: dict[str, None] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
            match = SEED_IN_NAME.fullmatch(path.stem)
            stems[match["stem"] if match else path.stem] = None
    cases = tuple(_sidecar_case(folder, stem) for stem in stems)
    return CaseSet("folder", cases, folder, {stem: (stem,) for stem in stems})


def _sidecar_case(folder: Path, stem: str) -> Case:
    prompt = folder / f"{stem}.txt"
    numbered = (f"{stem}_{number}" for number in range(1, 10))
    references = [
        path
        for name in (stem, *numbered)
        for suffix in IMAGE_SUFFIXES
        if (path := folder / f"{name}{suffix}").is_file()
    ]
    audio = next((path for suffix in AUDIO_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)
    try:
        text = prompt.read_text(encoding="utf-8").strip() if prompt.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("prompt", f"{prompt.name!r} cannot be read ({error})", "save it as UTF-8") from error
    return Case(id=stem, prompt=text, references=tuple(references), audio=audio)


def _has_videos(path: Path) -> bool:
    return path.is_dir() and any(one.suffix.lower() in VIDEO_SUFFIXES for one in path.iterdir())


READERS: tuple[Reader, ...] = (
    Reader(f"a folder with {CASES_FILE}", _is_cases, _read_cases),
    Reader("a corpus of humo data", lambda path: (path / CAPTIONS).is_file(), _read_corpus),
    Reader("MoChaBench", lambda path: _mocha_folder(path) is not None, _read_mocha),
    Reader("OpenS2V-Eval", lambda path: _opens2v_file(path) is not None, _read_opens2v),
    Reader("a job file", Path.is_file, _read_job_file),
    Reader("a folder of videos", _has_videos, _read_folder),
)
"""Kinds of sources, in the order in which they are tried."""
