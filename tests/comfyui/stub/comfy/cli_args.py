"""What ComfyUI was started with."""

from __future__ import annotations

import enum
from types import SimpleNamespace


class LatentPreviewMethod(enum.Enum):
    """How samplers show their unfinished results."""

    NoPreviews = "none"
    Auto = "auto"


args = SimpleNamespace(preview_method=LatentPreviewMethod.NoPreviews, preview_size=512)
