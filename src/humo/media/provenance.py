"""How a video was made, written into it and beside it, and read back to make it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from humo.errors import MediaError, StorageError
from humo.files import atomic_write, check_file, os_error_text
from humo.media.video import read_metadata

RECORD_VERSION = 1
"""Version of the record's form; raised when a reader of the old form would misread the new one."""

METADATA_TAG = "humo"
"""The tag of the video that holds the record as JSON."""

_FIELD_TYPES = {
    "request": dict,
    "model": str,
    "preset": str,
    "code_version": str,
    "geometry": dict,
    "timings": dict,
    "inputs": dict,
    "environment": dict,
    "version": int,
}
"""The type of each field in JSON."""

WEIGHTS_KEY = "weights"
"""Key of the record's environment: fingerprint of the weights."""

NOT_CONTENT_FIELDS = frozenset(
    {
        "model",
        "images",
        "audio",
        "vocal_separator",
        "output",
        "sidecar",
        "device",
        "dtype",
        "offload",
        "quantize",
        "consent",
    }
)
"""Fields whose words do not settle what a video shows: of files it is the content, the rest is where and how."""

DEVICE_FIELDS = ("device", "dtype", "offload", "quantize")
"""Of those, the ones that can change the last digits; ``auto`` is content with any."""

RENAMED_FIELDS = {
    "marks": "provenance",
    "vocals": "vocal_separator",
}  # word kept: files already written have these keys
"""Fields of a request under the names that earlier records store them by -> their names now."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class GenerationRecord:
    """All that is needed to make a video again, and what making it took.

    Attributes:
        request: the resolved request, as plain JSON values.
        model: the model's name, or its folder's.
        preset: the name of the preset that was run.
        code_version: version of this package.
        geometry: what was counted: frames, width, height, latent sizes.
        timings: seconds of each stage.
        inputs: path of each file that was read -> its SHA-256.
        environment: device, precision, library versions, fingerprint of the weights.
        version: form of the record, `RECORD_VERSION`; any other set of fields is another form.
    """

    request: Json
    model: str
    preset: str
    code_version: str
    geometry: Json = field(default_factory=dict)
    timings: Json = field(default_factory=dict)
    inputs: Json = field(default_factory=dict)
    environment: Json = field(default_factory=dict)
    version: int = RECORD_VERSION


def to_metadata(record: GenerationRecord) -> dict[str, str]:
    """The video's tags: the record as JSON, and a comment for people, which says that no camera took it.

    Raises:
        ValueError: a value that JSON cannot hold.
    """
    made = f"AI-generated video: {record.model} ({record.preset}), humo-video {record.code_version}"
    return {METADATA_TAG: _to_json(record, indent=None), "comment": made}


def write_sidecar(path: Path, record: GenerationRecord, *, field: str = "output") -> None:
    """Write the record as a JSON file that is whole or not there.

    Args:
        path: the file, `NAME.json` beside `NAME.mp4`.
        record: what to write.
        field: the user's word for it, for the message.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    text = _to_json(record, indent=2) + "\n"
    with atomic_write(path, field) as part:
        try:
            part.write_text(text, encoding="utf-8")
        except OSError as error:
            problem = f"{str(path)!r} cannot be written ({os_error_text(error)})"
            raise StorageError(field, problem, "free some space or choose another disk") from error


def read_record(path: Path, *, field: str = "video") -> GenerationRecord:
    """The record of a video, out of the video itself or its JSON file.

    Args:
        path: an .mp4 or .json file.
        field: the user's word for it, for the message.

    Raises:
        MediaError: missing, without a record, a damaged one, or one of a newer form.
    """
    name = repr(path.name)
    if path.suffix.lower() == ".json":
        check_file(path, field)
        text = path.read_bytes()
    else:
        tags = read_metadata(path, field=field)
        if METADATA_TAG not in tags:
            raise MediaError(field, f"{name} does not say how it was made", "give a video made here, or its .json file")
        text = tags[METADATA_TAG].encode("utf-8", "replace")
    damaged = MediaError(field, f"the record of {name} is damaged", "give the .json file beside it, or another video")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(values, dict):
        raise damaged
    version = values.get("version")
    if isinstance(version, int) and version > RECORD_VERSION:
        problem = f"{name} has a record of form {version}; this version reads up to {RECORD_VERSION}"
        raise MediaError(field, problem, "update humo-video")
    if {key: type(value) for key, value in values.items()} != _FIELD_TYPES:
        raise damaged
    request = {RENAMED_FIELDS.get(name, name): value for name, value in values["request"].items()}
    return GenerationRecord(**{**values, "request": request})


def _to_json(record: GenerationRecord, indent: int | None) -> str:
    """JSON whose text is valid Unicode: half a surrogate pair is written as its escape."""
    text = json.dumps(asdict(record), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def watermark_payload(record: GenerationRecord) -> int:
    """The number that a video's watermark carries, 0 to 65,535: the same for whatever shows the same.

    Args:
        record: of the video.
    """
    return int.from_bytes(bytes.fromhex(content_digest(record))[:2], "big")


def content_digest(record: GenerationRecord) -> str:
    """SHA-256 of all that a video's frames follow from, but for where they were computed.

    Args:
        record: of the video.
    """
    # the digest keeps the earlier names of fields, so that a request keeps its watermark
    stored = {name: old for old, name in RENAMED_FIELDS.items()}
    fields = record.request.items()
    content = {stored.get(name, name): value for name, value in fields if name not in NOT_CONTENT_FIELDS}
    content_json = json.dumps(
        [content, sorted(record.inputs.values()), record.environment.get(WEIGHTS_KEY)], sort_keys=True
    )
    return hashlib.sha256(content_json.encode()).hexdigest()
