"""A judge behind an endpoint gives the median of three answers; failures are retried and named."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humo.errors import RequestError
from humo.evaluation.cases import Case
from humo.evaluation.context import CaseContext
from humo.evaluation.metrics.judge import judge_metric, parse_score
from humo.evaluation.runner import measure_one
from humo.media.video import VideoFormat, write_video


class Judge(ThreadingHTTPServer):
    """Answers with what is in a list, one after another; numbers are HTTP errors."""

    daemon_threads = True

    def __init__(self, answers: list[Any]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers, self.requests = answers, list[dict[str, Any]]()


class Answer(BaseHTTPRequestHandler):
    """To one request."""

    server: Judge

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "body": body, "key": self.headers.get("Authorization")})
        answer = self.server.answers.pop(0)
        code = answer if isinstance(answer, int) else 200
        content = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def context(tmp_path: Path) -> CaseContext:
    frames = np.random.default_rng(0).integers(0, 255, (20, 32, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames, VideoFormat(48, 32), metadata={})
    return CaseContext(Case("a"), tmp_path / "a.mp4")


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge([])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_median_of_three_answers_counts(
    judge: Judge, context: CaseContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    judge.answers += ['{"score": 2}', 429, 'Here: {"reason": "hands", "score": 4}', '```json\n{"score": 5}\n```']
    metric = judge_metric(f"http://127.0.0.1:{judge.server_port}/v1", "m")
    score = measure_one(metric, context, "")
    assert (score.value, score.details) == (4.0, {"answers": 3.0, "spread": 3.0})
    first = judge.requests[0]
    assert (first["path"], first["key"]) == ("/v1/chat/completions", "Bearer secret")
    images = [part for part in first["body"]["messages"][0]["content"] if part["type"] == "image_url"]
    assert len(images) == 16
    assert [request["body"]["seed"] for request in judge.requests] == [0, 1, 1, 2]


def test_a_judge_that_gives_no_score_leaves_no_value(judge: Judge, context: CaseContext) -> None:
    judge.answers += ["I cannot judge this."] * 6 + [401]
    score = measure_one(judge_metric(f"http://127.0.0.1:{judge.server_port}/v1", "m"), context, "")
    assert score.value is None
    assert score.reason == "the judge gave no score (HTTP 401)"
    assert len(judge.requests) == 7, "a refused key is not tried again"


def test_an_endpoint_that_is_down_leaves_no_value(context: CaseContext) -> None:
    score = measure_one(judge_metric("http://127.0.0.1:9/v1", "m"), context, "")
    assert score.status == "invalid"
    assert "Connection refused" in score.reason


@pytest.mark.parametrize("text", ['{"score": 6}', '{"score": true}', '{"reason": "x"}', "3"])
def test_other_answers_are_no_scores(text: str) -> None:
    with pytest.raises(ValueError, match=r"score|JSON"):
        parse_score(text)


def test_an_address_is_needed() -> None:
    with pytest.raises(RequestError, match=r"--judge: 'localhost' is not an address; give one such as http"):
        judge_metric("localhost", "m")
