"""Middleware in front of every route, the web page's included: authentication, origin checks and size limits."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from humo.server.api_keys import ApiKeys
from humo.server.settings import is_loopback

CROSS_ORIGIN_MESSAGE = (
    "Origin: requests from pages of other sites are rejected; use the service's own page, or call it from a program"
)

MAX_HEADER_BYTES = 16 * 2**10

WEBSOCKET_POLICY_VIOLATION = 1008
"""Close code of a WebSocket (RFC 6455, 7.4.1)."""

PUBLIC_PATHS = ("/health", "/ready")
"""Paths that need no API key."""

PAGE_PATHS = ("/", "/ui", "/ui/")
"""Paths of the page, and the prefix of its files; they hold no data of a user and need no API key."""

LOCAL_OWNER = "local"
"""Owner of all jobs of a service without API keys."""


def request_owner(scope: Scope) -> str:
    """Return the owner of a request that passed `AuthMiddleware`."""
    return str(scope.get("humo.owner", LOCAL_OWNER))


def error_response(status: int, message: str, code: str, param: str | None = None) -> JSONResponse:
    """Return a response of the form `schemas.ErrorResponse`."""
    types = {401: "authentication_error", 403: "authentication_error", 404: "not_found_error"}
    error_type = "server_error" if status >= 500 else types.get(status, "invalid_request_error")
    body = {"message": message, "type": error_type, "param": param, "code": code}
    return JSONResponse({"error": body}, status_code=status)


class AuthMiddleware:
    """Checks API keys, rejects requests from pages of other sites, and checks the Host header.

    A service at a loopback address answers only to host names of this machine, which prevents DNS rebinding.

    Args:
        app: next application.
        keys: API keys; without any, requests need none.
        local: whether the service listens at a loopback address.
        hosts: further host names that a local service answers to.
        embedded: whether pages of other sites may show the page in a frame.
    """

    def __init__(
        self, app: ASGIApp, keys: ApiKeys, local: bool, hosts: tuple[str, ...], embedded: bool = False
    ) -> None:
        self._app, self._keys, self._local, self._hosts = app, keys, local, hosts
        self._embedded = embedded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] == "websocket":  # no route uses WebSockets
            await receive()
            await send({"type": "websocket.close", "code": WEBSOCKET_POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        error = self._check(scope, headers)
        await (error or self._app)(scope, receive, send)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> JSONResponse | None:
        """Return the error of a request; None if there is none. Records the request's owner."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            text = f"headers: exceed {MAX_HEADER_BYTES // 2**10} KiB; send fewer or shorter headers"
            return error_response(431, text, "headers_too_long")
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if self._local and not is_loopback(host) and host not in self._hosts:
            text = "Host: not a name of this machine; use 127.0.0.1, or start the service with --allowed-host HOST"
            return error_response(403, text, "host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return error_response(403, CROSS_ORIGIN_MESSAGE, "origin_not_allowed")
        is_cross_site = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if is_cross_site and not _is_top_level_navigation(scope, headers) and not self._is_frame(scope, headers):
            return error_response(403, CROSS_ORIGIN_MESSAGE, "origin_not_allowed")
        if len(self._keys) and scope["path"] not in PUBLIC_PATHS and not _is_of_page(scope["path"]):
            owner = self._keys.owner(_api_key(headers.get("authorization", "")))
            if owner is None:
                text = "Authorization: the API key is missing or wrong; send Authorization: Bearer KEY"
                response = error_response(401, text, self._keys.missing_code)
                # a browser shows a password prompt only for "Basic"
                is_browser = "text/html" in headers.get("accept", "")
                response.headers["www-authenticate"] = 'Basic realm="HuMo"' if is_browser else "Bearer"
                return response
            scope["humo.owner"] = owner
        return None

    def _is_frame(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Return whether a page that may embed this one loads it in a frame."""
        opens = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        return self._embedded and opens and headers.get("sec-fetch-dest") == "iframe" and _is_of_page(scope["path"])


def _is_of_page(path: str) -> bool:
    return path in PAGE_PATHS or path.startswith(PAGE_PATHS[-1])


def _is_top_level_navigation(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Return whether a user followed a link in a window, rather than a page of another site sending a request."""
    mode, destination = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return scope["method"] in ("GET", "HEAD") and (mode, destination) == ("navigate", "document")


def _api_key(authorization: str) -> str:
    """Return the key in a header: a bearer token, or the password of Basic authentication with any user name."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):  # not base64, or not text
            return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    return credentials.strip() if scheme.lower() == "bearer" else ""


class BodyLimitMiddleware:
    """Rejects a request whose body is too long, by its Content-Length or as soon as too many bytes have come.

    Args:
        app: next application.
        max_bytes: longest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on while counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = dict(scope["headers"]).get(b"content-length", b"0")
        text = f"body: exceeds {self._max_bytes // 2**20} MiB; send smaller files"
        too_long = error_response(413, text, "request_too_large")
        if content_length.isdigit() and int(content_length) > self._max_bytes:
            await too_long(scope, receive, send)
            return
        count, has_response = 0, False

        async def counted_receive() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._max_bytes:
                raise _BodyTooLong
            return message

        async def watched_send(message: Message) -> None:
            nonlocal has_response
            has_response = True
            await send(message)

        try:
            await self._app(scope, counted_receive, watched_send)
        except _BodyTooLong:
            if not has_response:
                await too_long(scope, receive, send)


class _BodyTooLong(Exception):  # noqa: N818 - caught where it is raised
    """The body exceeds the limit."""
