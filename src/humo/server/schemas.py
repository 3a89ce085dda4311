"""Bodies of requests and responses: parsing a client's fields, and the models that responses follow.

The API has the form of ``/v1/videos`` as vLLM-Omni, SGLang and OpenRouter offer it. Limits, descriptions and defaults
of fields come from `GenerateRequest`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from humo.errors import RequestError, did_you_mean
from humo.geometry import FRAMES_PER_SECOND
from humo.media.provenance import DEVICE_FIELDS, MEMORY_FIELDS
from humo.request import GenerateRequest
from humo.server.job_queue import Job, JobState, JSONObject
from humo.server.model_details import ModelDetails, PublishedModel
from humo.server.upload_sanitizer import MediaKind

SERVER_FIELDS = frozenset(
    {
        *("model", "images", "audio", "vocal_separator", "output", "sidecar"),
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

LIST_FIELDS = ("loras",)
"""Fields of a client with several values."""

FILE_FIELDS: Mapping[str, MediaKind] = {
    "input_reference": "image",
    "image": "image",
    "images": "image",
    "reference_images": "image",
    "image_reference": "image",
    "audio": "audio",
    "audio_reference": "audio",
}
"""Names of files, uploaded or as URLs -> their kind."""

REQUEST_FIELDS: Mapping[MediaKind, str] = {"image": "images", "audio": "audio"}
"""Field of `GenerateRequest` for each kind of file."""

EXTRA_FIELDS: Mapping[str, str] = {
    "model": "name of a model, one of /v1/models",
    "size": "width x height in pixels, such as 96x96",
    "fps": f"frames per second; only {FRAMES_PER_SECOND} is allowed",
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
    """

    fields: dict[str, Any]
    files: list[tuple[str, MediaKind, Any]]
    model: str | None = None
    user: str | None = None


def parse_fields(raw: RawFields) -> ParsedRequest:
    """Sort a client's values into fields, files and extra fields.

    Raises:
        RequestError: a name is unknown or repeated, or the size is malformed.
    """
    fields: dict[str, Any] = {}
    files: list[tuple[str, MediaKind, Any]] = []
    extra: dict[str, Any] = {}
    for full_name, value in _flatten(raw):
        name, _, rest = full_name.removesuffix("[]").partition("[")
        if name in FILE_FIELDS:
            files.append((name, FILE_FIELDS[name], value))
        elif rest:
            raise _unknown(full_name)
        elif name in CLIENT_FIELDS or name in ALIASES:
            field = ALIASES.get(name, name)
            if field in LIST_FIELDS:  # a form repeats the name
                fields[field] = [*fields.get(field, []), *(value if isinstance(value, list) else [value])]
                continue
            if field in fields:
                raise RequestError(name, "is given twice", "give it once")
            fields[field] = value
        elif name in EXTRA_FIELDS:
            if name in extra:
                raise RequestError(name, "is given twice", "give it once")
            extra[name] = value
        else:
            raise _unknown(name)
    if "size" in extra:
        fields |= _parse_size(extra["size"], fields)
    if str(extra.get("fps", FRAMES_PER_SECOND)) not in (str(FRAMES_PER_SECOND), f"{FRAMES_PER_SECOND}.0"):
        raise RequestError("fps", f"{extra['fps']!r} is not allowed", f"send {FRAMES_PER_SECOND}, or leave it out")
    for name in ("model", "user"):
        if not isinstance(extra.get(name, ""), str):
            raise RequestError(name, "is not text", "send a string")
    return ParsedRequest(fields=fields, files=files, model=extra.get("model"), user=extra.get("user"))


def _flatten(raw: RawFields) -> list[tuple[str, Any]]:
    """Return the values with lists of files and ``extra_params`` expanded."""
    flat: list[tuple[str, Any]] = []
    for name, value in raw:
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
    remedy = did_you_mean(name, [*CLIENT_FIELDS, *ALIASES, *FILE_FIELDS, *EXTRA_FIELDS])
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


# -- responses --------------------------------------------------------------------------------------------------------


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(description="cancelled, invalid_request, out_of_memory, storage, worker_lost, internal_error")
    message: str


class JobDetails(BaseModel):
    """Details of a job that are specific to this service."""

    state: JobState = Field(description="queued, in_progress, completed, failed, cancelled")
    phase: str | None = Field(None, description="load, encode, denoise, decode, write")
    step: int | None = Field(None, description="steps of the phase that are done")
    steps: int | None = Field(None, description="steps of the phase in all")
    seconds_left: float | None = Field(None, description="estimated remaining seconds of the phase")
    request: dict[str, Any] = Field(description="every field of the request with its resolved value")
    notes: list[str] = Field(description="values that the server chose or changed")
    timings: dict[str, float] | None = Field(None, description="seconds spent in each phase")


class Video(BaseModel):
    """A job."""

    id: str
    object: Literal["video"] = "video"
    created_at: int = Field(description="seconds since 1970")
    completed_at: int | None = None
    expires_at: int | None = Field(None, description="when the job and its files are removed, in seconds since 1970")
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100, description="percent")
    model: str
    prompt: str
    seconds: str
    size: str
    seed: int | None = None
    remixed_from_video_id: str | None = None
    error: JobError | None = None
    humo: JobDetails


class VideoList(BaseModel):
    """One page of jobs."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """Confirmation that a job was deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "humo"
    loras: list[str] = Field(default_factory=list, description="values of the field loras that fit this model")
    presets: list[str] = Field(default_factory=list, description="values of the field preset that fit this model")
    humo: ModelDetails


class ModelList(BaseModel):
    """All served models; the first is the default."""

    object: Literal["list"] = "list"
    data: list[Model]
    published: list[PublishedModel] = Field(description="published models that are not served")


class ErrorBody(BaseModel):
    """Error of a request."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "not_found_error", "server_error"]
    param: str | None = Field(None, description="name of the field that is wrong")
    code: str


class ErrorResponse(BaseModel):
    """Response to a request that failed."""

    error: ErrorBody


STATUS_OF_STATE: Mapping[JobState, Literal["queued", "in_progress", "completed", "failed"]] = {
    JobState.QUEUED: "queued",
    JobState.IN_PROGRESS: "in_progress",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}
"""Status of a job in the API, which has no status of its own for cancelled jobs."""

PROGRESS_RANGES: Mapping[str, tuple[int, int]] = {
    "load": (0, 5),
    "encode": (5, 10),
    "denoise": (10, 90),
    "decode": (90, 95),
    "write": (95, 99),
}
"""Progress of a job, in percent, at the start and the end of each phase."""


def video_from_job(job: Job, progress: JSONObject, retention_seconds: float) -> Video:
    """Return a job in the form that clients receive.

    Args:
        job: from the queue.
        progress: last progress that its worker wrote.
        retention_seconds: how long ended jobs are kept.
    """
    request, error = job.payload["request"], job.result.get("error")
    if job.state is JobState.CANCELLED:
        error = {"code": "cancelled", "message": "cancelled"}
    if job.state is not JobState.IN_PROGRESS:
        progress = {}
    return Video(
        id=job.id,
        created_at=int(job.created),
        completed_at=None if job.ended is None else int(job.ended),
        expires_at=None if job.ended is None else int(job.ended + retention_seconds),
        status=STATUS_OF_STATE[job.state],
        progress=100 if job.state is JobState.COMPLETED else _percent(progress),
        model=job.payload["model"],
        prompt=request["prompt"],
        seconds=f"{request['frames'] / FRAMES_PER_SECOND:g}",
        size=f"{request['width']}x{request['height']}",
        seed=request["seed"],
        error=None if error is None else JobError(code=error["code"], message=error["message"]),
        humo=JobDetails(
            state=job.state,
            phase=progress.get("phase"),
            step=progress.get("done"),
            steps=progress.get("total"),
            seconds_left=progress.get("seconds_left"),
            request=request,
            notes=job.payload["notes"],
            timings=job.result.get("video", {}).get("timings"),
        ),
    )


def _percent(progress: JSONObject) -> int:
    if progress.get("phase") not in PROGRESS_RANGES:
        return 0
    start, end = PROGRESS_RANGES[progress["phase"]]
    return start + int((end - start) * progress["done"] / max(1, progress["total"]))


# -- the request's body in OpenAPI ------------------------------------------------------------------------------------


def body_schema() -> dict[str, Any]:
    """Return OpenAPI's description of the body of ``POST /v1/videos``, derived from `GenerateRequest`."""
    request = GenerateRequest.model_json_schema()["properties"]
    fields = {name: request[name] for name in CLIENT_FIELDS}
    aliases = {name: {**request[field], "description": f"alias of {field}"} for name, field in ALIASES.items()}
    extra: dict[str, Any] = {name: {"type": "string", "description": text} for name, text in EXTRA_FIELDS.items()}
    extra["extra_params"]["type"] = "object"
    extra["fps"] = {"type": "integer", "enum": [FRAMES_PER_SECOND], "description": EXTRA_FIELDS["fps"]}

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
