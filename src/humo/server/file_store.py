"""The service's folder: who writes what where.

    jobs.sqlite              the queue, unless it is a PostgreSQL elsewhere
    keys.json                digests of the keys
    cluster.token            while workers are elsewhere: by this they know that they see this very folder
    inputs/SHA256.png .wav   pictures and sounds, as `intake` wrote them anew
    videos/ID.mp4 .json .png the video, its record, its thumbnail
    uploads/NAME             what was dropped into the page, as it came, until it passes the gate or an hour is over
    running/ID.json .png     what a worker is doing, how the picture looks by now; .enough: finish it now

Every name in it is ours; nothing a client says becomes a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.errors import StorageError
from humo.files import atomic_write, os_error_text, storage_error

VARIANT_SUFFIXES = {"video": ".mp4", "thumbnail": ".png", "sidecar": ".json"}
"""What there is of a finished job -> the suffix of its file."""

FINISH_REQUESTED = ".enough"
"""Suffix of the file in ``running`` that says that what there is by now is wanted."""

CLUSTER_TOKEN = "cluster.token"

UPLOAD_SECONDS = 3600.0
"""What was dropped into a page is there so long."""

UNUSED_INPUT_SECONDS = 86_400.0
"""So long a picture or sound that belongs to no job may still be in somebody's page, or in a request under way."""

_JOB_ID = re.compile(r"video_[0-9a-f]{32}")
_INPUT_NAME = re.compile(r"[0-9a-f]{64}\.(png|wav)")


@dataclass(frozen=True)
class FileStore:
    """The folder.

    Args:
        folder: may be missing; several machines may share it.
        reserve_bytes: of its disk, that clients' files do not get: the queue and the jobs at work need some.
    """

    folder: Path
    reserve_bytes: int = 128 * 2**20

    def prepare(self) -> None:
        """Make what is missing, for this user alone; remove what a killed process left half-written.

        Raises:
            StorageError: it cannot be written to.
        """
        try:
            for name in ("inputs", "videos", "running", "uploads"):
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
                for part in (self.folder / name).glob(".*.part"):
                    part.unlink(missing_ok=True)
        except OSError as error:
            problem = f"{str(self.folder)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("data", problem, "choose a folder you may write to") from error

    @property
    def database(self) -> str:
        """Address of the queue that is kept in the folder."""
        return f"sqlite:///{self.folder.absolute() / 'jobs.sqlite'}"

    def input_path(self, name: str) -> Path:
        """A picture or sound by the name that `keep` gave it."""
        assert _INPUT_NAME.fullmatch(name), name
        return self.folder / "inputs" / name

    def resolve_inputs(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a request as the queue has them, with inputs as files rather than names."""
        found = dict(stored)
        if "images" in found:
            found["images"] = tuple(str(self.input_path(name)) for name in found["images"])
        if found.get("audio") is not None:
            found["audio"] = str(self.input_path(found["audio"]))
        return found

    def output_path(self, job_id: str, variant: str = "video") -> Path:
        """Where a file of a finished job lies."""
        assert is_job_id(job_id), job_id
        return self.folder / "videos" / f"{job_id}{VARIANT_SUFFIXES[variant]}"

    def running_path(self, job_id: str, suffix: str = ".json") -> Path:
        """Where a worker says how a job is doing."""
        assert is_job_id(job_id), job_id
        return self.folder / "running" / f"{job_id}{suffix}"

    def check_free_space(self, count: int) -> None:
        """Whether so many bytes of a client's may be written.

        Raises:
            StorageError: too little would be left.
        """
        if shutil.disk_usage(self.folder).free - count < self.reserve_bytes:
            raise StorageError("data", "has no room for more files", "make room on the service's disk")

    def save_input(self, content: bytes, suffix: str) -> str:
        """Keep an input, once whatever how often it comes.

        Returns:
            its name.

        Raises:
            StorageError: there is no room.
        """
        name = f"{hashlib.sha256(content).hexdigest()}{suffix}"
        path = self.input_path(name)
        if path.is_file():
            os.utime(path)  # wanted again: not swept soon
        else:
            self.check_free_space(len(content))
            write_file(path, content, durable=True)
        return name

    def write_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        """Say how a job is doing."""
        write_file(self.running_path(job_id), json.dumps(progress).encode())

    def read_progress(self, job_id: str) -> dict[str, Any]:
        """What was said last of a job; nothing if there is nothing."""
        try:
            found: dict[str, Any] = json.loads(self.running_path(job_id).read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def clear_progress(self, job_id: str) -> None:
        """A job has ended: nothing more is said of it."""
        for path in (self.folder / "running").glob(f"{job_id}.*"):
            if path.is_dir():  # windows of a long clip
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job; inputs may belong to others, too, and go by age."""
        self.clear_progress(job_id)
        for variant in VARIANT_SUFFIXES:
            self.output_path(job_id, variant).unlink(missing_ok=True)

    def redact_paths(self, text: str) -> str:
        """A message for somebody else, whom it does not concern where this folder lies."""
        return text.replace(str(self.folder.absolute()), "").replace(str(self.folder), "")

    def remove_expired(
        self, video_seconds: float, is_referenced: Callable[[str], bool], now: Callable[[], float] = time.time
    ) -> int:
        """Remove files that are older than an age, and sooner those that belong to nothing.

        Args:
            seconds: the age, of videos.
            is_wanted: whether a file (by its name, or its job's) belongs to a job that is kept.
            now: seconds since 1970.

        Returns:
            how many went.
        """
        ages = {
            "uploads": UPLOAD_SECONDS,
            "inputs": UNUSED_INPUT_SECONDS,
            "running": UNUSED_INPUT_SECONDS,
            "videos": video_seconds,
        }
        gone = 0
        for folder, age in ages.items():
            for path in (self.folder / folder).iterdir():
                is_old = path.is_file() and now() - path.stat().st_mtime > age
                if is_old and not (is_referenced(path.name) or is_referenced(path.stem)):
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone


def is_job_id(text: str) -> bool:
    """Whether a text is the name of a job as we make them."""
    return _JOB_ID.fullmatch(text) is not None


def write_file(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: in the folder.
        content: of the file.
        durable: it must outlive a loss of power: wait for the disk.

    Raises:
        StorageError: there is no room.
    """
    try:
        with atomic_write(path, "data") as part, part.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(error) from error
