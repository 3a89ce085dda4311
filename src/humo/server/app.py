"""The HTTP door: routes, bodies read, and what is told when something is wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from humo import __version__
from humo.errors import HuMoError, RequestError, StorageError
from humo.files import DISK_FULL_ERRORS, storage_error
from humo.server.api_keys import ApiKeys
from humo.server.job_queue import Job
from humo.server.metrics import prometheus_text
from humo.server.middleware import AuthMiddleware, BodyLimitMiddleware, error_response, request_owner
from humo.server.schemas import DeletedVideo, ErrorResponse, Model, ModelList, RawFields, Video, VideoList, body_schema
from humo.server.service import ConflictError, NotFoundError, QueueFullError, Service
from humo.server.supervisor import WorkerPool

POLL_MILLISECONDS = 500
"""Clients are asked to look no more often."""

EVENT_SECONDS = 0.25
KEEPALIVE_SECONDS = 15.0
"""Between two looks at a job whose events are followed, and the longest silence on such a line."""

SWEEP_SECONDS = 60.0
MAX_FORM_FIELDS = 100

Variant = Literal["video", "thumbnail", "sidecar"]
MEDIA_TYPES: Mapping[str, str] = {"video": "video/mp4", "thumbnail": "image/png", "sidecar": "application/json"}

logger = logging.getLogger(__name__)


ERROR_CODES: Mapping[type[HuMoError], tuple[int, str]] = {
    NotFoundError: (404, "not_found"),
    ConflictError: (409, "idempotency_key_reused"),
    QueueFullError: (429, "too_many_jobs"),
    StorageError: (507, "storage"),
    HuMoError: (400, "invalid_request"),
}
"""What is at fault -> status and ``code`` of the answer; the nearest class counts."""


def _error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's word for what may be refused, everywhere and here."""
    return {status: {"model": ErrorResponse} for status in (401, 403, *statuses)}


def make_app(service: Service, keys: ApiKeys, workers: WorkerPool | None = None) -> FastAPI:
    """The application.

    Args:
        service: does the work.
        keys: if there are any, one is asked for.
        workers: of the service, to tell whether any is there.
    """

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(service))
        yield
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper

    app = FastAPI(
        title="HuMo",
        summary="Words, pictures and a sound in, a video of that person speaking it out.",
        version=__version__,
        lifespan=life,
        docs_url=None,  # their pages fetch code from elsewhere
        redoc_url=None,
    )
    app.state.service, app.state.workers = service, workers
    app.include_router(router)
    app.add_middleware(BodyLimitMiddleware, max_bytes=service.settings.limits.body_bytes)
    app.add_middleware(AuthMiddleware, keys=keys, local=service.settings.is_local, hosts=service.settings.allowed_hosts)
    _add_error_handlers(app)
    return app


# -- routes -----------------------------------------------------------------------------------------------------------

router = APIRouter()


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _owner(request: Request) -> str:
    return request_owner(request.scope)


CurrentService = Annotated[Service, Depends(_service)]
Owner = Annotated[str, Depends(_owner)]


VideoId = Annotated[str, Path(description="as the answer to POST /v1/videos said")]


def _job(video_id: VideoId, service: CurrentService, owner: Owner) -> Job:
    return service.find_job(video_id, owner)


RequestedJob = Annotated[Job, Depends(_job)]


@router.post(
    "/v1/videos",
    status_code=202,
    response_model=Video,
    responses=_error_responses(400, 409, 413, 415, 429, 507),
    openapi_extra={
        "requestBody": body_schema(),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "description": "the same key and request is the same job, however often it is sent",
            }
        ],
    },
    summary="Ask for a video",
)
async def create(request: Request, response: Response, service: CurrentService, owner: Owner) -> Video:
    """It is stored when this answers, and made when its turn comes."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise RequestError("Idempotency-Key", f"has {len(key)} characters", "allowed: 1 to 255")
    response.headers["openai-poll-after-ms"] = str(POLL_MILLISECONDS)
    return await service.accept(await read_body(request), owner, key)


@router.get("/v1/videos", response_model=VideoList, responses=_error_responses(400, 404), summary="Your videos")
def list_videos(
    service: CurrentService,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=100, description="at most so many")] = 20,
    after: Annotated[str | None, Query(description="id of the last one of the list before")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: newest first")] = "desc",
) -> VideoList:
    """Newest first, unless told otherwise."""
    videos, has_more = service.list_videos(owner, limit=limit, after=after, newest_first=order == "desc")
    ends = (videos[0].id, videos[-1].id) if videos else (None, None)
    return VideoList(data=videos, first_id=ends[0], last_id=ends[1], has_more=has_more)


@router.get(
    "/v1/videos/{video_id}", response_model=Video, responses=_error_responses(404), summary="How a video is doing"
)
def retrieve(job: RequestedJob, service: CurrentService, response: Response) -> Video:
    """The job as it is now."""
    response.headers["openai-poll-after-ms"] = str(POLL_MILLISECONDS)
    return service.to_video(job)


@router.get(
    "/v1/videos/{video_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **_error_responses(404)},
    summary="How a video is doing, as it happens (server-sent events)",
)
async def events(job: RequestedJob, service: CurrentService) -> StreamingResponse:
    """Events ``progress`` and ``done`` hold the job; ``preview`` holds a picture of what it looks like by now."""
    told = stream_events(service, job.id, job.owner)
    return StreamingResponse(told, media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.get(
    "/v1/videos/{video_id}/content",
    response_class=FileResponse,
    responses={
        200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}},
        206: {"description": "a part, where a Range was asked for"},
        **_error_responses(400, 404, 416),
    },
    summary="A finished video, its thumbnail, or the record of how it was made",
)
def content(
    job: RequestedJob,
    service: CurrentService,
    variant: Annotated[Variant, Query(description="which of them")] = "video",
) -> FileResponse:
    """The file itself."""
    path = service.output_file(job, variant)
    return FileResponse(path, media_type=MEDIA_TYPES[variant], filename=path.name)


@router.post(
    "/v1/videos/{video_id}/cancel", response_model=Video, responses=_error_responses(404), summary="Stop making a video"
)
def cancel(job: RequestedJob, service: CurrentService) -> Video:
    """It stays in the list, as cancelled."""
    return service.to_video(service.cancel(job))


@router.post(
    "/v1/videos/{video_id}/finish",
    response_model=Video,
    responses=_error_responses(404, 507),
    summary="Make do with what a video has come to by now",
)
def finish(job: RequestedJob, service: CurrentService) -> Video:
    """The step that is being made is the last; then it is decoded and written as ever."""
    return service.to_video(service.finish(job))


@router.delete(
    "/v1/videos/{video_id}",
    response_model=DeletedVideo,
    responses=_error_responses(404),
    summary="Stop making a video, and remove all of it",
)
def delete(job: RequestedJob, service: CurrentService) -> DeletedVideo:
    """Nothing of it is left."""
    service.delete(job)
    return DeletedVideo(id=job.id)


@router.get(
    "/v1/models", response_model=ModelList, responses=_error_responses(), summary="Models that can be asked for"
)
def models(service: CurrentService) -> ModelList:
    """The first is the default."""
    return ModelList(data=[Model(id=name) for name in service.settings.models])


@router.get("/health", summary="Whether the service is there")
async def health() -> dict[str, str]:
    """It answers."""
    return {"status": "ok", "version": __version__}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **_error_responses()},
    summary="Figures for Prometheus",
)
def metrics(request: Request, service: CurrentService) -> Response:
    """Jobs by state, workers, memory."""
    told = prometheus_text(service.queue, request.app.state.workers)
    return Response(told, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/ready", responses={503: {"model": ErrorResponse}}, summary="Whether it can make videos now")
def ready(request: Request, service: CurrentService) -> Response:
    """Its queue answers, and a worker is there."""
    workers: WorkerPool | None = request.app.state.workers
    waiting = len(service.queue.unfinished())
    if workers is not None and not workers.running:
        return error_response(503, "no worker is running; the service's log says why", "no_worker")
    return JSONResponse({"status": "ready", "waiting": waiting})


# -- bodies -----------------------------------------------------------------------------------------------------------


async def read_body(request: Request) -> RawFields:
    """Names and values of a body, files as bytes.

    Raises:
        RequestError: it is neither JSON nor a form, or holds too many parts.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            told = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise RequestError("body", "is not JSON", "send an object") from None
        if not isinstance(told, Mapping):
            raise RequestError("body", "is not an object", 'send {"prompt": ...}')
        return list(told.items())
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        try:
            async with request.form(max_files=MAX_FORM_FIELDS, max_fields=MAX_FORM_FIELDS) as form:
                return [
                    (name, await value.read() if isinstance(value, UploadFile) else value)
                    for name, value in form.multi_items()
                ]
        except (MultiPartException, HTTPException) as error:
            raise RequestError("body", f"is not a form that can be read ({_words(error)})", "send it anew") from None
    raise HTTPException(415, "the body is of another kind; send application/json or multipart/form-data")


def _words(error: Exception) -> str:
    return str(getattr(error, "message", None) or getattr(error, "detail", None) or error)


async def stream_events(service: Service, job_id: str, owner: str) -> AsyncIterator[bytes]:
    """A job's events until it ends."""
    last: Video | None = None
    seen = 0.0
    spoken = time.monotonic()
    while True:
        try:
            job = await asyncio.to_thread(service.find_job, job_id, owner)
        except NotFoundError:
            yield b"event: done\ndata: {}\n\n"
            return
        video = service.to_video(job)
        if video != last:
            last, spoken = video, time.monotonic()
            name = "done" if job.state.has_ended else "progress"
            yield f"event: {name}\ndata: {video.model_dump_json()}\n\n".encode()
        if job.state.has_ended:
            return
        picture = service.store.running_path(job_id, ".png")
        with contextlib.suppress(OSError):
            if (changed := picture.stat().st_mtime) > seen:
                seen, spoken = changed, time.monotonic()
                data = {
                    "id": job_id,
                    "image": "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode(),
                }
                yield f"event: preview\ndata: {json.dumps(data)}\n\n".encode()
        if time.monotonic() - spoken > KEEPALIVE_SECONDS:
            spoken = time.monotonic()
            yield b": still here\n\n"
        await asyncio.sleep(EVENT_SECONDS)


async def _sweep(service: Service) -> None:
    while True:
        try:
            await asyncio.to_thread(service.sweep)
        except Exception:  # the next time may be better
            logger.exception("sweeping failed")
        await asyncio.sleep(SWEEP_SECONDS)


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _add_error_handlers(app: FastAPI) -> None:
    """Every fault becomes an answer of one form."""

    @app.exception_handler(HuMoError)
    async def ours(request: Request, error: HuMoError) -> JSONResponse:
        status, code = next(ERROR_CODES[kind] for kind in type(error).__mro__ if kind in ERROR_CODES)
        return error_response(status, _service(request).store.redact_paths(str(error)), code, error.field)

    @app.exception_handler(OSError)
    async def system(request: Request, error: OSError) -> JSONResponse:
        if error.errno in DISK_FULL_ERRORS:  # of a body that was put aside while it came
            return await ours(request, storage_error(error))
        return await unknown(request, error)

    @app.exception_handler(RequestValidationError)
    async def parameters(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        return error_response(400, f"{field}: {first['msg']}; see /openapi.json", "invalid_request", field)

    @app.exception_handler(HTTPException)
    async def others(_: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}
        answer = error_response(error.status_code, str(error.detail), codes.get(error.status_code, "invalid_request"))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def unknown(_: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return error_response(500, "something went wrong here; it is in the service's log", "internal_error")
