"""Write a corpus of rendered talking people in HuMoSet's layout, together with its ground truth.

    video/ID.mp4                H.264 and audio (no audio in a fraction of the clips)
    reference_image/ID.png      the same person in other clothes, another scene and another pose
    video_caption.parquet       id, caption, paraphrases (the first does not describe the person)
    truth/ID.npz                ground truth of each frame, see `make_clip.make_clip`
    truth/attributes.parquet    a row for each clip: split, person, voice, sentence, attributes of both appearances
    synthetic.json              the configuration; all clips of a folder have the same one

A clip is complete when its file in ``truth`` exists, which is written last. Every file is written atomically.
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
from humo.media.corpus_layout import ATTRIBUTES, CAPTIONS, ID, PARAPHRASES, REFERENCES, TRUTH, VIDEOS
from humo.synthetic.clip_plan import STORED_NAMES, CorpusConfig, Split, clip_indices, clip_name
from humo.synthetic.speech.synthesis import INSTALL_COMMAND

CONFIG_FILE = "synthetic.json"
"""File with the `CorpusConfig` of a folder."""

PACKAGES = {"anny": "anny", "numba": "numba", "pyarrow": "pyarrow", "espeakng_loader": "espeakng-loader"}
"""Module that rendering needs -> package that contains it."""

BYTES_PER_FRAME = 1000
"""Estimated size of audio and ground truth per frame.

Together with `BYTES_PER_PIXEL` the estimate is twice the measured size (61 kB for 41 frames of 96 x 96)."""

BYTES_PER_PIXEL = 0.22
"""Estimated size of video, masks and reference image, per pixel of each frame."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a run.

    Args:
        written: clips that this run wrote.
        existed: clips that existed before.
        splits: number of clips in the folder, by split.
        folder: the folder.
    """

    written: int
    existed: int
    splits: dict[str, int]
    folder: Path


def check_packages() -> None:
    """Check that all packages for rendering are installed.

    Raises:
        DependencyError: names the missing packages and the command that installs them.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise DependencyError(", ".join(missing), "is not installed, and synthetic data needs it", INSTALL_COMMAND)


def write_corpus(
    folder: Path,
    config: CorpusConfig,
    *,
    clips: int,
    split: Split | None = None,
    workers: int = 1,
    progress: Progress = lambda _done, _total: None,
) -> Report:
    """Render the first clips of a corpus, or of one of its splits; existing clips are kept.

    Args:
        folder: created if it does not exist. Only one run at a time may write to it.
        config: configuration of the corpus.
        clips: number of clips in the folder after the run.
        split: render only clips of this split; None for all splits.
        workers: number of processes with one thread each; 1 renders in this process.
        progress: called with the number of finished clips and of all clips.

    Raises:
        DependencyError: a package is missing.
        StorageError: the folder holds something else or is not writable, or the disk is full. Finished clips are kept,
            and the next run continues from them.
    """
    check_packages()
    _open_folder(folder, config, (VIDEOS, REFERENCES, TRUTH))
    indices = clip_indices(config.seed, clips, split)
    missing = [index for index in indices if not _is_whole(folder, clip_name(config.seed, index))]
    _check_space(folder, config, len(missing))
    done = len(indices) - len(missing)
    progress(done, len(indices))
    try:
        with closing(_render_missing(folder, config, missing, workers)) as rendered:
            for _ in rendered:
                done += 1
                progress(done, len(indices))
    finally:  # the tables list all complete clips, however the run ends
        rows = _finished_rows(folder)
        _write_tables(folder, rows)
    return Report(len(missing), len(indices) - len(missing), Counter(row["split"] for row in rows), folder)


def write_captions(
    folder: Path, config: CorpusConfig, *, clips: int, progress: Progress = lambda _done, _total: None
) -> Report:
    """Write only the tables of a corpus, captions and attributes, without rendering the clips.

    A text encoder needs many captions, and they take little time. They are the same that `write_corpus` writes.

    Args:
        folder: created if it does not exist.
        config: configuration of the corpus.
        clips: number of clips.
        progress: called with the number of finished clips and of all clips.

    Raises:
        DependencyError: a package is missing.
        StorageError: the folder holds something else, such as rendered clips, or is not writable.
    """
    check_packages()
    from humo.synthetic.make_clip import clip_attributes

    if (folder / VIDEOS).exists():
        raise StorageError("FOLDER", f"{str(folder)!r} holds rendered clips with their captions", "use a new folder")
    _open_folder(folder, config, (TRUTH,))
    rows = []
    for index in range(clips):
        progress(index, clips)
        rows.append(clip_attributes(config, index))
    _write_tables(folder, rows)
    progress(clips, clips)
    return Report(clips, 0, Counter(row["split"] for row in rows), folder)


def _render_missing(folder: Path, config: CorpusConfig, missing: list[int], workers: int) -> Generator[int, None, None]:
    """Render clips and yield the index of each finished one."""
    if workers == 1 or len(missing) < 2:
        from humo.synthetic.make_clip import make_clip

        for index in missing:
            make_clip(folder, config, index)
            yield index
        return
    context = multiprocessing.get_context("spawn")
    lifeline, parent_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(missing)), context, initializer=start_worker, initargs=(lifeline,))
    waiting: set[Future[tuple[int, tuple[str, ...]]]] = set()
    remaining = iter(missing)
    try:
        while True:
            for index in islice(remaining, 2 * workers - len(waiting)):
                waiting.add(pool.submit(_render_in_worker, folder, config, index))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                index, failure = future.result()
                if failure:
                    error_class, *texts = failure
                    raise getattr(errors, error_class)(*texts)
                yield index
    except BrokenProcessPool as error:
        problem = "a worker process was killed, possibly for lack of memory"
        raise StorageError("--workers", problem, "free memory, or use fewer workers") from error
    finally:
        parent_end.close()  # ends every worker, so that unfinished clips leave no files
        pool.shutdown(wait=True, cancel_futures=True)
        for unfinished in _unfinished_files(folder):
            unfinished.unlink(missing_ok=True)


def _render_in_worker(folder: Path, config: CorpusConfig, index: int) -> tuple[int, tuple[str, ...]]:
    """Render a clip in a worker process.

    Returns:
        The index, and an error as its class name and texts: exceptions with several arguments cannot be pickled.
    """
    from humo.synthetic.make_clip import make_clip

    try:
        make_clip(folder, config, index)
    except HuMoError as error:
        return index, (type(error).__name__, error.field, error.problem, error.remedy)
    return index, ()


def start_worker(lifeline: Connection) -> None:
    """Ignore Ctrl-C in a worker process, and exit when the parent closes the other end of the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def exit_with_parent() -> None:
        with suppress(OSError):
            lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _unfinished_files(folder: Path) -> list[Path]:
    """Return files that were being written when a process ended."""
    return [part for name in (VIDEOS, REFERENCES, TRUTH) for part in (folder / name).glob(".*.part")]


def _open_folder(folder: Path, config: CorpusConfig, subfolders: Sequence[str]) -> None:
    """Create the folders, or check that the existing folder has this configuration."""
    path = folder / CONFIG_FILE
    try:
        if path.is_file():
            _check_config(folder, json.loads(path.read_text(encoding="utf-8")), config)
        elif folder.exists() and any(folder.iterdir()):
            problem = f"{str(folder)!r} is not empty, and holds no rendered corpus"
            raise StorageError("FOLDER", problem, "use a new folder")
        for name in subfolders:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for unfinished in _unfinished_files(folder):
            unfinished.unlink()
        if not path.is_file():
            with atomic_write(path, "FOLDER") as part:
                part.write_text(json.dumps(config.as_dict(), indent=2) + "\n", encoding="utf-8")
    except (OSError, json.JSONDecodeError) as error:
        problem = f"{str(folder)!r} cannot be used ({os_error_text(error)})"
        raise StorageError("FOLDER", problem, "use another folder") from error


def _check_config(folder: Path, stored: Any, config: CorpusConfig) -> None:
    expected = config.as_dict()
    if not isinstance(stored, dict) or stored.keys() != expected.keys():
        problem = f"{str(folder / CONFIG_FILE)!r} is not the configuration of a rendered corpus"
        raise StorageError("FOLDER", problem, "use a new folder")
    for field, name in STORED_NAMES.items():
        if stored[name] != expected[name]:
            problem = f"{str(folder)!r} holds clips with {field} {stored[name]}, not {expected[name]}"
            raise StorageError("FOLDER", problem, f"use a new folder, or set {field} to {stored[name]}")


def _is_whole(folder: Path, name: str) -> bool:
    return all(
        (folder / path).is_file()
        for path in (f"{TRUTH}/{name}.npz", f"{VIDEOS}/{name}.mp4", f"{REFERENCES}/{name}.png")
    )


def _check_space(folder: Path, config: CorpusConfig, clips: int) -> None:
    needed = round(clips * config.frames * (BYTES_PER_FRAME + BYTES_PER_PIXEL * config.size**2))
    free = shutil.disk_usage(folder).free
    if needed > free:
        problem = f"{str(folder)!r} has {free / 1e6:.0f} MB free, but up to {needed / 1e6:.0f} MB are needed"
        raise StorageError("FOLDER", problem, "free some space, use another disk, or render fewer clips")


def _finished_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the table rows of all complete clips, ordered by index."""
    rows = []
    for path in sorted((folder / TRUTH).glob("*.npz")):
        if not _is_whole(folder, path.stem):
            continue
        try:
            with np.load(path, allow_pickle=False) as truth:
                rows.append(json.loads(str(truth["attributes"])))
        except (OSError, ValueError, KeyError) as error:
            raise MediaError("FOLDER", f"{str(path)!r} is damaged ({error})", "delete it and run again") from error
    return sorted(rows, key=lambda row: int(row["index"]))


def _write_tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    caption_columns = {"caption", PARAPHRASES}
    captions = ({ID: row[ID], **{name: row[name] for name in sorted(caption_columns)}} for row in rows)
    attributes = ({name: value for name, value in row.items() if name not in caption_columns} for row in rows)
    _write_table(folder / CAPTIONS, captions)
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
