"""Parts of a request that routes get: the service, the owner, the job in the path."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from humo.server.job_queue import Job
from humo.server.middleware import request_owner
from humo.server.schemas import ErrorResponse
from humo.server.service import Service


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of a route's errors, with those that every route has."""
    return {status: {"model": ErrorResponse} for status in (401, 403, *statuses)}


def find_service(request: Request) -> Service:
    """Return the service of the application."""
    service: Service = request.app.state.service
    return service


def _owner(request: Request) -> str:
    return request_owner(request.scope)


CurrentService = Annotated[Service, Depends(find_service)]
Owner = Annotated[str, Depends(_owner)]
VideoId = Annotated[str, Path(description="id in the response of POST /v1/videos")]


def _job(video_id: VideoId, service: CurrentService, owner: Owner) -> Job:
    return service.find_job(video_id, owner)


RequestedJob = Annotated[Job, Depends(_job)]
