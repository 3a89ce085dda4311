"""What the service does, without a word of HTTP: takes jobs in, tells of them, ends them, sweeps up after them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.errors import HuMoError, RequestError
from humo.jobs.generate import build_request, plan_job
from humo.jobs.inputs import stored_audio_length
from humo.request import GenerationPlan
from humo.server.file_store import FINISH_REQUESTED, FileStore, is_job_id, write_file
from humo.server.job_queue import Job, JobQueue, JSONObject
from humo.server.schemas import SERVER_FIELDS, ParsedRequest, RawFields, Video, file_url, parse_fields, video_from_job
from humo.server.settings import Settings
from humo.server.upload_sanitizer import SANITIZED_SUFFIXES, MediaKind, UploadSanitizer, decode_data_url
from humo.server.url_fetch import fetch_url


class QueueFullError(HuMoError):
    """More jobs are waiting than the service takes."""


class ConflictError(HuMoError):
    """A key that stands for another request already."""


class NotFoundError(HuMoError):
    """There is no such job, or not yet what is asked for of it."""


@dataclass(frozen=True, slots=True)
class StoredInputs:
    """Files that were let in: names in the store of pictures, in their order, and of the sound."""

    images: tuple[str, ...] = ()
    audio: str | None = None


class Service:
    """The jobs of this service, for whoever asks.

    Args:
        settings: of the service.
        store, queue: its folder and its jobs.

    Attributes:
        gate: lets files in.
    """

    def __init__(self, settings: Settings, store: FileStore, queue: JobQueue) -> None:
        self.settings, self.store, self.queue = settings, store, queue
        self.sanitizer = UploadSanitizer(settings.limits)
        self._taking_in = asyncio.Lock()

    async def accept(
        self, given: RawFields, owner: str, idempotency_key: str | None = None, kept: StoredInputs | None = None
    ) -> Video:
        """Take a request in: it is checked whole and stored before this returns.

        Args:
            given: names and values as they came; files as bytes.
            owner: who asks.
            idempotency_key: the same key and request is the same job.
            kept: files that were let in before, in place of files given.

        Raises:
            HuMoError: a field is at fault, nothing was stored.
            QueueFullError: too many are waiting.
            ConflictError: the key stands for another request.
        """
        asked = parse_fields(given)
        model = self._model(asked.model)
        files = kept or await self._files(asked)
        if files.images and not _is_true(asked.fields.get("consent")):
            remedy = "send consent=true if everybody who is shown or heard has agreed, or leave the pictures out"
            raise RequestError("consent", "is needed for pictures of people", remedy)
        async with self._taking_in:  # several at a time would keep whoever asks for a job waiting
            return await asyncio.to_thread(self._enqueue, asked, model, files, owner, idempotency_key)

    async def store_input(self, content: bytes, kind: MediaKind, field: str) -> str:
        """Let a file in.

        Returns:
            its name in the store.

        Raises:
            HuMoError: it is refused, or there is no room.
        """
        admitted = await self.sanitizer.sanitize(content, kind, field)
        return await asyncio.to_thread(self.store.save_input, admitted, SANITIZED_SUFFIXES[kind])

    def plan(self, given: RawFields, kept: StoredInputs) -> GenerationPlan:
        """What would be made, without making it.

        Raises:
            HuMoError: a field is at fault.
        """
        asked = parse_fields(given)
        return self._plan(asked.fields, self._model(asked.model), kept, f"video_{'0' * 32}")[1]

    def _model(self, name: str | None) -> str:
        models = self.settings.models
        if name is not None and name not in models:
            raise RequestError("model", f"{name[:60]!r} is not served here", f"there are {', '.join(models)}")
        return name or next(iter(models))

    async def _files(self, asked: ParsedRequest) -> StoredInputs:
        """Pictures and sounds, each let in; one that is refused leaves nothing of the others but what is swept."""
        limits = self.settings.limits
        found: dict[MediaKind, list[str]] = {"image": [], "audio": []}
        most: dict[MediaKind, int] = {"image": limits.images, "audio": 1}
        for field, kind, value in asked.files:
            if len(found[kind]) == most[kind]:
                raise RequestError(field, "is one more than is taken", f"at most {most[kind]} of this kind")
            content = value
            if not isinstance(value, bytes):
                content = await asyncio.to_thread(self._content, file_url(value, field), kind, field)
            found[kind].append(await self.store_input(content, kind, field))
        return StoredInputs(tuple(found["image"]), next(iter(found["audio"]), None))

    def _content(self, address: str, kind: MediaKind, field: str) -> bytes:
        """What is at an address, or in it."""
        most = self.settings.limits.file_bytes(kind)
        if address.startswith("data:"):
            return decode_data_url(address, most, field)
        if not self.settings.fetch_hosts:
            raise RequestError(field, "names an address, and nothing is fetched here", "upload the file itself")
        return fetch_url(address, allowed_hosts=self.settings.fetch_hosts, max_bytes=most, field=field)

    def _check_size(self, plan: GenerationPlan) -> None:
        geometry, most = plan.geometry, self.settings.max_video_pixels
        if geometry.width * geometry.height * geometry.frames > most:
            size = f"{geometry.frames} of {geometry.width} x {geometry.height} pixels"
            raise RequestError("frames", f"{size} are more than is made here", f"at most {most / 1e6:g} million in all")

    def _plan(
        self, given: Mapping[str, Any], model: str, kept: StoredInputs, job_id: str
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """The fields as the queue has them, and what they come to."""
        fields: dict[str, Any] = dict(given)
        if self.settings.models[model] is not None:
            fields["model"] = self.settings.models[model]
        if kept.images:
            fields["images"] = list(kept.images)
        if kept.audio is not None:
            fields["audio"] = kept.audio
        request = build_request(self.store.resolve_inputs(fields) | {"output": str(self.store.output_path(job_id))})
        plan = plan_job(request, stored_audio_length(request))
        self._check_size(plan)
        return fields, plan

    def _enqueue(self, asked: ParsedRequest, model: str, kept: StoredInputs, owner: str, key: str | None) -> Video:
        job_id = _job_id(owner, key)
        fields, plan = self._plan(asked.fields, model, kept, job_id)
        settled = plan.request.model_dump(mode="json", exclude=set(SERVER_FIELDS))
        settled |= {name: fields[name] for name in ("images", "audio") if name in fields}
        told = {
            "fields": fields,
            "request": settled,
            "notes": list(plan.notes),
            "passes": plan.passes,
            "tokens": plan.geometry.tokens,
            "model": model,
            "user": asked.user,
            "digest": _digest({"model": model, "user": asked.user, "fields": fields}),
        }
        if self.queue.find(job_id) is None and len(self.queue.unfinished()) >= self.settings.max_waiting_jobs:
            raise QueueFullError(
                "queue", f"{self.settings.max_waiting_jobs} jobs are waiting already", "come back later"
            )
        job = self.queue.submit(job_id, owner, told)
        if job.payload["digest"] != told["digest"]:
            raise ConflictError(
                "Idempotency-Key", "stands for another request already", "take a new key for a new request"
            )
        return self.to_video(job)

    # -- of jobs that are there --------------------------------------------------------------------------------------

    def find_job(self, job_id: str, owner: str) -> Job:
        """A job of somebody.

        Raises:
            NotFoundError: there is none of that name, or it is somebody else's.
        """
        job = self.queue.find(job_id) if is_job_id(job_id) else None
        if job is None or job.owner != owner:
            raise NotFoundError("id", f"there is no video {job_id[:60]!r}", "see GET /v1/videos")
        return job

    def to_video(self, job: Job) -> Video:
        """A job as clients know it."""
        return video_from_job(job, self.store.read_progress(job.id), self.settings.retention_seconds)

    def output_file(self, job: Job, variant: str) -> Path:
        """A file of a finished job.

        Raises:
            NotFoundError: it has not ended well, or not yet.
        """
        path = self.store.output_path(job.id, variant)
        if job.state.value != "completed" or not path.is_file():
            raise NotFoundError("id", f"{job.id} is {job.state.value}", "wait until it is completed")
        return path

    def list_videos(self, owner: str, *, limit: int, after: str | None, newest_first: bool) -> tuple[list[Video], bool]:
        """Some jobs of somebody, and whether there are more.

        Raises:
            NotFoundError: there is no job ``after``.
        """
        border = None if after is None else self.find_job(after, owner)
        found = self.queue.jobs(limit=limit + 1, owner=owner, after=border, newest_first=newest_first)
        return [self.to_video(job) for job in found[:limit]], len(found) > limit

    def cancel(self, job: Job) -> Job:
        """End a job; one that has ended stays as it is."""
        if not job.state.has_ended:
            self.queue.cancel(job.id)
        return self.queue.find(job.id) or job

    def finish(self, job: Job) -> Job:
        """Make do with what a job has come to by now, if it is at work."""
        if not job.state.has_ended:
            write_file(self.store.running_path(job.id, FINISH_REQUESTED), b"now")
        return job

    def rerun(self, job: Job, changes: Mapping[str, Any]) -> Video:
        """Ask once more for what a job asked for, with some fields changed."""
        fields = {name: value for name, value in job.payload["fields"].items() if name not in (*_FILE_FIELDS, "model")}
        asked = ParsedRequest(
            fields=fields | dict(changes), files=[], model=job.payload["model"], user=job.payload["user"]
        )
        return self._enqueue(asked, job.payload["model"], stored_inputs(job), job.owner, None)

    def delete(self, job: Job) -> None:
        """End a job and remove all that is left of it."""
        self.cancel(job)
        self.queue.delete(job.id)
        self.store.remove(job.id)

    def sweep(self, now: Callable[[], float] = time.time) -> int:
        """Remove what is older than it is kept.

        Returns:
            how many jobs went.
        """
        old = self.queue.ended_before(now() - self.settings.retention_seconds)
        for job in old:
            self.delete(job)
        wanted: set[str] = set()

        def is_wanted(name: str) -> bool:  # asked of old files alone: most of the time, of none
            if not wanted:
                wanted.add("")
                for job in self.queue.all_jobs():
                    wanted.update((job.id, *_inputs(job.payload["fields"])))
            return name in wanted

        self.store.remove_expired(self.settings.retention_seconds, is_wanted, now)
        return len(old)


_FILE_FIELDS = ("images", "audio")


def stored_inputs(job: Job) -> StoredInputs:
    """The files of a job."""
    fields = job.payload["fields"]
    return StoredInputs(tuple(fields.get("images", ())), fields.get("audio"))


def _inputs(fields: Mapping[str, Any]) -> list[str]:
    return [*fields.get("images", ()), *([fields["audio"]] if "audio" in fields else [])]


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() in ("true", "1", "yes"))


def _job_id(owner: str, key: str | None) -> str:
    """A new name, or the one that follows from a client's key."""
    if key is None:
        return f"video_{secrets.token_hex(16)}"
    return f"video_{hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:32]}"


def _digest(value: JSONObject) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
