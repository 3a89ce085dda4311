"""List and download files of a ModelScope repository with two calls of its HTTP interface.

ModelScope's own client would add requests, urllib3 and setuptools as dependencies.

**Source:** modelscope-hub 0.5.1 (https://pypi.org/project/modelscope-hub/0.5.1), ``_legacy_api.py``. It lists a
repository with ``GET /api/v1/models/OWNER/NAME/repo/files?Revision=&Recursive=``, which returns ``{"Code", "Data":
{"Files": [{"Path", "Type", "Size", "Sha256"}]}, "Message", "Success"}`` and silently at most 3000 entries. It fetches a
file with ``GET /api/v1/models/OWNER/NAME/repo?Revision=&FilePath=``, which supports ``Range``.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from humo.checkpoints.hubs.catalog import RemoteFile
from humo.errors import CheckpointError

ENDPOINT = "https://modelscope.cn"
"""Default address of the hub."""

REVISION = "master"
"""Branch that files are taken from."""

TIMEOUT_SECONDS = 60.0
"""Seconds without data after which a connection fails."""

CHUNK_BYTES = 2**20
"""Bytes that are written at a time."""

LIST_LIMIT = 3000
"""Most entries of a list; longer ones are truncated silently."""

PARTIAL_SUFFIX = ".part"
"""Suffix of a file that is still being downloaded."""


class ModelScope:
    """ModelScope as a hub.

    Args:
        endpoint: its address; modelscope.cn by default.
        offline: raise an error instead of using the network.
    """

    def __init__(self, endpoint: str | None = None, *, offline: bool = False) -> None:
        self._endpoint, self._offline = (endpoint or ENDPOINT).rstrip("/"), offline

    def files(self, repository: str) -> list[RemoteFile]:
        """Return all files of a repository.

        Raises:
            CheckpointError: the hub cannot be reached, or has no such repository.
        """
        with self._request(repository, "repo/files", {"Recursive": "True"}) as response:
            payload = json.loads(response.read())
            if not payload.get("Success", True) or not isinstance(payload.get("Data"), dict):
                raise _download_error(repository, str(payload.get("Message", "the response has an unknown form")))
            entries = payload["Data"].get("Files") or []
            if len(entries) >= LIST_LIMIT:
                raise _download_error(repository, f"it has more than the {LIST_LIMIT} files that can be listed")
            return [
                RemoteFile(repository, one["Path"], int(one["Size"]), one.get("Sha256") or None)
                for one in entries
                if one["Type"] == "blob"
            ]

    def download(self, file: RemoteFile, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        """Download one file; an interrupted download is resumed.

        Args:
            file: from `files`.
            folder: local folder of its repository.
            on_bytes: called with the number of bytes downloaded so far.

        Raises:
            CheckpointError: the hub cannot be reached, or the connection was interrupted.
        """
        path = folder / file.name
        if path.is_file() and path.stat().st_size == file.bytes:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_name(path.name + PARTIAL_SUFFIX)
        arrived = partial_path.stat().st_size if partial_path.is_file() else 0
        if arrived > file.bytes:  # the partial file is of another version
            arrived = 0
        if arrived < file.bytes or not partial_path.is_file():
            headers = {"Range": f"bytes={arrived}-"} if arrived else {}
            with self._request(file.repository, "repo", {"FilePath": file.name}, headers) as response:
                arrived = arrived if response.status == http.client.PARTIAL_CONTENT else 0
                with partial_path.open("ab" if arrived else "wb") as stream:
                    while piece := response.read1(CHUNK_BYTES):
                        stream.write(piece)
                        arrived += len(piece)
                        on_bytes(arrived)
        if arrived != file.bytes:
            raise _download_error(f"{file.repository}/{file.name}", f"{arrived} of {file.bytes} bytes arrived")
        partial_path.replace(path)
        return path

    @contextmanager
    def _request(
        self, repository: str, endpoint: str, query: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Iterator[Any]:
        """Yield the response of a request; every error becomes a CheckpointError of one line."""
        if self._offline:
            problem = "is not available locally, and HF_HUB_OFFLINE forbids downloads"
            raise CheckpointError(repository, problem, "unset HF_HUB_OFFLINE, or run `humo models import FOLDER`")
        parameters = urlencode({"Revision": REVISION, **query})
        address = f"{self._endpoint}/api/v1/models/{quote(repository)}/{endpoint}?{parameters}"
        request = urllib.request.Request(address, headers={"User-Agent": "humo", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                yield response
        except urllib.error.HTTPError as error:
            problem = "the hub has no such repository or file" if error.code == http.client.NOT_FOUND else str(error)
            raise _download_error(repository, problem) from error
        except urllib.error.URLError as error:
            raise _download_error(repository, str(error.reason)) from error
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise _download_error(repository, f"{type(error).__name__}: {error}") from error


def _download_error(field: str, problem: str) -> CheckpointError:
    remedy = "run the command again, which resumes the download, or use a mirror with --endpoint"
    return CheckpointError(field, f"cannot be downloaded: {problem}", remedy)
