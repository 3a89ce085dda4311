"""HuMo's progress and previews on ComfyUI's progress bar, and ComfyUI's cancel button."""

from __future__ import annotations

from typing import Any

from humo.progress import Event, ProgressCallback


def progress_bar() -> ProgressCallback:
    """Return a progress callback that shows each phase, and previews where the user wants them, on the running node.

    It raises ComfyUI's own exception once the user has cancelled the run. The V3 interface has a call for progress,
    which fails in the versions 0.3.48 to 0.3.71; `comfy.utils.ProgressBar` works in all.
    """
    # not part of ComfyUI's node interface; imported here because torch comes with it
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(1)

    def show(event: Event) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(event.done, event.total, _preview(event))

    return show


def _preview(event: Event) -> tuple[str, Any, int] | None:
    """Return the preview of an event as ComfyUI's samplers give it: format, image, longest side in pixels.

    None if there is no preview, or if the user has chosen none (``--preview-method``, or the page's settings).
    """
    from comfy.cli_args import LatentPreviewMethod, args
    from PIL import Image

    if event.preview is None or args.preview_method == LatentPreviewMethod.NoPreviews:
        return None
    return "JPEG", Image.fromarray(event.preview()), args.preview_size
