"""Captions: an endpoint that fails in every known way, refusals, repetition, answers of the wrong length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from humo.data import captions
from humo.data.build_recipe import CaptionConfig
from humo.data.captions import CaptionReport, Endpoint, UnusableAnswerError, caption_clips, checked_caption
from tests.data.caption_endpoint import FAULTS, VOCABULARY, Handler, fail_every_tenth, serve

CLIP = Path(__file__).parents[2] / "docs" / "nano-woman.mp4"
CONFIG = CaptionConfig(frames=2, side=64, in_flight=4, timeout_seconds=0.5)


@contextmanager
def _server(reply: Callable[[Handler, int], None]) -> Iterator[tuple[Endpoint, list[Any]]]:
    with serve(reply) as (url, requests):
        yield Endpoint(url, "judge", CONFIG), requests


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "FIRST_DELAY_SECONDS", 0.01)


def _caption(endpoint: Endpoint, count: int) -> tuple[dict[str, str], CaptionReport]:
    results: dict[str, str] = {}
    names = [f"{number:032x}" for number in range(count)]
    report = caption_clips(names, lambda name: CLIP, endpoint, lambda name, caption: results.update({name: caption}))
    return results, report


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_fails_is_sent_again(fault: str) -> None:
    def reply(handler: Handler, number: int) -> None:
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
    with _server(fail_every_tenth) as (endpoint, _):
        results, report = _caption(endpoint, 60)
    assert len(results) == report.captioned == 60
    assert not report.stopped


@pytest.mark.parametrize("every", [1, 5])
def test_an_endpoint_that_repeats_a_caption_is_stopped_within_a_hundred_clips(every: int) -> None:
    def reply(handler: Handler, number: int) -> None:
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
