"""API keys: shown once, stored as digests, compared in constant time."""

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
"""Random bytes in a key, enough that a fast digest is safe."""


MIN_VISITOR_KEY = 40
"""Fewest characters of a visitor's key; 32 random bytes in base64 have 43."""


class ApiKeys:
    """API keys in a file, each with a name, which owns the jobs submitted with it.

    Args:
        path: the file; may be missing.

    Attributes:
        missing_code: code of the error of a request without a valid key.

    Raises:
        StorageError: the file exists and cannot be read.
    """

    missing_code = "invalid_api_key"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests: dict[str, str] = {}
        if path.exists():
            try:
                entries = json.loads(path.read_bytes())
                self._digests = {str(name): str(digest) for name, digest in entries.items()}
            except (OSError, ValueError, AttributeError) as error:
                remedy = "remove it, and create new keys with humo serve keys add NAME"
                raise StorageError(str(path), f"cannot be read ({error})", remedy) from error

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def names(self) -> list[str]:
        """Names of all keys, sorted."""
        return sorted(self._digests)

    def add(self, name: str) -> str:
        """Create a key.

        Returns:
            the key, which is stored nowhere.

        Raises:
            RequestError: the name has a key already.
        """
        if name in self._digests:
            remedy = f"choose another name, or run humo serve keys remove {name}"
            raise RequestError("name", f"{name!r} has a key already", remedy)
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        self._digests[name] = _digest(key)
        self._save()
        return key

    def remove(self, name: str) -> None:
        """Remove a key.

        Raises:
            RequestError: the name has no key.
        """
        if name not in self._digests:
            remedy = f"choose one of {', '.join(self.names)}" if self.names else "there are no keys"
            raise RequestError("name", f"{name!r} has no key", remedy)
        del self._digests[name]
        self._save()

    def owner(self, key: str) -> str | None:
        """Return the name of a key; None if there is none. Compares with every key, to take constant time."""
        digest, owner = _digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                owner = name
        return owner

    def _save(self) -> None:
        try:
            with atomic_write(self._path, "keys") as part:
                part.chmod(0o600)
                part.write_text(json.dumps(self._digests, indent=1) + "\n")
        except OSError as error:
            problem = f"{str(self._path)!r} cannot be written ({os_error_text(error)})"
            raise StorageError("keys", problem, "choose a writable folder with --data") from error


class VisitorKeys(ApiKeys):
    """Keys of visitors of an open service: each browser chooses a random key, which owns the jobs submitted with it.

    Nobody can see or delete the jobs of others, though the service knows nobody.
    """

    missing_code = "visitor_key_required"

    def __init__(self) -> None:
        self._digests = {}

    def __len__(self) -> int:
        return 1

    def owner(self, key: str) -> str | None:
        """Return the digest of a key; None if it is too short to be random."""
        return f"visitor-{_digest(key)}" if len(key) >= MIN_VISITOR_KEY else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
