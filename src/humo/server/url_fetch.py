"""Fetch a file from a URL that a client sent, if its host is one of ``humo serve --fetch-host``.

One parser takes the URL apart. The host is resolved once, all of its IP addresses must be public, and the connection
goes to the address that was checked. Redirects are not followed. Every failure gives the client the same message.
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
"""Time limit of the whole download."""

CHUNK_BYTES = 2**16
HTTPS_PORT = 443

_HOSTNAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.A
)
"""A lower-case name with a dot whose last label starts with a letter: no spelling of an IP address matches."""

_PLAIN_URL = re.compile(r"https://[!-\[\]-~]+", re.A)
"""Printable ASCII without spaces and backslashes, which URL parsers treat differently."""

Resolve = Callable[[str], Collection[str]]


def resolve_host(host: str) -> Collection[str]:
    """Return all IP addresses of a host."""
    return {str(entry[4][0]) for entry in socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)}


def fetch_url(
    url: str,
    *,
    allowed_hosts: Collection[str],
    max_bytes: int,
    field: str,
    resolve: Resolve = resolve_host,
    context: ssl.SSLContext | None = None,
) -> bytes:
    """Return the content at a URL.

    Args:
        url: ``https://HOST/...``.
        allowed_hosts: hosts that may be fetched from.
        max_bytes: largest content.
        field: the client's name of the file, for messages.
        resolve: returns the IP addresses of a host.
        context: trusted certificates; by default the system's.

    Raises:
        RequestError: the URL is not allowed, cannot be fetched, or its content is too large.
    """
    try:
        parts = check_url(url, allowed_hosts)
        address = public_address(resolve(str(parts.hostname)))
        return _get(parts, address, max_bytes, context or ssl.create_default_context())
    except (OSError, ValueError, http.client.HTTPException):
        hosts = ", ".join(sorted(allowed_hosts)) or "no host"
        remedy = f"upload the file, or send a URL at one of the allowed hosts: {hosts}"
        raise RequestError(field, "cannot be fetched from this URL", remedy) from None


def check_url(url: str, allowed_hosts: Collection[str]) -> SplitResult:
    """Return the parts of a URL that may be fetched.

    Raises:
        ValueError: it may not.
    """
    if not _PLAIN_URL.fullmatch(url) or len(url) > 2048:
        raise ValueError("not a plain URL")
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ValueError("not https, or with a user name")
    if parts.port not in (None, HTTPS_PORT):
        raise ValueError("another port")
    if not _HOSTNAME.fullmatch(parts.netloc.removesuffix(f":{HTTPS_PORT}")) or parts.hostname not in allowed_hosts:
        raise ValueError("another host")
    return parts


def public_address(addresses: Collection[str]) -> str:
    """Return one of a host's IP addresses if all of them are public.

    Raises:
        ValueError: one is not, or there is none.
    """
    if not addresses:
        raise ValueError("unknown host")
    for text in addresses:
        address = ipaddress.ip_address(text)
        embedded = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        for one in (address, embedded):
            if one is not None and (not one.is_global or one.is_multicast):
                raise ValueError("not public")
    return sorted(addresses)[0]


class _PinnedConnection(http.client.HTTPSConnection):
    """Connection to a checked IP address, verified against the host's name."""

    def __init__(self, host: str, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, HTTPS_PORT, timeout=TIMEOUT_SECONDS, context=context)
        self._address, self._ssl_context = address, context

    def connect(self) -> None:
        """Connect without resolving the host again."""
        plain = socket.create_connection((self._address, HTTPS_PORT), TIMEOUT_SECONDS)
        self.sock = self._ssl_context.wrap_socket(plain, server_hostname=self.host)


def _get(parts: SplitResult, address: str, max_bytes: int, context: ssl.SSLContext) -> bytes:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    connection = _PinnedConnection(str(parts.hostname), address, context)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"accept": "*/*", "accept-encoding": "identity"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ValueError("not found, or redirected")
        content = bytearray()
        while chunk := response.read1(CHUNK_BYTES):
            content += chunk
            if len(content) > max_bytes or time.monotonic() > deadline:
                raise ValueError("too large, or too slow")
        return bytes(content)
    finally:
        connection.close()
