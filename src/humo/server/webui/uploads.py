"""Raw files uploaded to the page, kept until they are sanitized: under random names, per owner, few and briefly.

The page refers to a file by the name that `Uploads.receive` returned. The name is looked up in a table; it never
becomes part of a path.
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
"""Files in one form. A request allows fewer images, which the page checks."""

MAX_FORM_FIELDS = 10
"""Fields of such a form that are not files."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A raw uploaded file.

    Args:
        path: where it is stored, under a random name.
        client_name: the client's file name, for messages only.
        owner: who uploaded it.
        bytes: its size.
        received: when it was uploaded, in seconds since 1970.
    """

    path: Path
    client_name: str
    owner: str
    bytes: int
    received: float

    @property
    def name(self) -> str:
        """Name by which the page refers to the file."""
        return self.path.name


class Uploads:
    """Raw uploaded files of all owners.

    Args:
        store: its folder holds the files.
        limits: upper limits of each file.
        max_files, max_bytes: files and bytes of one owner; above these the owner's oldest files are removed.
    """

    def __init__(
        self, store: FileStore, limits: UploadLimits, max_files: int = 32, max_bytes: int = 256 * 2**20
    ) -> None:
        self.store, self._limits = store, limits
        self._max_files, self._max_bytes = max_files, max_bytes
        self._uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()

    async def receive(self, request: Request, owner: str) -> list[str]:
        """Save the files of a form.

        Returns:
            the name of each, for `find`.

        Raises:
            RequestError: it is not a valid form, or has too many files.
            MediaError: a file is too large.
            StorageError: the disk is full.
        """
        max_bytes = max(self._limits.image_bytes, self._limits.audio_bytes)
        try:
            async with request.form(max_files=MAX_FILES_PER_FORM, max_fields=MAX_FORM_FIELDS) as form:
                files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
                if not files:
                    raise RequestError("files", "are missing", "send them as parts of a multipart form")
                for file in files:
                    if (file.size or 0) > max_bytes:
                        problem = f"one is larger than {max_bytes // 2**20} MiB"
                        raise MediaError("files", problem, "send a smaller file")
                return [await self._save(await file.read(), str(file.filename), owner) for file in files]
        except OSError as error:
            raise storage_error(error) from error
        except (MultiPartException, HTTPException):
            remedy = f"send at most {MAX_FILES_PER_FORM} files in a multipart form"
            raise RequestError("files", "are too many, or not in a valid form", remedy) from None

    def find(self, name: object, owner: str) -> Upload | None:
        """Return an owner's file by its name; None if it does not exist or belongs to another owner."""
        upload = self._uploads.get(name) if isinstance(name, str) else None
        return upload if upload is not None and upload.owner == owner and upload.path.is_file() else None

    async def _save(self, content: bytes, client_name: str, owner: str) -> str:
        path = self.store.folder / "uploads" / secrets.token_hex(16)
        await asyncio.to_thread(self._write, path, content)
        upload = Upload(path, client_name[:100], owner, len(content), time.time())
        with self._lock:
            self._uploads[upload.name] = upload
            for excess in self._excess(owner):
                del self._uploads[excess.name]
                excess.path.unlink(missing_ok=True)
        return upload.name

    def _write(self, path: Path, content: bytes) -> None:
        self.store.check_free_space(len(content))
        write_file(path, content)

    def _excess(self, owner: str) -> Sequence[Upload]:
        """Return an owner's oldest uploads above the limits, and the uploads of all owners whose file is gone."""
        excess = [upload for upload in self._uploads.values() if not upload.path.is_file()]
        owned = [upload for upload in self._uploads.values() if upload.owner == owner and upload not in excess]
        files, size = len(owned), sum(upload.bytes for upload in owned)
        for upload in owned[:-1]:  # from the oldest on; the newest always stays
            if files <= self._max_files and size <= self._max_bytes:
                break
            files, size = files - 1, size - upload.bytes
            excess.append(upload)
        return excess
