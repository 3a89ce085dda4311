"""Options of ComfyUI."""

from __future__ import annotations

import enum
from types import SimpleNamespace


class LatentPreviewMethod(enum.Enum):
    """Kinds of previews."""

    NoPreviews = "none"
    Auto = "auto"


args = SimpleNamespace(preview_method=LatentPreviewMethod.NoPreviews, preview_size=512)
