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
from humo.jobs.generate import build_request, prepare_job
from humo.request import GenerationPlan
from humo.server.file_store import ENOUGH, Store, is_job_id, write
from humo.server.job_queue import JSON, Job, Ledger
from humo.server.schemas import OURS, Asked, Given, Video, address_in, sort, video_of
from humo.server.settings import Settings
from humo.server.upload_sanitizer import SUFFIXES, Gate, Kind, from_data_address
from humo.server.url_fetch import fetch


class BusyError(HuMoError):
    """More jobs are waiting than the service takes."""


class ConflictError(HuMoError):
    """A key that stands for another request already."""


class AbsentError(HuMoError):
    """There is no such job, or not yet what is asked for of it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Files that were let in: names in the store of pictures, in their order, and of the sound."""

    images: tuple[str, ...] = ()
    audio: str | None = None


class Service:
    """The jobs of this service, for whoever asks.

    Args:
        settings: of the service.
        store, ledger: its folder and its jobs.

    Attributes:
        gate: lets files in.
    """

    def __init__(self, settings: Settings, store: Store, ledger: Ledger) -> None:
        self.settings, self.store, self.ledger = settings, store, ledger
        self.gate = Gate(settings.limits)
        self._taking_in = asyncio.Lock()

    async def accept(
        self, given: Given, owner: str, idempotency_key: str | None = None, kept: Kept | None = None
    ) -> Video:
        """Take a request in: it is checked whole and stored before this returns.

        Args:
            given: names and values as they came; files as bytes.
            owner: who asks.
            idempotency_key: the same key and request is the same job.
            kept: files that were let in before, in place of files given.

        Raises:
            HuMoError: a field is at fault, nothing was stored.
            BusyError: too many are waiting.
            ConflictError: the key stands for another request.
        """
        asked = sort(given)
        model = self._model(asked.model)
        files = kept or await self._files(asked)
        if files.images and not _agrees(asked.fields.get("consent")):
            remedy = "send consent=true if everybody who is shown or heard has agreed, or leave the pictures out"
            raise RequestError("consent", "is needed for pictures of people", remedy)
        async with self._taking_in:  # several at a time would keep whoever asks for a job waiting
            return await asyncio.to_thread(self._store, asked, model, files, owner, idempotency_key)

    async def keep(self, content: bytes, kind: Kind, field: str) -> str:
        """Let a file in.

        Returns:
            its name in the store.

        Raises:
            HuMoError: it is refused, or there is no room.
        """
        admitted = await self.gate.admit(content, kind, field)
        return await asyncio.to_thread(self.store.keep, admitted, SUFFIXES[kind])

    def plan(self, given: Given, kept: Kept) -> GenerationPlan:
        """What would be made, without making it.

        Raises:
            HuMoError: a field is at fault.
        """
        asked = sort(given)
        return self._plan(asked.fields, self._model(asked.model), kept, f"video_{'0' * 32}")[1]

    def _model(self, name: str | None) -> str:
        models = self.settings.models
        if name is not None and name not in models:
            raise RequestError("model", f"{name[:60]!r} is not served here", f"there are {', '.join(models)}")
        return name or next(iter(models))

    async def _files(self, asked: Asked) -> Kept:
        """Pictures and sounds, each let in; one that is refused leaves nothing of the others but what is swept."""
        limits = self.settings.limits
        found: dict[Kind, list[str]] = {"image": [], "audio": []}
        most: dict[Kind, int] = {"image": limits.images, "audio": 1}
        for field, kind, value in asked.files:
            if len(found[kind]) == most[kind]:
                raise RequestError(field, "is one more than is taken", f"at most {most[kind]} of this kind")
            content = value
            if not isinstance(value, bytes):
                content = await asyncio.to_thread(self._content, address_in(value, field), kind, field)
            found[kind].append(await self.keep(content, kind, field))
        return Kept(tuple(found["image"]), next(iter(found["audio"]), None))

    def _content(self, address: str, kind: Kind, field: str) -> bytes:
        """What is at an address, or in it."""
        most = self.settings.limits.bytes_of(kind)
        if address.startswith("data:"):
            return from_data_address(address, most, field)
        if not self.settings.sources:
            raise RequestError(field, "names an address, and nothing is fetched here", "upload the file itself")
        return fetch(address, hosts=self.settings.sources, most=most, field=field)

    def _check_size(self, plan: GenerationPlan) -> None:
        geometry, most = plan.geometry, self.settings.most_pixels
        if geometry.width * geometry.height * geometry.frames > most:
            size = f"{geometry.frames} of {geometry.width} x {geometry.height} pixels"
            raise RequestError("frames", f"{size} are more than is made here", f"at most {most / 1e6:g} million in all")

    def _plan(
        self, given: Mapping[str, Any], model: str, kept: Kept, job_id: str
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """The fields as the ledger has them, and what they come to."""
        fields: dict[str, Any] = dict(given)
        if self.settings.models[model] is not None:
            fields["model"] = self.settings.models[model]
        if kept.images:
            fields["images"] = list(kept.images)
        if kept.audio is not None:
            fields["audio"] = kept.audio
        plan = prepare_job(build_request(self.store.fields(fields) | {"output": str(self.store.output(job_id))}))
        self._check_size(plan)
        return fields, plan

    def _store(self, asked: Asked, model: str, kept: Kept, owner: str, key: str | None) -> Video:
        job_id = _job_id(owner, key)
        fields, plan = self._plan(asked.fields, model, kept, job_id)
        settled = plan.request.model_dump(mode="json", exclude=set(OURS))
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
        if self.ledger.find(job_id) is None and len(self.ledger.unfinished()) >= self.settings.most_waiting:
            raise BusyError("queue", f"{self.settings.most_waiting} jobs are waiting already", "come back later")
        job = self.ledger.submit(job_id, owner, told)
        if job.asked["digest"] != told["digest"]:
            raise ConflictError(
                "Idempotency-Key", "stands for another request already", "take a new key for a new request"
            )
        return self.told(job)

    # -- of jobs that are there --------------------------------------------------------------------------------------

    def job(self, job_id: str, owner: str) -> Job:
        """A job of somebody.

        Raises:
            AbsentError: there is none of that name, or it is somebody else's.
        """
        job = self.ledger.find(job_id) if is_job_id(job_id) else None
        if job is None or job.owner != owner:
            raise AbsentError("id", f"there is no video {job_id[:60]!r}", "see GET /v1/videos")
        return job

    def told(self, job: Job) -> Video:
        """A job as clients know it."""
        return video_of(job, self.store.told(job.id), self.settings.keep_seconds)

    def file(self, job: Job, variant: str) -> Path:
        """A file of a finished job.

        Raises:
            AbsentError: it has not ended well, or not yet.
        """
        path = self.store.output(job.id, variant)
        if job.state.value != "completed" or not path.is_file():
            raise AbsentError("id", f"{job.id} is {job.state.value}", "wait until it is completed")
        return path

    def jobs(self, owner: str, *, limit: int, after: str | None, newest_first: bool) -> tuple[list[Video], bool]:
        """Some jobs of somebody, and whether there are more.

        Raises:
            AbsentError: there is no job ``after``.
        """
        border = None if after is None else self.job(after, owner)
        found = self.ledger.jobs(limit=limit + 1, owner=owner, after=border, newest_first=newest_first)
        return [self.told(job) for job in found[:limit]], len(found) > limit

    def cancel(self, job: Job) -> Job:
        """End a job; one that has ended stays as it is."""
        if not job.state.has_ended:
            self.ledger.cancel(job.id)
        return self.ledger.find(job.id) or job

    def finish(self, job: Job) -> Job:
        """Make do with what a job has come to by now, if it is at work."""
        if not job.state.has_ended:
            write(self.store.running(job.id, ENOUGH), b"now")
        return job

    def again(self, job: Job, changes: Mapping[str, Any]) -> Video:
        """Ask once more for what a job asked for, with some fields changed."""
        fields = {name: value for name, value in job.asked["fields"].items() if name not in (*_FILE_FIELDS, "model")}
        asked = Asked(fields=fields | dict(changes), files=[], model=job.asked["model"], user=job.asked["user"])
        return self._store(asked, job.asked["model"], kept_of(job), job.owner, None)

    def delete(self, job: Job) -> None:
        """End a job and remove all that is left of it."""
        self.cancel(job)
        self.ledger.forget(job.id)
        self.store.remove(job.id)

    def sweep(self, now: Callable[[], float] = time.time) -> int:
        """Remove what is older than it is kept.

        Returns:
            how many jobs went.
        """
        old = self.ledger.ended(now() - self.settings.keep_seconds)
        for job in old:
            self.delete(job)
        wanted: set[str] = set()

        def is_wanted(name: str) -> bool:  # asked of old files alone: most of the time, of none
            if not wanted:
                wanted.add("")
                for job in self.ledger.kept():
                    wanted.update((job.id, *_inputs(job.asked["fields"])))
            return name in wanted

        self.store.sweep(self.settings.keep_seconds, is_wanted, now)
        return len(old)


_FILE_FIELDS = ("images", "audio")


def kept_of(job: Job) -> Kept:
    """The files of a job."""
    fields = job.asked["fields"]
    return Kept(tuple(fields.get("images", ())), fields.get("audio"))


def _inputs(fields: Mapping[str, Any]) -> list[str]:
    return [*fields.get("images", ()), *([fields["audio"]] if "audio" in fields else [])]


def _agrees(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() in ("true", "1", "yes"))


def _job_id(owner: str, key: str | None) -> str:
    """A new name, or the one that follows from a client's key."""
    if key is None:
        return f"video_{secrets.token_hex(16)}"
    return f"video_{hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:32]}"


def _digest(value: JSON) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
