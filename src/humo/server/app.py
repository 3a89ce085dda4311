"""HTTP routes: read the body, call the service, turn errors into responses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from humo import __version__
from humo.errors import HuMoError, RequestError, StorageError
from humo.files import DISK_FULL_ERRORS, storage_error
from humo.server.api_keys import ApiKeys
from humo.server.dependencies import CurrentService, Owner, RequestedJob, error_responses, find_service
from humo.server.material import material_router
from humo.server.metrics import prometheus_text
from humo.server.middleware import AuthMiddleware, BodyLimitMiddleware, error_response
from humo.server.model_details import published_models
from humo.server.request_fields import COUNT_NAMES, RawFields, body_schema
from humo.server.schemas import DeletedVideo, ErrorResponse, Model, ModelList, RemixRequest, Video, VideoList
from humo.server.service import ConflictError, NotFoundError, QueueFullError, Service
from humo.server.supervisor import WorkerPool

POLL_MILLISECONDS = 500
"""Polling interval that responses suggest to clients."""

EVENT_SECONDS = 0.25
"""Interval at which the event stream reads the state of its job."""

KEEPALIVE_SECONDS = 15.0
"""Longest time without data in an event stream."""

CLEANUP_SECONDS = 60.0
"""Interval at which expired jobs and files are removed."""

MAX_FORM_FIELDS = 100

DOCS = "/docs"
"""Path of the interactive documentation."""

SWAGGER = "/swagger"
"""Path of the documentation's scripts."""

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
"""HTTP status and ``code`` of each error; the nearest class in the method resolution order counts."""


def make_app(service: Service, keys: ApiKeys, workers: WorkerPool | None = None) -> FastAPI:
    """Create the application.

    Args:
        service: does the work.
        keys: API keys; without any, requests need none.
        workers: the service's workers, for ``/ready`` and ``/metrics``.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        cleanup = asyncio.create_task(_remove_expired_regularly(service))
        yield
        cleanup.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cleanup

    app = FastAPI(
        title="HuMo",
        summary="Generates a video of a person speaking or singing from text, reference images and audio.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page loads scripts from another host; `_add_docs` serves them from here
        redoc_url=None,
    )
    app.state.service, app.state.workers = service, workers
    for one in ROUTERS:
        app.include_router(one)
    app.add_middleware(BodyLimitMiddleware, max_bytes=service.settings.limits.body_bytes)
    settings = service.settings
    app.add_middleware(
        AuthMiddleware,
        keys=keys,
        local=settings.is_local,
        hosts=settings.allowed_hosts,
        embedded=bool(settings.embedders),
    )
    _add_error_handlers(app)
    _add_docs(app, home="/ui" if service.settings.web_ui else DOCS)
    return app


def _add_docs(app: FastAPI, home: str) -> None:
    """Serve the interactive documentation of the API, and lead from ``/`` to a page."""
    app.mount(SWAGGER, StaticFiles(packages=[("fastapi_swagger", "resources")]))

    @app.get(DOCS, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="HuMo API",
            swagger_js_url=f"{SWAGGER}/swagger-ui-bundle.js",
            swagger_css_url=f"{SWAGGER}/swagger-ui.css",
            swagger_favicon_url=f"{SWAGGER}/favicon-32x32.png",
        )

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse(home)


# -- routes -----------------------------------------------------------------------------------------------------------

router = APIRouter()


SUBMISSION: dict[str, Any] = {
    "requestBody": body_schema(),
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            "description": "repeating a key with the same request returns the same job",
        }
    ],
}
"""OpenAPI's description of a request that submits a video."""


@router.post(
    "/v1/videos",
    response_model=Video,
    responses=error_responses(400, 409, 413, 415, 429, 507),
    openapi_extra=SUBMISSION,
    summary="Submit a video",
)
async def create(request: Request, response: Response, service: CurrentService, owner: Owner) -> Video:
    """Store a job and return it. A worker generates the video when it is free."""
    response.headers["openai-poll-after-ms"] = str(POLL_MILLISECONDS)
    return await service.submit(await read_body(request), owner, _idempotency_key(request))


@router.post(
    "/v1/videos/sync",
    response_class=FileResponse,
    responses={
        200: {"content": {"video/mp4": {}}},
        **error_responses(400, 409, 413, 415, 429, 500, 507),
    },
    openapi_extra=SUBMISSION,
    summary="Generate a video and wait for it",
)
async def create_and_wait(request: Request, service: CurrentService, owner: Owner) -> Response:
    """Return the video in the response. The job is cancelled if the client closes the connection before."""
    fields = await read_body(request)
    if any(name in COUNT_NAMES for name, _ in fields):
        raise RequestError("n", "cannot be given here", "submit several videos with POST /v1/videos")
    video = await service.submit(fields, owner, _idempotency_key(request))
    while True:
        job = await asyncio.to_thread(service.find_job, video.id, owner)
        if job.state.has_ended:
            break
        if await request.is_disconnected():
            await asyncio.to_thread(service.cancel, job)
            return Response(status_code=499)
        await asyncio.sleep(EVENT_SECONDS)
    error = service.to_video(job).error
    if error is not None:
        return error_response(400 if error.code == "invalid_request" else 500, error.message, error.code)
    return content(job, service)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise RequestError("Idempotency-Key", f"has {len(key)} characters", "send 1 to 255 characters")
    return key


@router.get("/v1/videos", response_model=VideoList, responses=error_responses(400, 404), summary="List your videos")
def list_videos(
    service: CurrentService,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=100, description="maximum number of videos")] = 20,
    after: Annotated[str | None, Query(description="last_id of the previous page")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: newest first")] = "desc",
) -> VideoList:
    """Return one page of your videos, by default the newest."""
    videos, has_more = service.list_videos(owner, limit=limit, after=after, newest_first=order == "desc")
    first_id, last_id = (videos[0].id, videos[-1].id) if videos else (None, None)
    return VideoList(data=videos, first_id=first_id, last_id=last_id, has_more=has_more)


@router.get(
    "/v1/videos/{video_id}", response_model=Video, responses=error_responses(404), summary="Get the state of a video"
)
def retrieve(job: RequestedJob, service: CurrentService, response: Response) -> Video:
    """Return the job with its current state and progress."""
    response.headers["openai-poll-after-ms"] = str(POLL_MILLISECONDS)
    return service.to_video(job)


@router.get(
    "/v1/videos/{video_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **error_responses(404)},
    summary="Follow a video (server-sent events)",
)
async def events(job: RequestedJob, service: CurrentService) -> StreamingResponse:
    """Stream events until the job ends.

    Events ``progress`` and ``done`` hold the job. Events ``preview`` hold an image of the unfinished video.
    """
    stream = stream_events(service, job.id, job.owner)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.head("/v1/videos/{video_id}/content", include_in_schema=False)
@router.get(
    "/v1/videos/{video_id}/content",
    response_class=FileResponse,
    responses={
        200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}},
        206: {"description": "the bytes that the Range header asks for"},
        **error_responses(400, 404, 416),
    },
    summary="Download a video, its thumbnail or its metadata",
)
def content(
    job: RequestedJob,
    service: CurrentService,
    variant: Annotated[Variant, Query(description="which file; sidecar is the generation metadata")] = "video",
) -> FileResponse:
    """Return a file of a completed job."""
    path = service.output_file(job, variant)
    return FileResponse(path, media_type=MEDIA_TYPES[variant], filename=path.name)


@router.post(
    "/v1/videos/{video_id}/cancel", response_model=Video, responses=error_responses(404), summary="Cancel a video"
)
def cancel(job: RequestedJob, service: CurrentService) -> Video:
    """Cancel a job. It stays in the list with the state ``cancelled``."""
    return service.to_video(service.cancel(job))


@router.post(
    "/v1/videos/{video_id}/finish",
    response_model=Video,
    responses=error_responses(404, 507),
    summary="Finish a video early",
)
def finish(job: RequestedJob, service: CurrentService) -> Video:
    """End denoising after the current step. The video is then decoded and written as usual."""
    return service.to_video(service.finish(job))


@router.post(
    "/v1/videos/{video_id}/remix",
    response_model=Video,
    responses=error_responses(400, 404, 429),
    summary="Generate a video again with another prompt",
)
def remix(changes: RemixRequest, job: RequestedJob, service: CurrentService) -> Video:
    """Submit the request of a video again with the same inputs and settings, and the given fields changed."""
    return service.rerun(job, changes.model_dump(exclude_none=True))


@router.delete(
    "/v1/videos/{video_id}",
    response_model=DeletedVideo,
    responses=error_responses(404),
    summary="Delete a video",
)
def delete(job: RequestedJob, service: CurrentService) -> DeletedVideo:
    """Cancel a job, and remove it with all of its files."""
    service.delete(job)
    return DeletedVideo(id=job.id)


@router.get("/v1/models", response_model=ModelList, responses=error_responses(), summary="List the served models")
def models(service: CurrentService) -> ModelList:
    """Return the served models, each with its LoRAs and presets. The first is the default."""
    return ModelList(data=service.models(), published=published_models(service.settings.models))


@router.get("/v1/models/{model_id}", response_model=Model, responses=error_responses(404), summary="Get a served model")
def model(model_id: str, service: CurrentService) -> Model:
    """Return a served model with its LoRAs and presets."""
    return service.find_model(model_id)


@router.get("/health", summary="Check that the service is up")
async def health() -> dict[str, str]:
    """Return the status ``ok`` and the version."""
    return {"status": "ok", "version": __version__}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **error_responses()},
    summary="Metrics for Prometheus",
)
def metrics(request: Request, service: CurrentService) -> Response:
    """Return the number of jobs by state, the number of workers, and the process's memory and CPU time."""
    text = prometheus_text(service.queue, request.app.state.workers)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/ready", responses={503: {"model": ErrorResponse}}, summary="Check that videos can be generated")
def ready(request: Request, service: CurrentService) -> Response:
    """Check that the database answers and that a worker is running."""
    workers: WorkerPool | None = request.app.state.workers
    waiting = len(service.queue.unfinished())
    if workers is not None and not workers.running:
        return error_response(503, "no worker is running; see the service's log", "no_worker")
    return JSONResponse({"status": "ready", "waiting": waiting})


ROUTERS = (router, material_router)
"""All routes of the API."""

# -- bodies -----------------------------------------------------------------------------------------------------------


async def read_body(request: Request) -> RawFields:
    """Return the names and values of a body, files as bytes.

    Raises:
        RequestError: it is neither valid JSON nor a valid form, or has too many fields.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        try:
            fields = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise RequestError("body", "is not valid JSON", "send a JSON object") from None
        if not isinstance(fields, Mapping):
            raise RequestError("body", "is not a JSON object", 'send {"prompt": ...}')
        return list(fields.items())
    if content_type in ("multipart/form-data", "application/x-www-form-urlencoded"):
        try:
            async with request.form(max_files=MAX_FORM_FIELDS, max_fields=MAX_FORM_FIELDS) as form:
                return [
                    (name, await value.read() if isinstance(value, UploadFile) else value)
                    for name, value in form.multi_items()
                    if value != ""  # browsers and forms send fields that were left blank
                ]
        except (MultiPartException, HTTPException) as error:
            raise RequestError(
                "body", f"is not a valid form ({_text_of(error)})", "correct the form's encoding"
            ) from None
    raise HTTPException(415, "Content-Type: this type is not supported; send application/json or multipart/form-data")


def _text_of(error: Exception) -> str:
    return str(getattr(error, "message", None) or getattr(error, "detail", None) or error)


async def stream_events(service: Service, job_id: str, owner: str) -> AsyncIterator[bytes]:
    """Yield server-sent events of a job until it ends."""
    last_video: Video | None = None
    preview_time = 0.0
    sent = time.monotonic()
    while True:
        try:
            job = await asyncio.to_thread(service.find_job, job_id, owner)
        except NotFoundError:
            yield b"event: done\ndata: {}\n\n"
            return
        video = service.to_video(job)
        if video != last_video:
            last_video, sent = video, time.monotonic()
            name = "done" if job.state.has_ended else "progress"
            yield f"event: {name}\ndata: {video.model_dump_json()}\n\n".encode()
        if job.state.has_ended:
            return
        preview = service.store.running_path(job_id, ".png")
        with contextlib.suppress(OSError):
            if (changed := preview.stat().st_mtime) > preview_time:
                preview_time, sent = changed, time.monotonic()
                image = "data:image/png;base64," + base64.b64encode(preview.read_bytes()).decode()
                yield f"event: preview\ndata: {json.dumps({'id': job_id, 'image': image})}\n\n".encode()
        if time.monotonic() - sent > KEEPALIVE_SECONDS:
            sent = time.monotonic()
            yield b": keep-alive\n\n"
        await asyncio.sleep(EVENT_SECONDS)


async def _remove_expired_regularly(service: Service) -> None:
    while True:
        try:
            await asyncio.to_thread(service.remove_expired)
        except Exception:  # tried again after the interval
            logger.exception("removing expired jobs failed")
        await asyncio.sleep(CLEANUP_SECONDS)


# -- errors -----------------------------------------------------------------------------------------------------------


def _add_error_handlers(app: FastAPI) -> None:
    """Turn every exception into a response of the form `ErrorResponse`."""

    @app.exception_handler(HuMoError)
    async def humo_error(request: Request, error: HuMoError) -> JSONResponse:
        status, code = next(ERROR_CODES[kind] for kind in type(error).__mro__ if kind in ERROR_CODES)
        return error_response(status, find_service(request).store.redact_paths(str(error)), code, error.field)

    @app.exception_handler(OSError)
    async def os_error(request: Request, error: OSError) -> JSONResponse:
        if error.errno in DISK_FULL_ERRORS:  # while a large body was spooled to disk
            return await humo_error(request, storage_error(error))
        return await internal_error(request, error)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        return error_response(400, f"{field}: {first['msg']}; see /openapi.json", "invalid_request", field)

    @app.exception_handler(HTTPException)
    async def http_exception(_: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}
        code = codes.get(error.status_code, "invalid_request")
        response = error_response(error.status_code, str(error.detail), code)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def internal_error(_: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return error_response(500, "internal error; see the service's log", "internal_error")
