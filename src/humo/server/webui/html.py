"""What the page says, as HTML: every text from outside is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from humo.request import GenerationPlan
from humo.server.job_queue import Job, JobState
from humo.server.schemas import Video

LIMITS_TEXT = (
    "HuMo makes a short clip of somebody who says exactly the sound you give. It does not know who anybody is, "
    "invents what the words leave open, and gets hands, small faces and text wrong. The model inside the package makes "
    "96 × 96 pixels, of people that were never filmed; it is here to try things out. Every video says that a machine "
    "made it."
)

PHASE_TEXTS = {
    "load": "loading the model",
    "encode": "reading words, pictures and sound",
    "denoise": "making the picture",
    "decode": "developing the frames",
    "write": "writing the video",
}

STATE_TEXTS = {
    JobState.QUEUED: "queued",
    JobState.IN_PROGRESS: "being made, {}\N{NO-BREAK SPACE}%",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "stopped",
}
"""On a card that has no picture yet; its percent."""

STYLE = """
.humo-column {max-width: 44rem; margin: 0 auto !important}
.humo-note {color: var(--body-text-color); opacity: .8; font-size: .9rem}
.humo-wrong {border-left: .3rem solid var(--error-border-color, #c33); padding: .4rem .8rem; margin: .4rem 0}
.humo-bar {height: .6rem; border-radius: .3rem; background: var(--border-color-primary); overflow: hidden}
.humo-bar > div {height: 100%; background: var(--color-accent); transition: width .3s}
.humo-shape {width: min(100%, 24rem); border-radius: .5rem; margin-top: .6rem; image-rendering: auto}
.humo-given {display: flex; gap: .5rem; flex-wrap: wrap}
.humo-given img {height: 6rem; border-radius: .4rem}
.humo-video {width: min(100%, 32rem); border-radius: .5rem; background: #000}
.humo-past {display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem;
  list-style: none; padding: 0}
.humo-past a {display: block; color: inherit; text-decoration: none; border-radius: .5rem; padding: .3rem}
.humo-past a:focus-visible, .humo-past a:hover {outline: .15rem solid var(--color-accent)}
.humo-past img, .humo-past .humo-none {width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .4rem;
  background: var(--border-color-primary); display: grid; place-items: center; text-align: center}
.humo-past span {display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden;
  font-size: .8rem}
.humo-settings td {padding: .1rem .8rem .1rem 0; vertical-align: top}
footer {display: none !important}
"""


def error_box(error: object) -> str:
    """Something that cannot be done, in one line."""
    return f'<div class="humo-wrong" role="alert">{escape(str(error))}</div>'


def note(text: str) -> str:
    """Something worth knowing."""
    return f'<div class="humo-note">{escape(text)}</div>'


def image_tag(content: bytes, title: str, kind: str = "humo-shape") -> str:
    """A PNG, in the page itself."""
    data = base64.b64encode(content).decode()
    return f'<img class="{kind}" alt="{escape(title)}" src="data:image/png;base64,{data}">'


def input_previews(pictures: Sequence[Path], sound: bool) -> str:
    """The pictures that were let in."""
    shown = "".join(image_tag(path.read_bytes(), f"picture {number}", "") for number, path in enumerate(pictures, 1))
    heard = note("with the sound") if sound else ""
    return f'<div class="humo-given">{shown}</div>{heard}'


def plan_summary(plan: GenerationPlan, seconds: float | None, peak_bytes: float | None) -> str:
    """What will happen, before it does."""
    geometry, request = plan.geometry, plan.request
    parts = [
        f"{geometry.seconds:g} s: {geometry.frames} frames of {geometry.width} × {geometry.height}",
        f"{request.steps} steps, {plan.passes} passes of the network",
    ]
    if seconds is None:
        parts.append("how long it takes is known after the first")
    else:
        parts.append(f"about {duration(seconds)}")
    if peak_bytes:
        parts.append(f"{peak_bytes / 1e9:.1f} GB of memory")
    return note(" · ".join(parts)) + "".join(note(text) for text in plan.notes)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def progress(video: Video, shape: bytes | None, ahead: int) -> str:
    """How a job is doing."""
    told = video.humo
    if told.state is JobState.QUEUED:
        return note("waiting for its turn" + (f"; {ahead} before it" if ahead else "")) + _bar(0)
    if told.phase is None:
        return note("beginning") + _bar(video.progress)
    words = PHASE_TEXTS[told.phase]
    if told.steps and told.steps > 1:
        words += f", {told.step} of {told.steps}"
    if told.seconds_left:
        words += f", {duration(told.seconds_left)} left"
    return note(words) + _bar(video.progress) + (image_tag(shape, "how it looks by now") if shape else "")


def _bar(percent: int) -> str:
    return (
        f'<div class="humo-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}">'
        f'<div style="width: {percent}%"></div></div>'
    )


def result(video: Video) -> str:
    """A job that has ended: the video beside its settings, or why there is none."""
    if video.humo.state is JobState.CANCELLED:
        return note("stopped")
    if video.error is not None:
        return error_box(video.error.message)
    address = f"/v1/videos/{video.id}/content"
    shown = (
        f'<video class="humo-video" controls autoplay playsinline loop src="{address}" '
        f'poster="{address}?variant=thumbnail" aria-label="{escape(video.prompt, quote=True)}"></video>'
    )
    links = f'<a href="{address}" download>video</a> · <a href="{address}?variant=sidecar" download>how it was made</a>'
    return shown + f'<div class="humo-note">{links}</div>' + settings(video)


def settings(video: Video) -> str:
    """Everything that a video was made from."""
    rows = {
        name: value
        for name, value in {"model": video.model, **video.humo.request}.items()
        if value not in (None, "", [], ()) and name not in ("images", "audio")
    }
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    taken = sum((video.humo.timings or {}).values())
    title = f"<summary>made in {duration(taken)} from</summary>"
    return f'<details class="humo-settings">{title}<table>{lines}</table></details>'


def history(videos: Sequence[Video], prefix: str) -> str:
    """The videos made so far, each a link that shows it again."""
    if not videos:
        return note("Nothing yet.")
    return '<ul class="humo-past">' + "".join(f"<li>{_history(video, prefix)}</li>" for video in videos) + "</ul>"


def _history(video: Video, prefix: str) -> str:
    state = video.humo.state
    if state is JobState.COMPLETED:
        shown = f'<img loading="lazy" alt="" src="/v1/videos/{video.id}/content?variant=thumbnail">'
    else:
        shown = f'<div class="humo-none">{STATE_TEXTS[state].format(video.progress)}</div>'
    return f'<a href="{prefix}?video={video.id}">{shown}<span>{escape(video.prompt)}</span></a>'


def estimate_seconds(jobs: Sequence[Job], plan: GenerationPlan) -> float | None:
    """How long a plan will take, from those of the same model that were made: by passes and tokens.

    Args:
        jobs: of the same model, newest first.
        plan: of the request.
    """
    rates, others = [], []
    for job in jobs:
        timings = job.result.get("video", {}).get("timings", {})
        if "denoise" in timings:
            rates.append(timings["denoise"] / (job.payload["passes"] * job.payload["tokens"]))
            others.append(sum(spent for phase, spent in timings.items() if phase not in ("denoise", "load")))
    if not rates:
        return None
    middle = len(rates) // 2
    return float(sorted(rates)[middle] * plan.passes * plan.geometry.tokens + sorted(others)[middle])
