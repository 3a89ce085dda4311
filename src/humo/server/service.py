"""The service without HTTP: submits, lists, cancels and deletes jobs, and removes expired files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humo.checkpoints.model_folder import ModelFolder, find_model_folder, open_model_folder
from humo.errors import CheckpointError, HuMoError, RequestError
from humo.jobs.generate import build_request, plan_job
from humo.jobs.inputs import stored_audio_length
from humo.jobs.loras import check_lora, strengths_of
from humo.loras import LoraChoice, parse_lora
from humo.plan import GenerationPlan
from humo.request_presets import RequestPreset, request_presets
from humo.server.file_store import FINISH_REQUESTED, FileStore, is_job_id, write_file
from humo.server.job_queue import Job, JobQueue, JobState, JSONObject
from humo.server.model_details import describe_model, guided_model
from humo.server.request_fields import SERVER_FIELDS, ParsedRequest, RawFields, file_url, parse_fields
from humo.server.schemas import Model, Video, video_from_job
from humo.server.settings import Settings
from humo.server.upload_sanitizer import SANITIZED_SUFFIXES, MediaKind, UploadSanitizer, decode_data_url
from humo.server.url_fetch import fetch_url

CONSENT_REMEDY = (
    "send consent=true if everyone in the images and the audio has agreed, or send no images; "
    "for clients that cannot send it, an operator may start the service with --consent-by-operator"
)


class QueueFullError(HuMoError):
    """The queue holds as many unfinished jobs as `Settings.max_waiting_jobs` allows."""


class ConflictError(HuMoError):
    """An idempotency key was already used for a different request."""


class NotFoundError(HuMoError):
    """The job does not exist, or does not have the requested file yet."""


@dataclass(frozen=True, slots=True)
class StoredInputs:
    """Names of a request's sanitized inputs in the file store: images in order, and the audio."""

    images: tuple[str, ...] = ()
    audio: str | None = None


class Service:
    """Jobs of all owners. An owner is the name of an API key.

    Args:
        settings: settings of the service.
        store: files.
        queue: jobs.

    Attributes:
        sanitizer: decodes uploads.
    """

    def __init__(self, settings: Settings, store: FileStore, queue: JobQueue) -> None:
        self.settings, self.store, self.queue = settings, store, queue
        self.sanitizer = UploadSanitizer(settings.limits)
        self._submit_lock = asyncio.Lock()
        self._percent: dict[str, int] = {}  # highest that clients received, so that it never falls

    async def submit(self, fields: RawFields, owner: str, idempotency_key: str | None = None) -> Video:
        """Submit a job. The request is fully checked and stored before this returns.

        Args:
            fields: names and values as the client sent them; files as bytes.
            owner: who submits.
            idempotency_key: a repeated key with the same request returns the same job.

        Raises:
            HuMoError: a field is wrong; nothing was stored.
            QueueFullError: too many jobs are unfinished.
            ConflictError: the key was used for a different request.
        """
        parsed = parse_fields(fields)
        model = self._model_name(parsed.model)
        inputs = await self._store_inputs(parsed)
        if inputs.images and not _is_true(parsed.fields.get("consent")):
            if not self.settings.consent_by_operator:
                raise RequestError("consent", "is required with images of people", CONSENT_REMEDY)
            parsed.fields |= {"consent": True, "consent_by": "operator"}
            parsed.notes.append("consent was declared by the operator of the service")
        async with self._submit_lock:  # parallel submissions would delay every other request
            return await asyncio.to_thread(self._enqueue_all, parsed, model, inputs, owner, idempotency_key)

    async def store_input(self, content: bytes, kind: MediaKind, field: str) -> str:
        """Sanitize a file and store it.

        Returns:
            its name in the file store.

        Raises:
            HuMoError: the file is rejected, or the disk is full.
        """
        sanitized = await self.sanitizer.sanitize(content, kind, field)
        return await asyncio.to_thread(self.store.save_input, sanitized, SANITIZED_SUFFIXES[kind])

    def _model_name(self, name: str | None) -> str:
        models = self.settings.models
        if name is not None and name not in models:
            raise RequestError("model", f"{name[:60]!r} is not served", f"choose one of {', '.join(models)}")
        return name or next(iter(models))

    async def _store_inputs(self, parsed: ParsedRequest) -> StoredInputs:
        """Store all files of a request. If one is rejected, `remove_expired` removes the others."""
        limits = self.settings.limits
        names: dict[MediaKind, list[str]] = {"image": [], "audio": []}
        max_files: dict[MediaKind, int] = {"image": limits.images, "audio": 1}
        for field, kind, value in parsed.files:
            if len(names[kind]) == max_files[kind]:
                problem = f"exceeds the limit of {max_files[kind]} {kind} file(s)"
                raise RequestError(field, problem, "send fewer files")
            content = value
            if not isinstance(value, bytes):
                content = await asyncio.to_thread(self._read_url, file_url(value, field), kind, field)
            names[kind].append(await self.store_input(content, kind, field))
        return StoredInputs(tuple(names["image"]), next(iter(names["audio"]), None))

    def _read_url(self, url: str, kind: MediaKind, field: str) -> bytes:
        max_bytes = self.settings.limits.file_bytes(kind)
        if url[:5].lower() == "data:":
            return decode_data_url(url, max_bytes, field)
        if not self.settings.fetch_hosts:
            raise RequestError(field, "is a URL, and this service fetches none", "upload the file itself")
        return fetch_url(url, allowed_hosts=self.settings.fetch_hosts, max_bytes=max_bytes, field=field)

    def _check_size(self, plan: GenerationPlan) -> None:
        geometry, limit = plan.geometry, self.settings.max_video_pixels
        pixels = geometry.width * geometry.height * geometry.frames
        if pixels > limit:
            size = f"{geometry.frames} frames of {geometry.width} x {geometry.height} are {pixels / 1e6:.0f} megapixels"
            raise RequestError("frames", f"{size}, more than allowed", f"request at most {limit / 1e6:g} megapixels")

    def _resolve(
        self, fields: Mapping[str, Any], model: str, inputs: StoredInputs, job_id: str
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """Return the fields to store, and the plan that they resolve to."""
        stored: dict[str, Any] = dict(fields)
        if self.settings.models[model] is not None:
            stored["model"] = self.settings.models[model]
        if inputs.images:
            stored["images"] = list(inputs.images)
        if inputs.audio is not None:
            stored["audio"] = inputs.audio
        output = str(self.store.output_path(job_id))
        request = build_request(self.store.resolve_inputs(stored) | {"output": output})
        plan = plan_job(request, stored_audio_length(request), self.settings.loras)
        self._check_size(plan)
        if "seed" in stored:
            stored["seed"] = plan.request.seed  # a random one is drawn once
        return stored, plan

    def _resolve_leniently(
        self, parsed: ParsedRequest, model: str, inputs: StoredInputs, job_id: str
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """Resolve a request without the fields of other services that the model refuses; note each of them."""
        while True:
            try:
                return self._resolve(parsed.fields, model, inputs, job_id)
            except RequestError as error:
                if error.field not in parsed.lenient & parsed.fields.keys():
                    raise
                parsed.notes.append(f"{error.field} was ignored: {parsed.fields.pop(error.field)} {error.problem}")

    def _enqueue_all(
        self, parsed: ParsedRequest, model: str, inputs: StoredInputs, owner: str, key: str | None
    ) -> Video:
        """Submit a job for each video of a request, with one seed after the other; return the first."""
        first = self._enqueue(parsed, model, inputs, owner, key)
        ids = [first.id]
        for number in range(1, parsed.count):
            assert first.seed is not None
            one = parsed.model_copy(update={"fields": parsed.fields | {"seed": first.seed + number}})
            own_key = None if key is None else f"{key}/{number}"
            ids.append(self._enqueue(one, model, inputs, owner, own_key).id)
        if len(ids) == 1:
            return first
        return first.model_copy(update={"humo": first.humo.model_copy(update={"variations": ids})})

    def _enqueue(
        self,
        parsed: ParsedRequest,
        model: str,
        inputs: StoredInputs,
        owner: str,
        key: str | None,
        remixed_from: str | None = None,
    ) -> Video:
        job_id = _job_id(owner, key)
        fields, plan = self._resolve_leniently(parsed, model, inputs, job_id)
        resolved = plan.request.model_dump(mode="json", exclude=set(SERVER_FIELDS))
        resolved |= {name: fields[name] for name in ("images", "audio") if name in fields}
        loras = self._used_loras(plan)
        resolved["loras"] = [str(LoraChoice(name, strengths_of(plan.request)[Path(loras[name])])) for name in loras]
        payload = {
            "fields": fields,
            "loras": loras,
            "request": resolved,
            "notes": [*parsed.notes, *plan.notes],
            "passes": plan.passes,
            "tokens": plan.geometry.tokens,
            "model": model,
            "user": parsed.user,
            "seconds": parsed.fields.get("seconds"),
            "remixed_from": remixed_from,
            "digest": _digest({"model": model, "user": parsed.user, "fields": fields}),
        }
        if self.queue.find(job_id) is None and len(self.queue.unfinished()) >= self.settings.max_waiting_jobs:
            problem = f"already holds {self.settings.max_waiting_jobs} jobs"
            raise QueueFullError("queue", problem, "try again later")
        job = self.queue.submit(job_id, owner, payload)
        if job.payload["digest"] != payload["digest"]:
            problem = "was already used for a different request"
            raise ConflictError("Idempotency-Key", problem, "use a new key for a new request")
        return self.to_video(job)

    def _used_loras(self, plan: GenerationPlan) -> dict[str, str]:
        """Return name -> file of the LoRAs of a plan."""
        used = {str(path) for path in strengths_of(plan.request)}
        return {name: file for name, file in self.settings.loras.items() if file in used}

    def models(self) -> list[Model]:
        """Return the served models, each with its settings, and the LoRAs and presets that fit it."""
        folders = {name: open_model_folder(find_model_folder(path)) for name, path in self.settings.models.items()}
        models = []
        for name, folder in folders.items():
            presets, guided = self.presets(name), guided_model(folder, folders)
            details = describe_model(name, folder, guided, presets)
            names = [preset.name for preset in presets]
            models.append(Model(id=name, loras=self.loras(name), presets=names, humo=details))
        return models

    def loras(self, model: str) -> list[str]:
        """Return the names of the served LoRAs that fit a served model."""
        folder = open_model_folder(find_model_folder(self.settings.models[model]))
        return [name for name, file in self.settings.loras.items() if _fits(Path(file), folder)]

    def presets(self, model: str) -> list[RequestPreset]:
        """Return the presets for a served model, whose LoRAs are all served."""
        family = open_model_folder(find_model_folder(self.settings.models[model])).preset
        loras = set(self.loras(model))
        return [
            preset
            for preset in request_presets().values()
            if preset.suits(family) and {parse_lora(lora).name for lora in preset.fields.get("loras", ())} <= loras
        ]

    # -- existing jobs ------------------------------------------------------------------------------------------------

    def find_job(self, job_id: str, owner: str) -> Job:
        """Return a job of an owner.

        Raises:
            NotFoundError: it does not exist, or belongs to another owner.
        """
        job = self.queue.find(job_id) if is_job_id(job_id) else None
        if job is None or job.owner != owner:
            raise NotFoundError("id", f"there is no video {job_id[:60]!r}", "list your videos with GET /v1/videos")
        return job

    def to_video(self, job: Job, queue: Sequence[str] | None = None) -> Video:
        """Return a job in the form that clients receive.

        Args:
            job: from the queue.
            queue: IDs of the queued jobs in their order; by default they are read if the job is queued.
        """
        if queue is None:
            queue = self.queued_ids() if job.state is JobState.QUEUED else ()
        position = queue.index(job.id) + 1 if job.id in queue else None
        progress = self.store.read_progress(job.id)
        video = video_from_job(job, progress, self.settings.retention_seconds, position)
        self._percent[job.id] = max(self._percent.get(job.id, 0), video.progress)
        return video.model_copy(update={"progress": self._percent[job.id]})

    def queued_ids(self) -> list[str]:
        """Return the IDs of the jobs that wait for a worker, the next one first."""
        queued = [job for job in self.queue.unfinished() if job.state is JobState.QUEUED]
        return [job.id for job in sorted(queued, key=lambda job: job.created)]

    def input_file(self, job: Job, name: str) -> Path:
        """Return the path of an input of a job, by its name in the resolved request.

        Raises:
            NotFoundError: the job has no such input.
        """
        if name not in _input_names(job.payload["fields"]) or not self.store.input_path(name).is_file():
            raise NotFoundError("name", f"{job.id} has no input {name[:80]!r}", "see humo.request of the video")
        return self.store.input_path(name)

    def output_file(self, job: Job, variant: str) -> Path:
        """Return the path of a file of a completed job.

        Raises:
            NotFoundError: the job is not completed.
        """
        path = self.store.output_path(job.id, variant)
        if job.state.value != "completed" or not path.is_file():
            raise NotFoundError("id", f"{job.id} is {job.state.value}", "wait until it is completed")
        return path

    def list_videos(self, owner: str, *, limit: int, after: str | None, newest_first: bool) -> tuple[list[Video], bool]:
        """Return one page of an owner's jobs, and whether more follow.

        Raises:
            NotFoundError: there is no job ``after``.
        """
        last = None if after is None else self.find_job(after, owner)
        jobs = self.queue.jobs(limit=limit + 1, owner=owner, after=last, newest_first=newest_first)
        queue = self.queued_ids() if any(job.state is JobState.QUEUED for job in jobs) else ()
        return [self.to_video(job, queue) for job in jobs[:limit]], len(jobs) > limit

    def cancel(self, job: Job) -> Job:
        """Cancel a job; one that has ended does not change."""
        if not job.state.has_ended:
            self.queue.cancel(job.id)
        return self.queue.find(job.id) or job

    def finish(self, job: Job) -> Job:
        """Ask the worker to end denoising after the current step, and to decode what there is."""
        if not job.state.has_ended:
            write_file(self.store.running_path(job.id, FINISH_REQUESTED), b"finish\n")
        return job

    def rerun(self, job: Job, changes: Mapping[str, Any]) -> Video:
        """Submit the request of a job again with some fields changed."""
        fields = {name: value for name, value in job.payload["fields"].items() if name not in (*_FILE_FIELDS, "model")}
        model, user = job.payload["model"], job.payload["user"]
        parsed = ParsedRequest(fields=fields | dict(changes), files=[], model=model, user=user)
        return self._enqueue(parsed, model, stored_inputs(job), job.owner, None, remixed_from=job.id)

    def find_model(self, name: str) -> Model:
        """Return a served model.

        Raises:
            NotFoundError: it is not served.
        """
        for model in self.models():
            if model.id == name:
                return model
        raise NotFoundError("model", f"{name[:60]!r} is not served", f"choose one of {', '.join(self.settings.models)}")

    def delete(self, job: Job) -> None:
        """Cancel a job, and remove it with its files."""
        self.cancel(job)
        self.queue.delete(job.id)
        self.store.remove(job.id)
        self._percent.pop(job.id, None)

    def remove_expired(self, now: Callable[[], float] = time.time) -> int:
        """Remove jobs and files past their retention time.

        Returns:
            number of removed jobs.
        """
        expired = self.queue.ended_before(now() - self.settings.retention_seconds)
        for job in expired:
            self.delete(job)
        referenced: set[str] = set()

        def is_referenced(name: str) -> bool:  # called for old files only, so that jobs are rarely read
            if not referenced:
                referenced.add("")
                for job in self.queue.all_jobs():
                    referenced.update((job.id, *_input_names(job.payload["fields"])))
            return name in referenced

        self.store.remove_expired(self.settings.retention_seconds, is_referenced, now)
        return len(expired)


_FILE_FIELDS = ("images", "audio")


def stored_inputs(job: Job) -> StoredInputs:
    """Return the names of a job's inputs."""
    fields = job.payload["fields"]
    return StoredInputs(tuple(fields.get("images", ())), fields.get("audio"))


def _input_names(fields: Mapping[str, Any]) -> list[str]:
    return [*fields.get("images", ()), *([fields["audio"]] if "audio" in fields else [])]


def _fits(lora: Path, model: ModelFolder) -> bool:
    try:
        check_lora(lora, model.architectures["transformer"])
    except CheckpointError:
        return False
    return True


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() in ("true", "1", "yes"))


def _job_id(owner: str, key: str | None) -> str:
    """Return a random job ID, or the one derived from an idempotency key."""
    if key is None:
        return f"video_{secrets.token_hex(16)}"
    return f"video_{hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()[:32]}"


def _digest(value: JSONObject) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
