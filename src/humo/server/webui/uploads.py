"""Files dropped into the page, until they pass the gate: under names of ours, each its owner's, few, and not for long.

A client gives a name back to say which file it means. That name is looked up here; it never becomes a path.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from humo.errors import MediaError, RequestError
from humo.files import storage_error
from humo.server.file_store import FileStore, write_file
from humo.server.upload_sanitizer import UploadLimits

MAX_FILES_PER_FORM = 16
"""Files in one form; that a request takes fewer pictures is the page's to say."""

MAX_FORM_FIELDS = 10
"""Of a form that brings files, beside the files."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that waits to be looked at.

    Args:
        path: where it lies, under a name of ours.
        title: what the client calls it; for messages alone.
        owner: whose it is.
        bytes: its size.
        since: when it came, in seconds since 1970.
    """

    path: Path
    client_name: str
    owner: str
    bytes: int
    received: float

    @property
    def name(self) -> str:
        """What the client is told to call it."""
        return self.path.name


class Uploads:
    """The files that wait.

    Args:
        store: in whose folder they lie.
        limits: of each.
        max_files, max_bytes: that wait of one owner; the oldest make room.
    """

    def __init__(
        self, store: FileStore, limits: UploadLimits, max_files: int = 32, max_bytes: int = 256 * 2**20
    ) -> None:
        self.store, self._limits, self._most = store, limits, (max_files, max_bytes)
        self._waiting: dict[str, Upload] = {}
        self._lock = threading.Lock()

    async def receive(self, request: Request, owner: str) -> list[str]:
        """Take the files of a form in.

        Returns:
            the name of each, by which `find` knows it.

        Raises:
            RequestError: it is no form, or holds too many files.
            MediaError: one is too large.
            StorageError: there is no room.
        """
        most = max(self._limits.image_bytes, self._limits.audio_bytes)
        try:
            async with request.form(max_files=MAX_FILES_PER_FORM, max_fields=MAX_FORM_FIELDS) as form:
                files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
                if not files:
                    raise RequestError("files", "are not there", "send them as parts of a form")
                for file in files:
                    if (file.size or 0) > most:
                        raise MediaError("files", f"one is larger than {most // 2**20} MiB", "give a smaller file")
                return [await self._keep(await file.read(), str(file.filename), owner) for file in files]
        except OSError as error:
            raise storage_error(error) from error
        except (MultiPartException, HTTPException):
            raise RequestError(
                "files", "are not a form that can be read", f"give at most {MAX_FILES_PER_FORM} files at once"
            ) from None

    def find(self, name: object, owner: str) -> Upload | None:
        """A file by the name it was given, if it is this owner's and still there."""
        found = self._waiting.get(name) if isinstance(name, str) else None
        return found if found is not None and found.owner == owner and found.path.is_file() else None

    async def _keep(self, content: bytes, title: str, owner: str) -> str:
        path = self.store.folder / "uploads" / secrets.token_hex(16)
        await asyncio.to_thread(self._write, path, content)
        upload = Upload(path, title[:100], owner, len(content), time.time())
        with self._lock:
            self._waiting[upload.name] = upload
            for one in self._too_many(owner):
                del self._waiting[one.name]
                one.path.unlink(missing_ok=True)
        return upload.name

    def _write(self, path: Path, content: bytes) -> None:
        self.store.check_free_space(len(content))
        write_file(path, content)

    def _too_many(self, owner: str) -> Sequence[Upload]:
        """The oldest that must go, and those of which the file is gone already."""
        gone = [one for one in self._waiting.values() if not one.path.is_file()]
        mine = [one for one in self._waiting.values() if one.owner == owner and one not in gone]
        files, size = len(mine), sum(one.bytes for one in mine)
        for one in mine[:-1]:  # in the order of their coming; the newest stays
            if files <= self._most[0] and size <= self._most[1]:
                break
            files, size = files - 1, size - one.bytes
            gone.append(one)
        return gone
