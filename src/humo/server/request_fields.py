"""Fields of a client's request: names of this and of other APIs, lists, files, and what is left out.

The API has the form of ``/v1/videos`` as vLLM-Omni, SGLang and OpenRouter offer it. Limits, descriptions and defaults
of fields come from `GenerateRequest`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from humo.errors import RequestError, did_you_mean
from humo.geometry import FRAMES_PER_SECOND, SIZE_MULTIPLE, frames_of_seconds, round_up_frames
from humo.media.provenance import DEVICE_FIELDS, MEMORY_FIELDS
from humo.request import GenerateRequest
from humo.server.upload_sanitizer import MediaKind

SERVER_FIELDS = frozenset(
    {
        *("model", "images", "audio", "vocal_separator", "output", "sidecar", "consent_by"),
        *DEVICE_FIELDS,
        *MEMORY_FIELDS,
    }
)
"""Fields of `GenerateRequest` that only the server sets: paths, and where and how the model runs."""

CLIENT_FIELDS = tuple(name for name in GenerateRequest.model_fields if name not in SERVER_FIELDS)
"""Fields of `GenerateRequest` that a client sets under the same names."""

ALIASES: Mapping[str, str] = {
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "scale_text",
    "flow_shift": "shift",
    "lora": "loras",
}
"""Names that other APIs have for fields -> the field."""

LENIENT_NAMES = ("guidance_scale", "flow_shift")
"""Names that clients of other services send for any model, also for one that was distilled for another value."""

COUNT_NAMES = ("n", "num_outputs_per_prompt", "num_videos_per_prompt")
"""Names of the number of videos."""

IGNORED_FIELDS = frozenset(
    {
        *("guidance_scale_2", "boundary_ratio", "true_cfg_scale", "num_outputs", "generator_device", "enable_teacache"),
        *("output_quality", "output_compression", "output_path", "quality", "response_format", "diffusers_kwargs"),
        *("rollout", "rollout_sde_type", "enable_frame_interpolation"),
        *("generate_sound", "sound_duration"),  # word kept: vLLM-Omni's
        *("frame_interpolation_exp", "frame_interpolation_scale", "frame_interpolation_model_path"),
        *("preencode_mp4", "preencode_batch_frames", "video_codec_options"),
    }
)
"""Fields of vLLM-Omni and SGLang that mean nothing to this model; they are ignored with a note in the response."""

LIST_FIELDS = ("loras",)
"""Fields of a client with several values."""

FILE_FIELDS: Mapping[str, MediaKind] = {
    "input_reference": "image",
    "image": "image",
    "images": "image",
    "reference_images": "image",
    "image_reference": "image",
    "reference_url": "image",
    "audio": "audio",
    "audio_reference": "audio",
}
"""Names of files, uploaded or as URLs -> their kind."""

REQUEST_FIELDS: Mapping[MediaKind, str] = {"image": "images", "audio": "audio"}
"""Field of `GenerateRequest` for each kind of file."""

MAX_COUNT = 8
MAX_RATE = 1000

EXTRA_FIELDS: Mapping[str, str] = {
    "model": "name of a model, one of /v1/models",
    "size": "width x height in pixels, such as 96x96",
    "n": f"number of videos, 1 to {MAX_COUNT}; each has the next seed and a job of its own",
    "fps": f"frame rate that the number of frames refers to; videos have {FRAMES_PER_SECOND} frames per second",
    "user": "any text; stored with the job",
    "extra_params": "an object with further fields",
}
"""Names that are neither fields of `GenerateRequest` nor files -> their description."""

RawFields = Sequence[tuple[str, Any]]
"""Names and values in the order of the body; a name repeats if several files were sent under it."""


class ParsedRequest(BaseModel):
    """A client's request, with its values sorted by what they are.

    Args:
        fields: fields of `GenerateRequest`, not validated yet.
        files: (client's name, kind, content or URL) of each file.
        model, user: the client's values.
        count: number of videos.
        notes: what was changed or ignored, one sentence each.
        lenient: fields that were sent under another service's name; one that the model refuses is ignored.
    """

    fields: dict[str, Any]
    files: list[tuple[str, MediaKind, Any]]
    model: str | None = None
    user: str | None = None
    count: int = 1
    notes: list[str] = []
    lenient: frozenset[str] = frozenset()


def parse_fields(raw: RawFields) -> ParsedRequest:
    """Sort a client's values into fields, files and extra fields.

    Raises:
        RequestError: a name is unknown or repeated, or a value is malformed.
    """
    fields: dict[str, Any] = {}
    files: list[tuple[str, MediaKind, Any]] = []
    extra: dict[str, Any] = {}
    ignored: list[str] = []
    for full_name, value in _flatten(raw):
        name, _, rest = full_name.removesuffix("[]").partition("[")
        field = "n" if name in COUNT_NAMES else ALIASES.get(name, name)
        if name in FILE_FIELDS:
            files.append((name, FILE_FIELDS[name], value))
        elif rest:
            raise _unknown(full_name)
        elif field in LIST_FIELDS:  # a form repeats the name
            fields[field] = [*fields.get(field, []), *map(_lora_text, value if isinstance(value, list) else [value])]
        elif field in CLIENT_FIELDS or field in EXTRA_FIELDS:
            values = fields if field in CLIENT_FIELDS else extra
            if field in values:
                raise RequestError(name, "is given twice", "give it once")
            values[field] = value
        elif name in IGNORED_FIELDS:
            ignored.append(name)
        else:
            raise _unknown(name)
    for name in ("model", "user"):
        if not isinstance(extra.get(name, ""), str):
            raise RequestError(name, "is not text", "send a string")
    notes = [f"{name} has no effect with this model" for name in ignored]
    if "size" in extra:
        fields |= _parse_size(extra["size"], fields)
    notes += _round_sides(fields) + _convert_rate(fields, extra.get("fps", FRAMES_PER_SECOND))
    return ParsedRequest(
        fields=fields,
        files=files,
        model=extra.get("model"),
        user=extra.get("user"),
        count=_parse_count(extra.get("n", 1)),
        notes=notes,
        lenient=frozenset(ALIASES[name] for name, _ in _flatten(raw) if name in LENIENT_NAMES),
    )


def _parse_count(value: Any) -> int:
    if not str(value).isdecimal() or not 1 <= int(value) <= MAX_COUNT:
        raise RequestError("n", f"{str(value)[:40]!r} is not allowed", f"send 1 to {MAX_COUNT}")
    return int(value)


def _round_sides(fields: dict[str, Any]) -> list[str]:
    """Round sides to the multiple that the model needs, which clients of other services do not know."""
    notes = []
    for name in ("width", "height"):
        text = str(fields.get(name, ""))
        if text.isdecimal() and int(text) > SIZE_MULTIPLE and int(text) % SIZE_MULTIPLE:
            fields[name] = round(int(text) / SIZE_MULTIPLE) * SIZE_MULTIPLE
            notes.append(f"{name} {text} was rounded to {fields[name]}, a multiple of {SIZE_MULTIPLE}")
    return notes


def _convert_rate(fields: dict[str, Any], fps: Any) -> list[str]:
    """Convert a number of frames at another rate to the model's rate; frames count if seconds are given, too.

    Raises:
        RequestError: the rate is no positive number.
    """
    try:
        rate = float(fps)
    except (TypeError, ValueError):
        rate = 0.0
    if not 0 < rate <= MAX_RATE:
        remedy = f"send {FRAMES_PER_SECOND}, or leave it out"
        raise RequestError("fps", f"{str(fps)[:40]!r} is not a frame rate", remedy)
    notes = []
    if "frames" in fields and fields.pop("seconds", None) is not None:
        notes.append("seconds has no effect, because the number of frames is given")
    if rate == FRAMES_PER_SECOND:
        return notes
    text = f"fps: the video has {FRAMES_PER_SECOND} frames per second"
    if str(fields.get("frames", "")).isdecimal():
        seconds = int(fields["frames"]) / rate
        fields["frames"] = round_up_frames(frames_of_seconds(seconds))
        text += f"; {seconds:g} s are {fields['frames']} frames"
    return [*notes, text]


def _lora_text(value: Any) -> Any:
    """Return ``NAME:STRENGTH`` of vLLM-Omni's LoRA object; other values as they are."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if isinstance(value, Mapping):
        names = [value[key] for key in ("name", "lora_name", "adapter_name") if key in value]
        if not names:
            raise RequestError("lora", "has no name", 'send {"name": "NAME", "scale": 1.0}')
        return f"{names[0]}:{value.get('scale', 1.0)}"
    return value


def _flatten(raw: RawFields) -> list[tuple[str, Any]]:
    """Return the values with lists of files and ``extra_params`` expanded; null is a field that was left out."""
    flat: list[tuple[str, Any]] = []
    for name, value in raw:
        if value is None:
            continue
        if name == "extra_params":
            inner = _as_object(value)
            flat += _flatten([(key, one) for key, one in inner.items() if key != "extra_params"])
        elif name in FILE_FIELDS and isinstance(value, list | tuple):
            flat += [(name, one) for one in value]
        else:
            flat.append((name, value))
    return flat


def _as_object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping):
        raise RequestError("extra_params", "is not an object", 'send {"name": value}')
    return value


def _parse_size(value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    width, cross, height = str(value).lower().partition("x")
    if not cross or not width.isdecimal() or not height.isdecimal():
        raise RequestError("size", f"{str(value)[:40]!r} is not a size", "send WIDTHxHEIGHT, such as 96x96")
    for name in ("width", "height"):
        if name in fields:
            raise RequestError(name, "is given together with size", "send only one of them")
    return {"width": int(width), "height": int(height)}


def _unknown(name: str) -> RequestError:
    remedy = did_you_mean(name, [*CLIENT_FIELDS, *ALIASES, *FILE_FIELDS, *EXTRA_FIELDS, *COUNT_NAMES])
    return RequestError(name[:60], "is not a field of a request", remedy)


def file_url(value: Any, field: str) -> str:
    """Return the URL of a file that was not uploaded: a string, or an object such as OpenAI's ``image_url``.

    Raises:
        RequestError: there is none.
    """
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("url", "image_url", "audio_url") if name in value), None)
        if isinstance(value, Mapping):
            value = value.get("url")
    if not isinstance(value, str):
        raise RequestError(field, "is neither a file nor a URL", "upload the file, or send data:...;base64,...")
    return value


# -- the request's body in OpenAPI -----------------------------------------------------------------------------------


def body_schema() -> dict[str, Any]:
    """Return OpenAPI's description of the body of ``POST /v1/videos``, derived from `GenerateRequest`."""
    request = GenerateRequest.model_json_schema()["properties"]
    fields = {name: request[name] for name in CLIENT_FIELDS}
    aliases = {name: {**request[field], "description": f"alias of {field}"} for name, field in ALIASES.items()}
    extra: dict[str, Any] = {name: {"type": "string", "description": text} for name, text in EXTRA_FIELDS.items()}
    extra["extra_params"]["type"] = "object"
    extra["fps"] = {"type": "number", "description": EXTRA_FIELDS["fps"]}
    extra["n"] = {"type": "integer", "minimum": 1, "maximum": MAX_COUNT, "description": EXTRA_FIELDS["n"]}
    extra |= {name: {"description": "has no effect"} for name in sorted(IGNORED_FIELDS)}
    extra |= {name: {**extra["n"], "description": "alias of n"} for name in COUNT_NAMES[1:]}

    def for_files(schema_of: Callable[[MediaKind], dict[str, Any]]) -> dict[str, Any]:
        return {name: schema_of(kind) for name, kind in FILE_FIELDS.items()}

    described = {kind: {"description": request[field]["description"]} for kind, field in REQUEST_FIELDS.items()}
    url = {"type": "string", "pattern": "^data:"}
    several_urls = {"type": "array", "items": url}
    uploads = for_files(lambda kind: described[kind] | {"type": "string", "format": "binary"})
    urls = for_files(lambda kind: described[kind] | (several_urls if kind == "image" else url))
    common = fields | aliases | extra

    def as_content(properties: dict[str, Any]) -> dict[str, Any]:
        return {
            "schema": {
                "type": "object",
                "properties": properties,
                "required": ["prompt"],
                "additionalProperties": False,
            }
        }

    return {
        "required": True,
        "content": {
            "application/json": as_content(common | urls),
            "multipart/form-data": as_content(common | uploads),
        },
    }
