"""The web page at ``/ui``: one column on the same service as the HTTP API, without logic of its own.

prompt, images, audio -> summary of the plan -> progress and preview -> video -> rerun
                                                                      -> history
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from humo.errors import HuMoError
from humo.jobs.generate import read_preset
from humo.request import GenerateRequest, parse_request
from humo.server.job_queue import Job
from humo.server.middleware import request_owner
from humo.server.request_fields import SERVER_FIELDS
from humo.server.service import NotFoundError, Service, StoredInputs, stored_inputs
from humo.server.upload_sanitizer import MediaKind
from humo.server.webui import html
from humo.server.webui.form import examples_folder, read_examples, widget
from humo.server.webui.gradio_proxy import GradioProxy
from humo.server.webui.uploads import Uploads

PATH = "/ui"

POLL_SECONDS = 0.3
"""Interval at which the page reads the state of the job that it shows."""

HISTORY_SECONDS = 1.0
"""Interval at which the history is refreshed while one of its jobs is unfinished."""

UPLOAD_AREA_PIXELS = 226
"""Height of the upload area for images."""

MAX_SESSIONS = 500
"""Open pages whose state is kept; each takes some tens of kilobytes."""

HISTORY_VIDEOS = 24
"""Videos in the history."""

ESTIMATE_JOBS = 20
"""Latest jobs from which time and memory of the next one are estimated."""

MAIN_SETTINGS = ("seconds", "seed", "steps", "preset")
"""Settings that are always visible."""

PLACED_ELSEWHERE = frozenset({"prompt", "consent", "frames", *MAIN_SETTINGS})
MORE_SETTINGS = tuple(name for name in GenerateRequest.model_fields if name not in SERVER_FIELDS | PLACED_ELSEWHERE)
"""Settings under "More settings"."""

Updates = dict[Any, Any]
"""Gradio component -> its new value."""

UploadedFile = Mapping[str, Any]
"""Gradio's description of a file; its path is that of an `Upload`."""

NO_INPUTS: Mapping[str, Any] = {"images": [], "audio": None}


def mount(app: FastAPI, service: Service) -> FastAPI:
    """Mount the page on the application at `PATH`."""
    os.environ["GRADIO_TEMP_DIR"] = str((service.store.folder / "uploads").absolute())  # Gradio copies files elsewhere
    uploads = Uploads(service.store, service.settings.limits)
    page = Page(service, uploads)
    font = ["system-ui", "sans-serif"]
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page.blocks,
        PATH,
        run_history=False,
        mcp_server=False,
        max_file_size=service.settings.limits.audio_bytes,
        allowed_paths=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=gr.themes.Default(font=font, font_mono=["monospace"]),
        css=html.STYLE,
        footer_links=[],
    )
    gradio_app = mounted.routes[-1]
    assert isinstance(gradio_app, Mount)
    gradio_app.app = GradioProxy(gradio_app.app, uploads)
    return mounted


class Page:
    """Components of the page and their event handlers.

    Args:
        service: the service, which does all the work.
        uploads: raw files that were uploaded to the page.
    """

    def __init__(self, service: Service, uploads: Uploads) -> None:
        self._service, self._uploads = service, uploads
        self._examples = examples_folder()
        with gr.Blocks(title="HuMo", analytics_enabled=False) as self.blocks, gr.Column(elem_classes="humo-column"):
            self._build_inputs()
            self._build_settings()
            self._build_output()
            self._connect()
        self.blocks.state_session_capacity = MAX_SESSIONS

    # -- components ---------------------------------------------------------------------------------------------------

    def _build_inputs(self) -> None:
        gr.Markdown("# HuMo\nGenerate a video of a person speaking or singing from text, reference images and audio.")
        self.job_id = gr.State("")
        self.inputs = gr.State(dict(NO_INPUTS))
        self.prompt = gr.Textbox(label="Prompt", lines=3, max_length=10_000, elem_id="prompt")
        with gr.Row():
            self.images = gr.File(
                label="Reference images",
                file_count="multiple",
                file_types=["image"],
                height=UPLOAD_AREA_PIXELS,
                elem_id="images",
            )
            self.audio = gr.Audio(
                label="Audio that the person speaks or sings",
                sources=["upload", "microphone"],
                type="filepath",
                buttons=[],  # the default share button sends the audio to another host
                elem_id="audio",
            )
        self.previews = gr.HTML()
        self.remove_files = gr.Button("Remove images and audio", size="sm", visible=False, elem_id="remove-files")
        self.consent = gr.Checkbox(
            label="Everyone in the images and the audio has agreed to this use.", visible=False, elem_id="consent"
        )
        if self._examples is not None:
            choices = ["", *read_examples(self._examples)]
            self.example = gr.Dropdown(label="Or start from an example", choices=choices, value="", elem_id="example")

    def _build_settings(self) -> None:
        models = list(self._service.settings.models)
        preset = read_preset(parse_request({"prompt": "-", "model": self._service.settings.models[models[0]]}))
        presets = {one.name: None for model in models for one in self._service.presets(model)}
        names = {"preset": list(presets), "loras": list(self._service.settings.loras)}
        with gr.Row():
            self.settings = {name: widget(name, preset, names.get(name, ())) for name in MAIN_SETTINGS}
        with gr.Accordion("More settings", open=False):
            self.model = gr.Dropdown(label="model", choices=models, value=models[0], visible=len(models) > 1)
            self.settings |= {name: widget(name, preset, names.get(name, ())) for name in MORE_SETTINGS}
        self.summary = gr.HTML(elem_id="summary")

    def _build_output(self) -> None:
        with gr.Row():
            self.generate = gr.Button("Generate video", variant="primary", elem_id="generate")
            self.finish = gr.Button("Finish now", visible=False, elem_id="finish")
            self.cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
        self.progress = gr.HTML(elem_id="progress")
        self.result = gr.HTML(elem_id="result")
        with gr.Row():
            self.rerun = gr.Button("Rerun with another seed", visible=False, elem_id="rerun")
            self.edit = gr.Button("Edit settings", visible=False, elem_id="edit")
        gr.Markdown("## History")
        self.history = gr.HTML(elem_id="history")
        self.timer = gr.Timer(HISTORY_SECONDS, active=False)
        gr.HTML(html.note(html.LIMITS_TEXT))

    def _connect(self) -> None:
        """Connect components and event handlers."""
        options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        form = [self.prompt, self.inputs, self.consent, self.model, *self.settings.values()]
        filled = [*form, self.previews, self.remove_files]
        self._connect_job(form, filled, options)
        files = [self.images, self.audio, self.inputs]
        for upload in (self.images, self.audio):
            changed = [self.inputs, self.previews, self.consent, self.remove_files]
            # with "preprocess" Gradio would read the files before they are sanitized
            upload.change(self._add_files, files, changed, preprocess=False, **options)
        emptied = [*files, self.previews, self.consent, self.remove_files]
        self.remove_files.click(self._remove_files, None, emptied, **options)
        if self._examples is not None:
            folder, examples = self._examples, read_examples(self._examples)

            async def fill_from_example(name: str) -> Updates:
                return await self._fill_from_example(folder, examples.get(name))

            # "input" fires again when the list loses the focus, which would overwrite what was typed since
            self.example.select(fill_from_example, [self.example], filled, **options)
        # one handler for all fields, so that only the last change counts
        changes = [field.change for field in form]
        gr.on(changes, self._summarize, form, self.summary, trigger_mode="always_last", **options)

    def _connect_job(self, form: list[Any], filled: list[Any], options: dict[str, Any]) -> None:
        history = [self.history, self.timer]
        buttons = [self.generate, self.cancel, self.finish, self.rerun, self.edit]
        followed = [self.job_id, self.progress, self.result, *history, *buttons, self.summary]
        self.generate.click(self._generate, form, followed, **options)
        self.rerun.click(self._rerun, [self.job_id], followed, **options)
        self.cancel.click(self._cancel, [self.job_id], None, **options)
        self.finish.click(self._finish, [self.job_id], None, **options)
        focus_prompt = "() => {document.querySelector('#prompt textarea').focus()}"
        self.edit.click(self._fill_from_job, [self.job_id], filled, **options).then(None, js=focus_prompt)
        self.blocks.load(self._on_load, None, followed, **options)
        self.timer.tick(self._refresh_history, None, history, **options)

    # -- files --------------------------------------------------------------------------------------------------------

    async def _add_files(
        self,
        images: Sequence[UploadedFile] | None,
        audio: UploadedFile | None,
        inputs: Mapping[str, Any],
        request: gr.Request,
    ) -> Updates:
        """Store new files; without new ones keep those of an example or an earlier video."""
        names, owner = dict(inputs), owner_of(request)
        try:
            if images:
                limit = self._service.settings.limits.images
                if len(images) > limit:
                    raise HuMoError("images", f"{len(images)} exceed the limit of {limit}", "remove some")
                names["images"] = [await self._store_upload(image, owner, "image") for image in images]
            if audio:
                names["audio"] = await self._store_upload(audio, owner, "audio")
        except HuMoError as error:
            return {self.previews: html.error_box(error)}
        return self._show_inputs(names) | {self.consent: gr.update(visible=bool(names["images"]))}

    async def _store_upload(self, file: UploadedFile, owner: str, kind: MediaKind) -> str:
        """Sanitize and store an uploaded file; return its name in the file store."""
        upload = self._uploads.find(Path(file["path"]).name, owner)
        if upload is None:
            raise HuMoError("file", "no longer exists", "upload it again")
        field = upload.client_name if kind == "image" else "audio"
        return await self._service.store_input(upload.path.read_bytes(), kind, field)

    def _remove_files(self) -> Updates:
        cleared = {self.images: None, self.audio: None, self.consent: gr.update(visible=False)}
        return self._show_inputs(dict(NO_INPUTS)) | cleared

    def _show_inputs(self, inputs: Mapping[str, Any]) -> Updates:
        """Return the previews of the stored inputs, and the visibility of the button that removes them."""
        images = [self._service.store.input_path(name) for name in inputs["images"]]
        has_inputs = bool(images) or inputs["audio"] is not None
        previews = html.input_previews(images, inputs["audio"] is not None)
        return {self.inputs: inputs, self.previews: previews, self.remove_files: gr.update(visible=has_inputs)}

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _summarize(self, *form: Any) -> str:
        """Return what the form would generate."""
        fields, inputs = self._read_form(form)
        prompt, model = form[0], form[3]
        if not str(prompt).strip():
            return ""
        try:
            plan = self._service.plan(fields, inputs)
        except HuMoError as error:
            return html.error_box(error)
        jobs = [job for job in self._service.queue.jobs(limit=ESTIMATE_JOBS) if job.payload["model"] == model]
        peaks = [peak for job in jobs if (peak := job.result.get("video", {}).get("peak_bytes"))]
        return html.plan_summary(plan, html.estimate_seconds(jobs, plan), max(peaks, default=None))

    def _read_form(self, form: Sequence[Any]) -> tuple[list[tuple[str, Any]], StoredInputs]:
        prompt, inputs, consent, model, *values = form
        fields = [("prompt", prompt), ("consent", bool(consent)), ("model", model)]
        fields += [
            (name, value) for name, value in zip(self.settings, values, strict=True) if value not in (None, "", [])
        ]
        return fields, StoredInputs(tuple(inputs["images"]), inputs["audio"])

    async def _generate(self, request: gr.Request, *form: Any) -> AsyncIterator[Updates]:
        """Submit a job and follow it."""
        fields, inputs = self._read_form(form)
        owner = owner_of(request)
        try:
            video = await self._service.submit(fields, owner, inputs=inputs)
        except HuMoError as error:
            yield {self.result: html.error_box(error), self.progress: ""}
            return
        async for updates in self._follow(video.id, owner):
            yield updates

    async def _rerun(self, job_id: str, request: gr.Request) -> AsyncIterator[Updates]:
        owner = owner_of(request)
        try:
            job = self._service.find_job(job_id, owner)
            video = await asyncio.to_thread(self._service.rerun, job, {"seed": secrets.randbelow(2**31)})
        except HuMoError as error:
            yield {self.result: html.error_box(error)}
            return
        async for updates in self._follow(video.id, owner):
            yield updates

    async def _on_load(self, request: gr.Request) -> AsyncIterator[Updates]:
        """Show the video in the page's URL, or follow the owner's running job."""
        owner = owner_of(request)
        job_id = dict(request.query_params).get("video", "")
        if not job_id:
            running = [job for job in self._service.queue.unfinished() if job.owner == owner]
            job_id = running[-1].id if running else ""
        if job_id:
            async for updates in self._follow(job_id, owner):
                yield updates
        else:
            yield self._history(owner)

    async def _follow(self, job_id: str, owner: str) -> AsyncIterator[Updates]:
        """Yield updates until a job has ended."""
        last: tuple[Any, ...] = ()
        is_first = True
        while True:
            try:
                job = await asyncio.to_thread(self._service.find_job, job_id, owner)
            except NotFoundError as error:
                yield {self.result: html.error_box(error), self.job_id: ""} | self._history(owner)
                return
            if job.state.has_ended:
                yield self._ended(job, owner)
                return
            video, preview = self._service.to_video(job), self._preview(job)
            ahead = sum(other.created < job.created for other in self._service.queue.unfinished())
            current = (video.humo, preview, ahead)
            if current != last:
                last = current
                updates: Updates = {self.progress: html.progress(video, preview, ahead)}
                if is_first:
                    updates |= self._buttons(running=True) | {self.job_id: job_id, self.result: ""}
                    updates |= self._history(owner)
                is_first = False
                yield updates
            await asyncio.sleep(POLL_SECONDS)

    def _ended(self, job: Job, owner: str) -> Updates:
        video = self._service.to_video(job)
        return {
            self.job_id: job.id,
            self.progress: "",
            self.result: html.result(video),
            **self._history(owner),
            **self._buttons(running=False),
        }

    def _buttons(self, *, running: bool) -> Updates:
        visible = {self.generate: not running, self.cancel: running, self.finish: running}
        visible |= {self.rerun: not running, self.edit: not running}
        return {button: gr.update(visible=is_visible) for button, is_visible in visible.items()}

    def _preview(self, job: Job) -> bytes | None:
        try:
            return self._service.store.running_path(job.id, ".png").read_bytes()
        except OSError:
            return None

    def _history(self, owner: str) -> Updates:
        """Return the history; the timer refreshes it while a job is unfinished."""
        videos, _ = self._service.list_videos(owner, limit=HISTORY_VIDEOS, after=None, newest_first=True)
        has_unfinished = any(not video.humo.state.has_ended for video in videos)
        return {self.history: html.history(videos, f"{PATH}/"), self.timer: gr.update(active=has_unfinished)}

    def _refresh_history(self, request: gr.Request) -> Updates:
        return self._history(owner_of(request))

    def _cancel(self, job_id: str, request: gr.Request) -> None:
        if job_id:
            self._service.cancel(self._service.find_job(job_id, owner_of(request)))

    def _finish(self, job_id: str, request: gr.Request) -> None:
        if job_id:
            self._service.finish(self._service.find_job(job_id, owner_of(request)))

    # -- filling the form ---------------------------------------------------------------------------------------------

    def _fill_from_job(self, job_id: str, request: gr.Request) -> Updates:
        job = self._service.find_job(job_id, owner_of(request))
        inputs = stored_inputs(job)
        names = {"images": list(inputs.images), "audio": inputs.audio}
        return self._fill(job.payload["fields"], names, job.payload["model"])

    async def _fill_from_example(self, folder: Path, example: Mapping[str, Any] | None) -> Updates:
        if example is None:
            return {self.previews: ""}
        store = self._service.store_input
        images = [await store((folder / name).read_bytes(), "image", name) for name in example["img_paths"]]
        audio = await store((folder / example["audio_path"]).read_bytes(), "audio", "audio")
        fields = {"prompt": example["prompt"], "consent": True}  # the people in the examples are rendered
        return self._fill(fields, {"images": images, "audio": audio}, None)

    def _fill(self, fields: Mapping[str, Any], inputs: dict[str, Any], model: str | None) -> Updates:
        updates: Updates = {self.prompt: fields["prompt"], **self._show_inputs(inputs)}
        updates |= {self.consent: gr.update(value=bool(fields.get("consent")), visible=bool(inputs["images"]))}
        updates |= {field: _as_input(fields.get(name, field.value), field) for name, field in self.settings.items()}
        return updates | ({} if model is None else {self.model: model})


def _as_input(value: Any, component: Any) -> Any:
    """Return a field's value as its component takes it."""
    if isinstance(value, list):
        return value if isinstance(component, gr.Dropdown) else ",".join(map(str, value))
    return value if isinstance(value, bool | str) else str(value)


def owner_of(request: gr.Request) -> str:
    """Return the owner of the page that sent a request."""
    return request_owner(getattr(request.request, "scope", {}))
