"""Captions: an endpoint that fails in every known way, refusals, repetition, answers of the wrong length."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from humo.data import captions
from humo.data.build_recipe import CaptionConfig
from humo.data.captions import CaptionReport, Endpoint, UnusableAnswerError, caption_clips, checked_caption

CLIP = Path(__file__).parents[2] / "docs" / "nano-woman.mp4"
CONFIG = CaptionConfig(frames=2, side=64, in_flight=4, timeout_seconds=0.5)
VOCABULARY = "a woman in a green coat stands by a window and speaks calmly while she looks at the camera number"


class _Handler(BaseHTTPRequestHandler):
    """Answers like an OpenAI-compatible endpoint, or as the test says."""

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
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, text: str) -> None:
        self.send_body(200, {"choices": [{"message": {"content": text}}]})

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _server(reply: Callable[[_Handler, int], None]) -> Iterator[tuple[Endpoint, list[Any]]]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.reply, server.requests, server.lock = reply, [], threading.Lock()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "judge", CONFIG), server.requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "FIRST_DELAY_SECONDS", 0.01)


def _caption(endpoint: Endpoint, count: int) -> tuple[dict[str, str], CaptionReport]:
    results: dict[str, str] = {}
    names = [f"{number:032x}" for number in range(count)]
    report = caption_clips(names, lambda name: CLIP, endpoint, lambda name, caption: results.update({name: caption}))
    return results, report


FAULTS: dict[str, Callable[[_Handler], None]] = {
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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_fails_is_sent_again(fault: str) -> None:
    def reply(handler: _Handler, number: int) -> None:
        if number == 1:
            FAULTS[fault](handler)
        else:
            handler.answer(f"{VOCABULARY} {number}")

    with _server(reply) as (endpoint, requests):
        results, report = _caption(endpoint, 1)
    assert len(results) == 1
    assert not report.failed
    assert len(requests) == 2
    assert requests[1]["temperature"] > requests[0]["temperature"]


def test_with_every_tenth_request_failing_all_clips_are_captioned() -> None:
    kinds = [*FAULTS.values()]

    def reply(handler: _Handler, number: int) -> None:
        if number % 10 == 0:
            kinds[number // 10 % len(kinds)](handler)
        else:
            handler.answer(f"{VOCABULARY} {number}")

    with _server(reply) as (endpoint, _):
        results, report = _caption(endpoint, 60)
    assert len(results) == report.captioned == 60
    assert not report.stopped


@pytest.mark.parametrize("every", [1, 5])
def test_an_endpoint_that_repeats_a_caption_is_stopped_within_a_hundred_clips(every: int) -> None:
    def reply(handler: _Handler, number: int) -> None:
        handler.answer(VOCABULARY if number % every == 0 else f"{VOCABULARY} {number}")

    with _server(reply) as (endpoint, requests):
        _, report = _caption(endpoint, 400)
    assert "the same caption" in report.stopped
    assert len(requests) <= 100
    assert "\n" not in report.stopped


def test_an_endpoint_that_is_down_is_named_and_gets_no_requests() -> None:
    with _server(lambda handler, number: None) as (endpoint, requests):
        pass
    results, report = _caption(endpoint, 20)
    assert not results
    assert endpoint.url in report.stopped
    assert not requests
    assert "\n" not in report.stopped


def test_a_request_carries_frames_and_the_model() -> None:
    with _server(lambda handler, number: handler.answer(VOCABULARY)) as (endpoint, requests):
        _caption(endpoint, 1)
    (request,) = requests
    assert [part["type"] for part in request["messages"][0]["content"]] == ["text", "image_url", "image_url"]
    assert request["model"] == "judge"


def test_an_opening_phrase_is_cut_off() -> None:
    text = "The video shows a man in a gray suit who stands in a park and talks to somebody beside the camera."
    assert checked_caption(text, CONFIG).startswith("A man in a gray suit")


def test_a_refusal_is_no_caption() -> None:
    text = "As an AI model I am unable to describe people in these frames, whoever they may be, sorry about that."
    with pytest.raises(UnusableAnswerError, match="refusal"):
        checked_caption(text, CONFIG)
