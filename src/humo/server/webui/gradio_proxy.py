"""Allowlist in front of Gradio: the few routes that the page needs, with validated and rewritten requests.

Gradio's routes can fetch URLs, serve and copy files, and share sessions with anyone who knows their name. This proxy
keeps clients from all of that. A file that a client names must be one of the owner's in `uploads`, or the request is
rejected. A session belongs to one owner, because Gradio receives a keyed hash of the owner and the client's name.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import mimetypes
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from humo.errors import HuMoError, RequestError, StorageError
from humo.server.middleware import error_response, request_owner
from humo.server.webui.uploads import Upload, Uploads

MAX_EVENT_BYTES = 2**20
"""Largest body of an event of the page; a prompt has at most 10,000 characters."""

MAX_LIST_DEPTH = 4
"""Deepest nesting of lists in an event."""

_STATIC_PATHS = re.compile(
    r"/?|/theme\.css|/favicon\.ico|/config|/gradio_api/app_id|/(?:assets|static)/[\w@.-]+(?:/[\w@.-]+)*"
)
"""Paths of the page itself and its scripts and styles."""

_SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
_QUERY_FIELDS = ("video", "__theme")
"""Query fields of the page's URL that reach Gradio."""

_HEADERS = re.compile(
    r"host|accept|accept-encoding|accept-language|content-type|if-none-match|if-modified-since|range"
    r"|x-forwarded-proto|x-forwarded-host"
)
"""Headers that reach Gradio; the API key does not."""

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""The page may load nothing from other hosts, and other sites may not show it in a frame."""

RELOAD = "reload the page"


class GradioProxy:
    """Answers requests to the page, or passes them on to Gradio.

    Args:
        app: Gradio's application.
        uploads: files that owners uploaded.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads
        self._secret = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, pass on its rewritten form, or answer with an error."""
        if scope["type"] != "http":
            return  # `AuthMiddleware` has closed it
        request = Request(scope, receive)
        try:
            response = await self._route(request)
        except HuMoError as error:
            status, code = (507, "storage") if isinstance(error, StorageError) else (400, "invalid_request")
            message = self._uploads.store.redact_paths(str(error))
            response = error_response(status, message, code, error.field)
        await response(scope, receive, send)

    async def _route(self, request: Request) -> ASGIApp:
        """Return what answers a request."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        owner = request_owner(request.scope)
        api_path = path.removeprefix("/gradio_api/")
        if request.method in ("GET", "HEAD"):
            if _STATIC_PATHS.fullmatch(path) and ".." not in path:
                return self._pass_on(request, query=_page_query(request))
            if api_path.startswith("heartbeat/"):
                session = self._session(api_path.removeprefix("heartbeat/"), owner)
                return self._pass_on(request, path=f"/gradio_api/heartbeat/{session}")
            if api_path == "queue/data":
                session = self._session(request.query_params.get("session_hash"), owner)
                return self._pass_on(request, query={"session_hash": session})
            if api_path.startswith("file="):
                return self._file(api_path.removeprefix("file="), owner)
            if api_path == "upload_progress":
                # an upload is one request, so that it is complete by the time the page asks
                return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
        elif request.method == "POST":
            if api_path == "queue/join":
                event = self._event(await _read_body(request), owner)
                return self._pass_on(request, query=_page_query(request), body=json.dumps(event).encode())
            if api_path == "upload":
                return JSONResponse(await self._uploads.receive(request, owner))
        return error_response(404, "path: does not exist; the page is at /ui", "not_found")

    # -- validation ---------------------------------------------------------------------------------------------------

    def _session(self, name: object, owner: str) -> str:
        """Return Gradio's name of an owner's session, which no other owner can produce."""
        if not isinstance(name, str) or not _SESSION.fullmatch(name):
            raise RequestError("session_hash", "is not the name of a session", RELOAD)
        return hmac.new(self._secret, json.dumps([owner, name]).encode(), hashlib.sha256).hexdigest()

    def _event(self, content: bytes, owner: str) -> dict[str, Any]:
        """Return a validated event of the page, such as a click with the values of the form."""
        try:
            event = json.loads(content)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, Mapping) or not isinstance(event.get("data"), list):
            raise RequestError("body", "is not an event of the page", RELOAD)
        numbers = {name: event.get(name) for name in ("fn_index", "trigger_id")}
        for name, number in numbers.items():
            if number is not None and type(number) is not int:
                raise RequestError(name, "is not an integer", RELOAD)
        data = [self._value(value, owner, MAX_LIST_DEPTH) for value in event["data"]]
        return {"data": data, **numbers, "session_hash": self._session(event.get("session_hash"), owner)}

    def _value(self, value: Any, owner: str, depth: int) -> Any:
        """Return a validated value of the form; every object must name a file of this owner."""
        if isinstance(value, list) and depth:
            return [self._value(item, owner, depth - 1) for item in value]
        if isinstance(value, Mapping):
            return _file_data(self._upload(value.get("path"), owner))
        if value is None or isinstance(value, str | int | float):
            return value
        raise RequestError("data", f"has lists nested deeper than {MAX_LIST_DEPTH}", RELOAD)

    def _upload(self, name: object, owner: str) -> Upload:
        upload = self._uploads.find(name, owner)
        if upload is None:
            raise RequestError("data", "names a file that no longer exists", "upload the file again")
        return upload

    def _file(self, name: str, owner: str) -> Response:
        """Return an uploaded file to its owner."""
        upload = self._uploads.find(name, owner)
        if upload is None:
            return error_response(404, "file: no longer exists; upload it again", "not_found")
        return FileResponse(
            upload.path,
            media_type=_media_type(upload.client_name),
            headers={
                "content-disposition": "attachment",
                "content-security-policy": "sandbox",
                "x-content-type-options": "nosniff",
            },
        )

    # -- forwarding ---------------------------------------------------------------------------------------------------

    def _pass_on(
        self, request: Request, *, path: str | None = None, query: Mapping[str, str] | None = None, body: bytes = b""
    ) -> ASGIApp:
        """Return Gradio's application, called with validated parts of a request only."""
        inner_scope = dict(request.scope)
        inner_scope["query_string"] = urlencode(query or {}).encode()
        inner_scope["headers"] = _filtered_headers(request.scope["headers"], body)
        if path is not None:
            inner_scope["path"] = inner_scope.get("root_path", "") + path
            inner_scope["raw_path"] = inner_scope["path"].encode()

        async def call(_: Scope, receive: Receive, send: Send) -> None:
            messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

            async def inner_receive() -> Message:
                return messages.pop() if messages else await receive()  # afterwards only the client's disconnect

            async def send_with_policy(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    headers["content-security-policy"] = CONTENT_SECURITY_POLICY
                    headers["x-content-type-options"] = "nosniff"
                    headers["referrer-policy"] = "same-origin"
                await send(message)

            await self._app(inner_scope, inner_receive, send_with_policy)

        return call


def _page_query(request: Request) -> dict[str, str]:
    query = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
    return {name: query[name] for name in _QUERY_FIELDS if name in query}


def _filtered_headers(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> list[tuple[bytes, bytes]]:
    allowed = [(name, value) for name, value in headers if _HEADERS.fullmatch(name.decode("latin-1"))]
    return [*allowed, (b"content-length", str(len(body)).encode())]


def _media_type(file_name: str) -> str:
    """Return the media type of an uploaded file: audio can be played, everything else is plain bytes."""
    media_type = mimetypes.guess_type(file_name)[0] or ""
    return media_type if media_type.startswith("audio/") else "application/octet-stream"


def _file_data(upload: Upload) -> dict[str, Any]:
    """Return Gradio's description of a file, without any text of the client."""
    return {"path": str(upload.path), "size": upload.bytes, "meta": {"_type": "gradio.FileData"}}


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_EVENT_BYTES:
            raise RequestError("body", f"is longer than {MAX_EVENT_BYTES // 2**10} KiB", "shorten the prompt")
    return bytes(body)
