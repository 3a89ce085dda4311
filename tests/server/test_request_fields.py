"""Parsing of a client's fields: names of other APIs, and errors that name the field."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humo.errors import HuMoError, RequestError
from humo.request import GenerateRequest
from humo.server.request_fields import (
    ALIASES,
    CLIENT_FIELDS,
    EXTRA_FIELDS,
    FILE_FIELDS,
    RawFields,
    body_schema,
    file_url,
    parse_fields,
)
from humo.server.upload_sanitizer import decode_data_url


def test_names_of_other_apis_set_the_same_fields() -> None:
    parsed = parse_fields(
        [
            ("prompt", "hello"),
            ("size", "96x64"),
            ("num_frames", "9"),
            ("num_inference_steps", 4),
            ("guidance_scale", 2.5),
            ("extra_params", '{"scale_audio": 3, "seed": 7}'),
            ("fps", 25),
            ("user", "me"),
            ("model", "humo-nano"),
            ("input_reference", b"1"),
            ("reference_images[]", b"2"),
            ("audio_reference", "data:..."),
        ]
    )
    assert parsed.fields == {
        "prompt": "hello",
        "width": 96,
        "height": 64,
        "frames": "9",
        "steps": 4,
        "scale_text": 2.5,
        "scale_audio": 3,
        "seed": 7,
    }
    assert [(name, kind) for name, kind, _ in parsed.files] == [
        ("input_reference", "image"),
        ("reference_images", "image"),
        ("audio_reference", "audio"),
    ]
    assert (parsed.model, parsed.user) == ("humo-nano", "me")


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ([("heigth", 1)], "heigth", "did you mean 'height'?"),
        ([("output", "/etc/passwd")], "output", "is not a field"),
        ([("vocal_separator", "x")], "vocal_separator", "is not a field"),
        ([("device", "cuda")], "device", "is not a field"),
        ([("seed", 1), ("seed", 2)], "seed", "is given twice"),
        ([("frames", 1), ("num_frames", 2)], "num_frames", "is given twice"),
        ([("size", "96")], "size", "send WIDTHxHEIGHT"),
        ([("size", "96x96"), ("width", 96)], "width", "is given together with size"),
        ([("fps", "fast")], "fps", "send 25"),
        ([("fps", 0)], "fps", "send 25"),
        ([("n", 0)], "n", "send 1 to 8"),
        ([("n", 2), ("num_outputs_per_prompt", 2)], "num_outputs_per_prompt", "is given twice"),
        ([("lora", '{"scale": 1}')], "lora", "has no name"),
        ([("extra_params", "[")], "extra_params", "is not an object"),
        ([("extra_params", {"prompt[x]": 1})], "prompt[x]", "is not a field"),
        ([("model", 5)], "model", "is not text"),
    ],
)
def test_errors_name_the_field(body: RawFields, field: str, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_fields(body)
    assert caught.value.field == field
    assert text in str(caught.value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    st.sampled_from([*CLIENT_FIELDS, *ALIASES, *FILE_FIELDS, *EXTRA_FIELDS, "images[]", "audio_reference[audio_url]"])
    | st.text()
)


@given(st.lists(st.tuples(NAMES, JSON_VALUES), max_size=6))
def test_random_fields_raise_nothing_but_humo_errors(body: list[tuple[str, Any]]) -> None:
    with suppress(HuMoError):
        for name, _, value in parse_fields(body).files:
            file_url(value, name)


@pytest.mark.parametrize(
    "value",
    [
        "data:x",
        {"url": "data:x"},
        {"image_url": "data:x"},
        {"audio_url": "data:x"},
        {"image_url": {"url": "data:x"}},
        json.dumps({"audio_url": "data:x"}),
    ],
)
def test_urls_are_read_from_every_form(value: Any) -> None:
    assert file_url(value, "audio") == "data:x"


def test_data_urls_are_decoded_and_limited() -> None:
    content = bytes(range(256))
    url = "data:audio/wav;base64," + base64.b64encode(content).decode()
    assert decode_data_url(url, 256, "audio") == content
    with pytest.raises(RequestError, match="larger than 0 MiB"):
        decode_data_url(url, 100, "audio")
    text = base64.b64encode(content).decode()
    lines = "".join(f"{text[start : start + 76]}\r\n" for start in range(0, len(text), 76))
    for head in (
        "data:;base64",
        "DATA:audio/wav;BASE64",
        'data:audio/webm;codecs="opus";base64',
        "data:audio/ogg; codecs=opus;base64",
        "data:image/png;name=foto%201.png;base64",
    ):
        for body in (text, lines, text + "\n", text.rstrip("="), text.replace("+", "%2B").replace("=", "%3D")):
            assert decode_data_url(f"{head},{body}", 256, "audio") == content
    for wrong in ("data:audio/wav,abc", "data:;base64,ä", "http://a", "data:;base64,a"):
        with pytest.raises(RequestError):
            decode_data_url(wrong, 256, "audio")


def test_the_body_schema_follows_the_request() -> None:
    fields = GenerateRequest.model_json_schema()["properties"]
    for body in body_schema()["content"].values():
        properties = body["schema"]["properties"]
        assert {name: properties[name] for name in CLIENT_FIELDS} == {name: fields[name] for name in CLIENT_FIELDS}
        assert not {"output", "sidecar", "vocal_separator", "device"} & properties.keys()
