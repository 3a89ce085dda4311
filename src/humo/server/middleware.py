"""Who may come in, and how much they may bring: in front of every route, the page's among them."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from humo.server.api_keys import ApiKeys
from humo.server.settings import is_loopback

CROSS_ORIGIN_MESSAGE = "pages of other sites may not use this service; use its own, or call it from a program"

MAX_HEADER_BYTES = 16 * 2**10

WEBSOCKET_POLICY_VIOLATION = 1008
"""Of a WebSocket."""

PUBLIC_PATHS = ("/health", "/ready")
"""That tell nothing of anybody's."""

LOCAL_OWNER = "local"
"""Whose the jobs are where no keys are asked for."""


def request_owner(scope: Scope) -> str:
    """Whose request it is, once it has passed `AuthMiddleware`."""
    return str(scope.get("humo.owner", LOCAL_OWNER))


def error_response(status: int, message: str, code: str, param: str | None = None) -> JSONResponse:
    """The answer to a request that is not done."""
    kinds = {401: "authentication_error", 403: "authentication_error", 404: "not_found_error"}
    kind = "server_error" if status >= 500 else kinds.get(status, "invalid_request_error")
    fault = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": fault}, status_code=status)


class AuthMiddleware:
    """Asks for a key where there are keys; lets no other website's page in; and, where the service is this machine's
    alone, only calls by a name of this machine, so that no name of a stranger's can be pointed at it."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, local: bool, hosts: tuple[str, ...]) -> None:
        self._app, self._keys, self._local, self._hosts = app, keys, local, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it here."""
        if scope["type"] == "websocket":  # nothing here speaks that way
            await receive()
            await send({"type": "websocket.close", "code": WEBSOCKET_POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._check(scope, headers)
        await (answer or self._app)(scope, receive, send)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> JSONResponse | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            return error_response(431, "the headers are too long; send fewer or shorter ones", "headers_too_long")
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if self._local and not is_loopback(host) and host not in self._hosts:
            text = (
                "this service answers to names of this machine alone; call it so, or start it with --allowed-host HOST"
            )
            return error_response(403, text, "host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return error_response(403, CROSS_ORIGIN_MESSAGE, "origin_not_allowed")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_top_level_navigation(
            scope, headers
        ):
            return error_response(403, CROSS_ORIGIN_MESSAGE, "origin_not_allowed")
        if len(self._keys) and scope["path"] not in PUBLIC_PATHS:
            owner = self._keys.owner(_api_key(headers.get("authorization", "")))
            if owner is None:
                answer = error_response(401, "a key is needed; send Authorization: Bearer KEY", "invalid_api_key")
                # a browser asks for name and password if it is told of "Basic": what the page needs, and no program
                is_page = "text/html" in headers.get("accept", "")
                answer.headers["www-authenticate"] = 'Basic realm="HuMo"' if is_page else "Bearer"
                return answer
            scope["humo.owner"] = owner
        return None


def _is_top_level_navigation(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether somebody comes over from another site, in a window of his own, rather than that site's page asking."""
    asks = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return scope["method"] in ("GET", "HEAD") and asks == ("navigate", "document")


def _api_key(authorization: str) -> str:
    """The key in a header: as it is, or as the password of any name, which is how browsers send it."""
    word, _, given = authorization.partition(" ")
    if word.lower() == "basic":
        with contextlib.suppress(ValueError):  # not base64, or not text
            return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
    return given.strip() if word.lower() == "bearer" else ""


class BodyLimitMiddleware:
    """Ends a request whose body is too long as soon as that is known, whatever its header says."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        text = f"a request may be {self._max_bytes // 2**20} MiB long; send smaller files"
        too_long = error_response(413, text, "request_too_large")
        if told.isdigit() and int(told) > self._max_bytes:
            await too_long(scope, receive, send)
            return
        count, begun = 0, False

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._max_bytes:
                raise _TooLong
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLong:
            if not begun:
                await too_long(scope, receive, send)


class _TooLong(Exception):  # noqa: N818 - caught where it is raised
    """The body is too long."""
