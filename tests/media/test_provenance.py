"""The generation record survives in the video and beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humo.errors import MediaError, StorageError
from humo.media.provenance import (
    METADATA_TAG,
    RECORD_VERSION,
    GenerationRecord,
    read_record,
    to_metadata,
    write_sidecar,
)
from humo.media.video import VideoFormat, read_metadata, write_video

PROMPT = 'Une femme s’écrie «été» — 她说：你好 👩🏽‍🚀 "quoted" \\ back\nnext\tline; = # \u0000 \u2028 \ud800 end '


def record(**request: Any) -> GenerationRecord:
    return GenerationRecord(
        request={"prompt": PROMPT, "seed": 2**63 - 1, "scale_audio": 5.5, "image": None, **request},
        model="HuMo-1.7B",
        preset="humo-1.7b",
        code_version="0.1.0",
        geometry={"frames": 1, "width": 32, "height": 32},
        timings={"sampling": 12.25},
    )


def save(path: Path, metadata: dict[str, str]) -> Path:
    write_video(path, [np.zeros((32, 32, 3), np.uint8)], VideoFormat(32, 32), metadata=metadata)
    return path


def test_a_record_with_every_kind_of_text_survives_in_the_video_and_beside_it(tmp_path: Path) -> None:
    written = record()
    write_sidecar(tmp_path / "a.json", written)
    assert read_record(tmp_path / "a.json") == written
    assert read_record(save(tmp_path / "a.mp4", to_metadata(written))) == written


def test_a_megabyte_of_record_survives(tmp_path: Path) -> None:
    written = record(negative_prompt="动态 blurred " * 95_000)
    assert len(to_metadata(written)[METADATA_TAG]) > 1_000_000
    assert read_record(save(tmp_path / "a.mp4", to_metadata(written))) == written


def test_the_comment_says_that_the_video_is_generated_and_by_what(tmp_path: Path) -> None:
    comment = read_metadata(save(tmp_path / "a.mp4", to_metadata(record())))["comment"]
    assert comment == "AI-generated video: HuMo-1.7B (humo-1.7b), humo-video 0.1.0"


def test_a_sidecar_is_readable_text(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.json", record())
    text = (tmp_path / "a.json").read_text("utf-8")
    assert "她说：你好" in text
    assert text.count("\n") > 10
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_value_that_json_cannot_hold_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_sidecar(tmp_path / "a.json", record(scale=float("nan")))
    assert not list(tmp_path.iterdir())


def test_a_sidecar_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_sidecar(tmp_path / "file" / "a.json", record())


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(GenerationRecord)])
def test_a_record_without_one_of_its_fields_is_damaged(tmp_path: Path, field: str) -> None:
    values = json.loads(to_metadata(record())[METADATA_TAG])
    (tmp_path / "a.json").write_text(json.dumps({key: value for key, value in values.items() if key != field}))
    with pytest.raises(MediaError, match="damaged"):
        read_record(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({**values, field: ["other"]}))
    with pytest.raises(MediaError, match="damaged"):
        read_record(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 100_000, '{"version": "1"}', "\ufeffx"])
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, "utf-8")
    with pytest.raises(MediaError, match=r"a\.json") as caught:
        read_record(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match=r"a\.mp4"):
        read_record(save(tmp_path / "a.mp4", {METADATA_TAG: text}))


def test_a_record_of_a_newer_form_and_a_video_without_one_say_so(tmp_path: Path) -> None:
    newer = dataclasses.replace(record(), version=RECORD_VERSION + 1)
    with pytest.raises(MediaError, match="update"):
        read_record(save(tmp_path / "newer.mp4", to_metadata(newer)))
    with pytest.raises(MediaError, match="has no generation record"):
        read_record(save(tmp_path / "plain.mp4", {}))
    with pytest.raises(MediaError, match="no file"):
        read_record(tmp_path / "absent.json")
