"""HTML of the page. Every text from outside is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from humo.plan import GenerationPlan
from humo.server.job_queue import Job, JobState
from humo.server.schemas import Video

LIMITS_TEXT = (
    "HuMo generates a short clip of a person whose lips follow your audio. It does not recognize people. It invents "
    "what the prompt leaves open, and is weak at hands, small faces and written text. The built-in model generates "
    "96 × 96 pixels, was trained on rendered people, and is meant for trying things out. Every video is marked as "
    "AI-generated."
)

PHASE_TEXTS = {
    "load": "loading the model",
    "encode": "encoding text, images and audio",
    "denoise": "denoising",
    "decode": "decoding the frames",
    "write": "writing the video",
}
"""Text of each phase of a job."""

STATE_TEXTS = {
    JobState.QUEUED: "queued",
    JobState.IN_PROGRESS: "in progress, {}\N{NO-BREAK SPACE}%",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
"""Text on a history card without a thumbnail; the placeholder is the progress in percent."""

STYLE = """
.humo-column {max-width: 44rem; margin: 0 auto !important}
.humo-note {color: var(--body-text-color); opacity: .8; font-size: .9rem}
.humo-error {border-left: .3rem solid var(--error-border-color, #c33); padding: .4rem .8rem; margin: .4rem 0}
.humo-bar {height: .6rem; border-radius: .3rem; background: var(--border-color-primary); overflow: hidden}
.humo-bar > div {height: 100%; background: var(--color-accent); transition: width .3s}
.humo-preview {width: min(100%, 24rem); border-radius: .5rem; margin-top: .6rem; image-rendering: auto}
.humo-inputs {display: flex; gap: .5rem; flex-wrap: wrap}
.humo-inputs img {height: 6rem; border-radius: .4rem}
.humo-video {width: min(100%, 32rem); border-radius: .5rem; background: #000}
.humo-history {display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem;
  list-style: none; padding: 0}
.humo-history a {display: block; color: inherit; text-decoration: none; border-radius: .5rem; padding: .3rem}
.humo-history a:focus-visible, .humo-history a:hover {outline: .15rem solid var(--color-accent)}
.humo-history img, .humo-history .humo-placeholder {width: 100%; aspect-ratio: 1; object-fit: cover;
  border-radius: .4rem; background: var(--border-color-primary); display: grid; place-items: center; text-align: center}
.humo-history span {display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden;
  font-size: .8rem}
.humo-settings td {padding: .1rem .8rem .1rem 0; vertical-align: top}
footer {display: none !important}
"""


def error_box(error: object) -> str:
    """Return an error as one line."""
    return f'<div class="humo-error" role="alert">{escape(str(error))}</div>'


def note(text: str) -> str:
    """Return a text in small type."""
    return f'<div class="humo-note">{escape(text)}</div>'


def image_tag(content: bytes, alt: str, css_class: str = "humo-preview") -> str:
    """Return an image element with the PNG embedded as a data URL."""
    data = base64.b64encode(content).decode()
    return f'<img class="{css_class}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def input_previews(images: Sequence[Path], has_audio: bool) -> str:
    """Return the uploaded images, and a note if there is audio."""
    tags = "".join(image_tag(path.read_bytes(), f"image {number}", "") for number, path in enumerate(images, 1))
    return f'<div class="humo-inputs">{tags}</div>' + (note("with audio") if has_audio else "")


def plan_summary(plan: GenerationPlan, seconds: float | None, peak_bytes: float | None) -> str:
    """Return what a request would generate.

    Args:
        plan: of the request.
        seconds: estimated time; None if unknown.
        peak_bytes: estimated memory; None if unknown.
    """
    geometry, request = plan.geometry, plan.request
    parts = [
        f"{geometry.seconds:g} s: {geometry.frames} frames of {geometry.width} × {geometry.height}",
        f"{request.steps} steps, {plan.passes} network passes",
    ]
    if seconds is None:
        parts.append("time unknown before the first video")
    else:
        parts.append(f"about {duration(seconds)}")
    if peak_bytes:
        parts.append(f"{peak_bytes / 1e9:.1f} GB of memory")
    return note(" · ".join(parts)) + "".join(note(text) for text in plan.notes)


def duration(seconds: float) -> str:
    """Return a duration as text, in seconds or minutes."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def progress(video: Video, preview: bytes | None, ahead: int) -> str:
    """Return the state of an unfinished job.

    Args:
        video: the job.
        preview: PNG of the unfinished video.
        ahead: number of unfinished jobs that were submitted before it.
    """
    details = video.humo
    if details.state is JobState.QUEUED:
        return note("queued" + (f"; {ahead} ahead" if ahead else "")) + _progress_bar(0)
    if details.phase is None:
        return note("starting") + _progress_bar(video.progress)
    text = PHASE_TEXTS[details.phase]
    if details.steps and details.steps > 1:
        text += f", {details.step} of {details.steps}"
    if details.seconds_left:
        text += f", {duration(details.seconds_left)} left"
    image = image_tag(preview, "preview of the unfinished video") if preview else ""
    return note(text) + _progress_bar(video.progress) + image


def _progress_bar(percent: int) -> str:
    return (
        f'<div class="humo-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}">'
        f'<div style="width: {percent}%"></div></div>'
    )


def result(video: Video) -> str:
    """Return an ended job: the video with its settings, or why there is none."""
    if video.humo.state is JobState.CANCELLED:
        return note("cancelled")
    if video.error is not None:
        return error_box(video.error.message)
    url = f"/v1/videos/{video.id}/content"
    player = (
        f'<video class="humo-video" controls autoplay playsinline loop src="{url}" '
        f'poster="{url}?variant=thumbnail" aria-label="{escape(video.prompt, quote=True)}"></video>'
    )
    links = f'<a href="{url}" download>video</a> · <a href="{url}?variant=sidecar" download>metadata</a>'
    return player + f'<div class="humo-note">{links}</div>' + settings(video)


def settings(video: Video) -> str:
    """Return every setting of a video as a folded table."""
    rows = {
        name: value
        for name, value in {"model": video.model, **video.humo.request}.items()
        if value not in (None, "", [], ()) and name not in ("images", "audio")
    }
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    seconds = sum((video.humo.timings or {}).values())
    title = f"<summary>settings; generated in {duration(seconds)}</summary>"
    return f'<details class="humo-settings">{title}<table>{lines}</table></details>'


def history(videos: Sequence[Video], prefix: str) -> str:
    """Return a card for each video, which links to it.

    Args:
        videos: newest first.
        prefix: URL of the page.
    """
    if not videos:
        return note("No videos yet.")
    return '<ul class="humo-history">' + "".join(f"<li>{_card(video, prefix)}</li>" for video in videos) + "</ul>"


def _card(video: Video, prefix: str) -> str:
    state = video.humo.state
    if state is JobState.COMPLETED:
        thumbnail = f'<img loading="lazy" alt="" src="/v1/videos/{video.id}/content?variant=thumbnail">'
    else:
        thumbnail = f'<div class="humo-placeholder">{STATE_TEXTS[state].format(video.progress)}</div>'
    return f'<a href="{prefix}?video={video.id}">{thumbnail}<span>{escape(video.prompt)}</span></a>'


def estimate_seconds(jobs: Sequence[Job], plan: GenerationPlan) -> float | None:
    """Estimate how long a plan takes, from earlier jobs: time per network pass and token, plus the other phases.

    Args:
        jobs: earlier jobs of the same model.
        plan: plan of the new request.

    Returns:
        median estimate in seconds; None without earlier jobs.
    """
    rates, others = [], []
    for job in jobs:
        timings = job.result.get("video", {}).get("timings", {})
        if "denoise" in timings:
            rates.append(timings["denoise"] / (job.payload["passes"] * job.payload["tokens"]))
            others.append(sum(seconds for phase, seconds in timings.items() if phase not in ("denoise", "load")))
    if not rates:
        return None
    middle = len(rates) // 2
    return float(sorted(rates)[middle] * plan.passes * plan.geometry.tokens + sorted(others)[middle])
