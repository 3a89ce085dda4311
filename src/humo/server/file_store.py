"""The service's data folder.

    jobs.sqlite              the job queue, unless --database names a PostgreSQL server
    keys.json                digests of the API keys
    cluster.token            random token, present while Ray workers run; they compare it to verify the shared folder
    inputs/SHA256.png .wav   images and audio files after sanitizing (`humo.server.upload_sanitizer`)
    videos/ID.mp4 .json .png finished video, its generation metadata, its thumbnail
    running/ID.json .png     progress and preview image of a running job; ID.finish asks to finish early

The service chooses every file name. Text from clients never becomes part of a path.
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
"""Suffix of each file of a finished job."""

FINISH_REQUESTED = ".finish"
"""Suffix of the file in ``running`` that asks a worker to end denoising after the current step."""

CLUSTER_TOKEN = "cluster.token"

UNUSED_INPUT_SECONDS = 86_400.0
"""Age at which inputs without a job are removed; younger ones may belong to a request in progress."""

_JOB_ID = re.compile(r"video_[0-9a-f]{32}")
_INPUT_NAME = re.compile(r"[0-9a-f]{64}\.(png|wav)")


@dataclass(frozen=True)
class FileStore:
    """Files of the service.

    Args:
        folder: data folder; may be missing, and several machines may share it.
        reserve_bytes: disk space that client files may not use, so that the queue and running jobs can still write.
    """

    folder: Path
    reserve_bytes: int = 128 * 2**20

    def prepare(self) -> None:
        """Create missing folders with access for this user only, and remove partial files of killed processes.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            for name in ("inputs", "videos", "running"):
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
                for partial in (self.folder / name).glob(".*.part"):
                    partial.unlink(missing_ok=True)
        except OSError as error:
            problem = f"{str(self.folder)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("data", problem, "choose a writable folder with --data") from error

    @property
    def database(self) -> str:
        """URL of the job queue's SQLite file in this folder."""
        return f"sqlite:///{self.folder.absolute() / 'jobs.sqlite'}"

    def input_path(self, name: str) -> Path:
        """Path of a sanitized input, by the name that `save_input` returned."""
        assert _INPUT_NAME.fullmatch(name), name
        return self.folder / "inputs" / name

    def resolve_inputs(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a stored request with names of inputs replaced by their paths."""
        resolved = dict(fields)
        if "images" in resolved:
            resolved["images"] = tuple(str(self.input_path(name)) for name in resolved["images"])
        if resolved.get("audio") is not None:
            resolved["audio"] = str(self.input_path(resolved["audio"]))
        return resolved

    def output_path(self, job_id: str, variant: str = "video") -> Path:
        """Path of a file of a finished job; ``variant`` is a key of `VARIANT_SUFFIXES`."""
        assert is_job_id(job_id), job_id
        return self.folder / "videos" / f"{job_id}{VARIANT_SUFFIXES[variant]}"

    def running_path(self, job_id: str, suffix: str = ".json") -> Path:
        """Path of a file that exists only while a job runs."""
        assert is_job_id(job_id), job_id
        return self.folder / "running" / f"{job_id}{suffix}"

    def check_free_space(self, count: int) -> None:
        """Check that a client file of ``count`` bytes leaves the reserved space free.

        Raises:
            StorageError: it does not.
        """
        if shutil.disk_usage(self.folder).free - count < self.reserve_bytes:
            raise StorageError("data", "the service's disk is full", "free disk space on the server")

    def save_input(self, content: bytes, suffix: str) -> str:
        """Save a sanitized input under the hash of its content, so that equal files are stored once.

        Returns:
            name of the input.

        Raises:
            StorageError: the disk is full.
        """
        name = f"{hashlib.sha256(content).hexdigest()}{suffix}"
        path = self.input_path(name)
        if path.is_file():
            os.utime(path)  # restart its retention time
        else:
            self.check_free_space(len(content))
            write_file(path, content, durable=True)
        return name

    def write_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        """Write the progress of a running job."""
        write_file(self.running_path(job_id), json.dumps(progress).encode())

    def read_progress(self, job_id: str) -> dict[str, Any]:
        """Read the last progress of a running job; empty if there is none."""
        try:
            progress: dict[str, Any] = json.loads(self.running_path(job_id).read_bytes())
        except (OSError, ValueError):
            return {}
        return progress

    def clear_progress(self, job_id: str) -> None:
        """Remove progress, preview and cached windows of a job that has ended."""
        for path in (self.folder / "running").glob(f"{job_id}.*"):
            if path.is_dir():  # cached windows of a long clip
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job but its inputs, which other jobs may use; `remove_expired` removes those."""
        self.clear_progress(job_id)
        for variant in VARIANT_SUFFIXES:
            self.output_path(job_id, variant).unlink(missing_ok=True)

    def redact_paths(self, text: str) -> str:
        """Remove the path of the data folder from a message for a client."""
        return text.replace(str(self.folder.absolute()), "").replace(str(self.folder), "")

    def remove_expired(
        self, video_seconds: float, is_referenced: Callable[[str], bool], now: Callable[[], float] = time.time
    ) -> int:
        """Remove files that are past their retention time and belong to no job.

        Args:
            video_seconds: retention time of videos; other files have times of their own.
            is_referenced: whether a file name, or the job ID in it, belongs to a job in the queue.
            now: clock, in seconds since 1970.

        Returns:
            number of removed files.
        """
        ages = {
            "inputs": UNUSED_INPUT_SECONDS,
            "running": UNUSED_INPUT_SECONDS,
            "videos": video_seconds,
        }
        removed = 0
        for folder, age in ages.items():
            for path in (self.folder / folder).iterdir():
                is_old = path.is_file() and now() - path.stat().st_mtime > age
                if is_old and not (is_referenced(path.name) or is_referenced(path.stem)):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


def is_job_id(text: str) -> bool:
    """Return whether a text has the form of this service's job IDs."""
    return _JOB_ID.fullmatch(text) is not None


def write_file(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file atomically.

    Args:
        path: file in the data folder.
        content: bytes of the file.
        durable: flush to the disk before returning, so that the file survives a loss of power.

    Raises:
        StorageError: the disk is full or not writable.
    """
    try:
        with atomic_write(path, "data") as part, part.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(error) from error
