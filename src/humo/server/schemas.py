"""What goes over the wire: the fields of a request under everybody's names for them, a job as clients know it, errors.

The shape is that of the ``/v1/videos`` API which vLLM-Omni, SGLang and OpenRouter share. Limits, help and defaults of
fields come from `GenerateRequest`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from humo.errors import RequestError, did_you_mean
from humo.geometry import FRAMES_PER_SECOND
from humo.request import GenerateRequest
from humo.server.job_queue import Job, JobState, JSONObject
from humo.server.upload_sanitizer import MediaKind

SERVER_FIELDS = frozenset(
    {"model", "images", "audio", "vocal_separator", "device", "dtype", "placement", "output", "sidecar"}
)
"""Fields of a request that are files and circumstances: not a client's to set as they are."""

CLIENT_FIELDS = tuple(name for name in GenerateRequest.model_fields if name not in SERVER_FIELDS)
"""Fields that a client sets under their own names."""

ALIASES: Mapping[str, str] = {
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "scale_text",
    "flow_shift": "shift",
}
"""Others' names for fields."""

FILE_FIELDS: Mapping[str, MediaKind] = {
    "input_reference": "image",
    "image": "image",
    "images": "image",
    "reference_images": "image",
    "image_reference": "image",
    "audio": "audio",
    "audio_reference": "audio",
}
"""Names of files, uploaded or as ``data:`` addresses -> what they are."""

REQUEST_FIELDS: Mapping[MediaKind, str] = {"image": "images", "audio": "audio"}
"""What files are -> the fields of a request that name them."""

EXTRA_FIELDS: Mapping[str, str] = {
    "model": "name of a model, one of /v1/models",
    "size": "width x height in pixels, such as 96x96",
    "fps": f"frames a second: always {FRAMES_PER_SECOND}",
    "user": "kept with the job",
    "extra_params": "an object with further fields",
}
"""Names that are neither fields nor files."""

RawFields = Sequence[tuple[str, Any]]
"""Names and values as they came, one name more than once where several files were sent."""


class ParsedRequest(BaseModel):
    """A request as it came, sorted.

    Args:
        fields: of a `GenerateRequest`, not yet checked.
        files: (the client's name, kind, content or address) of each.
        model, user: as given.
    """

    fields: dict[str, Any]
    files: list[tuple[str, MediaKind, Any]]
    model: str | None = None
    user: str | None = None


def parse_fields(given: RawFields) -> ParsedRequest:
    """Sort what came by what it is.

    Raises:
        RequestError: an unknown name, a name given twice, a size that is none.
    """
    fields: dict[str, Any] = {}
    files: list[tuple[str, MediaKind, Any]] = []
    others: dict[str, Any] = {}
    for full_name, value in _flat(given):
        name, _, rest = full_name.removesuffix("[]").partition("[")
        if name in FILE_FIELDS:
            files.append((name, FILE_FIELDS[name], value))
        elif rest:
            raise _unknown(full_name)
        elif name in CLIENT_FIELDS or name in ALIASES:
            own = ALIASES.get(name, name)
            if own in fields:
                raise RequestError(name, "is given twice", "give it once")
            fields[own] = value
        elif name in EXTRA_FIELDS:
            if name in others:
                raise RequestError(name, "is given twice", "give it once")
            others[name] = value
        else:
            raise _unknown(name)
    if "size" in others:
        fields |= _size(others["size"], fields)
    if str(others.get("fps", FRAMES_PER_SECOND)) not in (str(FRAMES_PER_SECOND), f"{FRAMES_PER_SECOND}.0"):
        raise RequestError("fps", f"{others['fps']!r} is not allowed", f"the model makes {FRAMES_PER_SECOND} a second")
    for name in ("model", "user"):
        if not isinstance(others.get(name, ""), str):
            raise RequestError(name, "is not text", "give a name")
    return ParsedRequest(fields=fields, files=files, model=others.get("model"), user=others.get("user"))


def _flat(given: RawFields) -> list[tuple[str, Any]]:
    """Lists of files as several, further fields beside the others."""
    found: list[tuple[str, Any]] = []
    for name, value in given:
        if name == "extra_params":
            inner = _as_object(value)
            found += _flat([(key, one) for key, one in inner.items() if key != "extra_params"])
        elif name in FILE_FIELDS and isinstance(value, list | tuple):
            found += [(name, one) for one in value]
        else:
            found.append((name, value))
    return found


def _as_object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping):
        raise RequestError("extra_params", "is not an object", 'give {"name": value}')
    return value


def _size(value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    width, cross, height = str(value).lower().partition("x")
    if not cross or not width.isdecimal() or not height.isdecimal():
        raise RequestError("size", f"{str(value)[:40]!r} is not a size", "give width x height, such as 96x96")
    for name in ("width", "height"):
        if name in fields:
            raise RequestError(name, "is given beside size", "give one of them")
    return {"width": int(width), "height": int(height)}


def _unknown(name: str) -> RequestError:
    remedy = did_you_mean(name, [*CLIENT_FIELDS, *ALIASES, *FILE_FIELDS, *EXTRA_FIELDS])
    return RequestError(name[:60], "is not a field of a request", remedy)


def file_url(value: Any, field: str) -> str:
    """The address of a file that came as words: itself, or in an object as other services take it.

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
        raise RequestError(field, "is neither a file nor an address", "upload the file, or send data:...;base64,...")
    return value


# -- what goes out ----------------------------------------------------------------------------------------------------


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(description="cancelled, invalid_request, out_of_memory, storage, worker_lost, internal_error")
    message: str


class JobDetails(BaseModel):
    """What this service says of a job beyond what all of its kind do."""

    state: JobState = Field(description="queued, in_progress, completed, failed, cancelled")
    phase: str | None = Field(None, description="load, encode, denoise, decode, write")
    step: int | None = Field(None, description="of the phase, done")
    steps: int | None = Field(None, description="of the phase, in all")
    seconds_left: float | None = Field(None, description="of the phase")
    request: dict[str, Any] = Field(description="every field as it was settled")
    notes: list[str] = Field(description="what was decided for the client and is worth saying")
    timings: dict[str, float] | None = Field(None, description="seconds spent in each phase")


class Video(BaseModel):
    """A job."""

    id: str
    object: Literal["video"] = "video"
    created_at: int = Field(description="seconds since 1970")
    completed_at: int | None = None
    expires_at: int | None = Field(None, description="when the job and its files are removed")
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
    """Some jobs."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """A job that is no more."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Model(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "humo"


class ModelList(BaseModel):
    """All of them; the first is the default."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(BaseModel):
    """What is wrong with a request."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "not_found_error", "server_error"]
    param: str | None = Field(None, description="the field at fault")
    code: str


class ErrorResponse(BaseModel):
    """The answer to a request that is not done."""

    error: ErrorBody


STATUS_OF_STATE: Mapping[JobState, Literal["queued", "in_progress", "completed", "failed"]] = {
    JobState.QUEUED: "queued",
    JobState.IN_PROGRESS: "in_progress",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}
"""What clients know: four states."""

PROGRESS_RANGES: Mapping[str, tuple[int, int]] = {
    "load": (0, 5),
    "encode": (5, 10),
    "denoise": (10, 90),
    "decode": (90, 95),
    "write": (95, 99),
}
"""Percent of a job's progress at which a phase begins and ends."""


def video_from_job(job: Job, said: JSONObject, retention_seconds: float) -> Video:
    """A job as clients know it.

    Args:
        job: from the queue.
        said: what its worker said last.
        retention_seconds: how long ended jobs are kept.
    """
    request, error = job.payload["request"], job.result.get("error")
    if job.state is JobState.CANCELLED:
        error = {"code": "cancelled", "message": "cancelled"}
    running = said if job.state is JobState.IN_PROGRESS else {}
    return Video(
        id=job.id,
        created_at=int(job.created),
        completed_at=None if job.ended is None else int(job.ended),
        expires_at=None if job.ended is None else int(job.ended + retention_seconds),
        status=STATUS_OF_STATE[job.state],
        progress=100 if job.state is JobState.COMPLETED else _percent(running),
        model=job.payload["model"],
        prompt=request["prompt"],
        seconds=f"{request['frames'] / FRAMES_PER_SECOND:g}",
        size=f"{request['width']}x{request['height']}",
        seed=request["seed"],
        error=None if error is None else JobError(code=error["code"], message=error["message"]),
        humo=JobDetails(
            state=job.state,
            phase=running.get("phase"),
            step=running.get("done"),
            steps=running.get("total"),
            seconds_left=running.get("seconds_left"),
            request=request,
            notes=job.payload["notes"],
            timings=job.result.get("video", {}).get("timings"),
        ),
    )


def _percent(said: JSONObject) -> int:
    if said.get("phase") not in PROGRESS_RANGES:
        return 0
    start, end = PROGRESS_RANGES[said["phase"]]
    return start + int((end - start) * said["done"] / max(1, said["total"]))


# -- the description of what comes in ---------------------------------------------------------------------------------


def body_schema() -> dict[str, Any]:
    """OpenAPI's description of the body of ``POST /v1/videos``, made from `GenerateRequest`."""
    own = GenerateRequest.model_json_schema()["properties"]
    plain = {name: own[name] for name in CLIENT_FIELDS}
    alike = {name: {**own[field], "description": f"as {field}"} for name, field in ALIASES.items()}
    others: dict[str, Any] = {name: {"type": "string", "description": text} for name, text in EXTRA_FIELDS.items()}
    others["extra_params"]["type"] = "object"
    others["fps"] = {"type": "integer", "enum": [FRAMES_PER_SECOND], "description": EXTRA_FIELDS["fps"]}

    def files(of: Callable[[MediaKind], dict[str, Any]]) -> dict[str, Any]:
        return {name: of(kind) for name, kind in FILE_FIELDS.items()}

    about = {kind: {"description": own[field]["description"]} for kind, field in REQUEST_FIELDS.items()}
    address = {"type": "string", "pattern": "^data:"}
    several = {"type": "array", "items": address}
    uploads = files(lambda kind: about[kind] | {"type": "string", "format": "binary"})
    addresses = files(lambda kind: about[kind] | (several if kind == "image" else address))
    common = plain | alike | others

    def described(properties: dict[str, Any]) -> dict[str, Any]:
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
            "application/json": described(common | addresses),
            "multipart/form-data": described(common | uploads),
        },
    }
