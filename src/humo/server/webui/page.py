"""The web page at ``/ui``: files of the package, which a browser runs as one more client of the HTTP API.

The page has no routes and no sessions of its own. Its files hold no data of a user, so they need no API key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/ui"

STATIC_FOLDER = Path(__file__).parent / "static"

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; form-action 'none'; base-uri 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'; frame-ancestors {embedders}"
)
"""Content-Security-Policy of the page: its own scripts and styles, nothing inline, no other host."""


def mount(app: FastAPI, embedders: Sequence[str] = ()) -> None:
    """Serve the page's files at `PATH`.

    Args:
        app: the application.
        embedders: origins whose pages may show this page in a frame.
    """
    files = GZipMiddleware(StaticFiles(directory=STATIC_FOLDER, html=True), minimum_size=500)
    app.mount(PATH, _with_headers(files, embedders))


def _with_headers(files: ASGIApp, embedders: Sequence[str]) -> ASGIApp:
    """Return an application that adds the page's headers to every response."""
    values = {
        "content-security-policy": CONTENT_POLICY.format(embedders=" ".join(embedders) or "'none'"),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "permissions-policy": "microphone=(self), camera=(), geolocation=()",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-cache",  # a browser asks whether its copy is current
    }

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(values)
            await send(message)

        await files(scope, receive, send_with_headers)

    return serve
