"""Bodies of responses, in the form of ``/v1/videos`` as vLLM-Omni, SGLang and OpenRouter offer it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from humo.geometry import FRAMES_PER_SECOND
from humo.server.job_queue import Job, JobState, JSONObject
from humo.server.model_details import ModelDetails, PublishedModel


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
    seconds_left: float | None = Field(None, description="estimated seconds until the video is done")
    queue_position: int | None = Field(None, description="place in the queue; 1 is the next video")
    variations: list[str] = Field(default_factory=list, description="IDs of all videos of a request with n above 1")
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
    progress: int = Field(ge=0, le=100, description="percent of the work; it never falls")
    model: str
    prompt: str
    seconds: str
    size: str
    seed: int | None = None
    remixed_from_video_id: str | None = None
    error: JobError | None = None
    humo: JobDetails


class RemixRequest(BaseModel):
    """Fields that change when a video is generated again."""

    prompt: str | None = Field(None, description="another prompt")
    seed: int | None = Field(None, description="another seed")


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


def video_from_job(
    job: Job, progress: JSONObject, retention_seconds: float, queue_position: int | None = None
) -> Video:
    """Return a job in the form that clients receive.

    Args:
        job: from the queue.
        progress: last progress that its worker wrote.
        retention_seconds: how long ended jobs are kept.
        queue_position: place among the queued jobs, from 1.
    """
    request, error = job.payload["request"], job.result.get("error")
    if job.state is JobState.CANCELLED:
        error = {"code": "cancelled", "message": "cancelled"}
    if job.state is not JobState.IN_PROGRESS:
        progress = {"fraction": job.result.get("fraction", 0)}
    return Video(
        id=job.id,
        created_at=int(job.created),
        completed_at=None if job.ended is None else int(job.ended),
        expires_at=None if job.ended is None else int(job.ended + retention_seconds),
        status=STATUS_OF_STATE[job.state],
        progress=100 if job.state is JobState.COMPLETED else min(99, int(100 * progress.get("fraction", 0))),
        model=job.payload["model"],
        prompt=request["prompt"],
        seconds=_requested_seconds(job.payload) or f"{request['frames'] / FRAMES_PER_SECOND:g}",
        size=f"{request['width']}x{request['height']}",
        seed=request["seed"],
        remixed_from_video_id=job.payload["remixed_from"],
        error=None if error is None else JobError(code=error["code"], message=error["message"]),
        humo=JobDetails(
            state=job.state,
            phase=progress.get("phase"),
            step=progress.get("done"),
            steps=progress.get("total"),
            seconds_left=progress.get("seconds_left"),
            queue_position=queue_position,
            request=request,
            notes=job.payload["notes"],
            timings=job.result.get("video", {}).get("timings"),
        ),
    )


def _requested_seconds(payload: JSONObject) -> str | None:
    """Return the length that a client asked for, as it wrote it; clients compare it with what they sent."""
    return None if payload["seconds"] is None else str(payload["seconds"])
