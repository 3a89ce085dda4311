"""Attacks on the web page's Gradio routes, and a service whose system calls are audited."""

from __future__ import annotations

import base64
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.server.conftest import EXAMPLES
from tests.server.running import TIMEOUT_SECONDS, Running

IMAGE = (EXAMPLES / "woman.png").read_bytes()
AUDIO = (EXAMPLES / "woman.wav").read_bytes()
SECRET = b"the canary's secret"

AUDIT_HOOK = """
import sys
def audit(event, args, log={log!r}, marker={marker!r}):
    text = repr(args)
    calls = event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
    if calls or (marker in text and not event.startswith("subprocess")):
        with open(log, "a") as file:
            file.write(f"{{event}} {{text[:300]}}\\n")
sys.addaudithook(audit)
"""
"""Source of a sitecustomize module that logs connections, host look-ups and every use of a path with the marker."""


@dataclass
class Target:
    """A service with two API keys, its audit log, and a socket that must not be called."""

    running: Running
    keys: dict[str, str]
    log: Path
    secret: Path
    canary: socket.socket

    def client(self, owner: str = "mallory") -> httpx.Client:
        bearer = {"authorization": f"Bearer {self.keys[owner]}"}
        return httpx.Client(base_url=self.running.address, headers=bearer, timeout=60)

    @property
    def violations(self) -> list[str]:
        """Connections and file accesses that must not happen."""
        try:
            self.canary.accept()
        except BlockingIOError:
            pass
        else:
            return ["the canary socket was called"]
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if "('127.0.0.1', 0," not in line]  # its own listening socket


def events(client: httpx.Client) -> list[dict[str, Any]]:
    """Return all events of the page, from its public configuration."""
    dependencies: list[dict[str, Any]] = client.get("/ui/config").json()["dependencies"]
    return [one for one in dependencies if one["backend_fn"]]


def component_types(client: httpx.Client) -> dict[int, str]:
    """Return the type of each component, by its ID."""
    return {one["id"]: one["type"] for one in client.get("/ui/config").json()["components"]}


def join(
    client: httpx.Client, event: dict[str, Any], data: list[Any], session: str = "s", **more: Any
) -> httpx.Response:
    body = {"data": data, "fn_index": event["id"], "trigger_id": None, "session_hash": session, "event_data": None}
    return client.post("/ui/gradio_api/queue/join", json=body | more)


def event_stream(client: httpx.Client, session: str = "s") -> str:
    """Return everything that a session receives until its last event ends."""
    text, deadline = "", time.monotonic() + TIMEOUT_SECONDS
    with client.stream("GET", "/ui/gradio_api/queue/data", params={"session_hash": session}) as response:
        for line in response.iter_lines():
            text += line + "\n"
            if "close_stream" in line or "unexpected_error" in line:
                return text
            assert time.monotonic() < deadline, text  # keep-alive messages never end
    return text


def upload(client: httpx.Client, content: bytes = IMAGE, name: str = "a.png") -> str:
    response = client.post("/ui/gradio_api/upload", files=[("files", (name, content))])
    assert response.status_code == 200, response.text
    (name,) = response.json()
    return str(name)


def file(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}} | more


def attacks(target: Target) -> dict[str, Any]:
    """Return values to send instead of a file, by what they try."""
    port, secret = target.canary.getsockname()[1], str(target.secret)
    inside = str(target.running.folder / "keys.json")
    return {
        "a URL": file(f"http://127.0.0.1:{port}/x.png"),
        "a URL beside a path": file("x.png", url=f"http://127.0.0.1:{port}/x.png"),
        "a public URL": file("https://example.com/x.png"),
        "a host that Gradio trusts": file("https://huggingface.co/x.png"),
        "another spelling": file(f"HTTP://[::ffff:127.0.0.1]:{port}/x.png"),
        "a proxied URL": file(f"/gradio_api/proxy=http://127.0.0.1:{port}/x"),
        "file:": file(f"file://{secret}"),
        "a path": file(secret),
        "a path in the service's folder": file(inside),
        "a stream": file(secret, is_stream=True),
        "a relative path": file(os.path.relpath(secret)),
        "a path through the uploads": file(f"{target.running.folder}/uploads/../../watch0/{target.secret.name}"),
        "a path that is served": file(f"/gradio_api/file={secret}"),
        "bytes": file("data:image/png;base64," + base64.b64encode(IMAGE).decode()),
        "no meta": {"path": secret},
        "a list": [file(secret)],
        "lists in lists": [[[[[file(secret)]]]]],
        "a path as text": secret,
        "a URL as text": f"http://127.0.0.1:{port}/x.png",
        "a dictionary": {"images": ["0" * 64 + ".png"], "audio": None},
        "something else": {"__type__": "update", "value": file(secret)},
        "number": 7,
    }


def upload_event(client: httpx.Client) -> dict[str, Any]:
    """Return the event that adds uploaded files."""
    types = component_types(client)
    return next(one for one in events(client) if "file" in [types[component] for component in one["inputs"]])


GET, POST = "GET", "POST"
CLOSED_ROUTES = [
    (GET, "/ui/gradio_api/proxy=http://127.0.0.1:{port}/x"),
    (GET, "/ui/gradio_api/file=http://127.0.0.1:{port}/x"),
    (GET, "/ui/gradio_api/file=https://example.com/x.png"),
    (GET, "/ui/gradio_api/file={secret}"),
    (GET, "/ui/gradio_api/file/{secret}"),
    (GET, "/ui/gradio_api/file={folder}/keys.json"),
    (GET, "/ui/gradio_api/file={folder}/jobs.sqlite"),
    (GET, "/ui/gradio_api/file={folder}/uploads/../keys.json"),
    (GET, "/ui/gradio_api/file=../keys.json"),
    (GET, "/ui/gradio_api/file=..%2fkeys.json"),
    (GET, "/ui/gradio_api/file=%2e%2e/keys.json"),
    (GET, "/ui/file={secret}"),
    (GET, "/ui/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd"),
    (GET, "/ui/static/../../../../../../../../etc/passwd"),
    (GET, "/ui/static//etc/passwd"),
    (GET, "/ui/svelte/../../routes.py"),
    (GET, "/ui/gradio_api/custom_component/x/client/component/..%2f__init__.py"),
    (GET, "/ui/gradio_api/deep_link?session_hash=s"),
    (GET, "/ui/gradio_api/info"),
    (GET, "/ui/gradio_api/runs"),
    (GET, "/ui/gradio_api/startup-events"),
    (GET, "/ui/gradio_api/queue/status"),
    (GET, "/ui/gradio_api/stream/s/0/1/playlist.m3u8"),
    (GET, "/ui/gradio_api/vibe-code"),
    (GET, "/ui/gradio_api/dev/reload"),
    (GET, "/ui/gradio_api/call/_generate/x"),
    (GET, "/ui/gradio_api/user"),
    (GET, "/ui/gradio_api/mcp/sse"),
    (GET, "/ui/monitoring/summary"),
    (GET, "/ui/pwa_icon/9999999"),
    (GET, "/ui/logout"),
    (POST, "/ui/login"),
    (POST, "/ui/gradio_api/run/_generate"),
    (POST, "/ui/gradio_api/api/_generate"),
    (POST, "/ui/gradio_api/run/predict"),
    (POST, "/ui/gradio_api/call/_add_files"),
    (POST, "/ui/gradio_api/call/v2/_add_files"),
    (POST, "/ui/gradio_api/component_server"),
    (POST, "/ui/gradio_api/process_recording"),
    (POST, "/ui/gradio_api/cancel"),
    (POST, "/ui/gradio_api/reset"),
    (POST, "/ui/gradio_api/stream/x"),
    (POST, "/ui/gradio_api/vibe-edit"),
    (POST, "/ui/gradio_api/run-history/connect"),
    (POST, "/ui/gradio_api/queue/join/"),
    ("PUT", "/ui/gradio_api/upload"),
    ("OPTIONS", "/ui/gradio_api/queue/join"),
]
