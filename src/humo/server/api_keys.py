"""Keys of the service: shown once, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from pathlib import Path

from humo.errors import RequestError, StorageError
from humo.files import atomic_write, os_error_text

KEY_PREFIX = "humo-"
KEY_BYTES = 32
"""Of chance in a key: so many that no slow digest is needed."""


class ApiKeys:
    """The keys in a file, by name.

    Args:
        path: of the file; may be missing.

    Raises:
        StorageError: it is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests: dict[str, str] = {}
        if path.exists():
            try:
                found = json.loads(path.read_bytes())
                self._digests = {str(name): str(digest) for name, digest in found.items()}
            except (OSError, ValueError, AttributeError) as error:
                raise StorageError(str(path), f"cannot be read ({error})", "remove it and make new keys") from error

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def names(self) -> list[str]:
        """Of all keys."""
        return sorted(self._digests)

    def add(self, name: str) -> str:
        """Make a key.

        Returns:
            the key itself, which is nowhere else.

        Raises:
            RequestError: there is one of that name.
        """
        if name in self._digests:
            raise RequestError("name", f"{name!r} has a key already", "remove it first, or choose another name")
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        self._digests[name] = _digest(key)
        self._save()
        return key

    def remove(self, name: str) -> None:
        """Take a key away.

        Raises:
            RequestError: there is none of that name.
        """
        if name not in self._digests:
            raise RequestError("name", f"{name!r} has no key", f"there are {', '.join(self.names) or 'none'}")
        del self._digests[name]
        self._save()

    def owner(self, key: str) -> str | None:
        """The name of a key; every one is compared, whichever fits."""
        given, found = _digest(key), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found

    def _save(self) -> None:
        try:
            with atomic_write(self._path, "keys") as part:
                part.chmod(0o600)
                part.write_text(json.dumps(self._digests, indent=1) + "\n")
        except OSError as error:
            raise StorageError(
                "keys", f"cannot be written ({os_error_text(error)})", "choose another data folder"
            ) from error


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
