"""A hub of models on this machine: the few answers of Hugging Face's and of ModelScope's that a download asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

WEIGHTS = (".pth", ".safetensors", ".gguf")
"""Suffixes of files that a hub stores apart."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the folders owner/name under a root.

    Args:
        root: of all repositories.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root = root
        self.cut_after: int | None = None
        """Bytes of weights after which the line goes dead, and stays so."""
        self.altered: set[str] = set()
        """Names of files that are served with a flipped bit."""
        self.strays: list[str] = []
        """Paths that a list names beside its own."""
        self.ranges: list[str] = []
        """Requests for parts of files."""
        self.portal: str | None = None
        """Answer of a captive portal: a ``page``, or a ``redirect`` to one."""
        self.token: str | None = None
        """Token without which everything is answered by ``refusal``."""
        self.refusal = 401
        self.shortened: set[str] = set()
        """Names of files of which fewer bytes are sent than the list says, as a whole answer."""
        self.redirects = False
        """True if weights come from another host name, which must not get the token."""
        self.downloaded: list[str] = []
        """Names of files that were sent."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a client that went away."""

    @property
    def address(self) -> str:
        """To be given as an endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """To one request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Return size and checksum of a file."""
        if not self._turned_away(body=False):
            self._file(with_body=False)

    def _turned_away(self, body: bool = True) -> bool:
        """Answer as a captive portal, or refuse who has no token."""
        page, html = b"<html>Welcome to the hotel. Please log in.</html>", {"Content-Type": "text/html; charset=utf-8"}
        if self.server.portal == "redirect" and not self.path.startswith("/login"):
            self._send(302, b"", {"Location": f"{self.server.address}/login"}, body=body)
        elif self.server.portal is not None:
            self._send(200, page, html, body=body)
        elif self.path.startswith("/cdn/"):
            assert "Authorization" not in self.headers, "the token was sent to another host"
            return False
        elif self.server.token is not None and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self._send(
                self.server.refusal, b"{}", {"X-Error-Message": "Access to this repository is restricted."}, body
            )
        else:
            return False
        return True

    def do_GET(self) -> None:
        """A list of files, or a file."""
        if self._turned_away():
            return
        url = urlsplit(self.path)
        if self.path.startswith("/api/models/"):
            self._list()
        elif url.path.startswith("/api/v1/models/"):
            owner, name, *what = url.path.removeprefix("/api/v1/models/").split("/")
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            assert query.pop("Revision") == "master"
            if what == ["repo", "files"]:
                self._tree(owner, name, query)
            else:
                assert what == ["repo"]
                self._send_file(self.server.root / owner / name / query["FilePath"], with_body=True)
        else:
            self._file(with_body=True)

    def _tree(self, owner: str, name: str, query: dict[str, str]) -> None:
        """ModelScope's list."""
        assert query == {"Recursive": "True"}
        folder = self.server.root / owner / name
        if not folder.is_dir():
            missing = {"Code": 10010205001, "Message": "record not found", "Success": False}
            self._send(404, json.dumps(missing).encode())
            return
        files = [
            {
                "Name": path.name,
                "Path": path.relative_to(folder).as_posix(),
                "Type": "blob" if path.is_file() else "tree",
                "Size": path.stat().st_size if path.is_file() else 0,
                "Sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            }
            for path in sorted(folder.rglob("*"))
        ]
        files += [one | {"Path": path} for path in self.server.strays for one in files if one["Type"] == "blob"][:1]
        self._send(200, json.dumps({"Code": 200, "Data": {"Files": files}, "Message": "ok", "Success": True}).encode())

    def _list(self) -> None:
        owner, name = self.path.removeprefix("/api/models/").partition("?")[0].split("/")[:2]
        folder = self.server.root / owner / name
        if not folder.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        siblings: list[dict[str, Any]] = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
                one: dict[str, Any] = {
                    "rfilename": path.relative_to(folder).as_posix(),
                    "size": size,
                    "blobId": digest[:40],
                }
                if path.suffix in WEIGHTS:
                    one["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
                siblings.append(one)
        self._send(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode())

    def _file(self, with_body: bool) -> None:
        owner, name, _, _, *rest = self.path.removeprefix("/cdn").partition("?")[0].strip("/").split("/")
        self._send_file(self.server.root / owner / name / "/".join(rest), with_body)

    def _send_file(self, path: Path, with_body: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.server.redirects and path.suffix in WEIGHTS and not self.path.startswith("/cdn"):
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": headers["ETag"]}
            local = self.server.address.replace("127.0.0.1", "localhost")
            file = path.relative_to(self.server.root).parts
            headers["Location"] = f"{local}/cdn/{'/'.join((*file[:2], 'resolve', 'main', *file[2:]))}"
            self._send(302, b"", headers, with_body)
            return
        if path.name in self.server.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if not with_body:
            self._send(200, data, headers, body=False)
            return
        self.server.downloaded.append(path.name)
        if path.name in self.server.shortened:
            data = data[: len(data) // 2]
        code = 200
        if (requested := self.headers.get("Range")) is not None:
            self.server.ranges.append(f"{path.name} {requested}")
            start = int(requested.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, code = data[start:], 206
        self._send(code, data, headers, cut=path.suffix in WEIGHTS)

    def _send(
        self, code: int, data: bytes, headers: dict[str, str] | None = None, body: bool = True, cut: bool = False
    ) -> None:
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            limit = self.server.cut_after if cut else None
            self.wfile.write(data if limit is None else data[:limit])
            if limit is not None and limit < len(data):
                self.wfile.flush()
                self.server.cut_after = 0
                self.close_connection = True
                self.connection.shutdown(2)


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """A hub for the length of the block."""
    hub = Hub(root)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
