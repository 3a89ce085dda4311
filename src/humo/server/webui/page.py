"""The web page at ``/ui``: one column, on the same service as the API, with no logic of its own.

words, pictures, sound -> what would be made -> a bar, the picture taking shape -> the video -> again
                                                                                 history
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
from humo.server.schemas import SERVER_FIELDS
from humo.server.service import NotFoundError, Service, StoredInputs, stored_inputs
from humo.server.upload_sanitizer import MediaKind
from humo.server.webui import html
from humo.server.webui.form import examples_folder, read_examples, widget
from humo.server.webui.gradio_proxy import GradioProxy
from humo.server.webui.uploads import Uploads

PATH = "/ui"
POLL_SECONDS = 0.3
BOX = 226
"""Pixels, of the height of what files are dropped into."""

SESSIONS = 500
"""Open pages that are remembered; the state of each is some tens of kilobytes."""

WATCHED_SECONDS = 1.0
"""Between two looks at the history while something in it is not finished."""

SHOWN = 24
"""Videos of the history on the page."""

COMPARED = 20
"""Videos from which it is told how long one takes."""

USUAL = ("seconds", "seed", "steps")
"""Settings in sight; the others are folded."""

PLACED = frozenset({"prompt", "consent", "frames", *USUAL})
FOLDED = tuple(name for name in GenerateRequest.model_fields if name not in SERVER_FIELDS | PLACED)

Updates = dict[Any, Any]
UploadedFile = Mapping[str, Any]
"""What the library says of a file: its path, which is one of `Uploads`."""


def mount(app: FastAPI, service: Service) -> FastAPI:
    """Put the page on the application."""
    os.environ["GRADIO_TEMP_DIR"] = str((service.store.folder / "uploads").absolute())  # files elsewhere it copies
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
    library = mounted.routes[-1]
    assert isinstance(library, Mount)
    library.app = GradioProxy(library.app, uploads)
    return mounted


class Page:
    """The page.

    Args:
        service: does everything.
        uploads: files that were dropped in.
    """

    def __init__(self, service: Service, uploads: Uploads) -> None:
        self._service, self._uploads = service, uploads
        with gr.Blocks(title="HuMo", analytics_enabled=False) as self.blocks, gr.Column(elem_classes="humo-column"):
            self._build()
        self.blocks.state_session_capacity = SESSIONS

    # -- what is there ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        models = list(self._service.settings.models)
        preset = read_preset(parse_request({"prompt": "-", "model": self._service.settings.models[models[0]]}))
        gr.Markdown("# HuMo\nWords, pictures and a sound in; a video of that person saying it out.")
        self.job = gr.State("")
        self.kept = gr.State({"images": [], "audio": None})
        self.prompt = gr.Textbox(label="What is to be seen", lines=3, max_length=10_000, elem_id="prompt")
        with gr.Row():
            self.pictures = gr.File(
                label="Pictures of who or what is in it",
                file_count="multiple",
                file_types=["image"],
                height=BOX,
                elem_id="pictures",
            )
            self.sound = gr.Audio(
                label="The sound that is spoken or sung",
                sources=["upload", "microphone"],
                type="filepath",
                buttons=[],  # one of them sends the sound to a site elsewhere
                elem_id="sound",
            )
        self.shown = gr.HTML()
        self.empty = gr.Button("Take pictures and sound out", size="sm", visible=False, elem_id="empty")
        self.consent = gr.Checkbox(
            label="Everybody who is shown or heard here has agreed.", visible=False, elem_id="consent"
        )
        if (folder := examples_folder()) is not None:
            self.example = gr.Dropdown(
                label="Or begin with an example", choices=["", *read_examples(folder)], value="", elem_id="example"
            )
        with gr.Row():
            self.settings = {name: widget(name, preset) for name in USUAL}
        with gr.Accordion("More settings", open=False):
            self.model = gr.Dropdown(label="model", choices=models, value=models[0], visible=len(models) > 1)
            self.settings |= {name: widget(name, preset) for name in FOLDED}
        self.forecast = gr.HTML(elem_id="forecast")
        with gr.Row():
            self.make = gr.Button("Make the video", variant="primary", elem_id="make")
            self.finish = gr.Button("Stop and keep what is there", visible=False, elem_id="finish")
            self.stop = gr.Button("Stop", visible=False, elem_id="stop")
        self.progress = gr.HTML(elem_id="progress")
        self.result = gr.HTML(elem_id="result")
        with gr.Row():
            self.again = gr.Button("Again with another seed", visible=False, elem_id="again")
            self.change = gr.Button("Updates and rerun", visible=False, elem_id="change")
        gr.Markdown("## Made so far")
        self.history = gr.HTML(elem_id="history")
        self.clock = gr.Timer(WATCHED_SECONDS, active=False)
        gr.HTML(html.note(html.LIMITS_TEXT))
        self._connect(folder)

    def _connect(self, folder: Path | None) -> None:
        form = [self.prompt, self.kept, self.consent, self.model, *self.settings.values()]
        past = [self.history, self.clock]
        following = [self.job, self.progress, self.result, *past, self.make, self.stop, self.finish, self.again]
        following += [self.change, self.forecast]
        quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        filled = [*form, self.shown, self.empty]

        self.make.click(self._generate, form, following, **quiet)
        self.again.click(self._rerun, [self.job], following, **quiet)
        self.stop.click(self._stop, [self.job], None, **quiet)
        self.finish.click(self._finish, [self.job], None, **quiet)
        to_words = "() => {document.querySelector('#prompt textarea').focus()}"
        self.change.click(self._fill_from_job, [self.job], filled, **quiet).then(None, js=to_words)
        files = [self.pictures, self.sound, self.kept]
        for upload in (self.pictures, self.sound):
            changed = [self.kept, self.shown, self.consent, self.empty]
            # not "preprocess": the library would look into the files before they have passed the gate
            upload.change(self._add_files, files, changed, preprocess=False, **quiet)
        self.empty.click(self._remove_files, None, [*files, self.shown, self.consent, self.empty], **quiet)
        if folder is not None:
            told = read_examples(folder)

            async def begin(name: str) -> Updates:
                return await self._fill_from_example(folder, told.get(name))

            # not "input", which comes once more when the list is left, over what was typed meanwhile
            self.example.select(begin, [self.example], filled, **quiet)
        # one listener for all, so that what was asked last is what is said last
        gr.on([one.change for one in form], self._explain, form, self.forecast, trigger_mode="always_last", **quiet)
        self.blocks.load(self._on_load, None, following, **quiet)
        self.clock.tick(self._look_back, None, past, **quiet)

    # -- what happens -------------------------------------------------------------------------------------------------

    async def _add_files(
        self,
        pictures: Sequence[UploadedFile] | None,
        sound: UploadedFile | None,
        kept: Mapping[str, Any],
        request: gr.Request,
    ) -> Updates:
        """New files pass the gate; without new ones those of an example or an earlier video stay."""
        found, owner = dict(kept), owner_of(request)
        try:
            if pictures:
                most = self._service.settings.limits.images
                if len(pictures) > most:
                    raise HuMoError("pictures", f"are {len(pictures)}", f"at most {most}")
                found["images"] = [await self._keep(one, owner, "image") for one in pictures]
            if sound:
                found["audio"] = await self._keep(sound, owner, "audio")
        except HuMoError as error:
            return {self.shown: html.error_box(error)}
        return self._files(found) | {self.consent: gr.update(visible=bool(found["images"]))}

    async def _keep(self, told: UploadedFile, owner: str, kind: MediaKind) -> str:
        """One of the files that wait, let in."""
        found = self._uploads.find(Path(told["path"]).name, owner)
        if found is None:
            raise HuMoError("file", "is not there any more", "give it once more")
        return await self._service.store_input(
            found.path.read_bytes(), kind, found.client_name if kind == "image" else "sound"
        )

    def _remove_files(self) -> Updates:
        nothing: dict[str, Any] = {"images": [], "audio": None}
        return self._files(nothing) | {self.pictures: None, self.sound: None, self.consent: gr.update(visible=False)}

    def _files(self, kept: Mapping[str, Any]) -> Updates:
        """What files there are, and the button that takes them out."""
        there = bool(kept["images"]) or kept["audio"] is not None
        return {self.kept: kept, self.shown: self._given(kept), self.empty: gr.update(visible=there)}

    def _given(self, kept: Mapping[str, Any]) -> str:
        pictures = [self._service.store.input_path(name) for name in kept["images"]]
        return html.input_previews(pictures, kept["audio"] is not None)

    def _explain(self, *form: Any) -> str:
        """What would be made."""
        given, kept = self._read(form)
        if not str(form[0]).strip():
            return ""
        try:
            plan = self._service.plan(given, kept)
        except HuMoError as error:
            return html.error_box(error)
        jobs = [job for job in self._service.queue.jobs(limit=COMPARED) if job.payload["model"] == form[3]]
        peaks = [peak for job in jobs if (peak := job.result.get("video", {}).get("peak_bytes"))]
        return html.plan_summary(plan, html.estimate_seconds(jobs, plan), max(peaks, default=None))

    def _read(self, form: Sequence[Any]) -> tuple[list[tuple[str, Any]], StoredInputs]:
        prompt, kept, consent, model, *values = form
        given = [("prompt", prompt), ("consent", bool(consent)), ("model", model)]
        given += [(name, value) for name, value in zip(self.settings, values, strict=True) if value not in (None, "")]
        return given, StoredInputs(tuple(kept["images"]), kept["audio"])

    async def _generate(self, request: gr.Request, *form: Any) -> AsyncIterator[Updates]:
        """A job, followed to its end."""
        given, kept = self._read(form)
        owner = owner_of(request)
        try:
            video = await self._service.accept(given, owner, kept=kept)
        except HuMoError as error:
            yield {self.result: html.error_box(error), self.progress: ""}
            return
        async for change in self._follow(video.id, owner):
            yield change

    async def _rerun(self, job_id: str, request: gr.Request) -> AsyncIterator[Updates]:
        owner = owner_of(request)
        try:
            job = self._service.find_job(job_id, owner)
            video = await asyncio.to_thread(self._service.rerun, job, {"seed": secrets.randbelow(2**31)})
        except HuMoError as error:
            yield {self.result: html.error_box(error)}
            return
        async for change in self._follow(video.id, owner):
            yield change

    async def _on_load(self, request: gr.Request) -> AsyncIterator[Updates]:
        """The page is opened: what it was about, or what is being made, is shown."""
        owner = owner_of(request)
        wanted = dict(request.query_params).get("video", "")
        if not wanted:
            running = [job for job in self._service.queue.unfinished() if job.owner == owner]
            wanted = running[-1].id if running else ""
        if wanted:
            async for change in self._follow(wanted, owner):
                yield change
        else:
            yield self._history(owner)

    async def _follow(self, job_id: str, owner: str) -> AsyncIterator[Updates]:
        last: tuple[Any, ...] = ()
        first = True
        while True:
            try:
                job = await asyncio.to_thread(self._service.find_job, job_id, owner)
            except NotFoundError as error:
                yield {self.result: html.error_box(error), self.job: ""} | self._history(owner)
                return
            if job.state.has_ended:
                yield self._ended(job, owner)
                return
            video, shape = self._service.to_video(job), self._preview(job)
            ahead = sum(other.created < job.created for other in self._service.queue.unfinished())
            now = (video.humo, shape, ahead)
            if now != last:
                last = now
                change: Updates = {self.progress: html.progress(video, shape, ahead)}
                if first:
                    change |= self._buttons(running=True) | {self.job: job_id, self.result: ""}
                    change |= self._history(owner)
                first = False
                yield change
            await asyncio.sleep(POLL_SECONDS)

    def _ended(self, job: Job, owner: str) -> Updates:
        video = self._service.to_video(job)
        return {
            self.job: job.id,
            self.progress: "",
            self.result: html.result(video),
            **self._history(owner),
            **self._buttons(running=False),
        }

    def _buttons(self, *, running: bool) -> Updates:
        shown = {self.make: not running, self.stop: running, self.finish: running}
        shown |= {self.again: not running, self.change: not running}
        return {button: gr.update(visible=is_shown) for button, is_shown in shown.items()}

    def _preview(self, job: Job) -> bytes | None:
        try:
            return self._service.store.running_path(job.id, ".png").read_bytes()
        except OSError:
            return None

    def _history(self, owner: str) -> Updates:
        """The history, which is looked at again while something in it is not finished."""
        videos, _ = self._service.list_videos(owner, limit=SHOWN, after=None, newest_first=True)
        changes = any(not video.humo.state.has_ended for video in videos)
        return {self.history: html.history(videos, f"{PATH}/"), self.clock: gr.update(active=changes)}

    def _look_back(self, request: gr.Request) -> Updates:
        return self._history(owner_of(request))

    def _stop(self, job_id: str, request: gr.Request) -> None:
        if job_id:
            self._service.cancel(self._service.find_job(job_id, owner_of(request)))

    def _finish(self, job_id: str, request: gr.Request) -> None:
        if job_id:
            self._service.finish(self._service.find_job(job_id, owner_of(request)))

    # -- the form filled ----------------------------------------------------------------------------------------------

    def _fill_from_job(self, job_id: str, request: gr.Request) -> Updates:
        job = self._service.find_job(job_id, owner_of(request))
        fields, kept = job.payload["fields"], stored_inputs(job)
        return self._fill(fields, {"images": list(kept.images), "audio": kept.audio}, job.payload["model"])

    async def _fill_from_example(self, folder: Path, told: Mapping[str, Any] | None) -> Updates:
        if told is None:
            return {self.shown: ""}
        images = [
            await self._service.store_input((folder / name).read_bytes(), "image", name) for name in told["img_paths"]
        ]
        audio = await self._service.store_input((folder / told["audio_path"]).read_bytes(), "audio", "sound")
        fields = {"prompt": told["prompt"], "consent": True}  # people that were never born
        return self._fill(fields, {"images": images, "audio": audio}, None)

    def _fill(self, fields: Mapping[str, Any], kept: dict[str, Any], model: str | None) -> Updates:
        change: Updates = {self.prompt: fields["prompt"], **self._files(kept)}
        agreed = bool(fields.get("consent"))
        change |= {self.consent: gr.update(value=agreed, visible=bool(kept["images"]))}
        change |= {widget: _shown(fields.get(name, widget.value)) for name, widget in self.settings.items()}
        return change | ({} if model is None else {self.model: model})


def _shown(value: Any) -> Any:
    """A field's value in its input."""
    return value if isinstance(value, bool | str) else str(value)


def owner_of(request: gr.Request) -> str:
    """Whose page it is."""
    return request_owner(getattr(request.request, "scope", {}))
