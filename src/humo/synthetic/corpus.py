"""Writes a corpus of rendered talking people in HuMoSet's layout, with the truth beside it.

    video/ID.mp4                H.264 and sound (none in the share of silent clips)
    reference_image/ID.png      the same person in other clothes, another scene and pose
    video_caption.parquet       id, caption, paraphrases (the first describes no person, only what is around one)
    truth/ID.npz                what is true of each frame, see `clip.make_clip`
    truth/attributes.parquet    a row for each clip: split, person, voice, sentence, words of both looks
    synthetic.json              the recipe; a folder holds clips of one

A clip is whole when its truth is there, which is written last. Every file appears whole or not at all.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from humo import errors
from humo.errors import DependencyError, HuMoError, MediaError, StorageError
from humo.files import atomic_write, os_error_text
from humo.synthetic.clip_plan import Recipe, Split, indices, name_of
from humo.synthetic.speech.synthesis import INSTALL_COMMAND

VIDEOS, REFERENCES, TRUTH = "video", "reference_image", "truth"
CAPTIONS, ATTRIBUTES, RECIPE = "video_caption.parquet", "attributes.parquet", "synthetic.json"

PACKAGES = {"anny": "anny", "numba": "numba", "pyarrow": "pyarrow", "espeakng_loader": "espeakng-loader"}
"""Modules that rendering needs, and the packages that hold them."""

BYTES_PER_FRAME = 1000
"""Of sound and truth; with `BYTES_PER_PIXEL` twice what was measured (61 kB for 41 frames of 96 x 96)."""

BYTES_PER_PIXEL = 0.22
"""Of video, masks and reference picture, for each pixel of each frame."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did: clips ``made``, clips that ``were_there``, clips in the folder by split, and the folder."""

    made: int
    were_there: int
    splits: dict[str, int]
    folder: Path


def check_packages() -> None:
    """Make sure that everything is installed that rendering needs.

    Raises:
        DependencyError: naming what is not, with the command that installs it.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise DependencyError(", ".join(missing), "is not installed, and synthetic data needs it", INSTALL_COMMAND)


def write_corpus(
    folder: Path,
    recipe: Recipe,
    *,
    clips: int,
    split: Split | None = None,
    workers: int = 1,
    progress: Progress = lambda _done, _total: None,
) -> Report:
    """Make the first clips of a corpus, or of one of its splits; those that are there are kept as they are.

    Args:
        folder: made if it is not there. One run at a time may write to it.
        recipe: what the clips are.
        clips: how many of them shall be there.
        split: those of one split alone.
        workers: processes of one thread each; with 1 it happens in this one.
        progress: called with clips done and clips in all.

    Raises:
        DependencyError: a package is missing.
        StorageError: the folder holds something else or cannot be written, or the disk is full. Finished clips stay,
            and the next run goes on from them.
    """
    check_packages()
    _open_folder(folder, recipe, (VIDEOS, REFERENCES, TRUTH))
    wanted = indices(recipe.seed, clips, split)
    missing = [index for index in wanted if not _is_whole(folder, name_of(recipe.seed, index))]
    _check_space(folder, recipe, len(missing))
    done = len(wanted) - len(missing)
    progress(done, len(wanted))
    try:
        with closing(_made(folder, recipe, missing, workers)) as made:
            for _ in made:
                done += 1
                progress(done, len(wanted))
    finally:  # what is there is usable, however the run ends
        rows = _rows(folder)
        _write_tables(folder, rows)
    return Report(len(missing), len(wanted) - len(missing), Counter(row["split"] for row in rows), folder)


def write_words(folder: Path, recipe: Recipe, *, clips: int, progress: Progress = lambda _done, _total: None) -> Report:
    """Write the tables of a corpus alone: captions and what is true, of clips that are not rendered.

    Words teach a text encoder, cost almost nothing, and it wants many. They are those that `write_corpus` would write.

    Args:
        folder: made if it is not there.
        recipe: what the clips would be.
        clips: how many of them.
        progress: called with clips done and clips in all.

    Raises:
        DependencyError: a package is missing.
        StorageError: the folder holds something else, rendered clips among it, or cannot be written.
    """
    check_packages()
    from humo.synthetic.make_clip import describe

    if (folder / VIDEOS).exists():
        raise StorageError("FOLDER", f"{str(folder)!r} holds rendered clips, and their words", "name a new folder")
    _open_folder(folder, recipe, (TRUTH,))
    rows = []
    for index in range(clips):
        progress(index, clips)
        rows.append(describe(recipe, index))
    _write_tables(folder, rows)
    progress(clips, clips)
    return Report(clips, 0, Counter(row["split"] for row in rows), folder)


def _made(folder: Path, recipe: Recipe, missing: list[int], workers: int) -> Generator[int, None, None]:
    """Make clips, and yield the number of each that is finished."""
    if workers == 1 or len(missing) < 2:
        from humo.synthetic.make_clip import make_clip

        for index in missing:
            make_clip(folder, recipe, index)
            yield index
        return
    context = multiprocessing.get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(missing)), context, initializer=begin_worker, initargs=(lifeline,))
    waiting: set[Future[tuple[int, tuple[str, ...]]]] = set()
    todo = iter(missing)
    try:
        while True:
            for index in islice(todo, 2 * workers - len(waiting)):
                waiting.add(pool.submit(_work, folder, recipe, index))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                index, failure = future.result()
                if failure:
                    kind, *words = failure
                    raise getattr(errors, kind)(*words)
                yield index
    except BrokenProcessPool as error:
        problem = "a process was ended from outside"
        raise StorageError("--workers", problem, "free memory or use fewer of them") from error
    finally:
        held.close()  # ends every worker, busy or not: of an unfinished clip nothing stays
        pool.shutdown(wait=True, cancel_futures=True)
        for unfinished in _parts(folder):
            unfinished.unlink(missing_ok=True)


def _work(folder: Path, recipe: Recipe, index: int) -> tuple[int, tuple[str, ...]]:
    """Make a clip in a worker; a failure comes back in words, as exceptions of several arguments cannot travel."""
    from humo.synthetic.make_clip import make_clip

    try:
        make_clip(folder, recipe, index)
    except HuMoError as error:
        return index, (type(error).__name__, error.field, error.problem, error.remedy)
    return index, ()


def begin_worker(lifeline: Connection) -> None:
    """Leave Ctrl-C to the parent, and end when it lets go of the other end of the line, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        with suppress(OSError):
            lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _parts(folder: Path) -> list[Path]:
    """Files that were being written when a process ended."""
    return [part for name in (VIDEOS, REFERENCES, TRUTH) for part in (folder / name).glob(".*.part")]


def _open_folder(folder: Path, recipe: Recipe, parts: Sequence[str]) -> None:
    """Make the folders, or make sure that they are those of this recipe."""
    note = folder / RECIPE
    try:
        if note.is_file():
            _compare(folder, json.loads(note.read_text(encoding="utf-8")), recipe)
        elif folder.exists() and any(folder.iterdir()):
            problem = f"{str(folder)!r} is not empty, and holds no synthetic corpus"
            raise StorageError("FOLDER", problem, "name a new folder")
        for name in parts:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for unfinished in _parts(folder):
            unfinished.unlink()
        if not note.is_file():
            with atomic_write(note, "FOLDER") as part:
                part.write_text(json.dumps(recipe.as_dict(), indent=2) + "\n", encoding="utf-8")
    except (OSError, json.JSONDecodeError) as error:
        problem = f"{str(folder)!r} cannot be used ({os_error_text(error)})"
        raise StorageError("FOLDER", problem, "name another folder") from error


def _compare(folder: Path, found: Any, recipe: Recipe) -> None:
    wanted = recipe.as_dict()
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        raise StorageError("FOLDER", f"{str(folder / RECIPE)!r} is not this program's", "name a new folder")
    for name, value in wanted.items():
        if found[name] != value:
            problem = f"{str(folder)!r} holds clips of {name} {found[name]}, and {name} {value} was asked for"
            raise StorageError("FOLDER", problem, f"name a new folder, or ask for {name} {found[name]}")


def _is_whole(folder: Path, name: str) -> bool:
    return all(
        (folder / place).is_file()
        for place in (f"{TRUTH}/{name}.npz", f"{VIDEOS}/{name}.mp4", f"{REFERENCES}/{name}.png")
    )


def _check_space(folder: Path, recipe: Recipe, clips: int) -> None:
    needed = round(clips * recipe.frames * (BYTES_PER_FRAME + BYTES_PER_PIXEL * recipe.size**2))
    free = shutil.disk_usage(folder).free
    if needed > free:
        problem = f"{str(folder)!r} has {free / 1e6:.0f} MB free, up to {needed / 1e6:.0f} MB are needed"
        raise StorageError("FOLDER", problem, "free some space, choose another disk, or make fewer clips")


def _rows(folder: Path) -> list[dict[str, Any]]:
    """What the truth says of each whole clip, by number."""
    rows = []
    for path in sorted((folder / TRUTH).glob("*.npz")):
        if not _is_whole(folder, path.stem):
            continue
        try:
            with np.load(path, allow_pickle=False) as truth:
                rows.append(json.loads(str(truth["attributes"])))
        except (OSError, ValueError, KeyError) as error:
            raise MediaError("FOLDER", f"{str(path)!r} is damaged ({error})", "remove it and run again") from error
    return sorted(rows, key=lambda row: int(row["index"]))


def _write_tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    said = {"caption", "paraphrases"}
    _write_table(folder / CAPTIONS, ({"id": row["id"], **{name: row[name] for name in sorted(said)}} for row in rows))
    attributes = ({name: value for name, value in row.items() if name not in said} for row in rows)
    _write_table(folder / TRUTH / ATTRIBUTES, attributes)


def _write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(list(rows))
    with atomic_write(path, "FOLDER") as part:
        try:
            pyarrow.parquet.write_table(table, part)
        except OSError as error:
            problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("FOLDER", problem, "free some space or choose another disk") from error
