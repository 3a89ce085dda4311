"""HuMo's progress on ComfyUI's progress bar, and ComfyUI's cancel button."""

from __future__ import annotations

from comfy_api.latest import ComfyAPISync

from humo.progress import Event, ProgressCallback


def progress_bar() -> ProgressCallback:
    """Return a progress callback that shows each phase on the running node's bar.

    It raises ComfyUI's own exception once the user has cancelled the run.
    """
    # not part of ComfyUI's node interface; imported here because torch comes with it
    from comfy.model_management import throw_exception_if_processing_interrupted

    execution = ComfyAPISync().execution

    def show(event: Event) -> None:
        throw_exception_if_processing_interrupted()
        execution.set_progress(event.done, event.total)

    return show
