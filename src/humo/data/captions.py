"""Captions from any endpoint that answers like OpenAI's chat completions, such as vLLM with Qwen2.5-VL.

A bounded number of requests is in flight. What fails for a moment (429, 5xx, a hang, a cut connection, a body that is
not JSON) is asked again after a growing delay; so is an answer that is no caption: a refusal, too short, too long. An
endpoint that gives many clips the same caption is stopped.
"""

from __future__ import annotations

import base64
import io
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from humo.data.build_recipe import CaptionConfig, checksum
from humo.data.tasks import Values
from humo.errors import DependencyError, RequestError
from humo.media.clip_reader import read_clip

PROMPT = (
    "These images are frames of one video clip, in order. Describe the clip in one paragraph of 30 to 60 words: the "
    "setting and light, the person's appearance, clothes and posture, what the person does, gaze and expression, and "
    "how the camera moves. Describe only what is visible. Do not begin with 'The video' or 'The clip'."
)
"""Request for a caption. Its checksum is part of the key under which captions are stored."""

REFUSAL = re.compile(
    r"\b(?:i'?m sorry|i am sorry|i can(?:'?t|not)|i am unable|i'm unable|as an ai|unable to (?:assist|help|describe)"
    r"|cannot (?:assist|help|provide|describe)|no (?:image|video|frame)s? (?:was|were|is|are) provided)\b",
    re.IGNORECASE,
)
"""Phrases of answers that are no captions."""

OPENING = re.compile(
    r"^(?:the|this) (?:video|clip|footage|scene|image)s? (?:clip |sequence )?"
    r"(?:shows?|depicts?|features?|captures?|begins with|presents?|displays?|portrays?|opens with)\s+",
    re.IGNORECASE,
)
"""Openings that are cut off."""

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
"""Delay before the second request for a clip, which doubles each time, and its bound."""

MAX_UNREACHABLE = 3
"""Clips in a row for which no request reached the endpoint before it counts as down."""

MIN_REPEATED = 3
"""Clips with one caption from which on it can count as repeated."""

KEY_VARIABLES = ("HUMO_CAPTION_API_KEY", "OPENAI_API_KEY")
"""Environment variables with the key that is sent to the endpoint."""


def check_address(url: str) -> None:
    """Check the form of an endpoint's address.

    Raises:
        RequestError: it is none.
    """
    if not re.match(r"^https?://[^/]+", url):
        problem = f"{url!r} is no address of an endpoint"
        raise RequestError("--captions", problem, "give one such as http://localhost:8000/v1")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint.

    Args:
        url: address up to ``/v1``.
        model: name of the model.
        config: settings of the recipe.
    """

    url: str
    model: str
    config: CaptionConfig

    def key(self, name: str) -> str:
        """Return the key under which a clip's caption is stored."""
        return checksum("caption", name, self.model, PROMPT, self.config.frames, self.config.side)


@dataclass(frozen=True, slots=True)
class Answer:
    """Result for a clip.

    Args:
        name: the clip.
        caption: the caption; empty if there is none.
        problem: why there is none.
        unreachable: whether no request reached the endpoint.
        requests: number of requests.
    """

    name: str
    caption: str = ""
    problem: str = ""
    unreachable: bool = False
    requests: int = 0


@dataclass(slots=True)
class CaptionReport:
    """Summary of a run.

    Args:
        captioned: clips that got a caption.
        failed: clip -> why it got none.
        stopped: why captioning ended early, in one line; empty if it did not.
        requests: number of requests.
    """

    captioned: int
    failed: dict[str, str]
    stopped: str
    requests: int


class UnusableAnswerError(Exception):
    """An answer that is no caption; another request may give one.

    Args:
        problem: what is wrong with it.
        delay: seconds after which the server wants the next request; None if it does not say.
    """

    def __init__(self, problem: str, delay: float | None = None) -> None:
        self.delay = delay
        super().__init__(problem)


class UnreachableError(Exception):
    """No answer: the endpoint is down, or hangs."""


def caption_clips(
    names: Iterable[str],
    file_of: Callable[[str], Path],
    endpoint: Endpoint,
    on_caption: Callable[[str, str], None],
    on_progress: Callable[[int], None] = lambda done: None,
) -> CaptionReport:
    """Caption clips.

    Args:
        names: the clips.
        file_of: returns a clip's file.
        endpoint: what is asked.
        on_caption: called in this thread with each clip and its caption.
        on_progress: called with the number of finished clips.
    """
    client = CaptionClient(endpoint)
    report = CaptionReport(0, {}, client.problem(), 0)
    counts: Counter[str] = Counter()
    unreachable = 0
    pending = iter(names)
    with ThreadPoolExecutor(endpoint.config.in_flight, thread_name_prefix="captions") as threads:
        running: set[Future[Answer]] = set()
        while True:
            if not report.stopped:
                for name in islice(pending, endpoint.config.in_flight - len(running)):
                    running.add(threads.submit(client.caption, name, file_of(name)))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for answer in sorted((future.result() for future in done), key=lambda each: each.name):
                report.requests += answer.requests
                unreachable = unreachable + 1 if answer.unreachable else 0
                if not answer.caption:
                    report.failed[answer.name] = answer.problem
                    if unreachable >= MAX_UNREACHABLE and not report.stopped:
                        report.stopped = f"{endpoint.url} gives no answer ({answer.problem})"
                        client.stop()
                    continue
                counts[_normalized(answer.caption)] += 1
                repeated = counts[_normalized(answer.caption)]
                if repeated >= MIN_REPEATED and repeated > endpoint.config.max_repeated * max(1, counts.total()):
                    report.failed[answer.name] = "repeated caption"
                    report.stopped = report.stopped or (
                        f"{endpoint.url} gave {repeated} of {counts.total()} clips the same caption: "
                        f"{answer.caption[:60]!r}"
                    )
                    client.stop()
                    continue
                report.captioned += 1
                on_caption(answer.name, answer.caption)
                on_progress(report.captioned)
    return report


class CaptionClient:
    """Sends requests from several threads.

    Args:
        endpoint: what is asked.

    Raises:
        RequestError: the address is none.
        DependencyError: httpx is not installed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import httpx
        except ImportError as error:
            raise DependencyError("--captions", "httpx is not installed", "pip install 'humo-video[data]'") from error
        check_address(endpoint.url)
        self._endpoint = endpoint
        self._failures: tuple[type[Exception], ...] = (httpx.HTTPError,)
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=endpoint.config.timeout_seconds, headers=headers)
        self._stopped = threading.Event()

    def problem(self) -> str:
        """Return why the endpoint cannot be reached, in one line; empty if it can."""
        try:
            self._client.get(f"{self._endpoint.url.rstrip('/')}/models")
        except self._failures as error:
            return f"{self._endpoint.url} cannot be reached ({_one_line(error)})"
        return ""

    def stop(self) -> None:
        """Send no further request."""
        self._stopped.set()

    def caption(self, name: str, path: Path) -> Answer:
        """Return the caption of a clip, after as many requests as it takes and is allowed."""
        images = [*frames_as_jpeg(path, self._endpoint.config)]
        problem, reached = "captioning was stopped", False
        requests = 0
        for attempt in range(self._endpoint.config.tries):
            if self._stopped.is_set():
                break
            requests += 1
            delay = None
            try:
                return Answer(name, self._request(images, attempt), requests=requests)
            except UnusableAnswerError as error:
                problem, reached = str(error), True
                delay = error.delay
            except UnreachableError as error:
                problem = str(error)
            self._stopped.wait(delay if delay is not None else _delay(attempt))
        return Answer(name, problem=problem, unreachable=not reached, requests=requests)

    def _request(self, images: list[str], attempt: int) -> str:
        """Send one request and return the caption in its answer."""
        content: list[Values] = [{"type": "text", "text": PROMPT}]
        content += [{"type": "image_url", "image_url": {"url": image}} for image in images]
        body = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 300,
            "temperature": 0.0 if not attempt else 0.7,  # the same answer again would be no help
        }
        start = time.monotonic()
        try:
            response = self._client.post(f"{self._endpoint.url.rstrip('/')}/chat/completions", json=body)
        except self._failures as error:
            seconds = time.monotonic() - start
            text = f"no answer within {seconds:.0f} s" if "Timeout" in type(error).__name__ else _one_line(error)
            raise UnreachableError(text) from error
        if response.status_code in (401, 403, 404):
            raise UnreachableError(f"status {response.status_code}")
        if response.status_code != 200:
            delay = _retry_after(response.headers.get("retry-after"))
            raise UnusableAnswerError(f"status {response.status_code}", delay)
        try:
            text = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise UnusableAnswerError("the answer is not a chat completion in JSON") from error
        return checked_caption(text, self._endpoint.config)


def _retry_after(value: str | None) -> float | None:
    """Return the delay that a server asks for, bounded."""
    if value is None or not value.strip().isdigit():
        return None
    return min(float(value), LONGEST_DELAY_SECONDS)


def _delay(attempt: int) -> float:
    """Return the delay after a failed request, different for each client."""
    return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0**attempt) * random.uniform(0.5, 1.0)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def checked_caption(text: Any, config: CaptionConfig) -> str:
    """Return a caption without its opening phrase.

    Raises:
        UnusableAnswerError: it is a refusal, too short or too long, or repeats itself.
    """
    if not isinstance(text, str) or not text.strip():
        raise UnusableAnswerError("the answer is empty")
    caption = " ".join(text.strip().strip("`\"'").split())
    if REFUSAL.search(caption):
        raise UnusableAnswerError("the answer is a refusal")
    stripped = OPENING.sub("", caption)
    if stripped != caption and stripped:
        caption = stripped[0].upper() + stripped[1:]
    terms = caption.split()
    if not config.min_words <= len(terms) <= config.max_words:
        raise UnusableAnswerError(f"the answer has {len(terms)} words")
    if len(set(terms)) < len(terms) / 4:
        raise UnusableAnswerError("the answer repeats the same words")
    return caption


def _normalized(caption: str) -> str:
    return re.sub(r"\W+", " ", caption).strip().lower()


def frames_as_jpeg(path: Path, config: CaptionConfig) -> Iterator[str]:
    """Yield evenly spaced frames of a clip as data addresses."""
    frames = read_clip(path, field="clip").frames
    for number in np.linspace(0, len(frames) - 1, min(config.frames, len(frames))).round().astype(int):
        image = Image.fromarray(frames[number])
        image.thumbnail((config.side, config.side))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=85)
        yield "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
