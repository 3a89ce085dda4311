"""HTTP routes of material beside the jobs: examples, the inputs of a video, its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from humo.media.verification import read_provenance
from humo.server.dependencies import CurrentService, RequestedJob, error_responses
from humo.server.examples import ExamplePart, find_example_file, read_examples

PART_TYPES: Mapping[ExamplePart, str] = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}

INPUT_TYPES: Mapping[str, str] = {".png": "image/png", ".wav": "audio/wav"}
"""Suffix of a stored input -> its type."""

material_router = APIRouter()


class ExampleDetails(BaseModel):
    """A request to start from, with its finished video."""

    id: str
    object: Literal["example"] = "example"
    prompt: str
    image: str | None = Field(None, description="address of its image")
    audio: str | None = Field(None, description="address of its audio")
    video: str | None = Field(None, description="address of the finished video")


class ExampleList(BaseModel):
    """All examples."""

    object: Literal["list"] = "list"
    data: list[ExampleDetails]


class Provenance(BaseModel):
    """Provenance of a finished video, read from the file itself."""

    id: str
    object: Literal["video.provenance"] = "video.provenance"
    record: bool = Field(description="whether it has the generation record")
    credentials: str | None = Field(description="content credentials: Trusted, Valid or Invalid; null without any")
    signer: str | None = Field(description="name in the certificate of the content credentials")
    is_ai_generated: bool = Field(description="whether the content credentials declare that it is AI-generated")
    watermark: bool = Field(description="whether the frames have the watermark")
    intact: bool = Field(description="whether all three are present, unchanged and belong together")


@material_router.get(
    "/v1/examples", response_model=ExampleList, responses=error_responses(), summary="List the examples"
)
def examples() -> ExampleList:
    """Return the examples that come with the package."""
    listed = []
    for name, example in read_examples().items():
        addresses = {part: f"/v1/examples/{name}/{part}" for part in example.files}
        image, audio, video = (addresses.get(part) for part in PART_TYPES)
        listed.append(ExampleDetails(id=name, prompt=example.prompt, image=image, audio=audio, video=video))
    return ExampleList(data=listed)


@material_router.get(
    "/v1/examples/{example}/{part}",
    response_class=FileResponse,
    responses={
        200: {"content": {media_type: {} for media_type in PART_TYPES.values()}},
        206: {"description": "the bytes that the Range header asks for"},
        **error_responses(400, 416),
    },
    summary="Get a file of an example",
)
def example_file(
    example: Annotated[str, Path(description="id of an example")],
    part: Annotated[ExamplePart, Path(description="which file")],
) -> FileResponse:
    """Return the image, the audio or the finished video of an example."""
    return FileResponse(find_example_file(example, part), media_type=PART_TYPES[part])


@material_router.get(
    "/v1/videos/{video_id}/inputs/{name}",
    response_class=FileResponse,
    responses={
        200: {"content": {media_type: {} for media_type in INPUT_TYPES.values()}},
        206: {"description": "the bytes that the Range header asks for"},
        **error_responses(404, 416),
    },
    summary="Get an input of a video",
)
def input_file(
    job: RequestedJob,
    service: CurrentService,
    name: Annotated[str, Path(description="an image or the audio in humo.request of the video")],
) -> FileResponse:
    """Return an image or the audio that a video was requested with, as the service stored it."""
    path = service.input_file(job, name)
    return FileResponse(path, media_type=INPUT_TYPES[path.suffix])


@material_router.get(
    "/v1/videos/{video_id}/provenance",
    response_model=Provenance,
    responses=error_responses(404),
    summary="Read a video's provenance",
)
def provenance(job: RequestedJob, service: CurrentService) -> Provenance:
    """Read generation record, content credentials and watermark from a finished video, as ``humo verify`` does."""
    report = read_provenance(service.output_file(job, "video"))
    credentials = report.credentials
    return Provenance(
        id=job.id,
        record=report.record is not None,
        credentials=None if credentials is None else credentials.state,
        signer=None if credentials is None else credentials.signer,
        is_ai_generated=credentials is not None and credentials.is_ai_generated,
        watermark=report.watermark.payload is not None,
        intact=report.is_intact,
    )
