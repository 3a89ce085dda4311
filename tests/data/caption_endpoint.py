"""A local endpoint that answers like OpenAI's chat completions, and fails in every known way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VOCABULARY = "a woman in a green coat stands by a window and speaks calmly while she looks at the camera number"
"""Beginning of the captions; the number of the request follows."""


class Handler(BaseHTTPRequestHandler):
    """Answers a request as the server's ``reply`` says."""

    def do_GET(self) -> None:
        self.send_body(200, {"data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server: Any = self.server
        with server.lock:
            server.requests.append(body)
            number = len(server.requests)
        server.reply(self, number)

    def send_body(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Send a status and a body, as JSON unless it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, text: str) -> None:
        """Send a caption."""
        self.send_body(200, {"choices": [{"message": {"content": text}}]})

    def log_message(self, format: str, *args: object) -> None:
        pass


FAULTS: dict[str, Callable[[Handler], None]] = {
    "429": lambda handler: handler.send_body(429, {}, {"retry-after": "0"}),
    "500": lambda handler: handler.send_body(500, {"error": "out of memory"}),
    "hang": lambda handler: time.sleep(1.5),
    "refusal": lambda handler: handler.answer("I'm sorry, but I can't help with identifying people in images."),
    "no-json": lambda handler: handler.send_body(200, b"<html>gateway</html>"),
    "other-json": lambda handler: handler.send_body(200, {"detail": "queued"}),
    "empty": lambda handler: handler.answer(""),
    "too-short": lambda handler: handler.answer("A woman."),
    "too-long": lambda handler: handler.answer("word " * 2000),
    "loop": lambda handler: handler.answer("she speaks and " * 20),
}
"""Fault -> the answer."""


def fail_every_tenth(handler: Handler, number: int) -> None:
    """Give every tenth request one of the faults in turn, and all others a caption of their own."""
    if number % 10 == 0:
        [*FAULTS.values()][number // 10 % len(FAULTS)](handler)
    else:
        handler.answer(f"{VOCABULARY} {number}")


@contextmanager
def serve(reply: Callable[[Handler, int], None]) -> Iterator[tuple[str, list[Any]]]:
    """Serve on a free port; yield the address and the list of requests so far.

    Args:
        reply: answers a request, given its number from 1 on.
    """
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.reply, server.requests, server.lock = reply, [], threading.Lock()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", server.requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
