"""Scores by a vision-language model behind an OpenAI-compatible endpoint.

The name of a metric contains the judge and the version of the instruction. HSP of the paper cannot be reproduced: its
instruction and scale are not published, and this is another one.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import statistics
import urllib.error
import urllib.request
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from humo.errors import RequestError
from humo.evaluation.context import CaseContext
from humo.evaluation.metric import Direction, Measurement, Metric, Protocol, spaced_frames

INSTRUCTION = (
    "These images are frames of one generated video, in order. Judge the structure of the people in it: anatomy of "
    "face, hands and body, whether parts are missing, doubled or fused, and whether the person keeps one shape from "
    "frame to frame. Ignore style, sharpness and beauty. Scale: 1 broken in most frames; 2 clear errors in several "
    "frames; 3 small errors; 4 almost none; 5 no error. Reply with one JSON object and nothing else: "
    '{"reason": "at most 20 words", "score": 1 to 5}'
)
"""Instruction of version 1."""

FRAMES, SIDE, ANSWERS = 16, 512, 3
"""Frames that are sent, their longer side in pixels, and number of answers of which the median counts."""

TIMEOUT_SECONDS, TRIES = 120.0, 3
"""Timeout of a request, and tries for each answer."""

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key that is sent to the endpoint."""


def judge_metric(endpoint: str, model: str) -> Metric:
    """Return the structure score by a judge.

    Args:
        endpoint: address up to ``/v1``.
        model: name of the model at that endpoint.

    Raises:
        RequestError: the address is none.
    """
    if not re.match(r"https?://", endpoint):
        raise RequestError("--judge", f"{endpoint!r} is not an address", "give one such as http://127.0.0.1:8000/v1")
    name = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.").lower()
    return Metric(
        f"structure.{name}.v1",
        1,
        f"structure of people on a scale from 1 to 5, judged by {model}; not the paper's HSP",
        Direction.UP,
        {
            "judge": model,
            "instruction": INSTRUCTION,
            "frames": FRAMES,
            "side": SIDE,
            "answers": ANSWERS,
            "aggregation": "median",
        },
        partial(measure, endpoint=endpoint.rstrip("/")),
        low=1,
        high=5,
    )


def measure(context: CaseContext, protocol: Protocol, *, endpoint: str) -> Measurement:
    """Return the median of several answers.

    Args:
        context: the case.
        protocol: settings.
        endpoint: address up to ``/v1``.
    """
    numbers = spaced_frames(len(context.frames), protocol["frames"])
    images = [_jpeg(context.frames[number], protocol["side"]) for number in numbers]
    content = [{"type": "text", "text": protocol["instruction"]}]
    content += [{"type": "image_url", "image_url": {"url": image}} for image in images]
    body = {"model": protocol["judge"], "messages": [{"role": "user", "content": content}], "temperature": 0.7}
    scores, problem = [], ""
    for number in range(protocol["answers"]):
        try:
            scores.append(_ask(endpoint, {**body, "seed": number}))
        except ValueError as error:
            problem = str(error)
    if not scores:
        return Measurement(None, f"the judge gave no score ({problem})")
    details = {"answers": float(len(scores)), "spread": max(scores) - min(scores)}
    return Measurement(float(statistics.median(scores)), frames=len(numbers), details=details)


def _ask(endpoint: str, body: dict[str, Any]) -> float:
    """Return the score of one answer.

    Raises:
        ValueError: there is none after `TRIES` tries; the text says why.
    """
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{endpoint}/chat/completions", json.dumps(body).encode(), headers)
    problem = ""
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return parse_score(json.loads(response.read())["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}"
            if error.code in (400, 401, 403, 404):
                break
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            problem = str(error) or type(error).__name__
    raise ValueError(problem)


def parse_score(text: str) -> float:
    """Return the score in an answer.

    Raises:
        ValueError: the answer holds none from 1 to 5.
    """
    match = re.search(r"\{.*\}", text, re.DOTALL)
    if match is None:
        raise ValueError(f"the answer is not JSON: {text[:60]!r}")
    score = json.loads(match[0]).get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 1 <= score <= 5:
        raise ValueError(f"the score {score!r} is not from 1 to 5")
    return float(score)


def _jpeg(frame: np.ndarray[Any, np.dtype[np.uint8]], side: int) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
