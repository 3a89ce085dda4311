"""The core's events on ComfyUI's progress bar, and ComfyUI's button that stops a run."""

from __future__ import annotations

from comfy_api.latest import ComfyAPISync

from humo.progress import Event, ProgressCallback


def progress_bar() -> ProgressCallback:
    """A listener that shows each phase on the bar of the node that is running.

    The listener raises ComfyUI's own exception once the user has stopped the run; it goes through the core as it is.
    """
    # ComfyUI's insides, which its node interface does not cover; imported here, as torch comes with them
    from comfy.model_management import throw_exception_if_processing_interrupted

    execution = ComfyAPISync().execution

    def show(event: Event) -> None:
        throw_exception_if_processing_interrupted()
        execution.set_progress(event.done, event.total)

    return show
