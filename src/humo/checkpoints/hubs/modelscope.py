"""List and download files of a ModelScope repository with two calls of its HTTP interface.

ModelScope's own client would add requests, urllib3 and setuptools as dependencies. The requests go through
huggingface_hub's HTTP client, which knows proxies.

**Source:** modelscope-hub 0.5.1 (https://pypi.org/project/modelscope-hub/0.5.1), ``_legacy_api.py``. It lists a
repository with ``GET /api/v1/models/OWNER/NAME/repo/files?Revision=&Recursive=``, which returns ``{"Code", "Data":
{"Files": [{"Path", "Type", "Size", "Sha256"}]}, "Message", "Success"}`` and silently at most 3000 entries. It fetches a
file with ``GET /api/v1/models/OWNER/NAME/repo?Revision=&FilePath=``, which supports ``Range``. A token is sent as
``Authorization: Bearer`` and as the cookie ``m_session_id``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from humo.checkpoints.hubs.catalog import RemoteFile
from humo.checkpoints.hubs.connection import ShortBodyError, WebPageError, hub_errors
from humo.environment import modelscope_token
from humo.errors import CheckpointError

ENDPOINT = "https://modelscope.cn"
"""Default address of the hub."""

REVISION = "master"
"""Branch that files are taken from."""

TIMEOUT_SECONDS = 60.0
"""Seconds without data after which a connection fails."""

LIST_LIMIT = 3000
"""Most entries of a list; longer ones are truncated silently."""

PARTIAL_SUFFIX = ".part"
"""Suffix of a file that is still being downloaded."""

TOKEN_VARIABLE = "MODELSCOPE_API_TOKEN"
"""Environment variable of the access token, as in ModelScope's own client."""

PARTIAL_CONTENT = 206
"""HTTP status of an answer that starts where the request's ``Range`` does."""


class ModelScope:
    """ModelScope as a hub.

    Args:
        endpoint: its address; modelscope.cn by default.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = (endpoint or ENDPOINT).rstrip("/")

    def files(self, repository: str) -> list[RemoteFile]:
        """Return all files of a repository.

        Raises:
            CheckpointError: the hub cannot be reached, or has no such repository.
        """
        with self._request(repository, repository, "repo/files", {"Recursive": "True"}) as response:
            payload = json.loads(response.read())
            if not payload.get("Success", True) or not isinstance(payload.get("Data"), dict):
                problem = str(payload.get("Message", "the response has an unknown form"))
                raise CheckpointError(repository, f"cannot be downloaded: {problem}", "use another --endpoint")
            entries = payload["Data"].get("Files") or []
            if len(entries) >= LIST_LIMIT:
                problem = f"has more than the {LIST_LIMIT} files that can be listed"
                raise CheckpointError(repository, problem, "use another --repository")
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
            name = f"{file.repository}/{file.name}"
            with self._request(name, file.repository, "repo", {"FilePath": file.name}, headers) as response:
                if response.headers.get("Content-Type", "").startswith("text/html"):
                    raise WebPageError
                arrived = arrived if response.status_code == PARTIAL_CONTENT else 0
                with partial_path.open("ab" if arrived else "wb") as stream:
                    for piece in response.iter_raw():
                        stream.write(piece)
                        arrived += len(piece)
                        on_bytes(arrived)
                if arrived != file.bytes:
                    raise ShortBodyError(f"{arrived} of {file.bytes} bytes arrived")
        partial_path.replace(path)
        return path

    @contextmanager
    def _request(
        self,
        field: str,
        repository: str,
        endpoint: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """Yield the response of a request; every error becomes a CheckpointError of one line."""
        from huggingface_hub import get_session

        parameters = urlencode({"Revision": REVISION, **query})
        address = f"{self._endpoint}/api/v1/models/{quote(repository)}/{endpoint}?{parameters}"
        sent = {"User-Agent": "humo", "Accept-Encoding": "identity", **(headers or {})}
        if token := modelscope_token():
            sent |= {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"}
        with (
            hub_errors(field, TOKEN_VARIABLE),
            get_session().stream("GET", address, headers=sent, timeout=TIMEOUT_SECONDS) as response,
        ):
            response.raise_for_status()
            yield response
