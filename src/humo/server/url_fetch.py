"""Fetches a file from an address that a client names, if the service was told to: from listed hosts, in public, once.

The address is taken apart by one parser, its host looked up once, every answer must be public, and the connection goes
to the very number that was looked at. Nothing is followed. Whatever is wrong, the client is told one and the same.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection
from urllib.parse import SplitResult, urlsplit

from humo.errors import RequestError

TIMEOUT_SECONDS = 10.0
"""For all of it."""

CHUNK_BYTES = 2**16
HTTPS_PORT = 443

_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.A)
"""A name with a dot and a last part that is no number, in small letters: no address in any spelling."""

_PLAIN = re.compile(r"https://[!-\[\]-~]+", re.A)
"""Printable ASCII without spaces and backslashes, which parsers read differently."""

Resolve = Callable[[str], Collection[str]]


def resolve_host(host: str) -> Collection[str]:
    """All numbers of a host."""
    return {str(found[4][0]) for found in socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)}


def fetch_url(
    address: str,
    *,
    allowed_hosts: Collection[str],
    max_bytes: int,
    field: str,
    resolve: Resolve = resolve_host,
    context: ssl.SSLContext | None = None,
) -> bytes:
    """The content of an address.

    Args:
        address: ``https://HOST/...``.
        hosts: that may be asked.
        most: bytes taken.
        field: the client's word for it.
        resolve: looks a host up.
        context: whom to trust; by default the system's.

    Raises:
        RequestError: it may not be fetched, cannot be, or holds too much.
    """
    try:
        parts = check_url(address, allowed_hosts)
        number = public_address(resolve(str(parts.hostname)))
        return _get(parts, number, max_bytes, context or ssl.create_default_context())
    except (OSError, ValueError, http.client.HTTPException):
        remedy = "upload the file itself, or name one at " + (", ".join(sorted(allowed_hosts)) or "no host at all")
        raise RequestError(field, "cannot be fetched from there", remedy) from None


def check_url(address: str, hosts: Collection[str]) -> SplitResult:
    """The parts of an address that may be asked.

    Raises:
        ValueError: it may not.
    """
    if not _PLAIN.fullmatch(address) or len(address) > 2048:
        raise ValueError("not a plain address")
    parts = urlsplit(address)
    if parts.scheme != "https" or parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ValueError("not https, or with a name in it")
    if parts.port not in (None, HTTPS_PORT):
        raise ValueError("another port")
    if not _HOST.fullmatch(parts.netloc.removesuffix(f":{HTTPS_PORT}")) or parts.hostname not in hosts:
        raise ValueError("another host")
    return parts


def public_address(numbers: Collection[str]) -> str:
    """One of a host's numbers, if all of them are public.

    Raises:
        ValueError: one is not, or there is none.
    """
    if not numbers:
        raise ValueError("no such host")
    for number in numbers:
        found = ipaddress.ip_address(number)
        inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
        for one in (found, inner):
            if one is not None and (not one.is_global or one.is_multicast):
                raise ValueError("not public")
    return sorted(numbers)[0]


class _Connection(http.client.HTTPSConnection):
    """To a number that was looked at, under the host's name."""

    def __init__(self, host: str, number: str, context: ssl.SSLContext) -> None:
        super().__init__(host, HTTPS_PORT, timeout=TIMEOUT_SECONDS, context=context)
        self._number, self._trust = number, context

    def connect(self) -> None:
        """Connect, and look no host up again."""
        plain = socket.create_connection((self._number, HTTPS_PORT), TIMEOUT_SECONDS)
        self.sock = self._trust.wrap_socket(plain, server_hostname=self.host)


def _get(parts: SplitResult, number: str, most: int, context: ssl.SSLContext) -> bytes:
    until = time.monotonic() + TIMEOUT_SECONDS
    connection = _Connection(str(parts.hostname), number, context)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"accept": "*/*", "accept-encoding": "identity"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ValueError("not there, or elsewhere")
        content = bytearray()
        while piece := answer.read1(CHUNK_BYTES):
            content += piece
            if len(content) > most or time.monotonic() > until:
                raise ValueError("too much, or too slow")
        return bytes(content)
    finally:
        connection.close()
