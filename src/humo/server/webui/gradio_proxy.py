"""In front of the page's library: the few routes that the page needs, and what comes in on them written anew.

The library can do much more than the page asks of it: fetch addresses, serve and copy files, keep sessions that belong
to whoever names them. None of that is reached. What a client says of a file becomes a file of its own that waits in
`uploads`, or the request ends here; a session is its owner's alone, because the library never sees the name that the
client gave it.
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
"""Of what the page says of a form: a prompt of 10,000 characters, and little else."""

MAX_LIST_DEPTH = 4
"""Of lists in lists in such a message."""

_FILES = re.compile(
    r"/?|/theme\.css|/favicon\.ico|/config|/gradio_api/app_id|/(?:assets|static)/[\w@.-]+(?:/[\w@.-]+)*"
)
"""What the page is made of."""

_SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
_ASKED = ("video", "__theme")
"""What may be asked for in the page's address."""

_HEADERS = re.compile(
    r"host|accept|accept-encoding|accept-language|content-type|if-none-match|if-modified-since|range"
    r"|x-forwarded-proto|x-forwarded-host"
)
"""What the library is told of a request; keys are not."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""What a browser may do with the page: nothing that leads elsewhere, and no other page may show it inside itself."""


class GradioProxy:
    """Stands around the page's library.

    Args:
        app: the library's application, as it is mounted.
        uploads: takes files in, and knows whose they are.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads
        self._secret = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, hand it on cleaned, or say that there is nothing here."""
        if scope["type"] != "http":
            return  # `guard` has closed it
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except HuMoError as error:
            status = 507 if isinstance(error, StorageError) else 400
            said = self._uploads.store.redact_paths(str(error))
            answer = error_response(status, said, "storage" if status == 507 else "invalid_request", error.field)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        """What answers: we, or the library."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        owner = request_owner(request.scope)
        inner = path.removeprefix("/gradio_api/")
        if request.method in ("GET", "HEAD"):
            if _FILES.fullmatch(path) and ".." not in path:
                return self._pass(request, query=_asked(request))
            if inner.startswith("heartbeat/"):
                name = self._session(inner.removeprefix("heartbeat/"), owner)
                return self._pass(request, path=f"/gradio_api/heartbeat/{name}")
            if inner == "queue/data":
                session = self._session(request.query_params.get("session_hash"), owner)
                return self._pass(request, query={"session_hash": session})
            if inner.startswith("file="):
                return self._file(inner.removeprefix("file="), owner)
            if inner == "upload_progress":
                # files come in one piece: there is nothing to tell of one but that it is there
                return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
        elif request.method == "POST":
            if inner == "queue/join":
                event = self._event(await _body(request), owner)
                return self._pass(request, query=_asked(request), body=json.dumps(event).encode())
            if inner == "upload":
                return JSONResponse(await self._uploads.receive(request, owner))
        return error_response(404, "there is nothing here; the page is at /ui", "not_found")

    # -- what is written anew -----------------------------------------------------------------------------------------

    def _session(self, name: object, owner: str) -> str:
        """The library's name for an owner's session: nobody else has one that comes to it."""
        if not isinstance(name, str) or not _SESSION.fullmatch(name):
            raise RequestError("session_hash", "is not the name of a session", "load the page anew")
        return hmac.new(self._secret, json.dumps([owner, name]).encode(), hashlib.sha256).hexdigest()

    def _event(self, content: bytes, owner: str) -> dict[str, Any]:
        """Something that was done on the page."""
        try:
            told = json.loads(content)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, Mapping) or not isinstance(told.get("data"), list):
            raise RequestError("body", "is not what the page sends", "load the page anew")
        numbers = {name: told.get(name) for name in ("fn_index", "trigger_id")}
        for name, number in numbers.items():
            if number is not None and type(number) is not int:
                raise RequestError(name, "is not a number", "load the page anew")
        data = [self._value(one, owner, MAX_LIST_DEPTH) for one in told["data"]]
        return {"data": data, **numbers, "session_hash": self._session(told.get("session_hash"), owner)}

    def _value(self, value: Any, owner: str, depth: int) -> Any:
        """A value of the form; where it means a file, one of this owner's that waits."""
        if isinstance(value, list) and depth:
            return [self._value(one, owner, depth - 1) for one in value]
        if isinstance(value, Mapping):
            return _told(self._upload(value.get("path"), owner))
        if value is None or isinstance(value, str | int | float):
            return value
        raise RequestError("data", "holds lists in lists", "load the page anew")

    def _upload(self, name: object, owner: str) -> Upload:
        found = self._uploads.find(name, owner)
        if found is None:
            raise RequestError("data", "names a file that is not there any more", "give the file once more")
        return found

    def _file(self, name: str, owner: str) -> Response:
        """A file that waits, to be looked at by the one who brought it."""
        found = self._uploads.find(name, owner)
        if found is None:
            return error_response(404, "there is no such file; give it once more", "not_found")
        return FileResponse(
            found.path,
            media_type=_kind(found.client_name),
            headers={
                "content-disposition": "attachment",
                "content-security-policy": "sandbox",
                "x-content-type-options": "nosniff",
            },
        )

    # -- to the library -----------------------------------------------------------------------------------------------

    def _pass(
        self, request: Request, *, path: str | None = None, query: Mapping[str, str] | None = None, body: bytes = b""
    ) -> ASGIApp:
        """The library, told of a request nothing but what was looked at."""
        told = dict(request.scope)
        told["query_string"] = urlencode(query or {}).encode()
        told["headers"] = _headers(request.scope["headers"], body)
        if path is not None:
            told["path"] = told.get("root_path", "") + path
            told["raw_path"] = told["path"].encode()

        async def answer(_: Scope, receive: Receive, send: Send) -> None:
            pieces: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

            async def given() -> Message:
                return pieces.pop() if pieces else await receive()  # what may follow is that the client is gone

            async def guarded(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    headers["content-security-policy"] = POLICY
                    headers["x-content-type-options"] = "nosniff"
                    headers["referrer-policy"] = "same-origin"
                await send(message)

            await self._app(told, given, guarded)

        return answer


def _asked(request: Request) -> dict[str, str]:
    given = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
    return {name: given[name] for name in _ASKED if name in given}


def _headers(given: Iterable[tuple[bytes, bytes]], body: bytes) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in given if _HEADERS.fullmatch(name.decode("latin-1"))]
    return [*kept, (b"content-length", str(len(body)).encode())]


def _kind(title: str) -> str:
    """What a browser shall take a file for: a sound can be played, everything else is only bytes."""
    kind = mimetypes.guess_type(title)[0] or ""
    return kind if kind.startswith("audio/") else "application/octet-stream"


def _told(upload: Upload) -> dict[str, Any]:
    """A file in the library's own form, without a word of the client's."""
    return {"path": str(upload.path), "size": upload.bytes, "meta": {"_type": "gradio.FileData"}}


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_EVENT_BYTES:
            raise RequestError("body", f"is longer than {MAX_EVENT_BYTES // 2**10} KiB", "say less")
    return bytes(found)
