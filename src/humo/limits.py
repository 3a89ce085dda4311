"""Limits of images and audio that are read. The module imports nothing, so that a decoder process starts fast."""

from __future__ import annotations

MAX_IMAGE_PIXELS = 64_000_000
"""Images with more pixels are rejected before they are decoded."""

MAX_AUDIO_SECONDS = 3600.0
"""Longer audio is rejected while it is read."""
