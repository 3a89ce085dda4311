"""Fields under everybody's names for them, and refusals that name the field."""

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
from humo.server.schemas import (
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


def test_names_of_other_services_mean_our_fields() -> None:
    asked = parse_fields(
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
    assert asked.fields == {
        "prompt": "hello",
        "width": 96,
        "height": 64,
        "frames": "9",
        "steps": 4,
        "scale_text": 2.5,
        "scale_audio": 3,
        "seed": 7,
    }
    assert [(name, kind) for name, kind, _ in asked.files] == [
        ("input_reference", "image"),
        ("reference_images", "image"),
        ("audio_reference", "audio"),
    ]
    assert (asked.model, asked.user) == ("humo-nano", "me")


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ([("heigth", 1)], "heigth", "did you mean 'height'?"),
        ([("output", "/etc/passwd")], "output", "is not a field"),
        ([("vocal_separator", "x")], "vocal_separator", "is not a field"),
        ([("device", "cuda")], "device", "is not a field"),
        ([("seed", 1), ("seed", 2)], "seed", "is given twice"),
        ([("frames", 1), ("num_frames", 2)], "num_frames", "is given twice"),
        ([("size", "96")], "size", "give width x height"),
        ([("size", "96x96"), ("width", 96)], "width", "is given beside size"),
        ([("fps", 30)], "fps", "25 a second"),
        ([("extra_params", "[")], "extra_params", "is not an object"),
        ([("extra_params", {"prompt[x]": 1})], "prompt[x]", "is not a field"),
        ([("model", 5)], "model", "is not text"),
    ],
)
def test_what_is_wrong_is_told_by_name(body: RawFields, field: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_fields(body)
    assert caught.value.field == field
    assert words in str(caught.value)


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
def test_nothing_but_a_refusal_comes_of_nonsense(body: list[tuple[str, Any]]) -> None:
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
def test_addresses_are_found_in_every_dress(value: Any) -> None:
    assert file_url(value, "audio") == "data:x"


def test_data_addresses_are_decoded_and_bounded() -> None:
    content = bytes(range(256))
    address = "data:audio/wav;base64," + base64.b64encode(content).decode()
    assert decode_data_url(address, 256, "audio") == content
    with pytest.raises(RequestError, match="larger than 0 MiB"):
        decode_data_url(address, 100, "audio")
    for wrong in ("data:audio/wav,abc", "data:;base64,ä", "http://a", "data:;base64,a"):
        with pytest.raises(RequestError):
            decode_data_url(wrong, 256, "audio")


def test_the_schema_is_that_of_the_request() -> None:
    own = GenerateRequest.model_json_schema()["properties"]
    for body in body_schema()["content"].values():
        properties = body["schema"]["properties"]
        assert {name: properties[name] for name in CLIENT_FIELDS} == {name: own[name] for name in CLIENT_FIELDS}
        assert not {"output", "sidecar", "vocal_separator", "device"} & properties.keys()
